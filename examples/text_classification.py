"""Tell from a docstring which library it is from: NumPy, SciPy, scikit-learn or Matplotlib, whose names are masked.

    python examples/text_classification.py                       # embedded words, pooled by additive attention
    python examples/text_classification.py --model transformer   # with a transformer encoder in between
    python examples/text_classification.py --quick               # under a minute
    python examples/text_classification.py --resume runs/NAME    # continue a run that was stopped

The run ends with the accuracy beside that of logistic regression on TF-IDF, of the words and of all features; with the
accuracy after the words that counted most are erased, beside as many at random; and with a page that colours the words
by what they added to the score. The texts, those of the installed libraries, and the page are in parts/docstrings.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from parts import run_script
from parts.docstrings import LIBRARIES, explain, load_docstrings, numbered, regressions, thinned, vocabulary_of
from parts.image_options import open_run, parse_arguments, table

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train

LENGTH, DIM = 128, 64  # words of a text, features of a word


class Classifier(nn.Module):
    """Embed words, pool them by additive attention, score the classes: (batch, LENGTH, 4) -> (batch, classes).

    A word is the sum of the vectors of its features (docstrings.features), as in fastText (Bojanowski et al. 2017).
    """

    def __init__(self, vocabulary: int, classes: int, kind: str) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(vocabulary, DIM, padding_idx=0), nn.Dropout(0.5)
        nn.init.normal_(self.embedding.weight, std=0.01)  # small, so that rare features begin without a vote
        self.embedding.weight.detach()[0] = 0  # a feature that is not there adds nothing
        self.encoder = None
        if kind == "transformer":
            self.position = nn.Parameter(0.02 * ta.randn(LENGTH, DIM))
            layer = nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, dropout=0.1, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
        self.pool, self.scores = nn.AdditiveAttentionPooling(DIM, DIM), nn.Linear(DIM, classes)

    def score(self, x: ta.Tensor, hidden: ta.Tensor) -> ta.Tensor:
        """Return the scores for embedded words x, (batch, LENGTH, DIM), of which some are hidden as padding."""
        x = x if self.encoder is None else self.encoder(x + self.position, src_key_padding_mask=hidden)
        return self.scores(self.pool(x, hidden))

    def forward(self, words: ta.Tensor) -> ta.Tensor:
        return self.score(self.dropout(self.embedding(words).sum(2)), words[..., 0] == 0)

    def added(self, words: ta.Tensor) -> ta.Tensor:
        """Return what each word adds to each score, (batch, LENGTH, classes).

        Exact for pooling: the sum and the bias are the scores. With the encoder, to first order: gradient x input.
        """
        x, hidden = self.embedding(words).sum(2).detach(), words[..., 0] == 0
        if self.encoder is None:
            return self.pool(x, hidden, need_weights=True)[1].unsqueeze(-1) * (x @ self.scores.weight.T)
        scores = self.score(x.requires_grad_(), hidden).sum(0)
        found = [ta.autograd.grad(score, x, retain_graph=True)[0] for score in scores]
        return ta.stack([(gradient * x).sum(-1) for gradient in found], -1)


def main(arguments: Sequence[str] | None = None) -> int:
    about, kinds = __doc__.split("\n")[0], ["pooling", "transformer"]
    args = parse_arguments("text_classification.py", about, arguments, images=False, model="pooling",
                           more=lambda option: option("--model", choices=kinds, help="its kind (pooling)"))  # fmt: skip

    # --- data: numbers of the features of words (texts, LENGTH, 4), labels of 0 to 3; test texts are from other files
    texts, labels, held_out = load_docstrings(1000 if args.quick else 2000, args.seed, LENGTH)
    parts = [[text for text, out in zip(texts, held_out, strict=True) if out == held] for held in (False, True)]
    vocabulary = vocabulary_of(parts[0])
    x, test_x = (numbered(part, vocabulary, LENGTH) for part in parts)
    y, test_y = labels[~held_out], labels[held_out]
    baselines = regressions(*parts, y, test_y)
    print(f"{len(x)} training texts, {len(test_x)} test texts, {len(vocabulary)} features")
    loader = data.DataLoader(tuple(ta.tensor(part, device=args.device) for part in (x, y)), 32, shuffle=True)

    # --- model, loop
    model = Classifier(len(vocabulary) + 2, len(LIBRARIES), args.model).to(args.device)
    network = nn.DataParallel(model, args.workers)
    epochs = args.epochs or (12 if not args.quick else 8 if args.model == "pooling" else 6)
    optimizer = optim.AdamW(model.parameters(), lr := 2e-2 if args.model == "pooling" else 2e-3, weight_decay=0.05)
    schedule = optim.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    run = open_run(args, f"text-{args.model}", texts=train.fingerprint(x, y, test_x, test_y))
    session = train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader, epochs=epochs,
                            data="held-out", progress=args.progress)  # fmt: skip
    with session:
        for _ in session.epochs():
            for inputs, wanted in session.batches():
                scores = network(thinned(inputs))  # without a part of the words and features; (batch, classes)
                loss = F.cross_entropy(scores, wanted)
                optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(optimizer, loss)
                session.count(ta.stack([loss.detach(), (scores.argmax(1) == wanted).sum(), largest]))
                schedule.step()
            if session.stopped:
                print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
                return session.signals.exit_code
            session.end_epoch(float((train.predict(model, test_x).argmax(1) == test_y).mean()))

    accuracy = session.tally.test_accuracy
    table({args.model: accuracy, **baselines})
    about = f"{accuracy:.2%} of {len(test_y)} docstrings; " + ", ".join(f"{k}: {v:.2%}" for k, v in baselines.items())
    erased = explain(session, test_x, test_y, parts[1], about)
    session.finish(model=args.model, baselines=baselines, erased=erased, features=len(vocabulary))
    return 0


if __name__ == "__main__":
    run_script(main)

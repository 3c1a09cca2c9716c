"""Tell benign from malignant tumours, by two class scores or by one logit: the same model.

    python examples/binary.py                     # 30 measurements of 569 tumours, from scikit-learn
    python examples/binary.py --quick             # in some seconds
    python examples/binary.py --resume runs/NAME  # continue a run that was stopped or killed

Each measurement is a token, and attention pooling chooses among them. softmax((z0, z1)) gives the second class the
probability 1 / (1 + exp(z0 - z1)), which is sigmoid(z1 - z0): one output whose weights are the difference of the two.
The run ends with the largest difference of the two forms, with the area under the ROC curve beside that of logistic
regression, and with a picture of which measurements were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parts import run_script
from parts.image_options import open_run, parse_arguments

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train
from tinyattn.viz.figure import new_figure


class Tumours(nn.Module):
    """Embed each measurement, pool them by additive attention, and score the classes: (batch, 30) to (batch, 2)."""

    def __init__(self, measurements: int, dim: int = 16) -> None:
        super().__init__()
        self.scale = nn.Parameter(ta.randn(measurements, dim))
        self.bias = nn.Parameter(ta.randn(measurements, dim))
        self.attention = nn.AdditiveAttentionPooling(dim, dim)
        self.scores = nn.Linear(dim, 2)

    def pool(self, x: ta.Tensor, **options: bool) -> Any:
        tokens = F.gelu(x.unsqueeze(-1) * self.scale + self.bias)  # (batch, measurements, dim)
        return self.attention(tokens, **options)  # (batch, dim)

    def forward(self, x: ta.Tensor) -> ta.Tensor:
        return self.scores(self.pool(x))

    def one_logit(self, x: ta.Tensor) -> ta.Tensor:
        """Return z1 - z0 by one output, (batch,): its weights are the difference of those of the two classes."""
        weight, bias = self.scores.weight, self.scores.bias
        return self.pool(x) @ (weight[1] - weight[0]) + (bias[1] - bias[0])


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments("binary.py", __doc__.split("\n")[0], arguments, images=False)
    epochs = args.epochs or (15 if args.quick else 40)

    # --- data: float32 measurements (count, 30), scaled to mean 0 and deviation 1; labels 0 malignant, 1 benign
    known = load_breast_cancer()
    x, test_x, y, test_y = train_test_split(known.data, known.target, stratify=known.target, random_state=args.seed)
    mean, deviation = x.mean(0), x.std(0)
    x, test_x = ((part - mean) / deviation for part in (x, test_x))
    baseline = LogisticRegression(max_iter=1000).fit(x, y).predict_proba(test_x)[:, 1]
    x, test = (ta.tensor(part, dtype=ta.float32, device=args.device) for part in (x, test_x))
    y, truth = (ta.tensor(part, device=args.device) for part in (y, test_y))
    loader = data.DataLoader((x, y), 32, shuffle=True)

    # --- model, loop
    model = Tumours(x.shape[1]).to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), 5e-3, weight_decay=0.05)
    run = open_run(args, "binary")
    session = train.Session(run, model=model, optimizer=optimizer, loader=loader, epochs=epochs, data="tumours",
                            progress=args.progress)  # fmt: skip
    with session:
        for _ in session.epochs():
            for batch, label in session.batches():
                scores = network(batch)
                loss = F.cross_entropy(scores, label)
                optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(optimizer, loss)
                session.count(ta.stack([loss.detach(), (scores.argmax(1) == label).sum(), largest]))
            if session.stopped:
                break
            with ta.no_grad():
                session.end_epoch((model(test).argmax(1) == truth).float().mean().item())

    # --- the two forms, the baseline, the picture
    with ta.no_grad():
        two, one = F.softmax(model(test), 1)[:, 1], F.sigmoid(model.one_logit(test))
        _, weights = model.pool(test, need_weights=True)  # (tumours, measurements)
    ours, theirs = roc_auc_score(test_y, two.tolist()), roc_auc_score(test_y, baseline)
    apart = (two - one).abs().amax().item()
    axes = new_figure(6, 4.5).subplots()
    order = weights.mean(0).argsort().tolist()[-15:]
    axes.barh([known.feature_names[i] for i in order], [100 * weights[:, i].mean().item() for i in order])
    axes.set(
        xlabel="mean attention on the test tumours (%)",
        title="The 15 measurements, of 30, that the model looks at most",
    )
    axes.figure.savefig(run.folder / "attention.png")
    session.finish(auc=ours, baseline_auc=theirs, largest_difference=apart)
    print(f"softmax over two classes and sigmoid of one logit differ by {apart:.1e} at most")
    print(f"area under the ROC curve {ours:.4f}; logistic regression {theirs:.4f}; everything is in {run.folder}")
    return session.signals.exit_code


if __name__ == "__main__":
    run_script(main)

"""Read dates written in many ways in 20 languages, and write them as 2026-11-26, one character after the other.

    python examples/translate_dates.py              # a transformer: encoder, decoder, and attention between them
    python examples/translate_dates.py --model gru  # additive attention over a GRU (Bahdanau, Cho and Bengio 2015)
    python examples/translate_dates.py --quick      # under a minute on one core
    python examples/translate_dates.py --resume runs/NAME --beam 5  # write by beam search, beside greedily

The dates are written by the Babel package: pip install "tinyattn[tasks]". One day in ten of 200 years is never trained
on. The baseline is a rule for numbers with a table of the words of the training texts. The run ends with a picture of
what each written character looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from parts import run_script, written_dates
from parts.date_models import START, Gru, Transformer
from parts.image_options import open_run, table
from parts.written_dates import DIGITS, UNKNOWN, Alphabet, alignment_figure, by_rule, split_days, write, year_share

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train


def translate(model: nn.Module, texts: ta.Tensor, beam: int = 1) -> tuple[ta.Tensor, ta.Tensor, np.ndarray]:
    """Write a date for each text (batch, LENGTH) by beam search; a beam of 1 is greedy.

    After each character, the `beam` likeliest beginnings are kept. Returns the likeliest date (batch, 10), the log of
    its probability (batch,), and what each of its characters looked at (batch, 10, LENGTH).
    """
    count, seen = len(texts), []
    first = beam * ta.arange(count, device=texts.device)  # of the rows (batch * beam) of each text
    with ta.no_grad(), model.looked.register_forward_hook(lambda module, args, out: seen.append(out)):
        memory, texts = (x.repeat_interleave(beam, 0) for x in (model.encode(texts), texts))
        written = ta.full((len(texts), 1), START, dtype=ta.int64, device=texts.device)
        sums = ta.full((count, beam), -np.inf, device=texts.device)
        sums[:, 0] = 0  # the beginnings are one at first
        for _ in range(10):
            likely = F.log_softmax(model.decode(memory, texts, written)[:, -1], -1)  # (batch * beam, digits)
            sums, best = (sums.unsqueeze(2) + likely.unflatten(0, (count, beam))).flatten(1).topk(beam)
            rows = (first.unsqueeze(1) + best // len(DIGITS)).flatten()  # the beginning that each one continues
            written = ta.cat([written[rows], (best % len(DIGITS)).reshape(-1, 1)], 1)
    last = seen[-1][1] if isinstance(seen[-1], tuple) else ta.stack(seen[-10:], 1)  # (batch * beam, 10, LENGTH)
    return written[first, 1:], sums[:, 0], last[rows[first]].cpu().numpy()


def main(arguments: Sequence[str] | None = None) -> int:
    args = written_dates.parse_arguments(arguments)
    epochs, count = args.epochs or (4 if args.quick else 8), 20_000 if args.quick else 60_000

    # --- data: texts (count, LENGTH) and the ten characters of each date (count, 10), as tokens
    generator = np.random.default_rng(args.seed)
    days, unseen = split_days(generator)
    pairs = write(days, written_dates.FORMATS, count, generator)
    alphabet = Alphabet(pairs)
    kinds = {"unseen days": written_dates.FORMATS, "unseen formats": written_dates.UNSEEN}
    tests = {name: write(unseen, formats, 2000, generator) for name, formats in kinds.items()}

    def encoded(some: list[tuple[str, str]]) -> list[ta.Tensor]:
        return [ta.from_numpy(tokens).to(args.device) for tokens in alphabet.encode(some)]

    loader = data.DataLoader(tuple(encoded(pairs)), 64, shuffle=True)

    # --- model, loop
    ta.manual_seed(args.seed)
    model = {"transformer": Transformer, "gru": Gru}[args.model](len(alphabet)).to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), 6e-3, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, 6e-3, total_steps=epochs * len(loader))
    run = open_run(args, f"dates-{args.model}")

    def right(texts: ta.Tensor, dates: ta.Tensor, beam: int = 1) -> float:
        return (translate(model, texts, beam)[0] == dates).all(1).float().mean().item()

    session = train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader,
                            epochs=epochs, data="unseen days", progress=args.progress)  # fmt: skip
    with session:
        for _ in session.epochs():
            for texts, dates in session.batches():
                texts = texts.masked_fill((ta.rand(texts.shape, device=args.device) < 0.01) & (texts > 0), UNKNOWN)
                before = F.pad(dates[:, :-1], (1, 0), value=START)  # (batch, 10): what is known before each character
                scores = network(texts, before)  # (batch, 10, digits)
                loss = F.cross_entropy(scores.flatten(0, 1), dates.flatten())
                optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(optimizer, loss)
                hits = (scores.argmax(-1) == dates).all(1).sum()
                session.count(ta.stack([loss.detach(), hits, largest]))
                schedule.step()
            if session.stopped:
                print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
                return session.signals.exit_code
            session.end_epoch(right(*encoded(tests["unseen days"])))

    # --- results: whole dates, beside the rule; where it looked
    rule, results = by_rule(pairs), {}
    for name, some in tests.items():
        for beam in sorted({1, args.beam}):
            results[f"{name}, {args.model}" + f", beam of {beam}" * (beam > 1)] = right(*encoded(some), beam)
        results[f"{name}, rule and table"] = float(np.mean([rule(text) == day for text, day in some]))
    table(results)
    weights = translate(model, encoded(tests["unseen days"])[0])[2]  # (texts, 10, LENGTH)
    share, even = year_share(weights, tests["unseen days"])
    print(f"the year is written with {share:.1%} of the attention on the year of the text; evenly it were {even:.1%}")
    shown = written_dates.one_in_each(unseen)
    written, _, weights = translate(model, encoded(shown)[0], args.beam)
    figure = alignment_figure(shown, written, weights, run.folder.name)
    figure.savefig(run.folder / "attention.png")
    session.finish(accuracy=results, attention_on_year=share, even=even, model=args.model)
    print(f"the picture is {run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)

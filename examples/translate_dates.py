"""Read dates written in many ways in 20 languages, and write them as 2026-11-26, one character after the other.

    python examples/translate_dates.py              # a transformer: encoder, decoder, and attention between them
    python examples/translate_dates.py --model gru  # additive attention over a GRU (Bahdanau, Cho and Bengio 2015)
    python examples/translate_dates.py --quick      # under a minute on one core

The dates are written by the Babel package: pip install "tinyattn[tasks]". One day in ten of 200 years is never trained
on. The baseline is a rule for numbers with a table of the words of the training texts. The run ends with a picture of
what each written character looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from parts import run_script
from parts.date_models import START, Gru, Transformer, translate
from parts.image_options import open_run, parse_arguments, table
from parts.written_dates import (
    FORMATS,
    SHOWN,
    UNKNOWN,
    UNSEEN,
    Alphabet,
    alignment_figure,
    by_rule,
    split_days,
    write,
    year_share,
)

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train


def main(arguments: Sequence[str] | None = None) -> int:
    def more(option: Callable[..., object]) -> None:
        option("--model", choices=["transformer", "gru"], help="which network writes the dates (transformer)")

    about = __doc__.split("\n")[0]
    args = parse_arguments("translate_dates.py", about, arguments, more=more, images=False, model="transformer")
    epochs, count = args.epochs or (4 if args.quick else 8), 20_000 if args.quick else 60_000

    # --- data: texts (count, LENGTH) and the ten characters of each date (count, 10), as tokens
    generator = np.random.default_rng(args.seed)
    days, unseen = split_days(generator)
    pairs = write(days, FORMATS, count, generator)
    alphabet = Alphabet(pairs)

    def encoded(some: list[tuple[str, str]]) -> list[ta.Tensor]:
        return [ta.from_numpy(tokens).to(args.device) for tokens in alphabet.encode(some)]

    tests = {
        "unseen days": write(unseen, FORMATS, 2000, generator),
        "unseen formats": write(unseen, UNSEEN, 2000, generator),
    }
    loader = data.DataLoader(tuple(encoded(pairs)), 64, shuffle=True)

    # --- model, loop
    ta.manual_seed(args.seed)
    model = {"transformer": Transformer, "gru": Gru}[args.model](len(alphabet)).to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), 6e-3, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, 6e-3, total_steps=epochs * len(loader))
    run = open_run(args, f"dates-{args.model}")

    def right(texts: ta.Tensor, dates: ta.Tensor) -> float:
        return (translate(model, texts)[0] == dates).all(1).float().mean().item()

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
                break
            session.end_epoch(right(*encoded(tests["unseen days"])))
    if session.stopped:
        print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
        return session.signals.exit_code

    # --- results: whole dates, beside the rule; where it looked
    rule, results = by_rule(pairs), {}
    for name, some in tests.items():
        results[f"{name}, {args.model}"] = right(*encoded(some))
        results[f"{name}, rule and table"] = float(np.mean([rule(text) == day for text, day in some]))
    table(results)
    weights = translate(model, encoded(tests["unseen days"])[0])[1]  # (texts, 10, LENGTH)
    share, even = year_share(weights, tests["unseen days"])
    print(f"the year is written with {share:.1%} of the attention on the year of the text; evenly it were {even:.1%}")
    shown = [write([day], ["full"], 1, generator, [name])[0] for day, name in zip(unseen, SHOWN, strict=False)]
    figure = alignment_figure(shown, *translate(model, encoded(shown)[0]), f"{run.folder.name}: what was looked at")
    figure.savefig(run.folder / "attention.png")
    session.finish(accuracy=results, attention_on_year=share, even=even, model=args.model)
    print(f"the picture is {run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)

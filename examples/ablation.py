"""Measure what each trick of training is worth: a small convolutional network with one trick at a time, several seeds.

    python examples/ablation.py                       # five epochs, three seeds
    python examples/ablation.py --quick               # three epochs, two seeds, on scikit-learn's digits
    python examples/ablation.py --resume runs/NAME    # go on with the networks that are not trained yet
    python examples/ablation.py --page docs/ablation.md

Each trick is compared with the network without any, seed by seed. The interval is Student's, of 95 %, over the seeds.
The run ends with a page of one table and a picture of the intervals.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import run_script
from parts.image_options import load_data, open_run, parse_arguments
from parts.trick_table import gains, page, picture

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train

TRICKS: dict[str, dict[str, Any]] = {
    "none": {},
    "augmentation": {"shift": 2},
    "L1": {"l1": 1e-5},
    "L2": {"l2": 1e-4},
    "schedule": {"schedule": True},
    "batch norm": {"norm": True},
    "dropout": {"dropout": 0.3},
    "label smoothing": {"smoothing": 0.1},
}


def network(norm: bool, dropout: float) -> nn.Module:
    """Images (batch, 1, 28, 28) to scores (batch, 10)."""
    first, second = (nn.BatchNorm2d(n) if norm else nn.Identity() for n in (16, 32))
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, padding=2, bias=not norm), first, nn.ReLU(),  # (batch, 16, 14, 14)
        nn.Conv2d(16, 32, 3, 2, padding=1, bias=not norm), second, nn.ReLU(),  # (batch, 32, 7, 7)
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * 49, 10),
    )  # fmt: skip


def accuracy_with(
    args: argparse.Namespace, digits: data.ImageDataset, seed: int, *, shift: int = 0, l1: float = 0.0, l2: float = 0.0,
    schedule: bool = False, norm: bool = False, dropout: float = 0.0, smoothing: float = 0.0,
) -> float:  # fmt: skip
    """Train one network and return its accuracy on the test images."""
    ta.manual_seed(seed)
    arrays = (digits.train_images, digits.train_labels)
    arrays = tuple(ta.from_numpy(array).to(args.device) for array in arrays)
    loader = data.DataLoader(arrays, 32 if len(arrays[1]) < 10_000 else 128, shuffle=True)
    model = network(norm, dropout).to(args.device)
    optimizer = optim.Adam(model.parameters(), 2e-3, weight_decay=l2)
    fall = optim.CosineAnnealingLR(optimizer, T_max=args.epochs * len(loader))

    @ta.compile
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        pixels = (data.random_shift(images, shift) if shift else images).unsqueeze(1).float() / 255
        loss = F.cross_entropy(model(pixels), labels, label_smoothing=smoothing)
        if l1:
            loss = loss + l1 * sum(p.abs().sum() for p in model.parameters())
        optimizer.zero_grad()
        loss.backward()
        return train.step_if_finite(optimizer, loss)

    for _ in range(args.epochs):
        for images, labels in loader:
            step(images, labels)
            if schedule:
                fall.step()
    pixels = digits.test_images[:, None].astype(np.float32) / 255
    return float((train.predict(model, pixels).argmax(1) == digits.test_labels).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments("ablation.py", __doc__.split("\n")[0], arguments, page=None, free={"page"},
                           more=lambda option: option("--page", metavar="FILE", help="gets the page too"))  # fmt: skip
    digits = load_data(args)
    args.epochs = args.epochs or (3 if args.quick else 5)
    seeds = range(args.seed, args.seed + (2 if args.quick else 3))
    run = open_run(args, f"ablation-{digits.name.split()[0].lower()}", tricks=TRICKS)
    if (run.folder / "metrics.csv").exists():  # resumed
        run.rows = list(csv.DictReader((run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    known = {(row["trick"], int(row["seed"])): float(row["accuracy"]) for row in run.rows}
    for name, seed in ((name, seed) for name in TRICKS for seed in seeds if (name, seed) not in known):
        known[name, seed] = accuracy_with(args, digits, seed, **TRICKS[name])
        run.log(trick=name, seed=seed, accuracy=known[name, seed])
        print(f"{name}, seed {seed}: {known[name, seed]:.2%}")
    rows = gains({name: np.array([known[name, seed] for seed in seeds]) for name in TRICKS})
    options = f"--data {digits.name.split()[0].lower().strip(':,')} --epochs {args.epochs}{' --quick' * args.quick}"
    about = (f"`python examples/ablation.py {options}`, {time.strftime('%Y-%m-%d')}, seeds {seeds[0]} to {seeds[-1]}. "
             "The differences are those to no trick, seed by seed; the interval is Student's, of 95 %.")  # fmt: skip
    for file in filter(None, (run.folder / "ablation.md", args.page)):
        Path(file).write_text(page(rows, about), encoding="utf-8")
    picture(rows, run.folder / "ablation.png", run.folder.name)
    print(page(rows, about), f"the page and the picture are in {run.folder}", sep="\n")
    return 0


if __name__ == "__main__":
    run_script(main)

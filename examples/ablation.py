"""Measure what each trick of training is worth: a small convolutional network with one trick at a time, several seeds.

    python examples/ablation.py           # five epochs, three seeds
    python examples/ablation.py --quick   # three epochs, two seeds, on scikit-learn's digits

Each trick is compared with the network without any, seed by seed. The interval is Student's, of 95 %, over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from parts import run_script
from parts.image_options import load_data, open_run, parse_arguments

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
STUDENT = {2: 12.706, 3: 4.303}  # the 97.5 % quantile by number of seeds


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
    train_images, labels, test_images, test_labels = (
        ta.from_numpy(array).to(args.device)
        for array in (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    )
    loader = data.DataLoader((train_images, labels), 32 if len(labels) < 10_000 else 128, shuffle=True)
    model = network(norm, dropout).to(args.device)
    optimizer = optim.Adam(model.parameters(), 2e-3, weight_decay=l2)
    steps = args.epochs * len(loader)
    fall = optim.CosineAnnealingLR(optimizer, T_max=steps) if schedule else None
    for _ in range(args.epochs):
        for images, answers in loader:
            pixels = (data.random_shift(images, shift) if shift else images).unsqueeze(1).float() / 255
            loss = F.cross_entropy(model(pixels), answers, label_smoothing=smoothing)
            if l1:
                loss = loss + l1 * sum(p.abs().sum() for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            train.step_if_finite(optimizer, loss)
            if fall is not None:
                fall.step()
    model.eval()
    with ta.no_grad():
        batches = [slice(i, i + 500) for i in range(0, len(test_labels), 500)]
        scores = [model(test_images[b].unsqueeze(1).float() / 255) for b in batches]
    return (ta.cat(scores).argmax(1) == test_labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments("ablation.py", __doc__.split("\n")[0], arguments)
    if args.run:
        raise train.RefusedError("an ablation is not resumed; begin it again, with --overwrite in the same folder.")
    digits = load_data(args)
    args.epochs = args.epochs or (3 if args.quick else 5)
    seeds = range(args.seed, args.seed + (2 if args.quick else 3))
    run = open_run(args, f"ablation-{digits.name.split()[0].lower()}", tricks=TRICKS)
    lines = ["| trick | test accuracy | difference, in points | interval |", "| --- | ---: | ---: | --- |"]
    plain = np.zeros(len(seeds))
    for name, settings in TRICKS.items():
        found = np.array([accuracy_with(args, digits, seed, **settings) for seed in seeds])
        run.log(trick=name, **{f"seed_{seed}": value for seed, value in zip(seeds, found, strict=True)})
        plain = found if name == "none" else plain
        gain = 100 * (found - plain)
        half = STUDENT[len(seeds)] * gain.std(ddof=1) / len(seeds) ** 0.5
        inside = "" if name == "none" else f"{gain.mean() - half:+.2f} to {gain.mean() + half:+.2f}"
        lines.append(f"| {name} | {found.mean():.2%} | {gain.mean():+.2f} | {inside} |")
        print(*(lines if name == "none" else lines[-1:]), sep="\n")
    (run.folder / "ablation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.epochs} epochs, {len(seeds)} seeds; the table is {run.folder / 'ablation.md'}")
    return 0


if __name__ == "__main__":
    run_script(main)

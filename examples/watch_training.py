"""Watch a model learn, then look into it: every picture of tinyattn.viz about training, and a profile.

    python examples/watch_training.py                # 2 epochs of MNIST, or without it 20 of scikit-learn's digits
    python examples/watch_training.py --epochs 5 --out pictures

During training, curves.png and layers.png in the output folder are redrawn every few seconds: leave them open.
Afterwards the folder also has confusion.png, mistakes.png, attention.png, attention.html (click on a patch),
playground.html (draw a digit), profile.txt and trace.json (for https://ui.perfetto.dev).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import run_script

import numpy as np
import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, train, viz
from tinyattn.train.parser import integer, whole_number


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, look and measure. arguments: those of the command line unless given."""
    args = parse_arguments(arguments)
    ta.manual_seed(args.seed)
    threadpoolctl.threadpool_limits(1)  # a second BLAS thread gains little on matrices this small
    try:
        digits = data.load(args.data, args.data_dir, say=print)
    except ValueError as error:
        raise train.RefusedError(str(error)) from None
    small = len(digits.train_images) < 10_000  # then smaller batches and more epochs make up for the few images
    args.epochs = args.epochs or (20 if small else 2)
    args.batch_size = args.batch_size or (32 if small else 128)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.out.iterdir():
        if path.is_symlink():  # a folder from elsewhere: the target may be any file of yours
            raise train.RefusedError(f"{path} is a symbolic link, and no picture is written through one; delete it.")
    model = models.AttentionClassifier(
        patch_size=7, patch_stride=4, patch_padding=2, stem_dim=128, mlp_dim=128, pooling="attention"
    )
    learn(model, digits, args)
    look(model, digits, args.out)
    measure(model, digits, args.out)
    return 0


def learn(model: ta.nn.Module, digits: data.ImageDataset, args: Any) -> None:
    """Train, and draw the curves and the layers."""
    loader = data.DataLoader((digits.train_images, digits.train_labels), args.batch_size, shuffle=True)
    steps = args.epochs * len(loader)
    optimizer = optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    warm = max(steps // 10, 1)
    schedule = optim.LambdaLR(optimizer, lambda i: min((i + 1) / warm, 0.5 * (1 + math.cos(math.pi * i / steps))))
    stats = train.LayerStats(model, optimizer, every=max(steps // 100, 1))
    rows: list[dict[str, float]] = []
    curves = viz.Live(lambda: viz.curves_figure(rows, digits.name), args.out / "curves.png")
    layers = viz.Live(lambda: viz.layers_figure(stats.rows, digits.name), args.out / "layers.png")

    losses, hits, seen = 0.0, 0, 0
    for epoch in range(1, args.epochs + 1):
        for images, labels in train.Progress(loader, len(digits.train_images), f"epoch {epoch}"):
            scores = model(images)
            loss = F.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            stats.step()  # optimizer.step(), and measures one step in `every`
            schedule.step()
            losses, seen = losses + loss.item() * len(labels), seen + len(labels)
            hits += int((scores.array.argmax(1) == labels.array).sum())
            if stats.steps % max(steps // 40, 1) == 0:
                rows.append({"step": stats.steps, "train_loss": losses / seen, "train_accuracy": hits / seen})
                losses, hits, seen = 0.0, 0, 0
                curves.update()
                layers.update()
        print(f"epoch {epoch}: loss {rows[-1]['train_loss']:.4f}, accuracy {rows[-1]['train_accuracy']:.2%}")
    curves.update(now=True)
    layers.update(now=True)


def look(model: ta.nn.Module, digits: data.ImageDataset, folder: Path) -> None:
    """Draw the confusion matrix, the worst mistakes and the attention."""
    images, labels = digits.test_images, digits.test_labels
    scores = train.predict(model, images)
    print(f"{digits.name} test accuracy {(scores.argmax(1) == labels).mean():.2%}")
    viz.confusion_figure(labels, scores, title=digits.name).savefig(folder / "confusion.png")
    viz.mistakes_figure(model, images, labels, title=digits.name).savefig(folder / "mistakes.png")

    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]  # one of each
    maps = viz.attention(model, images[first], labels=labels[first], title=f"AttentionClassifier on {digits.name}")
    maps.save(folder / "attention.png", item=2, token=(3, 3))
    page = maps.save(folder / "attention.html")
    playground = viz.playground(model, images[first], title=f"A classifier of {digits.name}")
    print(f"pictures are in {folder}; open {page} and click on a patch,")
    print(f"or {playground.save(folder / 'playground.html')} and draw a digit")


def measure(model: ta.nn.Module, digits: data.ImageDataset, folder: Path) -> None:
    """Profile the second of two steps; the first allocates memory."""
    for _ in range(2):
        with ta.profile() as p:
            F.cross_entropy(model(digits.train_images[:128]), digits.train_labels[:128]).backward()
    print(p.table(rows=5))
    (folder / "profile.txt").write_text(f"{p}\n", encoding="utf-8")
    p.save_trace(folder / "trace.json")


def parse_arguments(arguments: Sequence[str] | None) -> Any:
    parser = train.Parser(description="Train an attention classifier, and draw every picture of its training.")
    option = parser.add_argument
    option("--epochs", type=whole_number, default=None, help="passes over the data (2; 20 on the digits)")
    option("--batch-size", type=whole_number, default=None, help="images in a step (128; 32 on the digits)")
    option("--seed", type=integer, default=0, help="one seed gives one result (0)")
    option("--data", choices=["auto", "mnist", "digits"], default="auto", help="MNIST, or scikit-learn's digits (auto)")
    option("--data-dir", default=None, help="folder that holds MNIST's four files ($TINYATTN_DATA, else the cache)")
    option("--out", type=Path, default=Path("pictures"), help="folder for the pictures (pictures)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_script(main)

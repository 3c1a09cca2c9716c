"""Train an attention classifier on MNIST, from first principles.

    python examples/mnist.py                      # the small vision transformer, some 99 % in 10 epochs
    python examples/mnist.py --model article      # the article's model: every pixel a token
    python examples/mnist.py --help

Everything that happens is in `main` below, from top to bottom: data, model, optimizer, loop. Without
MNIST and without a network it trains on scikit-learn's handwritten digits instead, and says so.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, train, viz

RECIPES = {
    # The classifier: overlapping 7x7 patches with a two-layer stem, two blocks, attention pooling.
    "classifier": {
        "model": {"patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128, "mlp_dim": 128,
                  "pooling": "attention"},
        "batch_size": 128, "lr": 2e-3, "weight_decay": 0.01, "warmup": 200, "shift": 2,
    },
    # The article: ten levels of grey embedded in 64 dimensions, batches of 64, Adam at 1e-3.
    "article": {
        "model": {"input_dim": 10, "embed_dim": 64},
        "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0, "warmup": 0, "shift": 0,
    },
}  # fmt: skip


def main() -> int:
    args = parse_arguments()
    recipe = RECIPES[args.model]
    lr = args.lr or recipe["lr"]
    ta.manual_seed(args.seed)
    # A second BLAS thread gains little on matrices this small, and costs much where the machine is busy.
    threadpoolctl.threadpool_limits(args.threads)

    # --- data: uint8 images (count, 28, 28), labels 0 to 9
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below, louder
            digits = data.load(args.data, args.data_dir, say=print)
    except (ValueError, ImportError) as error:
        print(f"mnist.py: {error}", file=sys.stderr)
        return 2
    if digits.note:
        banner(f"This is NOT MNIST: training on {digits.name}.", digits.note)
    if args.validation:
        digits = digits.validation_split(args.validation)
    small = len(digits.train_images) < 10_000  # then smaller batches and more passes make up for steps
    epochs, batch_size = (
        args.epochs or (20 if small else 10),
        args.batch_size or (32 if small else recipe["batch_size"]),
    )
    loader = data.DataLoader((digits.train_images, digits.train_labels), batch_size, shuffle=True)

    # --- model and optimizer
    if args.model == "article":
        model = models.AttentionModel(**recipe["model"], num_classes=10)
        optimizer = optim.Adam(model.parameters(), lr)
        schedule = None
    else:
        model = models.AttentionClassifier(**recipe["model"])
        optimizer = optim.AdamW(model.parameters(), lr, weight_decay=recipe["weight_decay"])
        steps = epochs * len(loader)
        warmup = min(recipe["warmup"], steps // 5 + 1)
        schedule = optim.SequentialLR(  # up in a straight line, down along a cosine
            optimizer,
            [
                optim.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup),
                optim.CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1)),
            ],
            milestones=[warmup],
        )
    network = ta.nn.DataParallel(model, args.workers)  # the model, on a share of the batch in each thread
    parameters = sum(p.numel() for p in model.parameters())
    run = train.Run(args.out, f"{args.model}-{digits.name.split()[0].strip(',').lower()}-seed{args.seed}")
    print(f"{digits.name}: {len(digits.train_images)} training images, {len(digits.test_images)} test images")
    print(f"{args.model}: {parameters} parameters, {recipe['model']}")
    how = f"batch {batch_size}, {type(optimizer).__name__} lr {lr:g}, seed {args.seed}, workers {args.workers}"
    print(f"{epochs} epochs, {how}, into {run.folder}")

    # --- the loop
    start = time.perf_counter()
    test_accuracy, images_seen, training_time, interrupted = float("nan"), 0, 0.0, False
    try:
        for epoch in range(1, epochs + 1):
            epoch_start = time.perf_counter()
            loss_sum, hits, seen = 0.0, 0, 0
            batches = train.Progress(loader, len(digits.train_images), f"epoch {epoch}/{epochs}", args.progress)
            for images, labels in batches:
                if recipe["shift"]:
                    images = data.random_shift(images, recipe["shift"])
                scores = network(images)  # (batch, 10)
                loss = F.cross_entropy(scores, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                seen += len(labels)
                loss_sum += loss.item() * len(labels)
                hits += int((scores.data.argmax(1) == labels.data).sum())
                batches.update(len(labels), loss=loss_sum / seen, accuracy=hits / seen)
            seconds = time.perf_counter() - epoch_start
            images_seen, training_time = images_seen + seen, training_time + seconds
            predicted = train.predict(network, digits.test_images).argmax(1)
            test_accuracy = float((predicted == digits.test_labels).mean())
            run.log(
                epoch=epoch, train_loss=loss_sum / seen, train_accuracy=hits / seen, test_accuracy=test_accuracy,
                lr=optimizer.param_groups[0]["lr"], images_per_second=seen / seconds, seconds=seconds,
            )  # fmt: skip
            print(
                f"epoch {epoch:2d}: loss {loss_sum / seen:.4f}, training accuracy {hits / seen:.2%}, "
                f"{digits.name} test accuracy {test_accuracy:.2%}, {seen / seconds:.0f} images/s"
            )
    except KeyboardInterrupt:
        interrupted = True
        print("\nStopped by Ctrl-C; what was reached is kept.", file=sys.stderr)

    # --- what came of it
    run.summarise(
        dataset=digits.name, model=args.model, parameters=parameters, seed=args.seed, epochs=epochs,
        batch_size=batch_size, workers=args.workers, lr=lr, recipe=recipe, test_accuracy=test_accuracy,
        seconds=time.perf_counter() - start, images_per_second=images_seen / max(training_time, 1e-9),
        interrupted=interrupted,
    )  # fmt: skip
    if images_seen:
        draw(run, model, digits, f"{args.model} on {digits.name}")
        print(f"{digits.name} test accuracy {test_accuracy:.2%}; everything is in {run.folder}")
    return 130 if interrupted else 0


def draw(run: train.Run, model: ta.nn.Module, digits: data.ImageDataset, title: str) -> None:
    """Save the curves, show where the model looked at ten test digits, and print its first mistakes."""
    viz.curves_figure(run.folder / "metrics.csv", title).savefig(run.folder / "curves.png")
    predicted = train.predict(model, digits.test_images).argmax(1)

    first = [int(np.flatnonzero(digits.test_labels == digit)[0]) for digit in range(10)]  # one of each
    images = digits.test_images[first]
    captions = [f"a {digits.test_labels[i]}, said {predicted[i]}" for i in first]
    maps = {"where it looked": model.where_it_looked(images).numpy()}
    figure = viz.attention_figure(images, maps, captions, title)
    figure.savefig(run.folder / "attention.png")

    mistakes = np.flatnonzero(predicted != digits.test_labels)
    print(f"{len(mistakes)} mistakes in {len(predicted)} test images; the first of them:")
    for i in mistakes[:10]:
        print(f"  test image {i}: a {digits.test_labels[i]}, taken for a {predicted[i]}")


def banner(*lines: str) -> None:
    """Words that nobody can miss."""
    width = max(map(len, lines)) + 4
    print("*" * width, *(f"* {line.ljust(width - 4)} *" for line in lines), "*" * width, sep="\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train an attention classifier on MNIST with tinyattn.")
    option = parser.add_argument
    option("--model", choices=RECIPES, default="classifier", help="which model and recipe (classifier)")
    option("--epochs", type=positive_int, help="passes over the data (10; 20 on the small digits)")
    option("--batch-size", type=positive_int, help="images in a step (128; article 64; digits 32)")
    option("--lr", type=positive_float, help="learning rate (2e-3; article 1e-3)")
    option("--seed", type=int, default=0, help="one seed and one number of workers give one result (0)")
    option("--workers", type=positive_int, default=min(ta.nn.available_workers(), 4), metavar="N",
           help="threads that share each batch (the cores, up to 4: %(default)s)")  # fmt: skip
    option("--threads", type=positive_int, default=1, help="threads of the matrix products with one worker (1)")
    option("--device", choices=["cpu"], default="cpu", help="where to compute (cpu)")
    option("--data", choices=["auto", "mnist", "digits"], default="auto",
           help="MNIST, scikit-learn's digits, or whichever can be had (auto)")  # fmt: skip
    option("--data-dir", help="folder that holds MNIST's four files ($TINYATTN_DATA, else the cache)")
    option("--validation", type=positive_int, metavar="N",
           help="hold N training images out and test on them, to choose settings without the test set")  # fmt: skip
    option("--out", default="runs", help="folder that gets a new folder for this run (runs)")
    option("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser.parse_args()


def positive_int(text: str) -> int:
    """An argument that must be a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_float(text: str) -> float:
    """An argument that must be a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())

"""Train an attention classifier on MNIST, from first principles.

    python examples/mnist.py                      # the small vision transformer, some 99 % in 10 epochs
    python examples/mnist.py --model article      # the article's model: every pixel a token
    python examples/mnist.py --resume runs/NAME   # go on with a run that was stopped or killed
    python examples/mnist.py --help

Everything that happens is in `main` below, from top to bottom: data, model, optimizer, loop. Without
MNIST and without a network it trains on scikit-learn's handwritten digits instead, and says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, train, viz
from tinyattn.train.arguments import device, folder, integer, new_folder, positive_number, probability, whole_number

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


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    recipe = RECIPES[args.model]
    ta.manual_seed(args.seed)
    # A second BLAS thread gains little on matrices this small, and costs much where the machine is busy.
    threadpoolctl.threadpool_limits(args.threads)

    # --- data: uint8 images (count, 28, 28), labels 0 to 9
    digits = load_data(args)
    small = len(digits.train_images) < 10_000  # then smaller batches and more passes make up for steps
    args.epochs = args.epochs or (20 if small else 10)
    args.batch_size = args.batch_size or (32 if small else recipe["batch_size"])
    args.lr = args.lr or recipe["lr"]
    arrays = (digits.train_images, digits.train_labels, digits.test_images)
    images, labels, test_images = (ta.from_numpy(a).to(args.device) for a in arrays)  # once
    loader = data.DataLoader((images, labels), args.batch_size, shuffle=True)

    # --- model and optimizer
    if args.model == "article":
        model = models.AttentionModel(**recipe["model"], num_classes=10).to(args.device)
        optimizer = optim.Adam(model.parameters(), args.lr)
        schedule = None
    else:
        model = models.AttentionClassifier(**recipe["model"], dropout=args.dropout).to(args.device)
        optimizer = optim.AdamW(model.parameters(), args.lr, weight_decay=recipe["weight_decay"])
        steps = args.epochs * len(loader)
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

    # --- the run's folder, and what is saved in it so that the run can be resumed
    name = f"{args.model}-{digits.name.split()[0].strip(',').lower()}-seed{args.seed}"
    run = args.run or train.Run(args.out, name, overwrite=args.overwrite)
    describe(run, args, digits)
    tally = train.Tally()  # where we are, and the sums of this epoch
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader,
             "random": train.RandomStates(), "tally": tally, "run": run}  # fmt: skip
    checkpoints = train.Checkpoints(run.folder / "checkpoints", parts, keep=args.keep, say=print)
    print(f"{digits.name}: {len(digits.train_images)} training images, {len(digits.test_images)} test images")
    print(f"{args.model}: {parameters} parameters, {recipe['model']}")
    how = (
        f"batch {args.batch_size}, {type(optimizer).__name__} lr {args.lr:g}, seed {args.seed}, workers {args.workers}"
    )
    print(f"{args.epochs} epochs, {how}, into {run.folder}")
    if args.run:
        print(f"resumed from {checkpoints.restore() or 'the beginning: there is no checkpoint yet'}")

    # --- a step; on a GPU it becomes one CUDA graph, launched as one: nothing in it is read or waited for
    @ta.compile
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        if recipe["shift"]:
            images = data.random_shift(images, recipe["shift"])
        scores = network(images)  # (batch, 10)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        largest = train.step_if_finite(optimizer, loss)  # of all gradients
        hits = (scores.argmax(1) == labels).sum()
        return ta.stack([loss.detach(), hits, largest])  # (3,), what the tally adds up

    read_every = 1 if args.device == "cpu" else 20  # steps; to read a number from a GPU is to wait for it

    # --- the loop; Ctrl-C and SIGTERM end it after the step they meet, and a second one at once
    with train.StopSignals() as stop:
        for epoch in range(tally.epoch, args.epochs + 1):
            title = f"epoch {epoch}/{args.epochs}"
            batches = train.Progress(loader, len(digits.train_images), title, args.progress, done=tally.seen)
            stopping = None
            tally.start_clock()
            for images, labels in batches:
                tally.add(step(images, labels), loader.indices)
                if schedule is not None:
                    schedule.step()
                stopping = stop.caught
                saving = stopping or (args.checkpoint_every and tally.step % args.checkpoint_every == 0)
                if saving or tally.step % read_every == 0 or tally.step % len(loader) == 0:
                    bad = tally.read()
                    if bad and not args.skip_nonfinite:
                        raise train.batch_is_not_finite(bad[0], checkpoints)
                batches.update(len(labels), loss=tally.loss, accuracy=tally.accuracy)
                if saving:
                    checkpoints.save(tally.step)
                if stopping:
                    break
            if stopping:
                break
            predicted = train.predict(network, test_images).argmax(1)
            test_accuracy = float((predicted == digits.test_labels).mean())
            run.log(
                epoch=epoch, train_loss=tally.loss, train_accuracy=tally.accuracy, test_accuracy=test_accuracy,
                lr=optimizer.param_groups[0]["lr"], images_per_second=tally.speed, seconds=tally.seconds,
            )  # fmt: skip
            print(
                f"epoch {epoch:2d}: loss {tally.loss:.4f}, training accuracy {tally.accuracy:.2%}, "
                f"{digits.name} test accuracy {test_accuracy:.2%}, {tally.speed:.0f} images/s"
                + (f", {tally.skipped} batches skipped as not finite" if tally.skipped else "")
            )
            tally.next_epoch(test_accuracy)
            checkpoints.save(tally.step)

    # --- what came of it
    if stop.caught:
        print(f"\nStopped by {stop.name}; mnist.py --resume {run.folder} goes on from here.", file=sys.stderr)
    ta.save(run.folder / "model.safetensors", model.state_dict())
    run.summarise(
        dataset=digits.name, model=args.model, parameters=parameters, seed=args.seed, epochs=args.epochs,
        batch_size=args.batch_size, workers=args.workers, lr=args.lr, recipe=recipe, test_accuracy=tally.test_accuracy,
        seconds=tally.total_seconds + tally.seconds, images_per_second=tally.total_speed, steps=tally.step,
        skipped=tally.total_skipped + tally.skipped, interrupted=bool(stop.caught),
    )  # fmt: skip
    if run.rows:
        draw(run, model, digits, f"{args.model} on {digits.name}")
        print(f"{digits.name} test accuracy {tally.test_accuracy:.2%}; everything is in {run.folder}")
    return stop.exit_code


def load_data(args: argparse.Namespace) -> data.ImageDataset:
    """MNIST, or what stands in for it, which is said where nobody can miss it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below, louder
            digits = data.load(args.data, args.data_dir, say=print)
        if digits.note:
            banner(f"This is NOT MNIST: training on {digits.name}.", digits.note)
        return digits.validation_split(args.validation) if args.validation else digits
    except ValueError as error:
        raise train.RefusedError(str(error)) from None


def describe(run: train.Run, args: argparse.Namespace, digits: data.ImageDataset) -> None:
    """Write into a new run's folder what it takes to repeat it; hold a resumed run to what it began with."""
    found = train.fingerprint(digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    same = {"recipe": RECIPES[args.model], "data": {"name": digits.name, "sha256": found}}
    if args.run:
        run.hold_to(**same)
        if changed := train.changed_versions(run.config.get("versions", {})):
            print(f"Resumed with {changed}: results may differ in their last bits.")
        for name in ("device", "workers", "threads"):
            if (before := run.config["arguments"].get(name, DEFAULTS[name])) != getattr(args, name):
                print(f"Resumed with {name} {getattr(args, name)}, begun with {before}: the rest of the run has other "
                      "random numbers and rounding than it would have had.")  # fmt: skip
        return
    settings = {name: value for name, value in vars(args).items() if name in RECORDED}
    if digits.name.startswith("MNIST"):  # wherever it was found
        where = args.data_dir or os.environ.get("TINYATTN_DATA")
        settings |= {"data": "mnist", "data_dir": where and os.path.abspath(where)}
    else:
        settings |= {"data": "digits"}
    run.describe(command=sys.argv, arguments=settings, **same, versions=train.versions(),
                 git=train.git_state(Path(__file__).parent), started=time.strftime("%Y-%m-%dT%H:%M:%S%z"))  # fmt: skip


def draw(run: train.Run, model: ta.nn.Module, digits: data.ImageDataset, title: str) -> None:
    """Save the curves, show where the model looked at ten test digits, and print its first mistakes."""
    viz.curves_figure(run.folder / "metrics.csv", title).savefig(run.folder / "curves.png")
    predicted = train.predict(model, digits.test_images).argmax(1)

    places = [np.flatnonzero(digits.test_labels == digit) for digit in range(10)]
    first = [int(found[0]) for found in places if found.size]  # one of each that is there
    images = digits.test_images[first]
    captions = [f"a {digits.test_labels[i]}, said {predicted[i]}" for i in first]
    on_device = ta.from_numpy(images).to(next(model.parameters()).device)
    maps = {"where it looked": model.where_it_looked(on_device).cpu().numpy()}
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


DESCRIPTION = """\
Train an attention classifier on MNIST with tinyattn, and keep everything about
the run in a folder of its own. The default recipe reaches some 99 % on the test
images in 10 epochs."""

EPILOG = """\
files of a run, in FOLDER/MODEL-DATA-seedN:
  config.json        settings, versions, the data's checksum and the state of
                     the source: what it takes to repeat the run (copy it into
                     an empty folder and --resume that)
  metrics.csv        a row an epoch
  checkpoints/       the newest checkpoints, of every epoch and every STEPS
                     batches; each is written whole, or not at all
  model.safetensors  the weights at the end, for ta.load, or PyTorch's
                     safetensors.torch.load_file
  summary.json, curves.png, attention.png
                     what came of it

stopping and going on:
  Ctrl-C and SIGTERM save a checkpoint and end the run; a second one ends it at
  once. --resume goes on from the newest whole checkpoint and ends with the same
  weights, bit for bit, as if the run had never stopped (with as many workers,
  on the same device). It uses the run's own settings; only --workers,
  --threads, --device, --data-dir, --checkpoint-every, --keep, --skip-nonfinite
  and --no-progress can be given anew.

on a GPU (--device cuda):
  The data go there once, and a whole step is one CUDA graph. What steps come to
  is read every 20 of them, before a checkpoint and at the end of an epoch. A
  batch that is not finite changes no weight there either: it is noticed at the
  next of these looks, and named; with --skip-nonfinite it is left out.

exit status:
  0    the run has ended
  1    it could not go on: a loss that is not finite, a full disk
  2    it was not begun: something on the command line or in the data is wrong
  130  it was stopped by Ctrl-C (SIGTERM: 143)

examples:
  mnist.py --epochs 3 --lr 1e-3 --seed 1
  mnist.py --model article --checkpoint-every 500
  mnist.py --resume runs/article-mnist-seed0
"""

DEFAULTS = {
    "model": "classifier", "epochs": None, "batch_size": None, "lr": None, "dropout": 0.0, "seed": 0, "device": "cpu",
    "workers": min(ta.nn.available_workers(), 4), "threads": 1, "data": "auto", "data_dir": None, "validation": None,
    "out": "runs", "overwrite": False, "resume": None, "checkpoint_every": None, "keep": 3, "skip_nonfinite": False,
    "progress": True,
}  # fmt: skip
ONLY_NOW = {"out", "overwrite", "resume", "progress"}  # no part of what a run is
MAY_CHANGE = {"device", "workers", "threads", "data_dir", "checkpoint_every", "keep", "skip_nonfinite"}  # on resuming
RECORDED = {*DEFAULTS} - ONLY_NOW


# fmt: off
def options() -> train.Parser:
    """What can be said on the command line; `DEFAULTS` says what holds where nothing is said."""
    parser = train.Parser(prog="mnist.py", description=DESCRIPTION, epilog=EPILOG)
    option = parser.add_argument_group("what is trained").add_argument
    option("--model", choices=RECIPES, help="which model and recipe (classifier)")
    option("--epochs", type=whole_number, metavar="N", help="passes over the data (10; 20 on the small digits)")
    option("--batch-size", type=whole_number, metavar="N", help="images in a step (128; article 64; digits 32)")
    option("--lr", type=positive_number, metavar="RATE", help="learning rate (2e-3; article 1e-3)")
    option("--dropout", type=probability, metavar="P", help="share of features to drop; classifier only (0)")
    option("--seed", type=integer, metavar="N", help="one seed and one number of workers give one result (0)")

    option = parser.add_argument_group("on what, and how fast").add_argument
    option("--data", choices=["auto", "mnist", "digits"],
           help="MNIST, scikit-learn's digits, or whichever can be had (auto)")
    option("--data-dir", type=folder, metavar="FOLDER",
           help="holds MNIST's four files ($TINYATTN_DATA, else the cache)")
    option("--validation", type=whole_number, metavar="N",
           help="hold N training images out and test on them, to choose settings without the test set")
    option("--workers", type=whole_number, metavar="N",
           help=f"threads that share each batch (the cores, up to 4: {DEFAULTS['workers']})")
    option("--threads", type=whole_number, metavar="N", help="threads of the matrix products, with --workers 1 (1)")
    option("--device", type=device, metavar="DEVICE", help="where to compute: cpu, cuda or cuda:1 (cpu)")

    option = parser.add_argument_group("what is kept").add_argument
    option("--out", type=new_folder, metavar="FOLDER", help="gets a new folder for this run (runs)")
    option("--overwrite", action="store_true",
           help="take the place of an earlier run of the same name, instead of NAME-2, NAME-3 ...")
    option("--checkpoint-every", type=whole_number, metavar="STEPS",
           help="save a checkpoint every STEPS batches, besides that of every epoch")
    option("--keep", type=whole_number, metavar="N", help="how many checkpoints stay (3)")
    option("--resume", type=folder, metavar="RUN_FOLDER",
           help="go on with a run that was stopped or killed, with its settings")
    option("--skip-nonfinite", action="store_true",
           help="leave out batches whose loss or gradients are NaN or infinite, and count them; else stop")
    option("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser
# fmt: on


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for, and in `run` the run to resume; wrong words end here, with one sentence and code 2."""
    parser = options()
    given = parser.given(arguments)
    run = train.Run.resume(given["resume"]) if "resume" in given else None
    args = parser.settle(given, run.config["arguments"] if run else {}, DEFAULTS,
                         free=MAY_CHANGE | ONLY_NOW, source=run.folder / "config.json" if run else "")  # fmt: skip
    args.run = run
    if run and {"out", "overwrite"} & {*given}:
        parser.error("--resume writes to the run's own folder; leave --out and --overwrite out")
    if args.data == "digits" and args.data_dir:
        parser.error("--data digits come with scikit-learn; leave --data-dir out")
    if args.model == "article" and args.dropout:
        parser.error("--dropout is for the classifier; the article's model has none")
    if args.threads > 1 and args.workers > 1:
        parser.error(f"--threads {args.threads} needs --workers 1; {args.workers} workers have one thread each")
    return args


if __name__ == "__main__":
    sys.exit(train.exit_code(main, "mnist.py"))

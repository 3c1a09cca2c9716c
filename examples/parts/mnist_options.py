"""The command line of mnist.py, what it records of a run, and what it reports in the end."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn import data, train, viz
from tinyattn.train.parser import device, folder, integer, new_folder, positive_number, probability, whole_number

DESCRIPTION = """\
Train an attention classifier on MNIST with tinyattn, and keep everything about
the run in a folder of its own. The default recipe reaches some 99 % on the test
images in 10 epochs."""

EPILOG = """\
files of a run, in FOLDER/MODEL-DATA-seedN:
  config.json        settings, versions, the data's checksum and the state of
                     the source: enough to repeat the run (copy it into an
                     empty folder and --resume that)
  metrics.csv        a row for each epoch
  checkpoints/       the newest checkpoints, of every epoch and every STEPS
                     batches; each is written whole, or not at all
  model.safetensors  the weights at the end, for ta.load, or PyTorch's
                     safetensors.torch.load_file
  summary.json, curves.png, attention.png
                     the results
  attention.html, playground.html (the classifier's)
                     pages to open in a browser: every head's attention to
                     test images, and to what you draw

stopping and resuming:
  Ctrl-C and SIGTERM save a checkpoint and end the run; a second one ends it at
  once. --resume continues from the newest whole checkpoint and ends with the
  same weights, bit for bit, as if the run had never stopped (with as many
  workers, on the same device). It uses the run's own settings; only --workers,
  --threads, --device, --data-dir, --checkpoint-every, --keep, --skip-nonfinite,
  --no-compile and --no-progress can be changed.

on a GPU (--device cuda):
  The data are uploaded once, and a whole step is one CUDA graph. Loss and
  accuracy are read every 20 steps, before a checkpoint and at the end of an
  epoch. A batch with a loss or gradient that is not finite leaves the weights
  unchanged; the next read-out reports it, or skips it with --skip-nonfinite.

in several processes (mpirun -n 2 python examples/mnist.py --distributed):
  Each takes its share of every batch; the first one writes the files. Needs
  pip install "tinyattn[mpi]" and an MPI. Checkpoints can be resumed with
  another number of processes; the random numbers are then others.

exit status:
  0    the run has ended
  1    it could not continue: a loss that is not finite, a full disk
  2    it did not begin: an error on the command line or in the data
  130  it was stopped by Ctrl-C (SIGTERM: 143)

examples:
  mnist.py --epochs 3 --lr 1e-3 --seed 1
  mnist.py --model article --checkpoint-every 500
  mnist.py --resume runs/article-mnist-seed0
"""

ADVICE = {  # after an error that ended a run
    train.NonFiniteError: "See --lr and --skip-nonfinite.",
    OSError: "Once the cause is removed, --resume continues the run.",
    MemoryError: "See --batch-size, --workers and --device; a run that had begun continues with --resume.",
}
DEFAULTS = {
    "model": "classifier", "score": "additive", "attention": "softmax", "epochs": None, "batch_size": None, "lr": None,
    "dropout": 0.0, "seed": 0, "device": "cpu", "workers": min(ta.nn.available_workers(), 4), "threads": 1,
    "data": "auto", "data_dir": None, "validation": None, "out": "runs", "overwrite": False, "resume": None,
    "checkpoint_every": None, "keep": 3, "skip_nonfinite": False, "compile": True, "progress": True,
    "distributed": False,
}  # fmt: skip
NOT_RECORDED = {"out", "overwrite", "resume", "compile", "progress", "distributed"}
MAY_CHANGE = {"device", "workers", "threads", "data_dir", "checkpoint_every", "keep", "skip_nonfinite"}  # on resuming


# fmt: off
def options() -> train.Parser:
    """The parser of the command line; `DEFAULTS` has the default of each option."""
    parser = train.Parser(prog="mnist.py", description=DESCRIPTION, epilog=EPILOG)
    option = parser.add_argument_group("model and recipe").add_argument
    option("--model", choices=["classifier", "article"], help="which model and recipe (classifier)")
    option("--score", choices=["additive", "dot", "scaled_dot", "multihead"],
           help="how the article's model scores a pixel (additive)")
    option("--attention", choices=["softmax", "sparsemax", "entmax"],
           help="what makes weights of scores; classifier only (softmax)")
    option("--epochs", type=whole_number, metavar="N", help="passes over the data (10; 20 on the small digits)")
    option("--batch-size", type=whole_number, metavar="N", help="images in a step (128; article 64; digits 32)")
    option("--lr", type=positive_number, metavar="RATE", help="learning rate (2e-3; article 1e-3, on the digits 5e-3)")
    option("--dropout", type=probability, metavar="P", help="share of features to drop; classifier only (0)")
    option("--seed", type=integer, metavar="N", help="one seed and one number of workers give one result (0)")

    option = parser.add_argument_group("data and device").add_argument
    option("--data", choices=["auto", "mnist", "digits"],
           help="MNIST, scikit-learn's digits, or the first of them that is available (auto)")
    option("--data-dir", type=folder, metavar="FOLDER",
           help="holds MNIST's four files ($TINYATTN_DATA, else the cache)")
    option("--validation", type=whole_number, metavar="N",
           help="hold N training images out and test on them, to choose settings without the test set")
    option("--workers", type=whole_number, metavar="N",
           help=f"threads that share each batch (the cores, up to 4: {DEFAULTS['workers']})")
    option("--threads", type=whole_number, metavar="N", help="threads of the matrix products, with --workers 1 (1)")
    option("--distributed", action="store_true", help="share each batch among the processes that mpirun has started")
    option("--device", type=device, metavar="DEVICE", help="where to compute: cpu, cuda or cuda:1 (cpu)")
    option("--no-compile", dest="compile", action="store_false",
           help="run each step operation by operation; the results are the same, to the bit")

    option = parser.add_argument_group("files and progress").add_argument
    option("--out", type=new_folder, metavar="FOLDER", help="gets a new folder for this run (runs)")
    option("--overwrite", action="store_true",
           help="replace an earlier run of the same name, instead of writing to NAME-2, NAME-3 ...")
    option("--checkpoint-every", type=whole_number, metavar="STEPS",
           help="save a checkpoint every STEPS batches, besides that of every epoch")
    option("--keep", type=whole_number, metavar="N", help="number of checkpoints that stay (3)")
    option("--resume", type=folder, metavar="RUN_FOLDER",
           help="continue a run that was stopped or killed, with its settings")
    option("--skip-nonfinite", action="store_true",
           help="leave out batches whose loss or gradients are NaN or infinite, and count them; else stop")
    option("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser
# fmt: on


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings, with the run to resume in `run` (or None). Errors end the process with one sentence and code 2."""
    parser = options()
    given = parser.given(arguments)
    ranks = Ranks("distributed" in given, str(given.get("device", "cpu")))
    run = ranks.run_kind.resume(given["resume"]) if "resume" in given else None
    args = parser.settle(given, run, DEFAULTS, free=MAY_CHANGE | NOT_RECORDED)
    args.run, args.ranks = run, ranks
    if args.distributed:
        args.workers = 1  # the processes have the cores
        args.compile &= args.device != "cpu"  # no program talks to other processes
        args.progress = args.progress and ranks.own == 0
    if run and {"out", "overwrite"} & {*given}:
        parser.error("--resume writes to the run's own folder; leave --out and --overwrite out")
    if args.data == "digits" and args.data_dir:
        parser.error("--data digits come with scikit-learn; leave --data-dir out")
    if args.model == "article" and args.dropout:
        parser.error("--dropout is for the classifier; the article's model has none")
    if args.model != "article" and args.score != "additive":
        parser.error("--score is for --model article; the classifier has scaled dot products")
    if args.model == "article" and args.attention != "softmax":
        parser.error(f"--attention {args.attention} is for the classifier; the article's model has softmax")
    if args.threads > 1 and args.workers > 1:
        parser.error(f"--threads {args.threads} needs --workers 1; {args.workers} workers have one thread each")
    return args


class Ranks:
    """The processes that train together: `count` of them, of which this is number `own`. One, unless `distributed`."""

    def __init__(self, distributed: bool, device: str) -> None:
        self.own, self.count = 0, 1
        if distributed:
            ta.distributed.init_process_group("mpi" if device == "cpu" else "nccl")
            self.own, self.count = ta.distributed.get_rank(), ta.distributed.get_world_size()
        self.distributed, self.device = distributed, device
        self.run_kind = train.Follower if self.own else train.Run
        if self.own:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # the first one prints

    def share(self, *tensors: ta.Tensor) -> list[ta.Tensor]:
        """What this process takes of each tensor."""
        return [tensor[self.own :: self.count] for tensor in tensors] if self.distributed else [*tensors]

    def sum(self, tensor: ta.Tensor) -> ta.Tensor:
        """The sum of the tensors of all processes."""
        if self.distributed:
            ta.distributed.all_reduce(tensor)
        return tensor

    def part(self, mean: ta.Tensor) -> ta.Tensor:
        """What a mean over this process's share adds to the mean over all."""
        return mean / self.count if self.distributed else mean

    def any(self, happened: bool) -> bool:
        """Whether something has happened in one of the processes."""
        return self.sum(ta.tensor(int(happened), device=self.device)).item() > 0 if self.distributed else happened

    def network(self, model: ta.nn.Module, args: argparse.Namespace) -> ta.nn.Module:
        """The model, on a share of each batch. Raises RefusedError for a batch that cannot be shared equally."""
        if args.batch_size % self.count:
            raise train.RefusedError(
                f"--batch-size {args.batch_size} cannot be shared equally among {self.count} processes; choose a "
                "multiple."
            )
        if self.distributed:
            return ta.nn.parallel.DistributedDataParallel(model)
        return ta.nn.DataParallel(model, args.workers)

    def open(self, session: Callable[[], train.Session]) -> train.Session:
        """Open the session of the first process, then those of the others, which read the same checkpoint."""
        if not self.own:
            first = session()
        if self.distributed:
            ta.distributed.barrier()
        if not self.own:
            return first
        other = session()
        ta.manual_seed(ta.initial_seed() + 1_000_003 * self.own + other.tally.step)  # other shifts and dropout in each
        return other


def with_options(recipe: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The recipe with another score function or attention; as it is for the default, as older versions recorded it."""
    given = {name: getattr(args, name) for name in ("score", "attention") if getattr(args, name) != DEFAULTS[name]}
    return {**recipe, "model": {**recipe["model"], **given}} if given else recipe


def load_data(args: argparse.Namespace) -> data.ImageDataset:
    """Load MNIST, or the digits instead, with a banner that says so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the banner says the same
            digits = data.load(args.data, args.data_dir, say=print)
        if digits.note:
            banner(f"This is NOT MNIST: training on {digits.name}.", digits.note)
        return digits.validation_split(args.validation) if args.validation else digits
    except ValueError as error:
        raise train.RefusedError(str(error)) from None


def banner(*lines: str) -> None:
    """Print lines in a frame, 80 columns wide unless a word is longer."""
    lines = tuple(
        part for line in lines for part in textwrap.wrap(line, 76, break_long_words=False, break_on_hyphens=False)
    )
    width = max(map(len, lines)) + 4
    print("*" * width, *(f"* {line.ljust(width - 4)} *" for line in lines), "*" * width, sep="\n")


def open_run(
    args: argparse.Namespace, recipe: Mapping[str, Any], digits: data.ImageDataset, optimizer: ta.optim.Optimizer
) -> train.Run:
    """Create the run's folder, or check that the run to resume began like this one, and print what it trains."""
    others = [value for name in ("score", "attention") if (value := getattr(args, name)) != DEFAULTS[name]]
    model = "-".join([args.model, *others])
    name = f"{model}-{digits.name.split()[0].strip(',').lower()}-seed{args.seed}"
    run = args.run or (train.Run(args.out, name, overwrite=args.overwrite) if args.ranks.own == 0 else train.Follower())
    describe(run, args, recipe, digits)
    parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    print(f"{digits.name}: {len(digits.train_images)} training images, {len(digits.test_images)} test images")
    print(f"{args.model}: {parameters} parameters, {recipe['model']}")
    how = f"batch {args.batch_size}, {type(optimizer).__name__} lr {args.lr:g}, seed {args.seed}"
    print(f"{args.epochs} epoch{'s' * (args.epochs != 1)}, {how}, workers {args.workers}, into {run.folder}")
    return run


def describe(run: train.Run, args: argparse.Namespace, recipe: Mapping[str, Any], digits: data.ImageDataset) -> None:
    """Record in a new run's folder all that is needed to repeat it; compare a resumed run with its record."""
    found = train.fingerprint(digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    same = {"recipe": recipe, "data": {"name": digits.name, "sha256": found}}
    if run.resumed:
        run.hold_to(**same)
        if changed := train.changed_versions(run.config.get("versions", {})):
            print(f"Resumed with {changed}: results may differ in their last bits.")
        for name in ("device", "workers", "threads"):
            if (before := run.config["arguments"].get(name, DEFAULTS[name])) != getattr(args, name):
                print(f"Resumed with {name} {getattr(args, name)}, begun with {before}: the rest of the run has other "
                      "random numbers and rounding than it would have had.")  # fmt: skip
        return
    settings = {name: value for name, value in vars(args).items() if name in {*DEFAULTS} - NOT_RECORDED}
    if digits.name.startswith("MNIST"):  # wherever it was found
        where = args.data_dir or os.environ.get("TINYATTN_DATA")
        settings |= {"data": "mnist", "data_dir": where and os.path.abspath(where)}
    else:
        settings |= {"data": "digits"}
    run.describe(command=sys.argv, arguments=settings, **same, versions=train.versions(),
                 git=train.git_state(Path(__file__).parent), started=time.strftime("%Y-%m-%dT%H:%M:%S%z"))  # fmt: skip


def report(
    session: train.Session, args: argparse.Namespace, recipe: Mapping[str, Any], digits: data.ImageDataset
) -> None:
    """Save the weights, the summary and the pictures, and print the result, in the first process."""
    if args.distributed:
        ta.distributed.destroy_process_group()
    if args.ranks.own:
        return
    folder, accuracy = session.run.folder, session.tally.test_accuracy
    if session.signals.caught:
        print(f"\nStopped by {session.signals.name}; mnist.py --resume {folder} continues the run.", file=sys.stderr)
    sparse = args.attention != "softmax"
    more = {"zeros": zeros(session.model, digits.test_images[:1000])} if sparse else {}
    session.finish(
        **more, dataset=digits.name, model=args.model, parameters=sum(p.numel() for p in session.model.parameters()),
        seed=args.seed, epochs=args.epochs, batch_size=args.batch_size, workers=args.workers, lr=args.lr, recipe=recipe,
    )  # fmt: skip
    if session.run.rows:
        draw(session.run, session.model, digits, f"{args.model} on {digits.name}")
        print(f"{digits.name} test accuracy {accuracy:.2%}; everything is in {folder}")


def zeros(model: ta.models.AttentionClassifier, images: np.ndarray) -> list[list[float]]:
    """Print and return the share of weights that are exactly 0 in each head of each block."""
    maps = model.attention_maps(ta.from_numpy(images).to(next(model.parameters()).device))[:-1]
    found = [(weights == 0).double().mean((0, 2, 3)).tolist() for weights in maps]
    for i, (block, shares) in enumerate(zip(model.blocks, found, strict=True)):
        alphas = block.attention.shape
        for head, share in enumerate(shares):
            alpha = 2 if alphas is None else 1 + ta.sigmoid(alphas[head]).item()
            print(f"block {i}, head {head}: alpha {alpha:.2f}, {share:.1%} of the weights are 0")
    return found


def draw(run: train.Run, model: ta.nn.Module, digits: data.ImageDataset, title: str) -> None:
    """Save the curves and where the model looked at ten test digits, and print its first mistakes."""
    viz.curves_figure(run.folder / "metrics.csv", title).savefig(run.folder / "curves.png")
    predicted = train.predict(model, digits.test_images).argmax(1)

    places = [np.flatnonzero(digits.test_labels == digit) for digit in range(10)]
    first = [int(found[0]) for found in places if found.size]  # one image of each digit in the test set
    images = digits.test_images[first]
    captions = [f"label {digits.test_labels[i]}, predicted {predicted[i]}" for i in first]
    on_device = ta.from_numpy(images).to(next(model.parameters()).device)
    maps = {"where it looked": model.where_it_looked(on_device).cpu().numpy()}
    viz.attention_figure(images, maps, captions, title).savefig(run.folder / "attention.png")
    sparse = any(isinstance(part, ta.models.SparseAttention) for part in model.modules())
    if isinstance(model, ta.models.AttentionClassifier) and not sparse:  # the pages show softmax
        model.cpu()  # it is not trained any more
        viz.attention(model, images, labels=digits.test_labels[first], title=title).save(run.folder / "attention.html")
        viz.playground(model, images, title=f"Playground: {title}").save(run.folder / "playground.html")
        print(f"open in a browser, and draw a digit: {run.folder / 'playground.html'}")

    mistakes = np.flatnonzero(predicted != digits.test_labels)
    if 2 * len(mistakes) > len(predicted):
        print("The model has hardly learned anything yet: train for more --epochs (20 on the small digits).")
    print(f"{len(mistakes)} mistakes in {len(predicted)} test images; the first of them:")
    for i in mistakes[:10]:
        print(f"  test image {i}: {digits.test_labels[i]}, taken for {predicted[i]}")

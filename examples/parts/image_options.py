"""The command line of the tasks (cnn_attention.py, char_gpt.py and their neighbours), and the folder of each run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import threadpoolctl

import tinyattn as ta
from tinyattn import data, train
from tinyattn.train.parser import device, folder, integer, new_folder, whole_number

DEFAULTS = {
    "epochs": None, "seed": 0, "device": "cpu", "workers": 1, "data": "auto", "data_dir": None, "quick": False,
    "out": "runs", "overwrite": False, "resume": None, "progress": True,
}  # fmt: skip
NOT_RECORDED = {"out", "overwrite", "resume", "progress"}
MAY_CHANGE = {"device", "workers", "data_dir"}  # on resuming


# fmt: off
def parse_arguments(
    prog: str, description: str, arguments: Sequence[str] | None, *,
    more: Callable[[Any], object] = lambda option: None, images: bool = True, free: Set[str] = frozenset(),
    **defaults: Any,
) -> argparse.Namespace:
    """Return the settings, with the run to resume in `run` (or None), and seed and threads set.

    more: called with `add_argument`, to add the task's own options; defaults: theirs. images: whether the data are
    digits; if not, the task has its own data. free: the options that may change on resuming, besides those of all.
    """
    defaults = {name: value for name, value in DEFAULTS.items() if images or not name.startswith("data")} | defaults
    parser = train.Parser(prog=prog, description=description)
    option = parser.add_argument
    more(option)
    option("--epochs", type=whole_number, metavar="N", help="passes over the data")
    option("--seed", type=integer, metavar="N", help="one seed and one number of workers give one result (0)")
    option("--quick", action="store_true", help="a small run, under a minute; images: scikit-learn's digits")
    if images:
        option("--data", choices=["auto", "mnist", "digits"], help="MNIST, scikit-learn's digits, or the first found")
        option("--data-dir", type=folder, metavar="FOLDER", help="holds MNIST's four files ($TINYATTN_DATA)")
    option("--workers", type=whole_number, metavar="N", help="threads that share each batch (1)")
    option("--device", type=device, metavar="DEVICE", help="where to compute: cpu, cuda or cuda:1 (cpu)")
    option("--out", type=new_folder, metavar="FOLDER", help="gets a new folder for each run (runs)")
    option("--overwrite", action="store_true", help="replace an earlier run of the same name")
    option("--resume", type=folder, metavar="RUN_FOLDER", help="continue a run that was stopped, with its settings")
    option("--no-progress", dest="progress", action="store_false", help="no progress bar")
    given = parser.given(arguments)
    run = train.Run.resume(given["resume"]) if "resume" in given else None
    args = parser.settle(given, run, defaults, free=MAY_CHANGE | NOT_RECORDED | free)
    args.run, args.recorded = run, {*defaults} - NOT_RECORDED
    if args.quick and images:
        args.data = "digits"
    ta.manual_seed(args.seed)
    threadpoolctl.threadpool_limits(1)
    return args
# fmt: on


def load_data(args: argparse.Namespace) -> data.ImageDataset:
    """Load MNIST, or the digits instead, and print which."""
    try:
        digits = data.load(args.data, args.data_dir, say=print)
    except ValueError as error:
        raise train.RefusedError(str(error)) from None
    print(f"{digits.name}: {len(digits.train_images)} training images, {len(digits.test_images)} test images")
    return digits


def open_run(args: argparse.Namespace, name: str, **facts: Any) -> train.Run:
    """Create the folder of a run and record its settings, or check that the run to resume began with these facts."""
    if args.run:
        args.run.hold_to(**facts)
        return args.run
    run = train.Run(args.out, f"{name}-seed{args.seed}", overwrite=args.overwrite)
    settings = {key: value for key, value in vars(args).items() if key in args.recorded}
    run.describe(command=sys.argv, arguments=settings, **facts, versions=train.versions())
    return run


def table(rows: Mapping[str, float], width: int = 40) -> None:
    """Print named shares of 1, each with a bar."""
    longest = max(map(len, rows))
    for name, share in rows.items():
        print(f"  {name:{longest}}  {share:7.2%}  {'#' * int(np.rint(width * share))}")

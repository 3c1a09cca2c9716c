"""The bookkeeping around a training loop: checkpoints, resuming, signals, counts, the progress bar, the run's files."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tinyattn.data import DataLoader
from tinyattn.extras import require
from tinyattn.files.serialization import save
from tinyattn.files.whole import unlinked
from tinyattn.nn import Module
from tinyattn.optim import Optimizer
from tinyattn.tensors import Tensor
from tinyattn.train.checkpoints import Checkpoints, RandomStates
from tinyattn.train.run import Follower, Run
from tinyattn.train.tally import Tally, batch_is_not_finite


class Session:
    """Keep the records of a training loop, which has this shape:

        with train.Session(run, model=model, optimizer=optimizer, loader=loader, epochs=10) as session:
            for epoch in session.epochs():
                for images, labels in session.batches():
                    session.count(step(images, labels))  # a tensor (3,), as `Tally.add` takes it
                if session.stopped:
                    break
                session.end_epoch(test_accuracy=accuracy(model))
        session.finish()

    run: its folder gets the files; a run from `Run.resume` continues from its newest checkpoint.
    model, optimizer, schedule, loader: saved in every checkpoint.
    epochs: in all, including those before a resume. data: the name of the data, for what is printed.
    checkpoint_every: steps from one checkpoint to the next; None for one at the end of each epoch only.
    keep: number of checkpoints that stay. read_every: steps between two read-outs of the counts from the device.
    skip_nonfinite: leave out batches with a loss or gradient that is not finite; else they raise NonFiniteError.
    progress: show a bar if standard error is a terminal. say: called with each line to print.
    agree: with several processes, whether a signal has come to any of them; given whether one has come to this one.

    In the `with` block, the first Ctrl-C or SIGTERM saves a checkpoint after the current step and ends `batches`.
    """

    def __init__(
        self, run: Run, *, model: Module, optimizer: Optimizer, loader: DataLoader, epochs: int, schedule: Any = None,
        data: str = "", checkpoint_every: int | None = None, keep: int = 3, read_every: int = 1,
        skip_nonfinite: bool = False, progress: bool = True, say: Callable[[str], object] = print,
        agree: Callable[[bool], bool] = bool,
    ) -> None:  # fmt: skip
        self.run, self.model, self.optimizer, self.loader, self.last_epoch = run, model, optimizer, loader, epochs
        self.checkpoint_every, self.read_every, self.skip_nonfinite = checkpoint_every, read_every, skip_nonfinite
        self.data, self.progress, self.say, self.agree = data, progress, say, agree
        self.stopped = False  # by a signal, with a checkpoint of that step
        self.tally, self.signals = Tally(), StopSignals()
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader,
                 "random": RandomStates(), "tally": self.tally, "run": run}  # fmt: skip
        self.checkpoints = Checkpoints(run.folder / "checkpoints", parts, keep=keep, say=say)
        if run.resumed:
            say(f"resumed from {self.checkpoints.restore() or 'the beginning: there is no checkpoint yet'}")

    def __enter__(self) -> Self:
        self.signals.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.signals.__exit__()

    def epochs(self) -> Iterator[int]:
        """Iterate over the epochs that are left, counted from 1."""
        yield from range(self.tally.epoch, self.last_epoch + 1)

    def batches(self) -> Iterator[Any]:
        """Iterate over the batches of the epoch that are left; `count` must be called for each.

        Between two batches, reads the counts, saves checkpoints, and ends if a signal has come.
        Raises NonFiniteError for a batch that was not finite, and OSError if a checkpoint cannot be written.
        """
        title = f"epoch {self.tally.epoch}/{self.last_epoch}"
        shown = Progress(self.loader, len(self.loader.dataset), title, self.progress, done=self.tally.seen)
        self.tally.start_clock()
        for batch in shown:
            yield batch
            step, self.stopped = self.tally.step, self.agree(self.signals.caught is not None)
            if self.stopped:
                self.signals.caught = self.signals.caught or signal.SIGTERM  # the signal of another process
            saving = self.stopped or (self.checkpoint_every and step % self.checkpoint_every == 0)
            if saving or step % self.read_every == 0 or step % len(self.loader) == 0:
                bad = self.tally.read()
                if bad and not self.skip_nonfinite:
                    raise batch_is_not_finite(bad[0], self.checkpoints)
            shown.update(len(self.loader.indices), loss=self.tally.loss, accuracy=self.tally.accuracy)
            if saving:
                self._save(step)
            if self.stopped:
                return

    def count(self, report: Tensor) -> None:
        """Count a step. report: a tensor (3,) of the batch's mean loss, number of hits and largest gradient."""
        self.tally.add(report, self.loader.indices)

    def end_epoch(self, test_accuracy: float, test_loss: float | None = None) -> None:
        """Print the results of the epoch, append them to metrics.csv and save a checkpoint."""
        tally, epoch = self.tally, self.tally.epoch
        measured = {} if test_loss is None else {"test_loss": test_loss}
        self.run.log(
            epoch=epoch, train_loss=tally.loss, **measured, train_accuracy=tally.accuracy, test_accuracy=test_accuracy,
            lr=self.optimizer.param_groups[0]["lr"], images_per_second=tally.speed, seconds=tally.seconds,
        )  # fmt: skip
        self.say(
            f"epoch {epoch:2d}: loss {tally.loss:.4f}, training accuracy {tally.accuracy:.2%}, "
            f"{self.data} test accuracy {test_accuracy:.2%}, {tally.speed:.0f} samples/s"
            + (f", {tally.skipped} batches skipped as not finite" if tally.skipped else "")
        )
        tally.next_epoch(test_accuracy)
        self._save(tally.step)

    def _save(self, step: int) -> None:
        if not isinstance(self.run, Follower):
            self.checkpoints.save(step)

    def finish(self, **facts: Any) -> Path:
        """Save model.safetensors and summary.json; facts: what the summary says besides the results."""
        tally = self.tally
        save(unlinked(self.run.folder / "model.safetensors"), self.model.state_dict())
        return self.run.summarise(
            **facts, test_accuracy=tally.test_accuracy, seconds=tally.total_seconds + tally.seconds,
            images_per_second=tally.total_speed, steps=tally.step, skipped=tally.total_skipped + tally.skipped,
            interrupted=self.signals.caught is not None,
        )  # fmt: skip


class StopSignals:
    """Inside `with StopSignals() as stop:`, the first signal only sets `stop.caught`; the second ends the process.

    `stop.caught` is None or the number of the signal; `stop.exit_code` is the usual 128 + that number: 130 for Ctrl-C,
    143 for SIGTERM, 129 for a closed terminal (not under nohup, which ignores it).
    Python delivers signals to the main thread only: in another thread, nothing is ever caught.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The exit code of a process ended by the signal; 0 without one."""
        return 128 + self.caught if self.caught else 0

    @property
    def name(self) -> str:
        """The name of the signal, for users; empty without one."""
        return "Ctrl-C" if self.caught == signal.SIGINT else signal.Signals(self.caught).name if self.caught else ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            os._exit(128 + number)
        self.caught = number


class Progress:
    """Iterate over the batches of an epoch with a bar: loss, accuracy, images per second, time left.

    batches: has a length; items: number of images in it, of which `done` were seen before; show=False for no bar.
    There is no bar either if standard error is not a terminal.
    Raises ImportError, naming the extra to install, if a bar is wanted and tqdm is missing.
    """

    def __init__(self, batches: Iterable[Any], items: int, title: str, show: bool = True, *, done: int = 0) -> None:
        self.batches, self.items, self.bar = batches, items, None
        if show and sys.stderr is not None and sys.stderr.isatty():
            tqdm = require("tqdm", "a progress bar").tqdm
            self.bar = tqdm(total=items, initial=done, desc=title, unit=" images", leave=False, dynamic_ncols=True)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.batches
        finally:
            if self.bar is not None:
                self.bar.close()

    def update(self, images: int, **shown: float) -> None:
        """Advance by `images` and show the named numbers; NaN, not known yet, is not shown."""
        if self.bar is not None:
            self.bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items() if not math.isnan(v)}, refresh=False)
            self.bar.update(images)

"""Side by side: equal results first, then turns, then medians of ratios with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.side import Process, Side, SideError

TOLERANCE = 1e-4  # of the largest number compared
TF32_TOLERANCE = 1e-3  # where factors of products keep 10 bits: with that in PyTorch on a CPU it was up to 2e-4
RESAMPLES = 2000


@dataclass(frozen=True)
class Effort:
    """How long to measure, and what `--quick` leaves out."""

    turns: int = 30
    seconds: float = 1.0
    quick: bool = False

    @property
    def warming(self) -> float:
        """Seconds to run a task before the first turn, once it is compiled."""
        return min(0.3, self.seconds)

    def part(self, share: float) -> Effort:
        """Fewer turns, for the parts that have many comparisons."""
        return Effort(max(3, round(self.turns * share)), self.seconds, self.quick)


class Table:
    """The running sides of a comparison, reused for one task after another.

    The first side is ours: the ratios are its time over that of each other side.
    """

    def __init__(self, sides: Sequence[Side], say: Callable[[str], None], tolerance: float = TOLERANCE) -> None:
        self.say, self.tolerance, self._stack = say, tolerance, ExitStack()
        self.left_out: list[str] = []  # a line for each side that takes no part
        self.ours, self.processes = sides[0].name if sides else "", []
        for side in sides:
            self._attempt(lambda side=side: self.processes.append(self._stack.enter_context(Process(side))))
        self.absent = tuple(self.left_out)  # from the start

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def compare(
        self,
        title: str,
        task: str,
        effort: Effort,
        problem: Path | None = None,
        *,
        checks: int = 1,
        truth: list[list[float]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """One comparison: make the task, check the results of the first runs, warm up, measure in turns.

        checks: how many runs are checked, against `truth` or else the first side that is there.
        """
        self.say(f"  {title}")
        self.left_out = [*self.absent]
        ready = [p for p in self.processes if self._attempt(lambda p=p: p.make(task, problem, **options))]
        ready = self._agreeing(ready, truth, checks)
        at_once: dict[str, int] = {}  # runs that are timed as one
        ready = [p for p in ready if self._attempt(lambda p=p: at_once.update({p.side.name: p.warm(effort.warming)}))]
        turns: dict[str, list[float]] = {p.side.name: [] for p in ready}
        for _ in range(effort.turns):
            for process in ready:  # all others sleep
                turns[process.side.name].append(statistics.median(process.turn(effort.seconds)))
        found = {"title": title, "sides": [summary(name, times) for name, times in turns.items()]}
        found["ratios"] = ratios(turns, self.ours)
        return {**found, "at_once": at_once, "left_out": self.left_out}

    def _agreeing(self, processes: list[Process], truth: list[list[float]] | None, checks: int) -> list[Process]:
        """Those whose results are the reference's: the first side's, unless `truth` is given."""
        agreeing = []
        for process in processes:
            values: list[list[float]] = []
            if not self._attempt(lambda p=process, v=values: v.extend(p.check(checks))):
                continue
            if not values:  # nothing to compare: the floor, or what is random
                agreeing.append(process)
                continue
            truth = truth or values
            off, value, expected = difference(values, truth)
            if off <= self.tolerance:
                agreeing.append(process)
            else:
                self._leave_out(
                    f"{process.side.name}: not timed, for its results differ by {off:.1e} of their size where "
                    f"{self.tolerance:g} is allowed ({value:.6g}, expected {expected:.6g})"
                )
        return agreeing

    def _attempt(self, do: Callable[[], Any]) -> bool:
        try:
            do()
        except SideError as error:
            self._leave_out(str(error))
            return False
        return True

    def _leave_out(self, line: str) -> None:
        self.left_out.append(line)
        self.say(f"  {line}")


def by_definition(problem: Path, steps: int) -> list[list[float]]:
    """The losses of the first steps by first principles in float64, which no side's kernels have touched."""
    with Process(Side("the definitions in float64", "engine")) as process:
        process.make("train", problem, definitions=True, dtype="float64")
        return process.check(steps)


def difference(values: list[list[float]], truth: list[list[float]]) -> tuple[float, float, float]:
    """The largest difference, relative to the largest number of each result, and the two numbers that have it.

    Infinite for other shapes, with the counts of numbers.
    """
    if [len(x) for x in values] != [len(x) for x in truth]:
        return float("inf"), sum(map(len, values)), sum(map(len, truth))
    found = []
    for x, y in zip(values, truth, strict=True):
        differences = np.abs(np.subtract(x, y))
        i = int(differences.argmax())
        found.append((float(differences[i] / max(np.abs(y).max(), 1e-30)), float(x[i]), float(y[i])))
    return max(found)


def summary(name: str, times: list[float]) -> dict[str, Any]:
    """A side's row: the median of its turns' medians, in seconds, and these."""
    return {"name": name, "seconds": statistics.median(times), "turns": times}


def ratios(turns: dict[str, list[float]], ours: str) -> list[dict[str, Any]]:
    """Our side over each other: median of the ratios of neighbouring turns, with its 95 % interval."""
    if ours not in turns:
        return []
    return [ratio(ours, other, turns[ours], theirs) for other, theirs in turns.items() if other != ours]


def ratio(of: str, to: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The median of ours / theirs, turn by turn, and the interval that holds it with 95 % by the bootstrap."""
    each = np.divide(ours, theirs)
    drawn = np.random.default_rng(0).choice(each, (RESAMPLES, len(each)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    return {"of": of, "to": to, "ratio": float(np.median(each)), "low": float(low), "high": float(high)}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """How time grows: the slope of log(seconds) over log(sizes)."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")

"""Break every rule, every kernel and every unbroadcast in turn, and see whether the tests notice.

    python tests/mutation.py                       all of them; goes on where it was stopped; writes docs/correctness.md
    python tests/mutation.py --sample 12 --seed 1  a dozen of them
    python tests/mutation.py --only softmax        those whose name contains "softmax"
    python tests/mutation.py --list                their names

A mutant is one edit to one function: a sign, a factor, a term that is gone, a wrong axis, swapped operands, a
comparison or a branch turned round. Mutants are made from the source and put into the running functions (`__code__`)
of a forked process, so nothing is imported twice. The tests run once unharmed under coverage, which tells which of
them reach which line; a mutant faces those alone, the quickest of each test function first.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import resource
import signal
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol
from mutants import PACKAGE, ROOT, ImportFailsError, Mutant, all_mutants
from mutants_equivalent import EQUIVALENT

TESTS = (
    "ops parallel torch_samples engine tiled_attention optim nn inplace properties transforms gradcheck data "
    "sums half edges numbers silent gradients recurrent ownership dtypes sparse_softmaxes transformer cliffs "
    "modes function module memory anomaly checkpoint"
).split()
DOCS = ROOT / "docs/correctness.md"
VERDICTS = ROOT / ".pytest_cache/mutation.jsonl"  # what is known so far; safe to delete
REASONS = {name: reason for reason, names in EQUIVALENT.items() for name in names}

SLOW = 4.0  # seconds that a test may take unharmed to be among those that mutants face
TEST_LIMIT = 40  # seconds for one test under a mutant: a walk that never ends is noticed too
MEMORY = 16 * 2**30


class Driver:
    """A pytest plugin: what runs instead of the tests once they are collected."""

    def __init__(self, mutants: list[Mutant], report: Callable[[Mutant, dict[str, Any]], None], budget: float) -> None:
        self.mutants, self.report, self.budget = mutants, report, budget

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take over from pytest."""
        self.items = {item.nodeid: item for item in session.items}
        self.live = live_functions()
        gc.freeze()
        facts = in_child(self._unharmed, limit=1800)
        if "seconds" not in facts:
            raise SystemExit(f"the tests did not run through unharmed: {facts}")
        self.seconds: dict[str, float] = facts["seconds"]
        self.lines: dict[str, dict[str, list[str]]] = facts["lines"]
        failed = facts["failed"]
        print(f"{len(self.seconds)} tests take {sum(self.seconds.values()):.0f} s unharmed", flush=True)
        if failed:
            print("left out, since they fail already:", *failed, sep="\n  ", flush=True)
        for mutant in self.mutants:
            start = time.perf_counter()
            names = self.relevant(mutant)
            found = in_child(lambda m=mutant, n=names: self._trial(m, n), limit=int(self.budget) + TEST_LIMIT)
            if "error" in found:
                raise SystemExit(f"{mutant.name}: {found['error']}")
            found |= {"tests": len(names), "seconds": round(time.perf_counter() - start, 2)}
            self.report(mutant, found)
        return True

    def _unharmed(self) -> dict[str, Any]:
        """Run every test once: how long it takes, and who reaches which line."""
        watch = coverage.Coverage(data_file=None, config_file=False, include=[f"{PACKAGE}/*"], messages=False)
        watch.set_option("run:disable_warnings", ["module-not-measured", "already-imported", "no-data-collected"])
        seconds, failed = {}, []
        items = list(self.items.values())
        watch.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            watch.switch_context(item.nodeid)
            start = time.perf_counter()
            if passes(item, following):
                seconds[item.nodeid] = time.perf_counter() - start
            else:
                failed.append(item.nodeid)
        watch.stop()
        data = watch.get_data()
        lines = {
            file: {str(line): names for line, names in data.contexts_by_lineno(file).items()}
            for file in data.measured_files()
        }
        quick = {name: s for name, s in seconds.items() if s <= SLOW}
        return {"seconds": quick, "failed": failed, "lines": lines}

    def relevant(self, mutant: Mutant) -> list[str]:
        """The tests that reach the edited lines, in rounds: of every test function the quickest, then the next."""
        reached = self.lines.get(str(mutant.file), {})
        names = {name for line in mutant.lines for name in reached.get(str(line), [])}
        if not names:  # a line to which the tracer gives another number
            names = {name for line in mutant.around for name in reached.get(str(line), [])}
        if mutant.function.isupper():  # a constant of the module
            names = {name for some in reached.values() for name in some}
        families: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names & self.seconds.keys(), key=lambda n: (self.seconds[n], n)):
            families[name.partition("[")[0]].append(name)
        chooser = random.Random(mutant.name)
        for family in families.values():  # after the quickest one, any
            rest = family[1:]
            chooser.shuffle(rest)
            family[1:] = rest
        ranked = [(i, self.seconds[name], name) for family in families.values() for i, name in enumerate(family)]
        return [name for _, _, name in sorted(ranked)]

    def _trial(self, mutant: Mutant, names: Sequence[str]) -> dict[str, Any]:
        """Within a child: put the mutant in and run the tests until one fails."""
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            mutant.put_in(self.live)
        except ImportFailsError as error:
            return {"verdict": "caught", "by": str(error)}
        start = time.perf_counter()
        for i, name in enumerate(names):
            if time.perf_counter() - start > self.budget:
                return {"verdict": "survived", "run": i}
            signal.alarm(TEST_LIMIT)
            following = self.items[names[i + 1]] if i + 1 < len(names) else None
            if not passes(self.items[name], following):
                return {"verdict": "caught", "by": name}
        return {"verdict": "survived" if names else "unreached", "run": len(names)}


def passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Run one test."""
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))


def live_functions() -> dict[CodeType, list[FunctionType]]:
    """The functions of the package that exist in this process, by their code."""
    found: dict[CodeType, list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename.startswith(str(PACKAGE)):
            found[thing.__code__].append(thing)
    return found


def in_child(work: Callable[[], dict[str, Any]], limit: int) -> dict[str, Any]:
    """What `work()` answers, run in a fork with its output thrown away.

    A process that dies, of the clock, of memory or of a fault, has caught its mutant; an exception out of
    `work` is a fault of the driver: {"error": ...}.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(limit)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            try:
                answer = work()
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"verdict": "caught", "by": signal.Signals(os.WTERMSIG(status)).name}
    found: dict[str, Any] = json.loads(answer) if answer else {"error": "no answer"}
    return found


# --- what is known, and how it is shown ---


class Ledger:
    """Verdicts by mutant, kept in a file (one a line, the last one counts) so that a run can go on where it was stopped."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                found = json.loads(line)
                self.known[found["name"]] = found

    def of(self, mutant: Mutant) -> str:
        """ "caught", "equivalent", "survived", "unreached" or, where nothing is known, ""."""
        found = self.known.get(mutant.name, {})
        if found.get("of") != mutant.digest:
            return ""
        verdict: str = found["verdict"]
        return "equivalent" if verdict != "caught" and mutant.name in REASONS else verdict

    def add(self, mutant: Mutant, found: dict[str, Any]) -> None:
        """Keep a verdict."""
        found = self.known[mutant.name] = {"name": mutant.name, "of": mutant.digest, **found}
        if self.path is not None:  # a line each, so that several runs can share the file
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


def summary(mutants: Iterable[Mutant], ledger: Ledger) -> str:
    """A Markdown table: verdicts by file, and the score."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        counts[mutant.place][ledger.of(mutant) or "not run"] += 1
    total = sum(counts.values(), Counter())
    rows = [
        "| file | mutants | caught | equivalent | survived | not run |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for place, count in [*sorted(counts.items()), ("**all**", total)]:
        survived = count["survived"] + count["unreached"]
        rows.append(
            f"| {place} | {count.total()} | {count['caught']} | {count['equivalent']} | {survived} | {count['not run']} |"
        )
    meant = total["caught"] + total["survived"] + total["unreached"]
    score = f"Score: {total['caught']} of the {meant} mutants run that change a result are caught"
    return "\n".join([*rows, "", f"{score}, {100 * total['caught'] / max(meant, 1):.1f} %."])


def kinds(mutants: Iterable[Mutant], ledger: Ledger) -> str:
    """A Markdown table: verdicts by kind of edit."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        counts[mutant.kind][ledger.of(mutant) or "not run"] += 1
    rows = ["| edit | mutants | caught | equivalent |", "| --- | ---: | ---: | ---: |"]
    for kind, count in sorted(counts.items()):
        rows.append(f"| {kind} | {count.total()} | {count['caught']} | {count['equivalent']} |")
    return "\n".join(rows)


def survivors(mutants: Iterable[Mutant], ledger: Ledger) -> str:
    """A Markdown list: the mutants that no test notices and nobody has explained."""
    names = [m.name for m in mutants if ledger.of(m) in ("survived", "unreached")]
    return "\n".join(["Not caught:", "", "```text", *names, "```"]) if names else "Nothing that was run is left over."


def equivalents() -> str:
    """A Markdown list: every mutant that changes no result, under its reason."""
    parts = []
    for reason, names in EQUIVALENT.items():
        parts += [f"**{reason}**", "", "```text", *names, "```", ""]
    return "\n".join(parts).rstrip()


def put_between(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of this name replaced by `content`."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if start not in text or end not in text:
        raise ValueError(f"no place for {name!r}: expected the lines {start} and {end}")
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.S)


def write_docs(content: dict[str, str]) -> None:
    """Put tables into docs/correctness.md."""
    text = DOCS.read_text(encoding="utf-8")
    for name, table in content.items():
        text = put_between(text, name, table)
    DOCS.write_text(text, encoding="utf-8")


def run(mutants: list[Mutant], ledger: Ledger, budget: float, slow: bool) -> int:
    """Try every mutant; pytest's exit status, which says whether the driver itself came through."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before NumPy is imported: threads do not survive a fork
    done = 0

    def report(mutant: Mutant, found: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        ledger.add(mutant, found)
        verdict = ledger.of(mutant)
        if verdict != "caught":
            shown = f"{found.get('run', 0)} of {found['tests']} tests, {found['seconds']} s"
            print(f"{verdict}: {mutant.name}  [{mutant.kind}; {shown}]", flush=True)
        if done % 100 == 0:
            print(f"... {done} of {len(mutants)}", flush=True)

    tests = [str(ROOT / f"tests/test_{name}.py") for name in TESTS if (ROOT / f"tests/test_{name}.py").exists()]
    options = ["-qq", "--no-header", "-p", "no:cacheprovider", "-p", "no:terminalreporter", "-s", "-k", "not mnist"]
    options += ["-m", "" if slow else "not slow"]
    return int(pytest.main([*options, "--rootdir", str(ROOT), *tests], plugins=[Driver(mutants, report, budget)]))


def try_sample(mutants: list[Mutant], control: Mutant, asked: argparse.Namespace) -> int:
    """A few mutants, and one that changes nothing: were that one caught, nothing could be said of the others."""
    print(f"{len(mutants)} mutants and a control, {control.name}", flush=True)
    ledger = Ledger(None)
    if status := run([*mutants, control], ledger, asked.budget, asked.slow):
        return status
    print(summary(mutants, ledger))
    print(survivors(mutants, ledger))
    if ledger.of(control) == "caught":
        print(f"the control was caught, by {ledger.known[control.name]['by']}")
    fine = all(ledger.of(m) in ("caught", "equivalent") for m in mutants) and ledger.of(control) != "caught"
    return int(not fine)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a mutant survives that nobody has explained."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants, chosen by --seed; keeps nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose name contains TEXT")
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS", help="for all tests of one mutant")
    parser.add_argument("--slow", action="store_true", help="mutants face the slow tests too")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument(
        "--share", default="0/1", metavar="I/N", help="of N runs side by side, this is number I (from 0)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier verdicts")
    parser.add_argument("--again", action="store_true", help="instead, try those once more that survived")
    asked = parser.parse_args(arguments)
    mutants = [m for m in all_mutants() if asked.only in m.name]
    if asked.list:
        print(*(m.name for m in mutants), sep="\n")
        return 0
    chooser = random.Random(asked.seed)
    if asked.sample is not None:
        known = [m for m in mutants if m.name in REASONS]
        mutants = chooser.sample(mutants, min(asked.sample, len(mutants)))
        return try_sample(mutants, chooser.choice(known), asked)
    ledger = Ledger(VERDICTS)
    if asked.fresh:
        VERDICTS.unlink(missing_ok=True)
        ledger.known.clear()
    left = [m for m in mutants if ledger.of(m) in (("survived", "unreached") if asked.again else ("",))]
    chooser.shuffle(left)  # so that a part of a run is a fair sample
    number, runs = map(int, asked.share.split("/"))
    left = [m for m in left if zlib.crc32(m.name.encode()) % runs == number]
    print(f"{len(mutants)} mutants, {len(left)} to run", flush=True)
    if left and (status := run(left, ledger, asked.budget, asked.slow)):
        print(f"pytest stopped with status {status}; does every test file import?", flush=True)
        return status
    ledger = Ledger(VERDICTS)  # with what others found meanwhile
    left_over = survivors(mutants, ledger)
    print(summary(mutants, ledger), left_over, sep="\n\n")
    mistaken = [m.name for m in mutants if ledger.of(m) == "caught" and m.name in REASONS]
    print(*(f"called equivalent, and yet caught: {name}" for name in mistaken), sep="\n")
    if not asked.only:
        score = f"{summary(mutants, ledger)}\n\n{left_over}"
        write_docs({"score": score, "edits": kinds(mutants, ledger), "equivalent": equivalents()})
    return int(left_over.startswith("Not") or bool(mistaken))


if __name__ == "__main__":
    sys.exit(main())

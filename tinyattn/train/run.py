"""The folder of one training run, written as the run goes so that a stop at any moment loses nothing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tinyattn.files.whole import write_whole
from tinyattn.train.errors import RefusedError
from tinyattn.train.lock import FolderLock

FORMAT = 1  # of config.json
FILES = ("config.json", "metrics.csv", "summary.json", "model.safetensors", "curves.png", "attention.png")


class Run:
    """runs/<name>/ with config.json, metrics.csv (a row an epoch), summary.json, and whatever else is saved there.

    parent: made if need be. name: of the folder; if there is one, the new run gets the next free name,
        name-2, name-3 ..., or takes its place with `overwrite`, which deletes what a run writes and
        nothing else.
    The folder belongs to this process until it ends, or `close`. What this class writes is replaced as a whole.
    Raises RefusedError where the folder cannot be made, or belongs to another process.
    """

    def __init__(self, parent: str | os.PathLike[str], name: str, *, overwrite: bool = False) -> None:
        try:
            folder = _folder(Path(parent), name, overwrite)
            self._open(folder)
            if overwrite:
                _empty(folder)
        except OSError as error:
            raise RefusedError(f"no run can be written to {Path(parent) / name} ({error.strerror or error}).") from None

    @classmethod
    def resume(cls, folder: str | os.PathLike[str]) -> Self:
        """The run in a folder that is there, to go on with it; its `config` is read.

        Raises RefusedError where the folder holds no run, another process uses it, or it cannot be written to.
        """
        run, folder = cls.__new__(cls), Path(folder)
        path = folder / "config.json"
        if not path.is_file():
            raise RefusedError(f"{folder} holds no run that can be resumed: it has no config.json.")
        run._open(folder)
        try:
            run.config = json.loads(path.read_bytes())
            version, _ = run.config["format"], {**run.config["arguments"]}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RefusedError(f"{path} is no run's configuration ({type(error).__name__}: {error}).") from None
        if version != FORMAT:
            raise RefusedError(f"{path} has format {version!r}, and this version reads {FORMAT}.")
        return run

    def _open(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FolderLock(folder)
        with contextlib.suppress(OSError):
            for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
                left.unlink()
        self.rows: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}

    def describe(self, **facts: Any) -> None:
        """Write config.json: what it takes to repeat the run."""
        self.config = json.loads(json.dumps({"format": FORMAT, **facts}))
        self._write_json("config.json", self.config)

    def hold_to(self, **facts: Any) -> None:
        """Raise RefusedError where the run began with other facts than these."""
        for name, now in facts.items():
            if json.loads(json.dumps(now)) != self.config.get(name):
                raise RefusedError(
                    f"{self.folder} cannot be resumed: its {name} was {self.config.get(name)}, and is {now} now."
                )

    def log(self, **row: Any) -> None:
        """Append a row to metrics.csv. Every row has the columns of the first."""
        self._write_rows([*self.rows, row])

    def summarise(self, **facts: Any) -> Path:
        """Write summary.json, which says what came of the run."""
        return self._write_json("summary.json", facts)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the configuration: part of a checkpoint."""
        return {"rows": self.rows, "config": self.config}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring metrics.csv to the rows that there were at a checkpoint. ValueError for one of another run."""
        if state["config"] != self.config:
            raise ValueError("it was made with another config.json than the one that is here")
        self._write_rows(list(state["rows"]))

    def close(self) -> None:
        """Let other processes have the folder."""
        self._lock.release()

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if rows:
            self._write("metrics.csv", text.getvalue())
        else:
            (self.folder / "metrics.csv").unlink(missing_ok=True)
        self.rows = rows

    def _write_json(self, name: str, facts: Mapping[str, Any]) -> Path:
        return self._write(name, json.dumps(facts, indent=2) + "\n")

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        try:
            write_whole(path, text.encode())
        except OSError as error:
            raise OSError(
                f"{path} could not be written ({error.strerror}); what was written before is whole, and --resume goes "
                "on from there."
            ) from error
        return path


def _folder(parent: Path, name: str, overwrite: bool) -> Path:
    if overwrite:
        folder = parent / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():  # it may be what somebody else has there
            for path in folder.iterdir():
                if path.name not in (*FILES, "checkpoints", "lock") and path.suffix != ".tmp":
                    raise RefusedError(
                        f"{folder} is not a run's folder (it holds {path.name}), so it is not overwritten."
                    )
        return folder
    for number in range(1, 100_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise RefusedError(f"{parent} is a file; runs need a folder to be written to.") from None
            continue
        return folder
    raise RefusedError(f"there is no free name for {name} in {parent}.")


def _empty(folder: Path) -> None:
    """Delete what a run has written."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)

"""The folder of one training run, written as the run goes so that a stop at any moment loses nothing."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any


class Run:
    """runs/<name>/ with metrics.csv (a row an epoch), summary.json, and whatever else is saved there.

    A folder that exists is never written to: the new run gets the next free name, name-2, name-3 ...
    """

    def __init__(self, parent: str | os.PathLike[str], name: str) -> None:
        self.folder = _new_folder(Path(parent), name)
        self._columns: list[str] = []

    def log(self, **row: Any) -> None:
        """Append a row to metrics.csv. Every row has the columns of the first."""
        path = self.folder / "metrics.csv"
        self._columns = self._columns or list(row)
        first = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if first:
                writer.writeheader()
            writer.writerow(row)

    def summarise(self, **facts: Any) -> Path:
        """Write summary.json: to a temporary file first, so that it is whole whenever it is there."""
        path = self.folder / "summary.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return path


def _new_folder(parent: Path, name: str) -> Path:
    for number in range(1, 100_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise NotADirectoryError(f"{parent} is a file; runs need a folder to be written to") from None
            continue
        return folder
    raise FileExistsError(f"no free name for {name} in {parent}")

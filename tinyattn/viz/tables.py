"""Rows of numbers as a run writes them, read back, even while it writes or after it was killed."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Rows: TypeAlias = str | os.PathLike[str] | Iterable[Mapping[str, Any]]


def read_rows(rows: Rows, *needed: str) -> list[dict[str, Any]]:
    """The rows of a CSV file, or of a list, in which every value that is a number is a float; NaN for an empty one.

    A last line that is not ended, or has too few values, was being written, and is left out. needed: columns that
    must be there. Raises ValueError where they are not, or where there are no rows at all.
    """
    if isinstance(rows, str | os.PathLike):
        where = os.fspath(rows)
        found: Sequence[Mapping[str, Any]] = _whole_rows(rows)
    else:
        where, found = "the rows", list(rows)
    if not found:
        raise ValueError(f"{where}: there is no row yet; a run writes one at the end of each epoch")
    missing = [name for name in needed if name not in found[0]]
    if missing:
        raise ValueError(f"{where}: there is no column {missing[0]!r}; there are {', '.join(map(str, found[0]))}")
    return [{name: _number(value) for name, value in row.items()} for row in found]


def _whole_rows(path: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        return [row for row in table if None not in row.values() and None not in row]  # with as many values as columns
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{os.fspath(path)}: this is no CSV file as a run writes it ({error})") from None


def _number(value: Any) -> Any:
    if value == "" or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One column as numbers, NaN where a row has none."""
    return [row[name] if isinstance(row.get(name), float) else math.nan for row in rows]

"""Names from elsewhere in CSV files, on terminals and in pictures, where not every text is harmless."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MARKED = ("=", "+", "-", "@", "\t", "\n", "'")  # the last one for `unmarked`


def printable(text: str) -> str:
    """Return text on one line that every terminal, file and font accepts: control characters as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> bytes:
    """Return rows as CSV in UTF-8; a text that a spreadsheet would run as a formula gets a `'` in front.

    Lone surrogates and \\r become escapes; numbers stay as they are.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    lines = ({name: _marked(value) for name, value in row.items()} for row in rows)
    if header:
        writer.writerow({name: _marked(name) for name in columns})
    writer.writerows(lines)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _marked(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # which `csv` leaves unquoted if lines end in \n alone
    return f"'{text}" if text.startswith(_MARKED) else text


def unmarked(text: str) -> str:
    """Return the text of a cell that `table` wrote."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_MARKED) else text

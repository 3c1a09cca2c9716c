"""Docstrings as Markdown: their examples become blocks of code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^Examples?:\n)?(^ *)>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def _block(match: re.Match[str]) -> str:
    return f"```pycon\n{inspect.cleandoc(match[0].removeprefix('Example:').removeprefix('Examples:'))}\n```"


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_block, obj.docstring.value)

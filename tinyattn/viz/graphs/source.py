"""Lines of programs, and the source of gradient rules."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FrameType
from typing import Any

from tinyattn.engine import modes
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.model import Line

PACKAGE = modes.PACKAGE
# What carries a model's calls out, and is not a model: its lines say nothing about the graph.
_MACHINERY = tuple(
    PACKAGE + name.replace("/", os.sep)
    for name in (
        "engine/", "ops/", "autograd/", "tensors.py", "viz/", "backends/", "debug/", "nn/module.py", "nn/functional.py",
        "nn/parallel.py", "nn/containers.py",
    )
)  # fmt: skip


def line_at(file: str, number: int) -> Line:
    """A line of a file, named as shortly as it can be found from the working directory."""
    return Line(_short_name(file), number, linecache.getline(file, number).strip())


def line_of(site: modes.Site | None) -> Line | None:
    """The line of a place that a node has noted."""
    if site is None:
        return None
    file, _, number = str(site).rpartition(":")
    return line_at(file, int(number)) if number.isdigit() else None


def model_line() -> Line | None:
    """The nearest line that is running now and belongs to a model or to the user."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_MACHINERY):
        frame = frame.f_back
    return None if frame is None else line_at(frame.f_code.co_filename, frame.f_lineno)


def local_tensors() -> list[tuple[str, Any]]:
    """The tensors that variables hold in the functions that are running now: definitions, models, the user's.
    Not arguments, which are named after a role and not after what they are."""
    found: list[tuple[str, Any]] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        in_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_nlocals > len(arguments)
        if in_function and not code.co_filename.startswith(_WRAPPERS):
            kept = {name: x for name, x in variables_of(frame).items() if isinstance(x, Tensor)}
            named = [(name, x) for name, x in kept.items() if name not in arguments and name not in _SAYS_NOTHING]
            found = named + found  # the outermost first: it says best what something is
        frame = frame.f_back
    return found


def variables_of(frame: FrameType) -> dict[str, Any]:
    """The variables of a function that is running. Before Python 3.13 a frame that is asked for them keeps a copy
    of them, and so everything in them alive: it is emptied."""
    kept = frame.f_locals
    found = dict(kept)
    if type(kept) is dict and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        kept.clear()
    return found


_WRAPPERS = tuple(name for name in _MACHINERY if name != PACKAGE + "ops" + os.sep)
_SAYS_NOTHING = {"a", "b", "found", "input", "left", "out", "output", "result", "right", "self", "tensor", "x"}


@cache
def _short_name(file: str) -> str:
    if file.startswith("<"):
        return file
    if file.startswith(PACKAGE):
        return "tinyattn/" + file[len(PACKAGE) :].replace(os.sep, "/")
    here = os.getcwd() + os.sep
    return file[len(here) :].replace(os.sep, "/") if file.startswith(here) else "/".join(file.split(os.sep)[-2:])


# --- rules ---


def rules_of(op: Operation) -> dict[str, str]:
    """Input -> the source of its rule, a line or three; "" -> that of the one function for all inputs."""
    rules = dict(op.rules) if op.backward is None else {"": op.backward}
    return {name: rule_source(rule) for name, rule in rules.items()}


def rule_source(rule: Callable[..., Any]) -> str:
    """The source of a function or lambda, the lambda alone even where it shares its lines."""
    code = getattr(rule, "__code__", None)
    return "source not at hand" if code is None else _code_source(code)


@cache  # by the code, which knows nothing of what a closure has captured
def _code_source(code: CodeType) -> str:
    try:
        lines, _ = inspect.findsource(code)
        if code.co_name != "<lambda>":
            return textwrap.dedent(inspect.getsource(code)).rstrip()
        text = "".join(lines)
        found = [node for node in _lambdas(text) if _is_of(node, code)]
        segment = ast.get_source_segment(text, found[-1]) if found else None  # the innermost
    except (OSError, TypeError, SyntaxError):
        segment = None
    return textwrap.dedent(segment or "source not at hand").rstrip()


@cache
def _lambdas(text: str) -> list[ast.Lambda]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]


def _is_of(node: ast.Lambda, code: CodeType) -> bool:
    """Whether `code` was compiled from `node`: all its instructions stand within the body."""
    body = node.body
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    return all(start <= place <= end for place in _places(code))


def _places(code: CodeType) -> Iterator[tuple[int, int]]:
    for line, _, column, end in code.co_positions():
        if line is not None and column is not None and end is not None and column < end:
            yield line, column

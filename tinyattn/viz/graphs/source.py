"""Lines of programs, and the source of gradient rules."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

from tinyattn.engine import modes
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.model import Line

PACKAGE = modes.PACKAGE
_OPERATIONS = PACKAGE + "ops" + os.sep
# Code that runs models and is not part of one; its lines say nothing about the graph.
_WRAPPERS = tuple(
    PACKAGE + name.replace("/", os.sep)
    for name in (
        "autograd/", "backends/", "debug/", "engine/", "viz/", "nn/containers.py", "nn/functional.py", "nn/module.py",
        "nn/parallel.py", "tensors.py",
    )
)  # fmt: skip
ROLES = {"a", "b", "found", "g", "input", "left", "out", "output", "result", "right", "self", "tensor", "x"}  # no names

# --- lines ---


def is_operation(file: str) -> bool:
    """Whether a file holds operations of this package."""
    return file.startswith(_OPERATIONS)


def is_model(file: str) -> bool:
    """Whether a file is the user's own or holds this package's models."""
    return not file.startswith(PACKAGE) or file == PACKAGE + "models.py"


def line_at(file: str, number: int) -> Line:
    """Return a line of a file, with a short name of the file."""
    return Line(_short_name(file), number, linecache.getline(file, number).strip())


def line_of(site: modes.Site | None) -> Line | None:
    """Return the line of a node's site."""
    if site is None:
        return None
    file, _, number = str(site).rpartition(":")
    return line_at(file, int(number)) if number.isdigit() else None


def model_line() -> Line | None:
    """Return the innermost running line of a model or of the user."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((*_WRAPPERS, _OPERATIONS)):
        frame = frame.f_back
    return None if frame is None else line_at(frame.f_code.co_filename, frame.f_lineno)


@cache
def _short_name(file: str) -> str:
    if file.startswith("<"):
        return file
    if file.startswith(PACKAGE):
        return "tinyattn/" + file[len(PACKAGE) :].replace(os.sep, "/")
    here = os.getcwd() + os.sep
    return file[len(here) :].replace(os.sep, "/") if file.startswith(here) else "/".join(file.split(os.sep)[-2:])


# --- variables ---


def local_tensors() -> list[tuple[str, Any]]:
    """Return the tensors in local variables of all running functions, outermost function first.

    Arguments are left out: their names describe a role, not a tensor.
    """
    found: list[tuple[str, Any]] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        arguments = inspect.getargs(code).args
        in_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_nlocals > len(arguments)
        if in_function and not code.co_filename.startswith(_WRAPPERS):
            tensors = [(name, x) for name, x in variables_of(frame).items() if isinstance(x, Tensor)]
            found = [(name, x) for name, x in tensors if name not in arguments and name not in ROLES] + found
        frame = frame.f_back
    return found


def arguments_of(frame: FrameType) -> list[tuple[str, Any]]:
    """Return (name, value) of the arguments of a running function, each of *args by itself."""
    code, values = frame.f_code, variables_of(frame)
    found = [(name, values[name]) for name in code.co_varnames[: code.co_argcount] if name in values]
    several = inspect.getargs(code).varargs or ""
    return found + [(several, x) for x in values.get(several, ())]


def variables_of(frame: FrameType) -> dict[str, Any]:
    """Return the local variables of a running function, without keeping them alive in the frame.

    Before Python 3.13, `f_locals` is a copy that the frame keeps; it is emptied.
    """
    kept = frame.f_locals
    found = dict(kept)
    if type(kept) is dict and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        kept.clear()
    return found


# --- rules ---


def rules_of(op: Operation) -> dict[str, str]:
    """Return the source of each input's rule, or under "" that of the one function for all inputs."""
    rules = dict(op.rules) if op.backward is None else {"": op.backward}
    return {name: rule_source(rule) for name, rule in rules.items()}


def rule_source(rule: Callable[..., Any]) -> str:
    """Return the source of a function or lambda, without the rest of its lines."""
    code = getattr(rule, "__code__", None)
    return NO_SOURCE if code is None else _code_source(code)


NO_SOURCE = "source not available"


@cache  # by the code, which does not refer to what a closure has captured
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
    return textwrap.dedent(segment or NO_SOURCE).rstrip()


@cache
def _lambdas(text: str) -> list[ast.Lambda]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]


def _is_of(node: ast.Lambda, code: CodeType) -> bool:
    """Whether `code` was compiled from `node`: all its instructions lie within the body."""
    start, end = (node.body.lineno, node.body.col_offset), (node.body.end_lineno or 0, node.body.end_col_offset or 0)
    for line, _, first, last in code.co_positions():
        if line is None or first is None or last is None or first >= last:
            continue  # an instruction without a place in the source
        if not start <= (line, first) <= end:
            return False
    return True

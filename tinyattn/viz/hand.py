"""`by_hand()`: attention with every number and every gradient, to change and to follow by hand."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from tinyattn.engine.operation import Operation
from tinyattn.nn.attention import AdditiveAttentionPooling
from tinyattn.ops import creation, loss, matmul, softmax, square, tanh
from tinyattn.ops.attention import attention_definition
from tinyattn.optim.adam import adam_definition
from tinyattn.optim.sgd import sgd_definition
from tinyattn.viz.graphs.source import line_at, rule_source
from tinyattn.viz.page import Page, html_page

LANGUAGES = ("en", "zh")
PARTS = ["by-hand.css", *(f"by-hand-{name}.js" for name in ("words", "math", "terms", "draw", "main"))]
START = {  # four tokens; two heads use the fourth column too
    "Q": [[0.4, 0.9, -0.3, 0.2], [0.8, 1.2, 0.1, -0.5], [1.5, -0.6, 0.7, 0.9], [-0.2, 1.4, 0.6, 0.3]],
    "K": [[0.1, -0.4, 0.5, 0.3], [1.3, 0.2, -0.7, 0.8], [-0.5, 1.6, 0.4, -0.2], [1.1, -0.3, 0.9, 0.6]],
    "V": [[0.2, 0.1, -0.1, 0.5], [1.0, -0.5, 0.3, -0.4], [-0.3, 1.2, 0.8, 0.1], [0.6, 0.4, -1.1, 0.7]],
    "T": [[0.3, 0.5, 0.1, 0.0], [-0.2, 1.0, 0.5, 0.2], [0.9, 0.0, -0.4, 0.3], [0.0, 0.8, 0.6, -0.1]],
    "w": [[1.0, -0.8, 1.2]],
}


def by_hand(lang: str = "en") -> Page:
    """Return a page on which one changes four tokens' Q, K, V and sees every number and gradient of attention.

    lang: "en" or "zh", the language at first; else ValueError. The page has a switch.

    Example:
        >>> ta.viz.by_hand().save("attention-by-hand.html").name
        'attention-by-hand.html'
    """
    if lang not in LANGUAGES:
        raise ValueError(f"by_hand: lang={lang!r}; expected one of {', '.join(LANGUAGES)}")
    data = {"lang": lang, "start": START, "sources": _sources()}
    return Page(html_page("by-hand", PARTS, "Attention by hand", data), 800)


def _sources() -> dict[str, list[tuple[str, str]]]:
    """Return (place, code) of the engine's lines for each station, and for those that a score function changes."""
    x = creation.ones(1, 1, requires_grad=True)
    product, shares, squares, bend = (y.node.op for y in (matmul(x, x), softmax(x, 1), square(x), tanh(x)))
    return {
        **{name: _lines(attention_definition, line) for name, line in {
            "S": "scores", "Z": "top", "E": "e", "R": "total", "A": "weights", "Y": "out",
        }.items()},
        "L": _lines(loss.mse_loss, "return"),
        "G": [_rule(squares, "x")],
        "dV": [_rule(product, "b")],
        "dA": [_rule(product, "a")],
        "dS": [_rule(shares, "x")],
        "dQ": [_rule(product, "a")],
        "dK": [_rule(product, "b")],
        "dw": [_rule(product, "b")],
        "S causal": _lines(attention_definition, "scores", which=-1),
        "S additive": _lines(AdditiveAttentionPooling.scores, "hidden", "return"),
        "dQ additive": [_rule(bend, "x")],
        "dK additive": [_rule(bend, "x")],
        "sgd": _lines(sgd_definition, "return"),
        "adam": _lines(adam_definition, "m", "v", "m_hat", "v_hat") + _lines(adam_definition, "p", which=-1),
    }  # fmt: skip


def _rule(op: Operation, name: str) -> tuple[str, str]:
    code = op.rules[name].__code__
    return str(line_at(code.co_filename, code.co_firstlineno)), f"{name}={rule_source(op.rules[name])}"


def _lines(function: Callable[..., Any], *names: str, which: int = 0) -> list[tuple[str, str]]:
    """Return (place, code) of the statements of a function that assign `names` ("return": the return statement)."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    statements = [node for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))) if isinstance(node, ast.stmt)]
    statements.sort(key=lambda node: node.lineno)
    found = []
    for name in names:
        node = [node for node in statements if name in _assigned(node)][which]
        code = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])).rstrip()
        found.append((str(line_at(inspect.getfile(function), first + node.lineno - 1)), code))
    return found


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {"return"} if isinstance(node, ast.Return) else {x.id for x in targets if isinstance(x, ast.Name)}

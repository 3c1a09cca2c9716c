"""Why an operation passes little of a gradient on, and what to do about it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.debug.describe import input_names
from tinyattn.graph import Node

FAR_OUT = 1e-4  # a slope below this is that of a saturated function

SATURATING = frozenset("sigmoid tanh erf gelu silu softplus logsigmoid exp expm1".split())
CHOOSING = frozenset(
    "where masked_fill maximum minimum amax amin pick getitem gather cat stack pad embedding place scatter".split()
)
STAIRCASES = frozenset("sign rounded_div".split())
PRODUCTS = {"mul": {"a": "b", "b": "a"}, "matmul": {"a": "b", "b": "a"}, "linear": {"x": "weight", "weight": "x"}}

CURES = {
    "dead_relu": "Give it inputs on both sides of 0: a smaller learning rate, another bias or initialisation, GELU.",
    "saturated": "Make its inputs smaller: scale or normalise what comes before, start with smaller weights.",
    "masked": "Check the mask: True (or 0) must stand where looking is allowed.",
    "clamped": "Widen the limits, or keep the inputs within them.",
    "not_selected": "Check the condition or the index: what the parameter feeds is thrown away here.",
    "overwritten": "Check the index: the write replaces everything that the parameter feeds.",
    "times_zero": "Start that factor from something else than zero, or leave it out.",
    "dropped": "Choose a smaller p, or call eval().",
    "flat": "Replace it by something with a slope.",
    "stationary": "If this is the loss, nothing is left to learn.",
    "cancelled": "What is added here does not depend on the parameter, by the way the formula is built.",
    "hook": "Look at the hook that was registered on this tensor.",
    "no_rule": "Give the operation a rule for this input, or do not ask for a gradient there.",
    "zero": "",
    "vanishing": "Each step makes it a little smaller: normalise, shorten the path, or add residual connections.",
    "detached": "Leave that out if the parameter is to be trained through it.",
    "no_grad": "Move the line out of the no_grad() block.",
    "integers": "Use something with a slope instead, such as softmax for argmax or sigmoid for a comparison.",
    "nan": "Keep its inputs where it is defined: clamp them, or add a small constant.",
    "overflow": "Make its inputs smaller, or use the fused operation (log_softmax, cross_entropy, logsigmoid) for it.",
    "huge": "Make that factor smaller, or clip: nn.utils.clip_grad_norm_.",
}


class Passed(NamedTuple):
    """What the rules of one node made of the gradient that reached it, on the way to the parameter."""

    node: Node
    g: Any  # the complete gradient of its output
    name: str  # the input on the way to the parameter
    edge: Node
    gradient: Any  # of that input, None if no rule gives one
    spread: float  # the sum of its absolute values, before it was summed over what broadcasting added


def why_zero(passed: Passed) -> tuple[str, str]:
    """A verdict and a sentence for a node that passes (nearly) nothing on."""
    node, name = passed.node, passed.node.op.name if passed.node.op else ""
    if passed.gradient is None:
        return "no_rule", f"It has no rule for the gradient of its input '{passed.name}'."
    if passed.spread > 0 and float(abs(passed.gradient).sum()) < 1e-5 * passed.spread:
        return "cancelled", "The gradient here is not zero, but what broadcasting repeated adds up to nothing."
    if name in STAIRCASES:
        return "flat", "It is a staircase: its slope is 0 everywhere."
    if name in PRODUCTS:
        return _product(passed)
    if name in _TELL:
        return _TELL[name](node, passed)
    if name in SATURATING:
        return "saturated", f"{_flat_share(passed):.0%} of its inputs lie where its slope is below {FAR_OUT:g}."
    if name in CHOOSING:
        return "not_selected", f"It takes nothing of what comes in as '{passed.name}', or nobody uses what it took."
    return "zero", "Its rule gives zero here."


def _relu(node: Node, passed: Passed) -> tuple[str, str]:
    out = node.value("out", False)
    return "dead_relu", f"{_share(out == 0):.0%} of its outputs are 0, where its slope is 0: a dead ReLU."


def _softmax(node: Node, passed: Passed) -> tuple[str, str]:
    out, dim = node.value("out", False), node.options["dim"]
    F = backends.of(out)
    top = F.exp(F.amax(out, dim)) if node.op and node.op.name == "log_softmax" else F.amax(out, dim)
    share = _share(top > 1 - FAR_OUT)
    if share > 0.5:
        return "saturated", f"In {share:.0%} of its rows one weight is 1 and the others are 0, where its slope is 0."
    return "cancelled", "The gradient is the same for all weights of a row, and their sum is 1 whatever comes in."


def _cross_entropy(node: Node, passed: Passed) -> tuple[str, str]:
    return "stationary", "Every row gives its class the probability 1 already: the loss is at its minimum."


def _clamp(node: Node, passed: Passed) -> tuple[str, str]:
    low, high = node.value("min", False), node.value("max", False)
    between = f"[{_brief(low)}, {_brief(high)}]"
    return "clamped", f"{_flat_share(passed):.0%} of its inputs lie outside of {between}, where its slope is 0."


def _stationary(node: Node, passed: Passed) -> tuple[str, str]:
    return "stationary", "Its input is 0, where its slope is 0."


def _attention(node: Node, passed: Passed) -> tuple[str, str]:
    hidden = [name for name in ("mask", "allowed") if node.value(name, False) is not None]
    if hidden:
        return "masked", f"'{hidden[0]}' hides all that the parameter feeds: such rows give zeros and pass none on."
    return "saturated", "Each query looks at one key alone, where the slope of the weights is 0."


_TELL = {
    "relu": _relu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "cross_entropy": _cross_entropy,
    "clamp": _clamp,
    "square": _stationary,
    "abs": _stationary,
    "pow": _stationary,
    "attention": _attention,
    "tiled_attention": _attention,
    "tril": lambda node, passed: ("masked", "It keeps nothing of what the parameter feeds."),
    "triu": lambda node, passed: ("masked", "It keeps nothing of what the parameter feeds."),
    "setitem": lambda node, passed: ("overwritten", f"The write left nothing of '{passed.name}'."),
    "dropout": lambda node, passed: ("dropped", "It dropped every element."),
}


def _product(passed: Passed) -> tuple[str, str]:
    node = passed.node
    assert node.op is not None
    other = PRODUCTS[node.op.name].get(passed.name)
    factor = node.value(other, False) if other else 1.0
    if other is None or bool((abs(factor) > FAR_OUT).any() if hasattr(factor, "any") else abs(factor) > FAR_OUT):
        return "zero", "Its products are zero here, or add up to nothing."
    source = node.edges[input_names(node.op, len(node.edges)).index(other)]
    whence = f" It comes from {source}." if source is not None and source.op is not None else ""
    return "times_zero", f"It multiplies by '{other}', which is {_brief(factor)}.{whence}"


def _flat_share(passed: Passed) -> float:
    """The share of elements where an elementwise operation passed next to nothing on."""
    if passed.gradient.shape != passed.g.shape:
        return 1.0
    came = passed.g != 0
    return float((came & (abs(passed.gradient) < FAR_OUT * abs(passed.g))).sum()) / max(int(came.sum()), 1)


def _share(where: Any) -> float:
    return float(where.sum()) / max(where.size, 1)


def _brief(x: Any) -> str:
    if x is None:
        return "-"
    if not hasattr(x, "dtype"):
        return f"{x:g}"
    low, high = x.min().item(), x.max().item()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"

"""Why an operation passes little of a gradient on, and what to do about it."""

from __future__ import annotations

import math
from typing import Any

from tinyattn import backends
from tinyattn.debug.flow import Call
from tinyattn.debug.probe import Passed, total
from tinyattn.graph import Node
from tinyattn.tensor import Tensor

FAR_OUT = 1e-4  # a slope below this is that of a saturated function

SATURATING = frozenset("sigmoid tanh erf gelu silu softplus logsigmoid exp expm1".split())
CHOOSING = frozenset(
    "where masked_fill maximum minimum amax amin pick getitem gather cat stack pad embedding place scatter".split()
)
STAIRCASES = frozenset("sign rounded_div".split())
PRODUCTS = {"mul": {"a": "b", "b": "a"}, "matmul": {"a": "b", "b": "a"}, "linear": {"x": "weight", "weight": "x"}}

# What each verdict of `explain` means, and what to do about it.
VERDICTS = {
    "healthy": ("there, finite, neither tiny nor huge", ""),
    "frozen": ("it does not ask for one", "Set requires_grad_(True) before the forward."),
    "not_a_leaf": ("the tensor was computed", "Call retain_grad() on it, or make the tensor that you train a leaf."),
    "unused": ("the loss does not depend on it", "Use it in forward(), or leave it out."),
    "unrecorded": (
        "nothing recorded leads there",
        "Give explain a function that computes the loss: it runs it and sees detach(), no_grad() and integers too.",
    ),
    "detached": ("its history was cut off", "Leave that out if the parameter is to be trained through it."),
    "no_grad": ("an operation ran under no_grad()", "Move it out of the no_grad() block."),
    "integers": (
        "whole numbers and booleans have no slope",
        "Use something that has one, such as softmax for argmax or sigmoid for a comparison.",
    ),
    "no_rule": ("an operation has no rule for it", "Give the operation a rule for this input."),
    "dead_relu": (
        "ReLU gave zeros alone",
        "Bring its inputs above 0: a smaller learning rate, other weights, or GELU.",
    ),
    "saturated": (
        "a function is flat there",
        "Make its inputs smaller: normalise what comes before, scale, or start smaller.",
    ),
    "masked": ("a mask hides everything", "Check the mask: a boolean one says True where looking is allowed."),
    "clamped": ("all lies outside of the limits", "Widen the limits, or keep the inputs within them."),
    "not_selected": ("what it feeds is not taken", "Check the condition or the index."),
    "overwritten": ("an assignment replaced it", "Check the index of the assignment."),
    "times_zero": ("it is multiplied by zero", "Start that factor from something else than zero, or leave it out."),
    "dropped": ("dropout dropped everything", "Choose a smaller p, or call eval()."),
    "flat": ("a staircase has no slope", "Replace it by something with a slope."),
    "stationary": ("the slope at this very point is zero", "If this is the loss, nothing is left to learn."),
    "cancelled": (
        "the contributions add up to nothing",
        "By the way the formula is built, the loss does not depend on it.",
    ),
    "hook": ("a hook replaced it", "Look at the hook that was registered there."),
    "zero": ("a rule gives zero", ""),
    "vanishing": ("many steps make it smaller", "Normalise, shorten the path, or add residual connections."),
    "huge": ("an operation multiplies it", "Make that factor smaller, or clip: nn.utils.clip_grad_norm_."),
    "overflow": (
        "an infinity was made",
        "Make its inputs smaller, or use a fused operation (cross_entropy, logsigmoid ...).",
    ),
    "infinite_slope": (
        "a slope is infinite",
        "Keep the inputs away from that point: clamp them, or add a small constant.",
    ),
    "nan": ("a NaN was made", "Keep the inputs where it is defined: clamp them, or add a small constant."),
}


def why_zero(passed: Passed) -> tuple[str, str]:
    """A verdict and a sentence for a node that passes (nearly) nothing on."""
    node, name = passed.node, passed.node.op.name if passed.node.op else ""
    if passed.gradient is None:
        return "no_rule", f"It has no rule for the gradient of its input '{passed.name}'."
    if passed.spread > 0 and total(passed.gradient) < 1e-5 * passed.spread:
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
    return (
        ("zero", "Its rule gives zero here.")
        if passed.nothing
        else ("vanishing", f"It keeps {passed.share:.1e} of it.")
    )


def why_not_finite(call: Call) -> tuple[str, str]:
    """A verdict and a sentence for the operation that made the first NaN or infinity."""
    x, name = call.inputs[0], call.op.name
    if name in ("softmax", "log_softmax") and isinstance(x, Tensor):
        dim = call.node.options.get("dim", -1)
        hidden = (x.data == -math.inf).all(dim)
        if hidden.any():
            return (
                "masked",
                f"{int(hidden.sum())} of its {hidden.size} rows hold nothing but -inf: they are fully masked.",
            )
    return ("nan", "") if call.fault == "NaN" else ("overflow", "")


def zero_factor(passed: Passed) -> Node | None:
    """Where the factor that a product multiplies with comes from, if an operation that gave zeros made it."""
    node = passed.node
    other = PRODUCTS.get(node.op.name, {}).get(passed.name) if node.op else None
    if other is None or node.op is None:
        return None
    source = node.edges[node.op.inputs.index(other)]
    return source if source is not None and source.op is not None else None


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


def _masked(node: Node, passed: Passed) -> tuple[str, str]:
    return "masked", "It keeps nothing of what the parameter feeds."


def _setitem(node: Node, passed: Passed) -> tuple[str, str]:
    return "overwritten", f"The write left nothing of '{passed.name}'."


def _dropout(node: Node, passed: Passed) -> tuple[str, str]:
    return "dropped", "It dropped every element."


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
    "tril": _masked,
    "triu": _masked,
    "setitem": _setitem,
    "dropout": _dropout,
}


def _product(passed: Passed) -> tuple[str, str]:
    node = passed.node
    other = PRODUCTS[node.op.name].get(passed.name) if node.op else None
    factor = node.value(other, False) if other else 1.0
    if other is None or bool((abs(factor) > FAR_OUT).any() if hasattr(factor, "dtype") else abs(factor) > FAR_OUT):
        return (
            ("zero", "Its products are zero, or add up to nothing.")
            if passed.nothing
            else ("vanishing", f"It keeps {passed.share:.1e} of it.")
        )
    source = zero_factor(passed)
    return (
        "times_zero",
        f"It multiplies by '{other}', which is {_brief(factor)}{f' and comes from {source}' if source else ''}.",
    )


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

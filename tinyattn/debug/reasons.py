"""Why an operation passes little of a gradient on, or makes what is not finite."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.debug.describe import describe, fault, input_names
from tinyattn.debug.flow import Call
from tinyattn.debug.probe import Passed, total
from tinyattn.engine.node import Node, Saved
from tinyattn.tensors import Tensor

FAR_OUT = 1e-4  # a slope below this is that of a saturated function

# Families of operations, by name.
SATURATING = frozenset("sigmoid tanh erf gelu silu softplus logsigmoid exp expm1".split())
CHOOSING = frozenset(
    "where masked_fill maximum minimum amax amin pick getitem gather cat stack pad embedding place scatter".split()
)
STAIRCASES = frozenset("sign rounded_div".split())
_LINEAR = {"x": "weight", "weight": "x"}
PRODUCTS = {"mul": {"a": "b", "b": "a"}, "matmul": {"a": "b", "b": "a"}, "linear": _LINEAR, "linear_gelu": _LINEAR}
FLAT_AT_ZERO = frozenset("square abs pow".split())
ZEROING = {"relu": "dead_relu", "dropout": "dropped", "attention": "masked", "tiled_attention": "masked"}


class Reason(NamedTuple):
    """A key of VERDICTS, the operation to blame, and a sentence."""

    verdict: str
    node: Node
    text: str


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


def why_zero(passed: Passed) -> Reason:
    """Why (nearly) nothing was passed on here."""
    node, name = passed.node, passed.operation
    if passed.gradient is None:
        return Reason("no_rule", node, f"It has no rule for the gradient of its input '{passed.name}'.")
    if passed.spread > 0 and total(passed.gradient) < 1e-5 * passed.spread:
        return Reason("cancelled", node, "It is not zero here, but what broadcasting repeated adds up to nothing.")
    if name == "linear_gelu":
        return _linear_gelu(passed)
    if name in PRODUCTS or name in FLAT_AT_ZERO:
        return _times(passed)
    if name in STAIRCASES:
        return Reason("flat", node, "It is a staircase: its slope is 0 everywhere.")
    if name in SATURATING:
        share = _flat_share(passed)
        return Reason("saturated", node, f"{share:.0%} of its inputs lie where its slope is below {FAR_OUT:g}.")
    if name in _TELL:
        return Reason(_TELL[name][0], node, _TELL[name][1])
    if name in _LOOK:
        return Reason(_LOOK[name](passed)[0], node, _LOOK[name](passed)[1])
    if name in CHOOSING:
        return Reason(
            "not_selected", node, f"It takes nothing of its input '{passed.name}', or nobody uses what it took."
        )
    return _some(passed)


_TELL = {
    "cross_entropy": ("stationary", "Each row gives its class the probability 1 already."),
    "tril": ("masked", "It keeps nothing of what the parameter feeds."),
    "triu": ("masked", "It keeps nothing of what the parameter feeds."),
    "setitem": ("overwritten", "The assignment left nothing of it."),
    "dropout": ("dropped", "It dropped every element."),
}


def _some(passed: Passed) -> Reason:
    if passed.nothing:
        return Reason("zero", passed.node, "Its rule gives zero here.")
    return Reason("vanishing", passed.node, f"It keeps {passed.share:.1e} of it.")


def _times(passed: Passed) -> Reason:
    """For a product the other factor is to blame, for a square the input itself; or what made zeros of it."""
    node = passed.node
    assert node.op is not None
    name = PRODUCTS.get(passed.operation, {}).get(passed.name, passed.name)
    factor = node.read([name], False)[0]
    if bool((abs(factor) > FAR_OUT).any() if hasattr(factor, "dtype") else abs(factor) > FAR_OUT):
        return _some(passed)
    verdict = "times_zero" if passed.operation in PRODUCTS else "stationary"
    text = f"It multiplies by '{name}', which is {_brief(factor)}"
    source = node.edges[node.op.inputs.index(name)]
    if source is None or source.op is None:
        return Reason(verdict, node, f"{text}.")
    text = f"{text} and comes from {source}."
    if source.op.name in ZEROING:
        return Reason(ZEROING[source.op.name], source, text)
    return Reason(verdict, node, text)


def _linear_gelu(passed: Passed) -> Reason:
    """The GELU is to blame where it is flat, else the product before it."""
    flat = _share(abs(passed.node.read(["slope"], False)[0]) < FAR_OUT)
    if flat <= 0.5:
        return _times(passed)
    return Reason("saturated", passed.node, f"At {flat:.0%} of its outputs the slope of its GELU is below {FAR_OUT:g}.")


def _relu(passed: Passed) -> tuple[str, str]:
    out = passed.node.read(["out"], False)[0]
    return "dead_relu", f"{_share(out == 0):.0%} of its outputs are 0, where its slope is 0."


def _softmax(passed: Passed) -> tuple[str, str]:
    out = passed.node.read(["out"], False)[0]
    xp, dim = backends.of(out), passed.node.options["dim"]
    top = xp.exp(xp.amax(out, dim)) if passed.operation == "log_softmax" else xp.amax(out, dim)
    share = _share(top > 1 - FAR_OUT)
    if share > 0.5:
        return "saturated", f"In {share:.0%} of its rows one weight is 1 and the others are 0, where its slope is 0."
    return "cancelled", "The gradient is the same for all weights of a row, and they sum to 1 whatever comes in."


def _clamp(passed: Passed) -> tuple[str, str]:
    limits = " to ".join(_brief(passed.node.read([name], False)[0]) for name in ("min", "max"))
    return "clamped", f"{_flat_share(passed):.0%} of its inputs lie outside of {limits}, where its slope is 0."


def _attention(passed: Passed) -> tuple[str, str]:
    masks = [name for name in ("mask", "allowed") if passed.node.read([name], False)[0] is not None]
    if masks or passed.node.options.get("causal"):
        return "masked", "Its mask hides all that the parameter feeds; a row that may see nothing passes nothing on."
    return "saturated", "Each query looks at one key alone, where the slope of its weights is 0."


_LOOK = {
    "relu": _relu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "clamp": _clamp,
    "attention": _attention,
    "tiled_attention": _attention,
}


# --- not finite ---


def why_not_finite(call: Call) -> Reason:
    """Why an operation that was watched made a NaN or an infinity."""
    names = input_names(call.op, len(call.inputs))
    ranges = "; ".join(f"{name}: {describe(x)}" for name, x in zip(names, call.inputs, strict=False))
    text = f"made {call.fault} out of {ranges}."
    x = call.inputs[0] if call.inputs else None
    if call.op.name in ("softmax", "log_softmax") and isinstance(x, Tensor):
        hidden = (x.array == -math.inf).all(call.node.options.get("dim", -1))
        if hidden.any():
            return Reason(
                "masked", call.node, f"{text} {int(hidden.sum())} of its {hidden.size} rows are -inf throughout."
            )
    return Reason("nan" if call.fault == "NaN" else "overflow", call.node, text)


def oldest_not_finite(nodes: Any) -> Reason | None:
    """The oldest of `nodes` whose output is known, from what was saved, to be not finite."""
    for node in sorted(nodes, key=lambda node: node.id):
        for name, saved in (node.saved or {}).items():
            kind = fault(saved.array) if type(saved) is Saved else ""
            maker = node
            if kind and name in node.op.inputs:
                maker = node.edges[node.op.inputs.index(name)]
            if not kind or maker is None or maker.op is None or (kind == "infinity" and maker.op.name in CHOOSING):
                continue  # given by the program: data, or the -inf of a mask
            return Reason("nan" if kind == "NaN" else "overflow", maker, f"gave {describe(saved.array)}.")
    return None


# --- words ---


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

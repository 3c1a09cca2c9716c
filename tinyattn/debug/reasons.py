"""Why an operation passes little of a gradient on, or makes what is not finite; what each verdict means.

An Operation describes itself in words, its `traits`. Where its outputs depend on its inputs:

    moves       each output is one element of an input, or a constant (reshape, cat, gather; its rules take the index)
    maps        each output depends on the elements at its own place (add, exp)
    rows        each output depends on its row along `dim`, or along the last axis (softmax, layer_norm)

and where a gradient may end in it: the trait `multiplies` (the rule of an input multiplies by another input, or by
the input itself), `normalises` (its outputs along `dim` are weights with sum 1, or their logarithms), and ENDS.
Comparisons have the trait `compares`, and what changes nothing but signs `sign`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.debug.describe import describe, fault, input_names, saved_by, value
from tinyattn.debug.flow import Call, Passed, largest, total
from tinyattn.engine.node import Node
from tinyattn.tensors import Tensor

FLAT = 1e-4  # a slope below this is that of a saturated function

ENDS = {  # a trait -> the verdict on an operation that has it and passes nothing on
    "rectifies": "dead_relu",  # its slope is 0 below 0
    "drops": "dropped",  # dropout
    "masks": "masked",  # what a mask hides has no effect
    "saturates": "saturated",  # its slope vanishes far from 0, on one side or on both
    "normalises": "saturated",
    "clamps": "clamped",  # its slope is 0 outside of limits
    "stairs": "flat",  # its slope is 0 everywhere
    "valley": "stationary",  # its slope is 0 at a minimum or maximum
    "overwrites": "overwritten",  # an assignment
    "chooses": "not_selected",  # it takes some elements and leaves others
}


class Reason(NamedTuple):
    """verdict: a key of VERDICTS. node: the operation to blame. text: a sentence; if "", what the verdict means."""

    verdict: str
    node: Node | None
    text: str = ""
    module: str = ""  # the path of a module that has no node


VERDICTS = {  # verdict -> (what it means, what to do about it)
    "healthy": ("it is finite, and neither tiny nor huge", ""),
    "frozen": ("its requires_grad is False", "Set requires_grad_(True) before the forward."),
    "not_a_leaf": ("backward() fills .grad of leaves alone", "Call retain_grad() on it, or train a leaf instead."),
    "unused": ("the loss does not depend on it", "Use it in forward(), or leave it out."),
    "unrecorded": ("no recorded operation leads to it", "Give explain a function that computes the whole loss."),
    "detached": ("cuts the history off", "Leave that out if the parameter is to be trained through it."),
    "no_grad": ("ran under no_grad(), so nothing was recorded", "Move it out of the no_grad() block."),
    "integers": ("gives integers or booleans", "Use what has a slope: softmax for argmax, sigmoid for a comparison."),
    "no_rule": ("has no rule for a gradient", "Give the operation a rule for this input."),
    "dead_relu": ("its outputs are 0", "Bring its inputs above 0: a smaller learning rate, other weights, or GELU."),
    "saturated": ("it is flat there", "Make its inputs smaller: normalise what comes before, scale, or start smaller."),
    "masked": ("its mask hides everything", "Check the mask: a boolean one is True where attention is allowed."),
    "clamped": ("its inputs lie outside of the limits", "Widen the limits, or keep the inputs within them."),
    "not_selected": ("it takes nothing of this input", "Check the condition or the index."),
    "overwritten": ("the assignment left nothing of it", "Check the index of the assignment."),
    "times_zero": ("it multiplies by zero", "Start that factor from something else than zero, or leave it out."),
    "dropped": ("it dropped every element", "Choose a smaller p, or call eval()."),
    "flat": ("it is a staircase, whose slope is 0", "Replace it by something with a slope."),
    "stationary": ("its slope at this very point is 0", "If this is the loss, nothing is left to learn."),
    "cancelled": (
        "the contributions add up to zero",
        "By the way the formula is built, the loss is independent of it.",
    ),
    "hook": ("a hook replaced the gradient of its output", "Look at the hook that was registered there."),
    "zero": ("its rule gives zero", ""),
    "vanishing": ("many steps make it smaller", "Normalise, shorten the path, or add residual connections."),
    "huge": ("it multiplies the gradient", "Make that factor smaller, or clip: nn.utils.clip_grad_norm_."),
    "overflow": ("it gives an infinity", "Make its inputs smaller, or use a fused operation, such as cross_entropy."),
    "infinite_slope": ("its slope is infinite", "Keep the inputs away from there: clamp, or add a small constant."),
    "nan_given": ("a NaN comes into it", "Look for it in the data, and in the parameters before this step."),
    "nan": ("it gives NaN", "Keep the inputs where it is defined: clamp them, or add a small constant."),
}


def why_zero(passed: Passed) -> Reason:
    """Why (nearly) nothing was passed on here."""
    node, op = passed.node, passed.op
    if passed.gradient is None:
        return Reason("no_rule", node, f"{node} has no rule for the gradient of its input '{passed.name}'.")
    if passed.spread > 0 and total(passed.gradient) < 1e-5 * passed.spread:
        return Reason("cancelled", node, f"{node} repeats it by broadcasting, and these contributions add up to zero.")
    flat = _flat(passed)
    if "multiplies" in op.traits and not ("saturates" in op.traits and flat > 0.5):
        return _times(passed)
    if "normalises" in op.traits and flat <= 0.5:
        text = (
            f"{node} passes nothing on: the gradient is the same for all weights of a row, and their sum is always 1."
        )
        return Reason("cancelled", node, text)
    verdict = next((verdict for trait, verdict in ENDS.items() if trait in op.traits), None)
    if verdict == "masked" and not _masked(node):
        verdict = "saturated"
    if verdict is None:
        return _some(passed)
    share = f" (at {flat:.0%} of the places)" if verdict in ("dead_relu", "saturated", "clamped") else ""
    much = "nothing" if passed.nothing else "little"
    return Reason(verdict, node, f"{node} passes {much} of '{passed.name}' on: {VERDICTS[verdict][0]}{share}.")


def _some(passed: Passed) -> Reason:
    if passed.nothing:
        return Reason("zero", passed.node)
    return Reason("vanishing", passed.node, f"{passed.node} passes {passed.share:.1e} of it on.")


def _times(passed: Passed) -> Reason:
    """Blame the factor, which is the first input that the rule takes, or the operation that made zeros of it."""
    node, op = passed.node, passed.op
    asked = op.asks.get(passed.name) or [name for name in op.backward_asks if name != passed.name]
    name = next(name for name in asked if name in op.inputs)
    factor = value(node, name)
    size = largest(factor) if hasattr(factor, "dtype") else abs(factor)
    if size > FLAT:
        return _some(passed)
    text = f"{node} multiplies by '{name}', which is {f'at most {size:.1g}' if size else '0'}"
    source = node.edges[op.inputs.index(name)]
    if source is not None and source.op is not None:
        text += f" and comes from {source}"
        for trait in ("rectifies", "drops", "masks"):
            if trait in source.op.traits:
                return Reason(ENDS[trait], source, f"{text}.")
    return Reason("stationary" if name == passed.name else "times_zero", node, f"{text}.")


def _masked(node: Node) -> bool:
    """Whether an operation that may have a mask has one."""
    assert node.op is not None
    masks = [name for name in node.op.inputs if name in ("mask", "allowed")]
    return not masks or bool(node.options.get("causal")) or any(value(node, name) is not None for name in masks)


def _flat(passed: Passed) -> float:
    """The share of places at which the slope is below FLAT: elements, or rows of a softmax."""
    node, g = passed.node, passed.g
    if "slope" in passed.op.extras:
        return _share(abs(value(node, "slope")) < FLAT)
    if "normalises" in passed.op.traits:  # flat where one weight is 1 and the others are 0
        out = value(node, "out")
        xp = backends.of(out)
        top = xp.amax(out, node.options["dim"])
        return _share((xp.exp(top) if passed.op.name == "log_softmax" else top) > 1 - FLAT)
    if passed.gradient.shape != g.shape:
        return 1.0
    return float(((g != 0) & (abs(passed.gradient) < FLAT * abs(g))).sum()) / max(int((g != 0).sum()), 1)


def _share(where: Any) -> float:
    return float(where.sum()) / max(where.size, 1)


# --- not finite ---


def why_not_finite(call: Call) -> Reason:
    """Why an operation that was observed made a NaN or an infinity."""
    names = input_names(call.op, len(call.inputs))
    ranges = "; ".join(f"{name}: {describe(x)}" for name, x in zip(names, call.inputs, strict=False))
    text = f"{call.node} made {call.fault} out of {ranges}."
    x = call.inputs[0] if call.inputs else None
    if "normalises" in call.op.traits and isinstance(x, Tensor):
        hidden = (x.array == -math.inf).all(call.node.options.get("dim", -1))
        if hidden.any():
            text = f"{text} {int(hidden.sum())} of its {hidden.size} rows are -inf throughout."
            return Reason("masked", call.node, text)
    return Reason("nan" if call.fault == "NaN" else "overflow", call.node, text)


def given_nan(call: Call) -> Reason | None:
    """The NaN in an input of an operation, if there is one. Where no operation made it, the program gave it."""
    for name, x in zip(input_names(call.op, len(call.inputs)), call.inputs, strict=False):
        if fault(x) == "NaN":
            text = f"a NaN comes into {call.node} with its input '{name}', {describe(x)}, and no operation made it."
            return Reason("nan_given", call.node, text)
    return None


def oldest_not_finite(nodes: Iterable[Node]) -> Reason | None:
    """The oldest of `nodes` whose output is known, from what was saved, to be not finite."""
    for node in sorted(nodes, key=lambda node: node.id):
        for name, saved in saved_by(node):
            inputs = dict(zip(node.op.inputs, node.edges, strict=False)) if node.op is not None else {}
            kind, maker = fault(saved.array), inputs.get(name, node)
            if not kind or maker is None or maker.op is None or (kind == "infinity" and "chooses" in maker.op.traits):
                continue  # given by the program: data, or the -inf of a mask
            return Reason("nan" if kind == "NaN" else "overflow", maker, f"{maker} gave {describe(saved.array)}.")
    return None

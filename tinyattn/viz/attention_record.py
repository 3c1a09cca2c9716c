"""Listening to a model while it attends: the weights of every layer and head, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyattn import autograd, ops
from tinyattn.debug.describe import trace
from tinyattn.engine.modes import Mode, definition_mode, enable_grad, no_grad
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.nn import DataParallel, Module
from tinyattn.ops import creation
from tinyattn.ops.attention import attention_definition
from tinyattn.tensors import Tensor

Score = Callable[[Tensor], Tensor]


@dataclass
class AttentionLayer:
    """One call of attention: who looked at whom, in every head.

    name: the path of the module, "blocks.0.attention". weights: (batch, heads, queries, keys), where a
    pooling is a single query. gradients: of the class score with respect to them, or None. by_softmax: whether it
    was known by its softmax alone, so that it may be no attention at all.
    """

    name: str
    weights: Any
    gradients: Any = None
    by_softmax: bool = False

    @property
    def is_pooling(self) -> bool:
        """Whether it makes one vector of all tokens."""
        return bool(self.weights.shape[2] == 1)

    @property
    def gradient_x_attention(self) -> Any:
        """What each weight adds to the score, to first order: positive speaks for the class, negative against."""
        if self.gradients is None:
            raise ValueError(f"{self.name}: recorded without gradients; leave gradients=True")
        return np.where(self.weights == 0, 0, self.weights * self.gradients)


@dataclass
class _Call:
    """What is needed to compute the weights once the run is over, and what their gradient passes through."""

    op: Operation
    inputs: Sequence[Any]
    options: dict[str, Any]
    out: Tensor
    where: str

    def values(self) -> tuple[Any, Any]:
        """The weights, and the values that they weigh (None: the output is the weights)."""
        if self.op.name == "softmax":
            return self.out, None
        if self.op.name == "packed_attention":
            q, k, v = ops.split_heads(self.inputs[0], self.options["heads"])
            mask = allowed = None
        else:
            q, k, v, mask, allowed = self.inputs[:5]
        if self.options.get("causal"):
            allowed = creation.ones(q.shape[-2], k.shape[-2], dtype=bool, device=q.device).tril()
        return attention_definition(ops, q, k, k, mask, allowed, None, scale=self.options["scale"])[1], v

    def layer(self, g: Tensor | None) -> AttentionLayer:
        """The weights (1, heads, queries, keys); `g` is the gradient of the output.

        The output is weights @ values: so the gradient of the weights is g @ values', whatever kernel ran.
        """
        weights, values = self.values()
        gradients = None
        if g is not None:
            if self.op.name == "packed_attention":
                *lead, tokens, dim = g.shape
                g = g.reshape(*lead, tokens, self.options["heads"], dim // self.options["heads"]).transpose(-3, -2)
            gradients = g if values is None else g @ values.mT
            keep = self.inputs[5] if self.op.name == "attention" else None
            gradients = gradients if keep is None else gradients * keep  # dropout of the weights, asked for by hand
        if sum(n != 1 for n in weights.shape[:-2]) > 1:
            raise ValueError(
                f"attention: {self.where} weighs {tuple(weights.shape)} for a batch of one, so it attends within "
                "windows or groups, and these maps have no place in a picture of the whole"
            )
        as_heads = (1, -1, *((1, *weights.shape)[-2:]))  # of one input, every axis ahead is one of heads
        return AttentionLayer(
            self.where,
            np.array(weights.numpy()).reshape(as_heads),
            None if gradients is None else np.array(gradients.expand(*weights.shape).numpy()).reshape(as_heads),
            self.op.name == "softmax",
        )


class _Recorder(Observer):
    """Keeps every call of attention, and every softmax along the last axis: attention written by hand is one."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._options: dict[str, Any] = {}

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._options = options

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        known = op.name in ("attention", "packed_attention", "tiled_attention")
        if known or (op.name == "softmax" and out.ndim > 1 and self._options["dim"] in (-1, out.ndim - 1)):
            where = (node or trace(op, out)).module
            self.calls.append(_Call(op, inputs, self._options, out, where or op.name))


def record(model: Any, row: Sequence[Any], score: Score | None) -> tuple[Tensor, list[AttentionLayer]]:
    """Run `model(*row)` on a batch of one: its output, and the layers that attended, in order.

    score: which number of the output to differentiate with respect to the weights; None for no gradients.
    """
    recorder = _Recorder()
    with _at_rest(model), enable_grad(), Mode(definition_mode, False):
        with recorder:
            output = model(*row)
        # class probabilities are a softmax too, but not one that weighs anything
        calls = [c for c in recorder.calls if c.op.name != "softmax" or c.out.shape != getattr(output, "shape", None)]
        slopes: Sequence[Tensor | None] = [None] * len(calls)
        if score is not None and calls:
            slopes = _slopes(score(output), [call.out for call in calls])
    with no_grad():
        layers = [call.layer(g) for call, g in zip(calls, slopes, strict=True)]
    seen: dict[str, int] = {}
    for layer in layers:  # a module may be called more than once
        seen[layer.name] = seen.get(layer.name, 0) + 1
        layer.name += f" ({seen[layer.name]})" if seen[layer.name] > 1 else ""
    return output, layers


def _slopes(total: Tensor, outputs: list[Tensor]) -> list[Tensor | None]:
    if any(out.node is None for out in outputs):
        raise ValueError(
            "attention: the model's attention depends on nothing that requires gradients; give it parameters, an input "
            "with requires_grad=True, or pass gradients=False"
        )
    found = autograd.grad(total.sum(), outputs, allow_unused=True)
    return [creation.zeros_like(out) if g is None else g for out, g in zip(outputs, found, strict=True)]


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """The model in evaluation mode and with gradients for frozen parameters too; as it was, afterwards."""
    if not isinstance(model, Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.eval()
    try:
        for p in frozen:
            p.requires_grad_(True)
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
        for module, mode in modes:
            module.training = mode


def unwrapped(model: Any) -> Any:
    """The model inside of a DataParallel: a single image needs no workers."""
    return model.module if isinstance(model, DataParallel) else model

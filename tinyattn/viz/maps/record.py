"""The attention weights of every layer and head, and their gradients: recorded while a model runs, and followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyattn import autograd, ops
from tinyattn.debug.describe import trace
from tinyattn.engine.modes import Mode, definition_mode, module_stack
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.engine.opmath import widened
from tinyattn.grad_mode import enable_grad, no_grad
from tinyattn.models import SparseAttention
from tinyattn.nn import DataParallel, Module
from tinyattn.ops import creation
from tinyattn.ops.attention import attention_definition
from tinyattn.tensors import Tensor
from tinyattn.train.watch import evaluating
from tinyattn.viz.maps.grid import Grid

Score = Callable[[Tensor], Tensor]


@dataclass
class AttentionLayer:
    """One call of attention. Arrays are NumPy arrays of the model's dtype.

    Attributes:
        name: the path of the module, such as "blocks.0.attention".
        weights: (batch, heads, queries, keys); pooling has a single query.
        gradients: of the target score with respect to the weights, same shape, or None.
        by_softmax: whether only its softmax was seen, so that it may be something else than attention.

    Example:
        >>> ta.viz.AttentionLayer("attention", np.full((1, 1, 2, 2), 0.5)).is_pooling
        False
    """

    name: str
    weights: Any
    gradients: Any = None
    by_softmax: bool = False

    @property
    def is_pooling(self) -> bool:
        """Whether it reduces all tokens to one vector."""
        return bool(self.weights.shape[2] == 1)

    @property
    def gradient_x_attention(self) -> Any:
        """The term of each weight in the target score, to first order; negative terms lower it.

        Raises ValueError if the gradients were not recorded.
        """
        if self.gradients is None:
            raise ValueError(f"{self.name}: recorded without gradients; pass gradients=True")
        return np.where(self.weights == 0, 0, self.weights * self.gradients)


@dataclass
class _Call:
    """One call, from which the weights and their gradient are computed after the run."""

    op: Operation
    inputs: Sequence[Any]
    options: dict[str, Any]
    out: Tensor
    where: str

    def values(self) -> tuple[Any, Any]:
        """Return the weights and the values that they multiply (None: the output is the weights)."""
        if self.op.name == "softmax":
            return self.out, None
        if self.op.name == "packed_attention":
            q, k, v = ops.split_heads(self.inputs[0], self.options["heads"])
            mask = allowed = None
        else:
            q, k, v, mask, allowed = self.inputs[:5]
        q, k, mask = widened((q, k, mask))
        if self.options.get("causal"):
            allowed = creation.ones(q.shape[-2], k.shape[-2], dtype=bool, device=q.device).tril()
        return attention_definition(ops, q, k, k, mask, allowed, None, scale=self.options["scale"])[1], v

    def layer(self, g: Tensor | None) -> AttentionLayer:
        """Return the weights (1, heads, queries, keys) and their gradient; `g` is the gradient of the output.

        The output is weights @ values, so the gradient of the weights is g @ values.T for every kernel.
        """
        weights, values = self.values()
        gradients = None
        if g is not None:
            if self.op.name == "packed_attention":
                *lead, tokens, dim = g.shape
                g = g.reshape(*lead, tokens, self.options["heads"], dim // self.options["heads"]).transpose(-3, -2)
            gradients = g if values is None else g @ values.mT
            keep = self.inputs[5] if self.op.name == "attention" else None
            gradients = gradients if keep is None else gradients * keep  # dropout of the weights
        if sum(n != 1 for n in weights.shape[:-2]) > 1:
            raise ValueError(
                f"attention: {self.where} has weights {tuple(weights.shape)} for a batch of one, so it attends within "
                "windows or groups, which cannot be shown in a map of the whole input"
            )
        as_heads = (1, -1, *((1, *weights.shape)[-2:]))  # for one input, all leading axes are heads
        return AttentionLayer(
            self.where,
            np.array(weights.numpy()).reshape(as_heads),
            None if gradients is None else np.array(gradients.expand(*weights.shape).numpy()).reshape(as_heads),
            self.op.name == "softmax",
        )


class _Recorder(Observer):
    """Keeps every call of attention and every softmax along the last axis, since it may be attention."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._options: dict[str, Any] = {}

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._options = options

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        known = op.name in ("attention", "packed_attention", "tiled_attention")
        if known or (op.name == "softmax" and out.ndim > 1 and self._options["dim"] in (-1, out.ndim - 1)):
            where = (node or trace(op, out)).module
            shape = inputs[1 if op.name.endswith("attention") and op.name != "packed_attention" else 0].shape
            keys = shape[-1 if op.name == "softmax" else -2]
            if keys == 1 and any(vars(module).get("batch_first") is False for module in module_stack.get()):
                raise ValueError(
                    f"attention: {where} has batch_first=False, and inputs are cut along the first axis, so it "
                    "attends over one token; pass inputs (batch, tokens, ...) and lambda x: model(x.transpose(0, 1))"
                )
            self.calls.append(_Call(op, inputs, self._options, out, where or op.name))


def record(model: Any, row: Sequence[Any], score: Score | None) -> tuple[Tensor, list[AttentionLayer]]:
    """Run `model(*row)` on a batch of one; return its output and its attention layers in the order of the calls.

    score: returns the number of the output to differentiate with respect to the weights; None: no gradients.
    """
    recorder = _Recorder()
    with _differentiable(model), enable_grad(), Mode(definition_mode, False):
        with recorder:
            output = model(*row)
        # class probabilities are a softmax too, but no attention
        calls = [c for c in recorder.calls if c.op.name != "softmax" or c.out.shape != getattr(output, "shape", None)]
        gradients: Sequence[Tensor | None] = [None] * len(calls)
        if score is not None and calls:
            gradients = _gradients(score(output), [call.out for call in calls])
    with no_grad():
        layers = [call.layer(g) for call, g in zip(calls, gradients, strict=True)]
    seen: dict[str, int] = {}
    for layer in layers:  # a module may be called more than once
        seen[layer.name] = seen.get(layer.name, 0) + 1
        layer.name += f" ({seen[layer.name]})" if seen[layer.name] > 1 else ""
    return output, layers


def _gradients(total: Tensor, outputs: list[Tensor]) -> list[Tensor | None]:
    if any(out.node is None for out in outputs):
        raise ValueError(
            "attention: the attention of this model depends on no tensor that requires gradients; pass inputs with "
            "requires_grad=True, or gradients=False"
        )
    found = autograd.grad(total.sum(), outputs, allow_unused=True)
    return [creation.zeros_like(out) if g is None else g for out, g in zip(outputs, found, strict=True)]


@contextmanager
def _differentiable(model: Any) -> Iterator[None]:
    """Switch to evaluation mode and gradients for all parameters, and restore both at the end."""
    if not isinstance(model, Module):
        yield
        return
    frozen = [p for p in model.parameters() if not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_(True)
        with evaluating(model):
            yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def unwrapped(model: Any) -> Any:
    """Return the model inside of a DataParallel; a batch of one needs no workers."""
    return model.module if isinstance(model, DataParallel) else model


def softmax_only(model: Any, what: str) -> Any:
    """Return the `unwrapped` model. Raises ValueError if it has a SparseAttention, which no page shows."""
    model = unwrapped(model)
    if isinstance(model, Module) and any(isinstance(part, SparseAttention) for part in model.modules()):
        raise ValueError(f"{what}: the model attends by sparsemax or entmax; take its attention_maps() instead")
    return model


# --- how it flows through the layers ---


class AttentionFlow:
    """The numbers of `viz.AttentionMaps`, which describes the attributes; this class draws nothing."""

    labels: Any = None
    images: Any = None
    grid: Grid | None = None
    words: list[list[str]] | None = None
    read_from: int | str = "mean"
    title = ""

    def __init__(self, layers: list[AttentionLayer], scores: Any = None, target: Any = None) -> None:
        self.pooling = layers[-1] if layers[-1].is_pooling else None
        self.layers = layers[:-1] if self.pooling else layers
        self.scores, self.target = scores, target

    def __repr__(self) -> str:
        shapes = ["{} {} x {} x {}".format(layer.name, *layer.weights.shape[1:]) for layer in self.every_layer]
        return f"<attention of {len(self)} inputs, heads x queries x keys: {', '.join(shapes)}>"

    def __len__(self) -> int:
        return len(self.every_layer[0].weights)

    @property
    def tokens(self) -> int:
        """The number of keys: the largest of all layers."""
        return max(int(layer.weights.shape[-1]) for layer in self.every_layer)

    @property
    def has_gradients(self) -> bool:
        """Whether the gradients of the weights were recorded."""
        return all(layer.gradients is not None for layer in self.every_layer)

    @property
    def every_layer(self) -> list[AttentionLayer]:
        """The layers, followed by the pooling if there is one."""
        return [*self.layers, *([self.pooling] if self.pooling else [])]

    @property
    def probabilities(self) -> Any:
        """The softmax of the scores, (batch, classes)."""
        return softmax(self.scores)

    @property
    def can_follow(self) -> bool:
        """Whether all layers attend over the same tokens, which rollout and relevance require."""
        square = all(layer.weights.shape[2] == self.tokens for layer in self.layers)
        return square and all(layer.weights.shape[3] == self.tokens for layer in self.every_layer)

    def rollout(self) -> Any:
        """Return the share of each token in each token after all layers: (batch, tokens, tokens), rows sum to 1.

        The product of the layers' weights, averaged over the heads and with the identity, which stands for the
        residual connection: Abnar and Zuidema 2020, "Quantifying attention flow in transformers". Raises
        ValueError if the layers do not attend over the same tokens.
        """
        self._check_can_follow()
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self.layers:
            mixed = layer.weights.mean(1) + np.eye(self.tokens)
            product = mixed / mixed.sum(-1, keepdims=True) @ product
        return product

    def where_it_looked(self) -> Any:
        """Return the share of each token in the output by rollout: (batch, tokens), rows sum to 1."""
        return self._read(self.rollout(), None if self.pooling is None else self.pooling.weights)

    def relevance(self) -> Any:
        """Return how much each token adds to the target score through attention: (batch, tokens), never negative.

        In each layer, the positive part of gradient x attention weights what attention moves between tokens:
        R = R + (mean over heads of (attention * gradient)+) R. Chefer, Gur and Wolf 2021, "Generic
        attention-model explainability". What a token keeps through the residual connections is left out. Raises
        ValueError if the gradients were not recorded or the layers do not attend over the same tokens.
        """
        self._check_can_follow()
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self.layers:
            product = product + np.maximum(layer.gradient_x_attention, 0).mean(1) @ product
        moved = product - np.eye(self.tokens) if self.layers else product
        return self._read(moved, None if self.pooling is None else np.maximum(self.pooling.gradient_x_attention, 0))

    def _read(self, product: Any, pooling: Any) -> Any:
        if pooling is not None:  # (batch, heads, 1, tokens)
            return (pooling.mean(1) @ product)[:, 0]
        return product.mean(1) if self.read_from == "mean" else product[:, self.read_from]

    def _check_can_follow(self) -> None:
        if not self.can_follow:
            shapes = ", ".join("{} {} x {}".format(layer.name, *layer.weights.shape[2:]) for layer in self.every_layer)
            raise ValueError(
                f"attention: the layers have queries x keys {shapes}, but rollout and relevance need {self.tokens} x "
                f"{self.tokens} in all; look at the layers one by one"
            )


def softmax(scores: Any) -> Any:
    """Return the probabilities of scores (..., classes)."""
    return np.exp(scores - np.logaddexp.reduce(scores, -1, keepdims=True))

"""tinygrad on the CPU (it needs clang): the whole step in a TinyJit, as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from tinygrad import Tensor, TinyJit, nn
from tinygrad.helpers import Context

from bench.problem import LABELS, POOL, Problem

Weights = dict[str, Tensor]


def scores_of(w: Weights, patches: Tensor, problem: Problem) -> Tensor:
    """AttentionClassifier's forward, from the patches (batch, tokens, pixels) on."""
    batch, tokens, _ = patches.shape
    x = linear(w, "embed.", patches) + w["position"]
    for layer in range(problem.layers):
        block = f"blocks.{layer}."
        qkv = linear(w, block + "attention.in_proj_", norm(w, block + "norm1", x))
        q, k, v = qkv.reshape(batch, tokens, 3, problem.heads, -1).permute(2, 0, 3, 1, 4).chunk(3)
        mixed = q[0].scaled_dot_product_attention(k[0], v[0])  # (batch, heads, tokens, head_dim)
        x = x + linear(w, block + "attention.out_proj.", mixed.transpose(1, 2).reshape(x.shape))
        hidden = linear(w, block + "mlp.fc1.", norm(w, block + "norm2", x)).gelu()  # the tanh form
        x = x + linear(w, block + "mlp.fc2.", hidden)
    return linear(w, "head.", norm(w, "norm", x).mean(-2))


def linear(w: Weights, prefix: str, x: Tensor) -> Tensor:
    return x.linear(w[f"{prefix}weight"].T, w[f"{prefix}bias"])


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return x.layernorm() * w[f"{name}.weight"] + w[f"{name}.bias"]


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step; it waits for the loss. The patches are cut beforehand: cutting is not timed."""
    w = {name: Tensor(weight).contiguous().realize().is_param_() for name, weight in problem.weights.items()}
    optimizer = nn.optim.Adam(list(w.values()), lr=1e-3)
    images = problem.images.reshape(*problem.images.shape[:2], -1)[..., problem.patch_index]
    batches = [Tensor(x).contiguous().realize() for x in images]
    answers = [Tensor(y.astype("int32")).contiguous().realize() for y in problem.labels]
    numbers = count()

    @TinyJit
    def update(patches: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = scores_of(w, patches, problem).sparse_categorical_crossentropy(labels)
        loss.backward()
        return loss.realize(*optimizer.schedule_step())

    def step() -> float:
        number = next(numbers)
        with Context(TRAINING=1):
            return update(batches[number % POOL], answers[number % LABELS]).item()

    return step

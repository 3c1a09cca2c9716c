"""JAX: the whole step, Adam included, compiled by jax.jit; parameters and averages are donated."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp

from bench.problem import Problem

Weights = dict[str, jax.Array]


def scores_of(w: Weights, images: jax.Array, problem: Problem) -> jax.Array:
    """AttentionClassifier's forward."""
    batch = len(images)
    x = images.reshape(batch, -1)[:, problem.patch_index] @ w["embed.weight"].T + w["embed.bias"] + w["position"]
    for layer in range(problem.layers):
        block = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in w.items()}
        qkv = linear(block, "attention.in_proj_", norm(block, "norm1", x))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, x.shape[1], 3, problem.heads, -1), (2, 3), (0, 2))
        weights = jax.nn.softmax(q @ k.mT / math.sqrt(q.shape[-1]))  # (batch, heads, tokens, tokens)
        x = x + linear(block, "attention.out_proj.", (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape))
        hidden = jax.nn.gelu(linear(block, "mlp.fc1.", norm(block, "norm2", x)), approximate=True)
        x = x + linear(block, "mlp.fc2.", hidden)
    return linear(w, "head.", norm(w, "norm", x).mean(-2))


def linear(w: Weights, prefix: str, x: jax.Array) -> jax.Array:
    return x @ w[f"{prefix}weight"].T + w[f"{prefix}bias"]


def norm(w: Weights, name: str, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step; it waits for the result, which JAX alone would not."""

    def loss_of(w: Weights, images: jax.Array, labels: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(scores_of(w, images, problem))
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def update(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        (w, m, v, t), (b1, b2) = state, (0.9, 0.999)
        loss, g = jax.value_and_grad(loss_of)(w, images, labels)
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
        w = jax.tree.map(lambda w, m, v: w - 1e-3 * (m / (1 - b1**t)) / (jnp.sqrt(v / (1 - b2**t)) + 1e-8), w, m, v)
        return (w, m, v, t), loss

    jitted = jax.jit(update, donate_argnums=0)
    weights = {name: jnp.array(weight) for name, weight in problem.weights.items()}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = (weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.zeros(()))
    numbers = count()

    def step() -> jax.Array:
        nonlocal state
        state, loss = jax.block_until_ready(jitted(state, *problem.batch(next(numbers))))
        return loss

    return step

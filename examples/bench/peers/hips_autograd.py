"""HIPS autograd: NumPy code differentiated as it stands; Adam by hand, in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import autograd.numpy as np
from autograd import value_and_grad

from bench.problem import Problem

Weights = dict[str, np.ndarray]


def scores_of(w: Weights, images: np.ndarray, problem: Problem) -> np.ndarray:
    """AttentionClassifier's forward. Products are of matrices wherever they can be: autograd's rule for
    batched ones is slow."""
    batch, tokens = len(images), len(problem.patch_index)
    patches = images.reshape(batch, -1)[:, problem.patch_index]
    x = linear(w, "embed.", patches) + w["position"]
    for layer in range(problem.layers):
        block = f"blocks.{layer}."
        qkv = linear(w, block + "attention.in_proj_", norm(w, block + "norm1", x))
        qkv = np.transpose(qkv.reshape(batch, tokens, 3, problem.heads, -1), (2, 0, 3, 1, 4))
        q, k, v = qkv[0], qkv[1], qkv[2]  # (batch, heads, tokens, head_dim)
        weights = softmax(np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / math.sqrt(q.shape[-1])))
        mixed = np.transpose(np.matmul(weights, v), (0, 2, 1, 3)).reshape(x.shape)
        x = x + linear(w, block + "attention.out_proj.", mixed)
        hidden = gelu(linear(w, block + "mlp.fc1.", norm(w, block + "norm2", x)))
        x = x + linear(w, block + "mlp.fc2.", hidden)
    return linear(w, "head.", np.mean(norm(w, "norm", x), -2))


def linear(w: Weights, prefix: str, x: np.ndarray) -> np.ndarray:
    rows = np.dot(x.reshape(-1, x.shape[-1]), w[f"{prefix}weight"].T) + w[f"{prefix}bias"]
    return rows.reshape((*x.shape[:-1], -1))


def norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - np.mean(x, -1, keepdims=True)
    deviation = np.sqrt(np.mean(centred * centred, -1, keepdims=True) + 1e-5)
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - np.max(x, -1, keepdims=True))
    return e / np.sum(e, -1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step."""

    def loss_of(w: Weights, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores = scores_of(w, images, problem)
        shifted = scores - np.max(scores, -1, keepdims=True)
        log_p = shifted - np.log(np.sum(np.exp(shifted), -1, keepdims=True))
        return -np.mean(log_p[np.arange(len(labels)), labels])

    loss_and_gradient, w = value_and_grad(loss_of), {name: weight.copy() for name, weight in problem.weights.items()}
    m, v = ({name: np.zeros_like(weight) for name, weight in w.items()} for _ in range(2))
    numbers = count()

    def step() -> Any:
        number = next(numbers)
        loss, gradients = loss_and_gradient(w, *problem.batch(number))
        for name, g in gradients.items():
            adam(w[name], g, m[name], v[name], number + 1)
        return loss

    return step


def adam(w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int) -> None:
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    w -= 1e-3 / (1 - 0.9**t) * m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def chain(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """1,000 additions or products, forward and backward. options: operation."""
    add = options["operation"] == "add"

    def z_of(y: Any) -> Any:
        z = y
        for _ in range(1000):
            z = z + y if add else z * y
        return z

    both, y = value_and_grad(z_of), np.array(1.0001, np.float32)
    return lambda: both(y)

"""The article's attention classifier with nothing but tensors and primitive operations.

    python examples/from_scratch.py            # 10 epochs, as the article; --epochs 1 for a look

No layers, no losses, no optimizer from the library: embedding is indexing; attention, softmax, cross-entropy and Adam
stand below line by line, each with its formula. It is the model of `examples/mnist.py --model article` and reaches the
same accuracy; docs/article.md says what had to be repaired in the article. Without MNIST it trains on scikit-learn's
digits: 20 epochs, with a larger learning rate for their few steps.
"""

from __future__ import annotations

from parts import run_script

import numpy as np

import tinyattn as ta
from tinyattn import data, train
from tinyattn.train.parser import integer, whole_number

LEVELS, PIXELS, DIM, CLASSES = 10, 784, 64, 10
BATCH, BETA1, BETA2, EPS = 64, 0.9, 0.999, 1e-8


def softmax(x: ta.Tensor, dim: int) -> ta.Tensor:
    """p_i = exp(x_i) / sum_j exp(x_j); subtracting the largest x changes nothing but overflow"""
    e = (x - x.amax(dim, keepdim=True).detach()).exp()
    return e / e.sum(dim, keepdim=True)


def cross_entropy(scores: ta.Tensor, labels: np.ndarray) -> ta.Tensor:
    """L = -mean_b log p_b[label_b], with log p = x - log sum_j exp(x_j)"""
    shifted = scores - scores.amax(1, keepdim=True).detach()  # (batch, classes)
    log_p = shifted - shifted.exp().sum(1, keepdim=True).log()
    return -log_p[np.arange(len(labels)), labels].mean()


def parameters() -> dict[str, ta.Tensor]:
    """Small random numbers for embeddings, 1 / sqrt(n) for weights that are multiplied by n inputs."""
    return {
        "level": (ta.randn(LEVELS, DIM) * 0.02).requires_grad_(),  # a vector for each grey level
        "place": (ta.randn(PIXELS, DIM) * 0.02).requires_grad_(),  # and for each pixel's place
        "score": (ta.randn(DIM) / DIM**0.5).requires_grad_(),
        "score_bias": ta.zeros(1, requires_grad=True),
        "scale": ta.ones(DIM, requires_grad=True),
        "shift": ta.zeros(DIM, requires_grad=True),
        "classes": (ta.randn(DIM, CLASSES) / DIM**0.5).requires_grad_(),
        "classes_bias": ta.zeros(CLASSES, requires_grad=True),
    }


def attend_plainly(p: dict[str, ta.Tensor], levels: np.ndarray) -> ta.Tensor:
    """y = sum_i a_i token_i, with a = softmax(tanh(token . w + b)): (batch, pixels) levels -> (batch, dim)"""
    tokens = p["level"][levels] + p["place"]  # (batch, pixels, dim)
    a = softmax((tokens @ p["score"] + p["score_bias"]).tanh(), 1)  # (batch, pixels)
    return (a.reshape(-1, PIXELS, 1) * tokens).sum(1)


def attend(p: dict[str, ta.Tensor], levels: np.ndarray) -> ta.Tensor:
    """The same, some four times faster: only 10 x 784 tokens exist, so score each once and look the scores up"""
    tokens = p["level"].reshape(LEVELS, 1, DIM) + p["place"]  # (levels, pixels, dim)
    table = (tokens @ p["score"] + p["score_bias"]).tanh()  # (levels, pixels)
    a = softmax(table[levels, np.arange(PIXELS)], 1)  # (batch, pixels)
    on_level = (a.reshape(-1, 1, PIXELS) @ ta.eye(LEVELS)[levels]).reshape(-1, LEVELS)  # sum of a_i with l_i = level
    return on_level @ p["level"] + a @ p["place"]  # sum_i a_i level[l_i] + sum_i a_i place[i]


def forward(p: dict[str, ta.Tensor], images: np.ndarray) -> ta.Tensor:
    """(batch, 28, 28) bytes -> (batch, classes) scores"""
    # Quantise: grey 0..255 to the nearest of ten levels.
    levels = (images.reshape(-1, PIXELS) * ((LEVELS - 1) / 255) + 0.5).astype(np.int64)  # (batch, pixels)
    y = attend(p, levels)  # (batch, dim); try attend_plainly
    # Normalise: the mean of 784 tokens is nearly the same for every image; enlarge what differs.
    y = y - y.mean(1, keepdim=True)
    y = y / ((y * y).mean(1, keepdim=True) + 1e-5).sqrt() * p["scale"] + p["shift"]
    return y @ p["classes"] + p["classes_bias"]


def adam(p: dict[str, ta.Tensor], m: dict[str, ta.Tensor], v: dict[str, ta.Tensor], t: int, lr: float) -> None:
    """Step t of Adam (Kingma and Ba 2015)"""
    with ta.no_grad():
        for name, w in p.items():
            g = w.grad
            m[name] = BETA1 * m[name] + (1 - BETA1) * g  # m = b1 m + (1 - b1) g
            v[name] = BETA2 * v[name] + (1 - BETA2) * g * g  # v = b2 v + (1 - b2) g^2
            m_hat, v_hat = m[name] / (1 - BETA1**t), v[name] / (1 - BETA2**t)  # both started at 0
            w -= lr * m_hat / (v_hat.sqrt() + EPS)  # w = w - lr m^ / (sqrt(v^) + eps)
            w.grad = None


def main() -> None:
    parser = train.Parser(description=__doc__)
    parser.add_argument("--epochs", type=whole_number, default=None, help="passes over the data (10; 20 on the digits)")
    parser.add_argument("--seed", type=integer, default=0)
    parser.add_argument("--data", choices=["auto", "mnist", "digits"], default="auto")
    args = parser.parse_args()
    ta.manual_seed(args.seed)
    digits = data.load(args.data, say=print)
    count = len(digits.train_images)
    lr, epochs = (1e-3, 10) if count > 10_000 else (1e-2, 20)
    p = parameters()
    (m, v), t = ({name: ta.zeros_like(w) for name, w in p.items()} for _ in range(2)), 0
    for epoch in range(1, (args.epochs or epochs) + 1):
        order, losses = ta.randperm(count).numpy(), 0.0
        for start in range(0, count, BATCH):
            chosen = order[start : start + BATCH]
            loss = cross_entropy(forward(p, digits.train_images[chosen]), digits.train_labels[chosen])
            loss.backward()
            t += 1
            adam(p, m, v, t, lr)
            losses += loss.item() * len(chosen)
        with ta.no_grad():
            shares = np.array_split(digits.test_images, 20)
            predicted = np.concatenate([forward(p, images).argmax(1).numpy() for images in shares])
        accuracy = (predicted == digits.test_labels).mean()
        print(f"epoch {epoch:2d}: loss {losses / count:.4f}, {digits.name} test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    run_script(main)

"""The article's attention classifier with nothing but tensors and primitive operations.

    python examples/from_scratch.py            # 10 epochs, as the article; --epochs 1 for a look

No layers, no losses, no optimizer from the library: embedding is indexing, attention, softmax,
cross-entropy and Adam stand below line by line, each with its formula. It is the same model as
`examples/mnist.py --model article` and reaches the same accuracy; docs/article.md says what had to
be repaired in the article. Without MNIST it trains on scikit-learn's digits.
"""

from __future__ import annotations

import sys

import numpy as np

import tinyattn as ta
from tinyattn import data, train
from tinyattn.train.arguments import whole_number

LEVELS, PIXELS, DIM, CLASSES = 10, 784, 64, 10
BATCH, LR, BETA1, BETA2, EPS = 64, 1e-3, 0.9, 0.999, 1e-8


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
    """Small random numbers for what is looked up, 1 / sqrt(n) for what is multiplied by n inputs."""
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


def forward(p: dict[str, ta.Tensor], images: np.ndarray) -> ta.Tensor:
    """(batch, 28, 28) bytes -> (batch, classes) scores"""
    # Quantise: grey 0..255 to the nearest of ten levels.
    levels = (images.reshape(-1, PIXELS) * ((LEVELS - 1) / 255) + 0.5).astype(np.int64)  # (batch, pixels)
    # Embed: the token of pixel i is level[l_i] + place[i]. There are only 10 x 784 of them, so score
    # each once, s = tanh(token . w + b), and look the scores of a batch up.
    tokens = p["level"].reshape(LEVELS, 1, DIM) + p["place"]  # (levels, pixels, dim)
    table = (tokens @ p["score"] + p["score_bias"]).tanh()  # (levels, pixels)
    # Attend: a = softmax over the pixels, y = sum_i a_i token_i.
    a = softmax(table[levels, np.arange(PIXELS)], 1)  # (batch, pixels)
    on_level = (a.reshape(-1, 1, PIXELS) @ ta.eye(LEVELS)[levels]).reshape(-1, LEVELS)  # sum of a_i with l_i = level
    y = on_level @ p["level"] + a @ p["place"]  # (batch, dim)
    # Normalise: the mean of 784 tokens is nearly the same for every image; enlarge what differs.
    y = y - y.mean(1, keepdim=True)
    y = y / ((y * y).mean(1, keepdim=True) + 1e-5).sqrt() * p["scale"] + p["shift"]
    return y @ p["classes"] + p["classes_bias"]


def adam(p: dict[str, ta.Tensor], m: dict[str, ta.Tensor], v: dict[str, ta.Tensor], t: int) -> None:
    """Step t of Adam (Kingma and Ba 2015)"""
    with ta.no_grad():
        for name, w in p.items():
            g = w.grad
            m[name] = BETA1 * m[name] + (1 - BETA1) * g  # m = b1 m + (1 - b1) g
            v[name] = BETA2 * v[name] + (1 - BETA2) * g * g  # v = b2 v + (1 - b2) g^2
            m_hat, v_hat = m[name] / (1 - BETA1**t), v[name] / (1 - BETA2**t)  # both started at 0
            w -= LR * m_hat / (v_hat.sqrt() + EPS)  # w = w - lr m^ / (sqrt(v^) + eps)
            w.grad = None


def main() -> int:
    parser = train.Parser(prog="from_scratch.py", description=__doc__)
    parser.add_argument("--epochs", type=whole_number, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", choices=["auto", "mnist", "digits"], default="auto")
    args = parser.parse_args()
    ta.manual_seed(args.seed)
    digits = data.load(args.data, say=print)
    p = parameters()
    m, v = ({name: ta.zeros_like(w) for name, w in p.items()} for _ in range(2))
    t, count = 0, len(digits.train_images)
    for epoch in range(1, args.epochs + 1):
        order = ta.randperm(count).numpy()
        for start in range(0, count, BATCH):
            chosen = order[start : start + BATCH]
            loss = cross_entropy(forward(p, digits.train_images[chosen]), digits.train_labels[chosen])
            loss.backward()
            t += 1
            adam(p, m, v, t)
        with ta.no_grad():
            parts = np.array_split(np.arange(len(digits.test_images)), 20)
            predicted = np.concatenate([forward(p, digits.test_images[part]).argmax(1).numpy() for part in parts])
        accuracy = (predicted == digits.test_labels).mean()
        print(f"epoch {epoch:2d}: loss {loss.item():.4f}, {digits.name} test accuracy {accuracy:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(train.exit_code(main, "from_scratch.py"))

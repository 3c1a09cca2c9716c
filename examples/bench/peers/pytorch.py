"""PyTorch: eager, or compiled where it finds a C++ compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import cases, texts
from bench.peers.sizes import Sizes
from bench.problem import Problem
from bench.recipe import seconds_to_goals


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.out_proj = heads, nn.Linear(dim, dim)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))  # of query, key and value
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))  # (batch, heads, tokens, head_dim)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), SelfAttention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), MLP(dim, hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class AttentionPooling(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(torch.tanh(self.hidden(x)).squeeze(-1), -1)  # (batch, tokens)
        return (weights.unsqueeze(-2) @ x).squeeze(-2)


class Classifier(nn.Module):
    """AttentionClassifier, with the same names of the same weights."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        model, (tokens, pixels) = problem.model, problem.patch_index.shape
        dim, stem = len(problem.weights["norm.weight"]), model.get("stem_dim")
        self.padding, self.mean = model.get("patch_padding", 0), model.get("pooling", "mean") == "mean"
        self.register_buffer("patch_index", torch.from_numpy(problem.patch_index), persistent=False)
        self.embed = MLP(pixels, stem, dim) if stem else nn.Linear(pixels, dim)
        self.position = nn.Parameter(torch.empty(tokens, dim))
        self.blocks = nn.ModuleList(Block(dim, problem.heads, model["mlp_dim"]) for _ in range(problem.layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)
        self.pool = None if self.mean else AttentionPooling(dim)
        self.load_state_dict({name: torch.from_numpy(weight) for name, weight in problem.weights.items()})

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        if self.padding:
            images = F.pad(images, (self.padding,) * 4)
        x = self.embed(images.flatten(1)[:, self.patch_index]) + self.position  # (batch, tokens, dim)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(-2) if self.mean else self.pool(x))


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step. options: fused (the optimizer's); ranks (one of several processes); compiled (the model and the
    loss: a mode of torch.compile, or True); on a GPU precision (of float32 products)."""
    put = _settled(options)
    model = Classifier(problem).to(options["device"])
    model = nn.parallel.DistributedDataParallel(model) if options.get("ranks") else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=options.get("fused"))
    numbers, batch = count(), problem.batches(put)

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels)

    loss_of = _compiled(loss_of, options)

    def step() -> Tensor:
        loss = loss_of(*batch(next(numbers)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def text(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step of a model of texts. options: kind, sizes (see bench/texts.py); fused; compiled (see `train`)."""
    torch.set_num_threads(options["threads"])
    model = texts.make(torch, options["kind"], options["sizes"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=options.get("fused"))
    loss = _compiled(texts.loss(torch, model), options)
    data = texts.batches(torch, options["kind"], options["sizes"])
    return texts.step(torch, optimizer, loss, data, lambda step: step)


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not options.get("compiled"):
        return function
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise RuntimeError("torch.compile needs a C++ compiler, and there is none")
    return torch.compile(function, mode=None if options["compiled"] is True else options["compiled"])


def _settled(options: dict[str, Any]) -> Callable[[Any], Tensor]:
    """Have PyTorch take the settings; what puts an array where it is to be used."""
    if options["device"] != "cpu" and not torch.cuda.is_available():
        why = "sees no GPU" if torch.version.cuda else "is built for the CPU alone"
        raise RuntimeError(f"this PyTorch, {torch.__version__}, {why}")
    torch.set_num_threads(options["threads"])
    torch.set_float32_matmul_precision(options.get("precision", "highest"))
    return lambda array: torch.from_numpy(array).to(options["device"])


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    torch.cuda.synchronize(device)


def precision() -> str:
    """Of products of float32 matrices on a GPU."""
    return torch.get_float32_matmul_precision()


def infer(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """The scores of a batch."""
    torch.set_num_threads(options["threads"])
    model, images = Classifier(problem).eval(), torch.from_numpy(problem.images[0])

    def scores() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return scores


def accuracy(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """Training on MNIST until goals are reached: the seconds. options: fused; seed; goals; epochs; precision."""
    put = _settled(options)
    model = Classifier(problem).to(options["device"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=options.get("fused"))

    def step(images: Any, labels: Any, lr: float) -> None:
        optimizer.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(model(put(images)), put(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def classify(images: Any) -> Any:
        with torch.inference_mode():
            return model(put(images)).argmax(1).cpu().numpy()

    def wait() -> None:
        if options["device"] != "cpu":
            synchronize(options["device"])

    return lambda: [seconds_to_goals(step, classify, options, wait)]


def chain(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """1,000 additions or products of 0-d tensors, forward and backward. options: operation."""
    torch.set_num_threads(1)
    add, y = options["operation"] == "add", torch.tensor(1.0001, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        y.grad = None
        z = y
        for _ in range(1000):
            z = z + y if add else z * y
        z.backward()
        return z, y.grad

    return run


def operation(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """An operation at the model's sizes, forward and backward. options: operation; fused (Adam's)."""
    torch.set_num_threads(options["threads"])
    sizes, name = Sizes(), options["operation"]
    if name == "adam":
        return _adam(sizes, options.get("fused"))
    leaves = [torch.from_numpy(array).requires_grad_() for array in sizes.inputs(name).values()]
    seed, index = torch.from_numpy(sizes.seed(name)), torch.from_numpy(sizes.index(name))
    forward = {
        "linear": F.linear,
        "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "softmax": lambda x: F.softmax(x, -1),
        "attention": F.scaled_dot_product_attention,
        "cross_entropy": lambda x: F.cross_entropy(x, index),
        "embedding": lambda w: F.embedding(index, w),
        "dropout": lambda x: F.dropout(x, 0.1),
    }[name]

    def run() -> Any:
        out = forward(*leaves)
        gradients = torch.autograd.grad(out, leaves, seed)
        return None if name == "dropout" else (out, *gradients)  # random: nothing to compare

    return run


def _adam(sizes: Sizes, fused: bool | None) -> Callable[[], Any]:
    parameters = [torch.from_numpy(array).requires_grad_() for array in sizes.parameters()]
    for p, gradient in zip(parameters, sizes.gradients(), strict=True):
        p.grad = torch.from_numpy(gradient)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=fused)

    def run() -> list[Tensor]:
        optimizer.step()
        return parameters

    return run


def case(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """A case of the table of operations."""
    torch.set_num_threads(options["threads"])
    return cases.run(torch, F, torch.autograd.grad, options)

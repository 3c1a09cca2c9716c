"""tinyattn itself, as a user would write it."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from bench import cases, texts
from bench.peers.moving import moving  # noqa: F401 (a task)
from bench.peers.sizes import Sizes
from bench.problem import Problem
from bench.recipe import seconds_to_goals
from tinyattn import data, models, nn, optim
from tinyattn import train as train_tools


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step. options: workers; ranks (one of several processes); definitions (run what is fused by its
    definition); dtype; on a GPU precision (of float32 products); graph (the step compiled: as a list of NumPy calls, on
    a GPU as one CUDA graph)."""
    ta.set_float32_matmul_precision(options.get("precision", "highest"))
    model = _model(problem, options)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    numbers, batch = count(), problem.batches(_on(options["device"]))

    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        with ta.definitions() if options.get("definitions") else contextlib.nullcontext():
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    take = _graphed(step) if options.get("graph") else step
    return lambda: take(*batch(next(numbers)))


def infer(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """The scores of a batch. options: workers; graph (see `train`)."""
    model = _model(problem, options).eval()
    images = ta.from_numpy(problem.images[0])

    def scores(images: ta.Tensor) -> ta.Tensor:
        with ta.no_grad():
            return model(images)

    take = _graphed(scores) if options.get("graph") else scores
    return lambda: take(images)


def text(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """A training step of a model of texts. options: kind, sizes (see bench/texts.py); workers; graph (see `train`)."""
    model = texts.make(ta, options["kind"], options["sizes"])
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    several = options.get("workers", 1) > 1
    loss = texts.loss(ta, nn.DataParallel(model, options["workers"]) if several else model)
    data = texts.batches(ta, options["kind"], options["sizes"])
    return texts.step(ta, optimizer, loss, data, _graphed if options.get("graph") else lambda step: step)


def compiling(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """Seconds of the processor in four calls of a new compiled step: as it is, recorded, checked, by the program."""
    batch = problem.batches(ta.from_numpy)

    def run() -> list[list[float]]:
        model = _model(problem, options)
        optimizer, times = optim.Adam(model.parameters(), lr=1e-3), []

        @_graphed
        def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        for i in range(4):
            start = time.process_time()
            step(*batch(i))
            times.append(time.process_time() - start)
        return [times]

    return run


def _model(problem: Problem, options: dict[str, Any]) -> nn.Module:
    model = models.AttentionClassifier(**problem.model)
    model.load_state_dict({name: ta.from_numpy(weight) for name, weight in problem.weights.items()})
    model.to(options["device"], dtype=np.dtype(options.get("dtype", "float32")))
    if options.get("ranks"):
        return nn.parallel.DistributedDataParallel(model)
    workers = options.get("workers", 1)
    return nn.DataParallel(model, workers=workers) if workers > 1 else model


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    ta.cuda.synchronize(device)


def precision() -> str:
    """Of products of float32 matrices on a GPU."""
    return ta.get_float32_matmul_precision()


def _on(device: str) -> Callable[[np.ndarray], ta.Tensor]:
    return lambda array: ta.from_numpy(array).to(device)


class _Refuse(logging.Handler):
    """Has what would only be logged end the task: a step that is not compiled is not the one to time."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def _graphed(step: Callable[..., Any]) -> Callable[..., Any]:
    logging.getLogger("tinyattn").addHandler(_Refuse())
    return ta.compile(step)


def epoch(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """16 batches as examples/mnist.py trains on them. options: workers; whole (loader, shifts and metrics too)."""
    random, batch, batches = np.random.default_rng(0), problem.images.shape[1], 16
    images = random.integers(0, 256, (batches * batch, 28, 28), np.uint8)
    loader = data.DataLoader((images, random.integers(0, 10, len(images))), batch, shuffle=True)
    ready = list(loader)
    model = _model(problem, options)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = optim.LinearLR(optimizer, start_factor=1.0, total_iters=1)  # ends where it starts: steps stay alike

    def steps() -> None:
        for images, labels in ready:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def whole() -> None:
        loss_sum, hits, seen = 0.0, 0, 0
        progress = train_tools.Progress(loader, len(images), "", show=False)
        for inputs, labels in progress:
            scores = model(data.random_shift(inputs, 2))
            loss = F.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += len(labels)
            loss_sum += loss.item() * len(labels)
            hits += int((scores.array.argmax(1) == labels.array).sum())
            progress.update(len(labels), loss=loss_sum / seen, accuracy=hits / seen)

    return whole if options.get("whole") else steps


def accuracy(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """Training on MNIST until goals are reached: the seconds. options: workers; seed; goals; epochs; or as `train`."""
    ta.set_float32_matmul_precision(options.get("precision", "highest"))
    model, put = _model(problem, options), _on(options["device"])
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)

    def update(images: ta.Tensor, labels: ta.Tensor) -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    update = _graphed(update) if options.get("graph") else update

    def step(images: Any, labels: Any, lr: float) -> None:
        optimizer.param_groups[0]["lr"] = lr
        update(put(images), put(labels))

    def classify(images: Any) -> Any:
        with ta.no_grad():
            return model(put(images)).cpu().numpy().argmax(1)

    def wait() -> None:
        if options["device"] != "cpu":
            synchronize(options["device"])

    return lambda: [seconds_to_goals(step, classify, options, wait)]


def chain(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """A chain of additions or products of 0-d tensors, forward and backward. options: operation; length; collector."""
    length, add = options.get("length", 1000), options["operation"] == "add"
    (gc.enable if options.get("collector", True) else gc.disable)()
    y = ta.tensor(1.0001, requires_grad=True)

    def run() -> tuple[ta.Tensor, ta.Tensor]:
        y.grad = None
        z = y
        for _ in range(length):
            z = z + y if add else z * y
        z.backward()
        return z, y.grad

    return run


def operation(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """An operation at the model's sizes, forward and backward. options: operation."""
    sizes, name = Sizes(), options["operation"]
    if name.startswith("adam"):
        return _adam(sizes)
    inputs = {key: ta.tensor(array, requires_grad=True) for key, array in sizes.inputs(name).items()}
    seed, index = ta.tensor(sizes.seed(name)), ta.tensor(sizes.index(name))
    forward = {
        "linear": lambda x, w, b: F.linear(x, w, b),
        "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "softmax": lambda x: F.softmax(x, -1),
        "attention": F.scaled_dot_product_attention,
        "cross_entropy": lambda x: F.cross_entropy(x, index),
        "embedding": lambda w: F.embedding(index, w),
        "dropout": lambda x: F.dropout(x, 0.1),
    }[name]
    leaves = list(inputs.values())

    def run() -> Any:
        out = forward(*leaves)
        gradients = ta.grad(out, leaves, seed)
        return None if name == "dropout" else (out, *gradients)  # random: nothing to compare

    return run


def _adam(sizes: Sizes) -> Callable[[], Any]:
    parameters = [ta.tensor(array, requires_grad=True) for array in sizes.parameters()]
    for p, gradient in zip(parameters, sizes.gradients(), strict=True):
        p.grad = ta.tensor(gradient)
    optimizer = optim.Adam(parameters, lr=1e-3)

    def run() -> list[ta.Tensor]:
        optimizer.step()
        return parameters

    return run


def case(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """A case of the table of operations."""
    return cases.run(ta, F, ta.grad, options)

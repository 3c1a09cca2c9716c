"""What a training step must take on a GPU, by computation: python tests/step_model.py, which writes docs/performance.md.

CuPy on the processor (tests/fakecuda) captures the step of examples/benchmark.py, so nothing is computed, and each launch
tells its kernel and its arguments. A launch takes the time until the next one can start, and then as long as the slower of
its memory traffic and its products. Bytes are those of the arrays it is given, each once; of CuPy's kernels, of the
elements that their strides reach. Arithmetic is counted for products alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cuda_shim
import gpus
import numpy as np

PAGE = Path(__file__).parents[1] / "docs/performance.md"
BATCHES = 64, 1024


class GPU(NamedTuple):
    """What the manufacturer says, but for `launch`, an estimate: seconds from a node of a graph to the one after it."""

    name: str
    bandwidth: float  # bytes a second
    flops: float  # in float32, without tensor cores
    launch: float


GPUS = GPU("H100 SXM", 3.35e12, 67e12, 2e-6), GPU("RTX 4060 Laptop", 256e9, 11.6e12, 2e-6)
MEASURED: dict[tuple[str, int], float] = {}  # seconds of the whole step, by GPU and batch
SHARE = 0.8  # of bandwidth and of flops, that a good kernel reaches


class Launch(NamedTuple):
    """One launch of the step."""

    kind: str
    bytes: int
    flops: int

    def seconds(self, gpu: GPU) -> float:
        return gpu.launch + max(self.bytes / gpu.bandwidth, self.flops / gpu.flops) / SHARE


class Product(ctypes.Structure):
    """struct Product of fakecuda/runtime.h."""

    _fields_ = [
        *((name, ctypes.c_int) for name in
          "transposed_a transposed_b rows columns inner type lda ldb ldc count".split()),
        *((name, ctypes.c_longlong) for name in ("step_a", "step_b", "step_c")),
    ]  # fmt: skip


def launches(batch: int) -> list[Launch]:
    """Those of a step of AttentionClassifier's defaults with Adam."""
    gpus.install()
    import cupy
    from fakecuda import blocks, hooks

    import tinyattn as ta
    import tinyattn.nn.functional as F
    from tinyattn import models, optim
    from tinyattn.backends.cuda import launch

    own = {name: source for source in launch.sources() for name in cuda_shim.kernels(launch.text(source))}
    found: list[Launch] = []
    model = models.AttentionClassifier().to("cuda")
    optimizer = optim.Adam(model.parameters())

    def step(images: Any, labels: Any) -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def note(kernel: str, arguments: list[bytes]) -> None:
        if kernel == "product":
            found.append(_product(Product.from_buffer_copy(arguments[0])))
        elif kernel in own or kernel == "fill":
            found.append(Launch(own.get(kernel, "fills"), sum(map(_whole_arrays, arguments)), 0))
        else:
            found.append(Launch("CuPy's kernels", sum(map(_elements, arguments)), 0))

    stream = cupy.cuda.Stream(non_blocking=True)
    with cupy.cuda.using_allocator(blocks.allocate), stream:
        for size in (1, batch):  # the first makes what a capture must find
            images = ta.zeros(size, 28, 28, device="cuda")
            labels = ta.zeros(size, dtype=ta.int64, device="cuda")
            if size == batch:
                stream.begin_capture()
            with hooks.observing(note):
                found.clear()
                step(images, labels)
        stream.end_capture()
    return found


def _whole_arrays(argument: bytes) -> int:
    """Bytes of the arrays that an argument of our kernels points to: a pointer, a number or a list of tensors."""
    from fakecuda import blocks

    words = np.frombuffer(argument, np.uint64).tolist() if len(argument) % 8 == 0 else []
    ends = ((word, blocks.at(word)) for word in {*words} - {0})
    return sum(end[1] - word for word, end in ends if end)


def _elements(argument: bytes) -> int:
    """Bytes of the elements that a CArray of CuPy reaches: pointer, size, shape, strides. Of another argument, 0."""
    from fakecuda import blocks

    if len(argument) % 16 or not argument:
        return 0
    pointer, _, *rest = np.frombuffer(argument, np.int64).tolist()
    if not blocks.at(pointer):
        return 0
    shape, strides = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    reached = [(n, abs(s)) for n, s in zip(shape, strides, strict=True) if s]
    return int(np.prod([n for n, _ in reached])) * min((s for _, s in reached), default=8)


def _product(p: Product) -> Launch:
    size = {0: 4, 1: 8, 2: 2}[p.type]
    factors = (p.rows * p.inner, p.step_a), (p.inner * p.columns, p.step_b), (p.rows * p.columns, p.step_c)
    moved = sum(n * (p.count if step else 1) for n, step in factors) * size
    return Launch("products", moved, 2 * p.rows * p.inner * p.columns * p.count)


def table() -> Iterator[str]:
    """Lines of the table, in Markdown. Places for what has not been measured stay empty."""
    for batch in BATCHES:
        found = launches(batch)
        yield f"**Computed: microseconds of a step at batch {batch}**\n"
        heads = "".join(f" {gpu.name}, computed | measured |" for gpu in GPUS)
        yield f"| launches of | number | MB | GFLOP |{heads}"
        yield f"| --- |{' ---: |' * (3 + 2 * len(GPUS))}"
        groups = {kind: [x for x in found if x.kind == kind] for kind in {x.kind for x in found}}
        slowest = sorted(groups, key=lambda kind: -sum(x.seconds(GPUS[0]) for x in groups[kind]))
        for kind, mine in [*((kind, groups[kind]) for kind in slowest), ("the step", found)]:
            cells = [kind, str(len(mine)), f"{sum(x.bytes for x in mine) / 1e6:,.1f}"]
            cells += [f"{sum(x.flops for x in mine) / 1e9:.1f}" if any(x.flops for x in mine) else ""]
            for gpu in GPUS:
                measured = MEASURED.get((gpu.name, batch)) if mine is found else None
                cells += [f"{1e6 * sum(x.seconds(gpu) for x in mine):,.0f}"]
                cells += [f"{1e6 * measured:,.0f}" if measured else ""]
            yield f"| {' | '.join(cells)} |"
        yield ""


if __name__ == "__main__":
    from mutation import put_between

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(put_between(text, "step-model", "\n".join(table()).rstrip()), encoding="utf-8")

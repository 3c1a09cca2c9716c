"""How exact sums are, beside PyTorch and NumPy: python tests/sums_table.py, which writes docs/correctness.md.

An error is |found - exact| in units of the last place of the exact result (of the numbers, where `std` is 0). The exact
values are sums in np.longdouble, pairwise. Each cell is the worst of tenths, and of normal numbers around 10^4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mutation import write_docs

import tinyattn as ta

LENGTHS = (2**10, 2**18, 2**26)  # elements
SHAPES: dict[str, Callable[[int], tuple[tuple[int, ...], int]]] = {
    "(n,), axis 0": lambda n: ((n,), 0),
    "(n, 2), axis 0": lambda n: ((n // 2, 2), 0),
    "(2, n, 2), axis 1": lambda n: ((2, n // 4, 2), 1),
}
KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "tenths": lambda rng, shape: np.full(shape, 0.1),
    "normal + 10^4": lambda rng, shape: rng.standard_normal(shape) + 1e4,
}
NAMES = ("sum", "std", "cumsum")


def found_by(library: str, name: str, x: Any, axis: int) -> Any:
    """The result of one library."""
    if library == "NumPy":
        return getattr(x, name)(axis, **({"ddof": 1} if name == "std" else {}))
    tensor = ta.tensor(x) if library == "tinyattn" else torch.from_numpy(x)
    return getattr(tensor, name)(axis).numpy()


def exact(name: str, x: Any, axis: int) -> tuple[Any, Any]:
    """The exact result, and the size in whose last places errors are counted."""
    if name == "cumsum":
        wide = np.cumsum(x, axis, np.longdouble)
        return wide, wide  # all numbers are positive
    wide = np.ascontiguousarray(np.moveaxis(x, axis, -1), np.longdouble)  # NumPy adds pairwise along its last axis
    sums, n = wide.sum(-1), wide.shape[-1]
    if name != "std":
        return sums, sums
    wide -= (sums / n)[..., None]
    out = np.sqrt(np.square(wide, out=wide).sum(-1) / (n - 1))
    return out, np.where(out < 1e-15, sums / n, out)  # of equal numbers, their own last place


def rows() -> Iterator[str]:
    """Lines of the table, in Markdown."""
    libraries = ("tinyattn", "PyTorch", "NumPy")
    heads = [f"{library}, 2^{n.bit_length() - 1}" for library in libraries for n in LENGTHS]
    yield f"| dtype | function | shape | {' | '.join(heads)} |"
    yield f"| --- | --- | --- | {' | '.join(['---:'] * len(heads))} |"
    for dtype in ("float32", "float64"):
        for name in NAMES:
            for title, shaped in SHAPES.items():
                worst: dict[tuple[str, int], float] = {}
                for n in LENGTHS:
                    shape, axis = shaped(n)
                    if name == "cumsum" and n > 2**22:
                        continue  # the exact result would take gigabytes
                    for kind in KINDS.values():
                        x = kind(np.random.default_rng(0), shape).astype(dtype)
                        want, size = exact(name, x, axis)
                        for library in libraries:
                            error = np.max(np.abs(found_by(library, name, x, axis) - want) / size)
                            worst[library, n] = max(worst.get((library, n), 0.0), float(error) / np.finfo(dtype).eps)
                found = [worst.get((library, n)) for library in libraries for n in LENGTHS]
                cells = ["" if error is None else f"{error:.2g}" for error in found]
                yield f"| {dtype} | `{name}` | {title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = []
    for line in rows():
        print(line, flush=True)
        table.append(line)
    write_docs({"sums": "\n".join(table)})

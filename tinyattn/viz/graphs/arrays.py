"""What a picture keeps of an array: all numbers of a small one, else a heat map and statistics."""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Any

import numpy as np

from tinyattn.backends import Placed
from tinyattn.tensors import Tensor

EXACT = 128  # elements of an array that is kept as numbers
CELLS = 48 * 48  # of a heat map, over all its frames
FRAMES = 4  # matrices shown of an array with more than two axes
NOT_A_NUMBER = 255  # a cell with NaN or infinity; others go from 0 (low) to 254 (high)


class Gallery:
    """What a picture shows of its arrays. Equal arrays share an entry; no array is kept."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._places: dict[Any, int] = {}

    def add(self, x: Any) -> int:
        """Add an array or Tensor; return its index in `entries`."""
        array = host_array(x)
        content = hashlib.blake2b(array.tobytes(), digest_size=12).digest()
        key = (array.shape, array.dtype.str, content)
        if key not in self._places:
            self._places[key] = len(self.entries)
            self.entries.append(look_at(array))
        return self._places[key]

    def shrunk(self, cells: int) -> list[dict[str, Any]]:
        """Return the entries for JSON, with heat maps coarse enough to have at most `cells` together."""
        limit = CELLS
        maps = [entry["cells"] for entry in self.entries if "cells" in entry]
        while limit > 16 and sum(min(m.size, limit) for m in maps) > cells:
            limit //= 2
        return [_encoded(entry, limit) for entry in self.entries]


def host_array(x: Any) -> Any:
    """Return the NumPy array of a Tensor, of a GPU's array, or of a sparse gradient (Placed)."""
    x = x.array if isinstance(x, Tensor) else x
    x = x.dense() if isinstance(x, Placed) else x
    return x.get() if hasattr(x, "get") else np.asarray(x)


def look_at(array: Any) -> dict[str, Any]:
    """Return shape, dtype, statistics, and `values` of a small array, else `cells` (frames, rows, columns)."""
    numbers = array.astype(np.float64)
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), **statistics(numbers)}
    if array.size <= EXACT:
        return entry | {"values": [_number(v) for v in array.reshape(-1)]}
    frames = numbers.reshape(-1, *numbers.shape[-2:]) if numbers.ndim > 1 else numbers.reshape(1, 1, -1)
    side = math.isqrt(array.shape[-1])
    if frames.shape[1] <= FRAMES and side >= 16 and side**2 == array.shape[-1]:  # flattened images
        entry["square"], frames = side, frames.reshape(-1, side, side)
    entry["frames"] = len(frames)
    frames = frames[:FRAMES]
    side = math.isqrt(CELLS // len(frames))
    cells = _averaged(_averaged(frames, 1, side), 2, max(side, CELLS // len(frames) // min(frames.shape[1], side)))
    entry |= _quantised(cells)
    return entry


def statistics(numbers: Any) -> dict[str, Any]:
    """Return min, mean, max, std and norm of the finite elements, and how many are zero or not finite."""
    finite = np.isfinite(numbers)
    kept = numbers if finite.all() else numbers[finite]
    found: dict[str, Any] = {"bad": int(numbers.size - kept.size), "zeros": int((kept == 0).sum())}
    if kept.size:
        with np.errstate(over="ignore", invalid="ignore"):
            found |= {name: _short(getattr(kept, name)()) for name in ("min", "mean", "max", "std")}
            found["norm"] = _short(np.sqrt((kept * kept).sum()))
    return found


def _number(value: Any) -> Any:
    """Return a JSON number that reads back exactly; text for NaN and infinity, which JSON lacks."""
    if value.dtype.kind != "f":
        return value.item()
    return float(str(value)) if np.isfinite(value) else str(value)


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _averaged(frames: Any, axis: int, most: int) -> Any:
    """Reduce `axis` to at most `most` cells, each the mean of an equal share."""
    n = frames.shape[axis]
    if n <= most:
        return frames
    starts = np.arange(most) * n // most
    sizes = np.diff(np.append(starts, n)).reshape([-1 if i == axis else 1 for i in range(3)])
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add.reduceat(frames, starts, axis) / sizes


def _quantised(cells: Any) -> dict[str, Any]:
    finite = np.isfinite(cells)
    low, high = (float(cells[finite].min()), float(cells[finite].max())) if finite.any() else (0.0, 0.0)
    scale = 254 / (high - low) if math.isfinite(high - low) and high > low else 0.0
    codes = np.where(finite, np.rint((np.where(finite, cells, low) - low) * scale), NOT_A_NUMBER).astype(np.uint8)
    return {"low": _short(low), "high": _short(high), "cells": codes}


def _encoded(entry: dict[str, Any], limit: int) -> dict[str, Any]:
    if "cells" not in entry:
        return entry
    codes = entry["cells"]
    while codes.size > limit and max(codes.shape[1:]) > 1:
        axis = 1 if codes.shape[1] >= codes.shape[2] else 2
        codes = codes.take(range(0, codes.shape[axis], 2), axis)
    text = base64.b64encode(codes.tobytes()).decode("ascii")
    return {**entry, "cells": text, "grid": list(codes.shape)}

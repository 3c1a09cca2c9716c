"""Tensors and shapes as PyTorch prints them, for scripts written for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn.compat.graph import name_of

OPTIONS: dict[str, Any] = {}
PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}


def set_printoptions(
    precision: int | None = None, threshold: float | None = None, edgeitems: int | None = None,
    linewidth: int | None = None, profile: str | None = None, sci_mode: bool | None = None,
) -> None:  # fmt: skip
    """Set how many digits, elements, elements at each end and columns are printed. As torch.set_printoptions."""
    names = ("precision", "threshold", "edgeitems", "linewidth")
    if profile is not None:
        OPTIONS.update(zip(names, PROFILES[profile], strict=True))
    given = zip(names, (precision, threshold, edgeitems, linewidth), strict=True)
    OPTIONS.update({name: value for name, value in given if value is not None}, sci_mode=sci_mode)


set_printoptions(profile="default")


def _writer(array: Any) -> Callable[[Any], str]:
    """The function that writes one element, as wide as the widest of `array`."""
    if array.dtype.kind != "f":
        width = max((len(str(v)) for v in array.ravel().tolist()), default=0)
        return lambda v: str(v).rjust(width)
    seen = array[np.isfinite(array) & (array != 0)].astype(np.float64)
    low, high = (np.abs(seen).min(), np.abs(seen).max()) if seen.size else (1.0, 1.0)
    whole, digits = bool((seen == np.ceil(seen)).all()), OPTIONS["precision"]
    by_power = high / low > 1000 or high > 1e8 or (not whole and low < 1e-4)
    by_power = by_power if OPTIONS["sci_mode"] is None or not seen.size else OPTIONS["sci_mode"]

    def write(value: float) -> str:
        if by_power:
            return f"{value:.{digits}e}"
        return f"{value:.0f}" + "." * math.isfinite(value) if whole else f"{value:.{digits}f}"

    width = max((len(write(v)) for v in seen.tolist()), default=1)
    return lambda v: write(v).rjust(width)


def _ends(array: Any) -> Any:
    """The elements that are shown of a large array."""
    few = OPTIONS["edgeitems"]
    for axis, n in enumerate(array.shape):
        if n > 2 * few:
            array = np.take(array, [*range(few), *range(n - few, n)], axis)
    return array


def _nested(array: Any, write: Callable[[Any], str], indent: int, short: bool) -> str:
    if array.ndim == 0:
        return write(array.item())
    few = OPTIONS["edgeitems"]
    cut = short and len(array) > 2 * few
    parts = [array[i] for i in (*range(few), *range(len(array) - few, len(array)))] if cut else list(array)
    texts = [_nested(part, write, indent + 1, short) for part in parts]
    if array.ndim > 1:
        texts[few:few] = ["..."] * cut
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(texts) + "]"
    each = len(texts[0]) + 2 if texts else 2
    texts[few:few] = [" ..."] * cut
    row = max(1, (OPTIONS["linewidth"] - indent) // each)
    rows = [", ".join(texts[i : i + row]) for i in range(0, len(texts), row)]
    return "[" + (",\n" + " " * (indent + 1)).join(rows) + "]"


def text_of(tensor: ta.Tensor) -> str:
    """What PyTorch prints of this tensor."""
    array = tensor.detach().cpu().numpy()
    short = array.size > OPTIONS["threshold"]
    text = "tensor(" + (_nested(array, _writer(_ends(array) if short else array), 7, short) if array.size else "[]")
    usual = (ta.get_default_dtype(), *((ta.int64, np.dtype(bool)) if array.size else ()))
    suffixes = [f"device={str(tensor.device)!r}"] if tensor.device != "cpu" else []
    suffixes += [f"size={tuple(array.shape)}"] if not array.size and array.ndim != 1 else []
    suffixes += [f"dtype=torch.{tensor.dtype}"] if tensor.dtype not in usual else []
    if tensor.grad_fn is not None:
        suffixes.append(f"grad_fn=<{name_of(tensor.grad_fn)}>")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        wrap = last + len(suffix) + 2 > OPTIONS["linewidth"]
        text += (",\n" + " " * 7 if wrap else ", ") + suffix
        last = 7 + len(suffix) if wrap else last + len(suffix) + 2
    return text + ")"


def size_text(size: ta.Size) -> str:
    """What PyTorch prints of a shape."""
    return f"torch.Size({list(size)})"

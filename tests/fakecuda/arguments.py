"""What this project's kernels are given, held against what their sources declare: a kernel reads any array's bytes as
the numbers that it expects, in row order."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import cupy

from tinyattn.backends.cuda import launch

_DTYPES = {
    "Size": "int64", "int": "int32", "float": "float32", "double": "float64", "bool": "bool", "Bits": "uint64",
}  # fmt: skip


def install() -> None:
    """Have every launch checked."""
    launch.function = functools.cache(functools.partial(_checked, launch.function))


def _checked(function: Any, source: str, kernel: str, dtype: str) -> Any:
    compiled, wanted = function(source, kernel, dtype), declared(launch.text(source), kernel, dtype)

    def run(grid: Any, block: Any, args: Sequence[Any], **options: Any) -> None:
        check(kernel, wanted, args)
        compiled(grid, block, args, **options)

    return run


def declared(text: str, kernel: str, real: str) -> list[tuple[str, str | None]]:
    """The parameters of a kernel: each as it is written, and the dtype of the arrays that it takes, if it takes any."""
    found = re.search(rf"__global__ void[^;{{]*?\b{kernel}\s*\(([^)]*)\)", text)
    if found is None:
        raise ValueError(f"no kernel {kernel} is declared in its source")
    parts = [" ".join(part.split()) for part in found[1].split(",")]
    dtypes = _DTYPES | {"real": real}
    return [(part, dtypes[re.sub(r"const |\*.*", "", part)] if "*" in part else None) for part in parts]


def check(kernel: str, wanted: Sequence[tuple[str, str | None]], args: Sequence[Any]) -> None:
    """Raise TypeError for an array of another dtype, or in another order."""
    for (parameter, dtype), arg in zip(wanted, args, strict=True):
        if isinstance(arg, cupy.ndarray) and (arg.dtype != dtype or not arg.flags.c_contiguous):
            raise TypeError(
                f"{kernel}: {parameter} is {arg.dtype} {arg.shape} with strides {arg.strides}, not {dtype} in row order"
            )

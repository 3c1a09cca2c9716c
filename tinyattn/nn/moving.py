"""Moving a module's tensors to another device or dtype, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from tinyattn import backends
from tinyattn.dtypes import as_dtype
from tinyattn.nn.parameter import convert
from tinyattn.ops.creation import zeros_like
from tinyattn.ops.legacy import TENSOR_TYPES
from tinyattn.tensors import Tensor


class Movable:
    """The part of Module that moves its tensors."""

    children: Callable[[], Iterator[Any]]
    _tensors: Callable[[], Iterator[Tensor]]  # its own

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replace each tensor here and below by fn(tensor), in place. Subclasses with further tensors override it."""
        for child in self.children() if recurse else ():
            child._apply(fn)
        for tensor in self._tensors():
            convert(tensor, fn)
        return self

    def to(self, *target: Any, dtype: Any = None, device: Any = None, **without_effect: Any) -> Self:
        """Change the device, and the dtype of floating-point tensors, in place: to("cuda"), to(ta.float64).

        The Parameters remain the same objects, so an optimizer may be made before. non_blocking and memory_format are
        without effect. Raises TypeError for an integer dtype, ImportError or RuntimeError if no GPU can be used.
        """
        if wrong := without_effect.keys() - {"non_blocking", "memory_format"}:
            raise TypeError(f"{type(self).__name__}.to got {sorted(wrong)}; expected a device, a dtype or a tensor")
        for t in target:
            if isinstance(t, Tensor):
                dtype, device = t.dtype, t.device
            elif backends.is_device(t):
                device = t
            elif t is not None and not isinstance(t, bool):  # by position, non_blocking is a bool
                dtype = t
        backends.get(device)  # raises before anything is changed
        if dtype is not None and as_dtype(dtype).kind != "f":
            raise TypeError(
                f"{type(self).__name__}.to: dtype={dtype}; expected a floating-point dtype (ta.float32, ...)"
            )
        return self._apply(lambda t: t.to(device=device, dtype=dtype if t.dtype.kind == "f" else None))

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Give all tensors new memory on a device, which holds zeros. As torch.nn.Module.to_empty."""
        return self._apply(lambda t: zeros_like(t, device=device), recurse)

    def cpu(self) -> Self:
        """Move everything to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move everything to a GPU, by default the current one."""
        return self.to(backends.device("cuda" if device is None else device))

    def half(self) -> Self:
        """Convert floating-point tensors to float16."""
        return self.to(np.dtype(np.float16))

    def float(self) -> Self:
        """Convert floating-point tensors to float32."""
        return self.to(np.dtype(np.float32))

    def double(self) -> Self:
        """Convert floating-point tensors to float64."""
        return self.to(np.dtype(np.float64))

    def type(self, dst_type: Any) -> Self:
        """Convert floating-point tensors to a dtype, which may be a name such as "torch.FloatTensor"."""
        name = dst_type.rpartition(".")[2] if isinstance(dst_type, str) else getattr(dst_type, "__name__", None)
        return self.to(TENSOR_TYPES.get(name, dst_type))  # type: ignore[arg-type]

    def bfloat16(self) -> Self:
        """Raise NotImplementedError: NumPy has no bfloat16."""
        raise NotImplementedError("bfloat16 is not part of tinyattn; use half() for float16, or float()")

    def share_memory(self) -> Self:
        """Raise NotImplementedError: tensors belong to one process."""
        raise NotImplementedError("share_memory: tensors belong to one process; nn.DataParallel trains with threads")

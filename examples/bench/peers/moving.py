"""tinyattn's kernels that do little but move bytes, on arrays too large for any cache of the GPU.

Bytes moved: each argument read once, each result written once. What a kernel keeps for the way back is a result, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import backends
from tinyattn.ops.softmaxes import _softmax

WIDTH = 256  # of a row
TABLE = 4096  # rows of the table that the embedding gradient adds up
KERNELS = (
    "copy", "softmax", "softmax backward", "layer norm", "layer norm backward", "gelu", "gelu with slope",
    "cross-entropy", "cross-entropy backward", "dropout", "adam", "embedding gradient",
)  # fmt: skip
softmax_rule = _softmax.rules["x"]


def moving(problem: None, options: dict[str, Any]) -> Run:
    """A kernel of KERNELS. options: kernel; rows, of WIDTH float32 numbers each."""
    return Run(options["kernel"], options["rows"], options["device"])


class Run:
    """A kernel with its arguments, to be called; `bytes_moved` by a call."""

    def __init__(self, name: str, rows: int, device: str) -> None:
        ta.manual_seed(0)
        self._device, self._rows, self._library = device, rows, backends.get(device)
        with ta.no_grad():
            call, read, written = getattr(self, "_" + name.replace(" ", "_").replace("-", "_"))()
        self._call = call
        self.bytes_moved = sum(array.nbytes for array in (*read, *written))

    def __call__(self) -> None:
        with ta.no_grad():
            self._call()

    def _numbers(self, *shape: int) -> Any:
        return ta.randn(*(shape or (self._rows, WIDTH)), device=self._device).array

    def _classes(self, most: int) -> Any:
        return ta.randint(0, most, (self._rows,), device=self._device).array

    def _plain(self, kernel: Callable[..., Any], *arrays: Any) -> tuple[Any, list[Any], list[Any]]:
        """A kernel whose arguments are arrays and whose results are new ones."""
        results = kernel(*arrays)
        return lambda: kernel(*arrays), list(arrays), list(results) if isinstance(results, tuple) else [results]

    def _copy(self) -> Any:
        return self._plain(self._library.clone, self._numbers())

    def _softmax(self) -> Any:
        return self._plain(lambda x: self._library.softmax(x, -1), self._numbers())

    def _softmax_backward(self) -> Any:
        out = self._library.softmax(self._numbers(), -1)
        return self._plain(lambda g, out: softmax_rule(self._library, g, out, -1), self._numbers(), out)

    def _layer_norm(self) -> Any:
        arrays = [self._numbers(), self._numbers(WIDTH), self._numbers(WIDTH)]
        return self._plain(lambda *args: self._library.layer_norm(*args, (WIDTH,), 1e-5), *arrays)

    def _layer_norm_backward(self) -> Any:
        weight, all_three = self._numbers(WIDTH), (True, True, True)
        _, normal, rstd = self._library.layer_norm(self._numbers(), weight, weight, (WIDTH,), 1e-5)
        arrays = [self._numbers(), normal, rstd, weight]
        return self._plain(lambda *args: self._library.layer_norm_backward(*args, (WIDTH,), all_three), *arrays)

    def _gelu(self) -> Any:
        return self._plain(lambda x: self._library.gelu(x, "tanh"), self._numbers())

    def _gelu_with_slope(self) -> Any:
        return self._plain(lambda x: self._library.gelu_and_slope(x, "tanh"), self._numbers())

    def _cross_entropy(self) -> Any:
        return self._plain(self._library.cross_entropy, self._numbers(), self._classes(WIDTH))

    def _cross_entropy_backward(self) -> Any:
        arrays = [self._numbers(self._rows), self._numbers(), self._classes(WIDTH)]
        return self._plain(self._library.cross_entropy_backward, *arrays)

    def _dropout(self) -> Any:
        x = ta.Tensor._from(self._numbers())
        keep = ta.empty(*x.shape, dtype="bool", device=self._device).array  # a byte an element, written once
        return lambda: F.dropout(x, 0.1), [x.array], [F.dropout(x, 0.1).array, keep]

    def _adam(self) -> Any:
        param, grad = (ta.Tensor._from(self._numbers()) for _ in range(2))
        optimizer = ta.optim.Adam([param.requires_grad_()])
        param.grad = grad
        optimizer.step()
        changed = [param.array, *(optimizer.state[param][name].array for name in ("exp_avg", "exp_avg_sq"))]
        return optimizer.step, [grad.array, *changed], changed

    def _embedding_gradient(self) -> Any:
        arrays = [self._numbers(), self._classes(TABLE)]
        return self._plain(lambda g, index: self._library.embedding_gradient(g, index, TABLE), *arrays)

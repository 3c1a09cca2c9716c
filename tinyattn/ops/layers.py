"""Operations of layers: linear, linear with GELU, embedding."""

from __future__ import annotations

import functools
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops.activations import check_approximate
from tinyattn.ops.choices import where
from tinyattn.ops.copies import cast
from tinyattn.ops.indexing import check_indices
from tinyattn.ops.norms import vector_norm
from tinyattn.ops.order import bincount, unique
from tinyattn.ops.products import einsum
from tinyattn.ops.promotion import floating, present
from tinyattn.ops.shape import reshape, reshape_result


def _rows(xp: Any, x: Any) -> Any:
    """Flatten (..., n) to (rows, n), so that a batch is one matrix product."""
    if x.ndim == 2:
        return x
    rows = 1
    for n in x.shape[:-1]:
        rows *= n
    return xp.reshape(x, (rows, x.shape[-1]))


def _linear_definition(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    out = xp.matmul(x, weight.mT)  # (..., in) (in, out) -> (..., out)
    return out if bias is None else out + bias


@operation(
    traits="rows multiplies",
    definition=_linear_definition,
    promote=present,
    fresh=True,
    x=lambda xp, g, weight: xp.reshape(xp.matmul(_rows(xp, g), weight), (*g.shape[:-1], weight.shape[1])),
    weight=lambda xp, g, x: xp.matmul(_rows(xp, g).mT, _rows(xp, x)),
    bias=lambda xp, g: g,  # the backward pass sums it over the rows
)
def _linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    return xp.linear(x, weight, bias)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute input @ weight.T + bias: (..., in), (out, in), (out,) -> (..., out).

    A weight (in,) gives (...). Raises RuntimeError for shapes that do not fit. As torch.nn.functional.linear.

    Example:
        >>> ta.linear(ta.tensor([1.0, 2.0]), ta.tensor([[1.0, 0.0], [0.0, 10.0]]), ta.tensor([0.5, 0.5]))
        tensor([ 1.5, 20.5])
    """
    if weight.ndim == 1:
        bias = None if bias is None else bias.reshape(-1)
        out = linear(input, weight.reshape(1, -1), bias)
        return reshape_result(out, out.shape[:-1])
    if bias is not None and bias.ndim > 1:  # broadcast, as PyTorch does
        out = linear(input, weight)
        if bias.ndim <= out.ndim and all(b in (1, n) for b, n in zip(bias.shape[::-1], out.shape[::-1], strict=False)):
            return out + bias
    _check_linear("linear", input, weight, bias)
    return _linear(input, weight, bias)


def _check_linear(name: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.ndim != 2 or input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"{name}: input {tuple(input.shape)} and weight {tuple(weight.shape)} do not fit; the input's last "
            "size must be the weight's second (weight is (out_features, in_features))"
        )
    if bias is not None and bias.shape not in ((), (1,), (weight.shape[0],)):
        raise RuntimeError(f"{name}: bias {tuple(bias.shape)} for {weight.shape[0]} output features")


def _linear_gelu_backward(xp: Any, g: Any, x: Any, weight: Any, slope: Any, needed: Any) -> Any:
    h = _rows(xp, g * slope)  # the gradient at the GELU's input: (rows, out)
    dx = xp.reshape(xp.matmul(h, weight), x.shape) if needed[0] else None
    return dx, xp.matmul(h.mT, _rows(xp, x)) if needed[1] else None, h if needed[2] else None


@operation(
    traits="rows multiplies saturates",
    definition=lambda xp, x, weight, bias, *, approximate: xp.gelu(xp.linear(x, weight, bias), approximate),
    recorded=lambda xp, x, weight, bias, *, approximate: xp.linear_gelu_and_slope(x, weight, bias, approximate),
    extras=("slope",),
    promote=functools.partial(present, align=floating),
    fresh=True,
    backward=_linear_gelu_backward,
)
def _linear_gelu(xp: Any, x: Any, weight: Any, bias: Any, *, approximate: str) -> Any:
    return xp.linear_gelu(x, weight, bias, approximate)


def linear_gelu(input: Tensor, weight: Tensor, bias: Tensor | None = None, approximate: str = "none") -> Tensor:
    """Compute gelu(linear(input, weight, bias), approximate) as one operation, with fewer passes over memory.

    Example:
        >>> F.linear_gelu(ta.tensor([1.0, -2.0]), ta.eye(2))
        tensor([ 0.8413, -0.0455])
    """
    check_approximate(approximate)
    _check_linear("linear_gelu", input, weight, bias)
    return _linear_gelu(input, weight, bias, approximate=approximate)


def _embedding_definition(xp: Any, weight: Any, index: Any, *, padding_idx: int | None) -> Any:
    rows = weight[index]  # (*index, dim)
    return rows if padding_idx is None else xp.where((index == padding_idx)[..., None], rows.detach(), rows)


@operation(
    traits="moves chooses",
    definition=_embedding_definition,
    fresh=True,
    weight=lambda xp, g, index, weight_shape, padding_idx: xp.embedding_gradient(
        g, index, weight_shape[0], padding_idx
    ),
)
def _embedding(xp: Any, weight: Any, index: Any, *, padding_idx: int | None) -> Any:
    return xp.embedding(weight, index, padding_idx)


def _pull(xp: Any, g: Any, index: Any, padding_idx: int | None) -> Any:
    rows = g[index]  # the transpose of adding rows is reading them
    if padding_idx is None:
        return rows
    return xp.where(
        xp.reshape(index != padding_idx, (*index.shape, *(1 for _ in rows.shape[len(index.shape) :]))), rows, 0.0
    )


@operation(g=lambda xp, g, index, padding_idx: _pull(xp, g, index, padding_idx))
def _embedding_gradient(xp: Any, g: Any, index: Any, *, rows: int, padding_idx: int | None) -> Any:
    return xp.embedding_gradient(g, index, rows, padding_idx)


def embedding_gradient(g: Tensor, index: Any, rows: int, padding_idx: int | None = None) -> Tensor:
    """Add the vectors of `g` (*index, dim) to the rows they were read from: (rows, dim)."""
    return _embedding_gradient(g, index, rows=rows, padding_idx=padding_idx)


def embedding(
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look up the rows of `weight` (rows, dim) at the integers `input`: (*input, dim).

    padding_idx: this row gets no gradient. max_norm: rows looked up whose norm (of order norm_type) is larger are first
    scaled to it, in place. scale_grad_by_freq: the gradient of a row is divided by how often the input names it.
    sparse: without effect, gradients are dense. Raises TypeError for indices that are not integers, IndexError with
    the value and position of one out of range. As torch.nn.functional.embedding.

    Example:
        >>> F.embedding(ta.tensor([1, 0]), ta.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[3., 4.],
                [1., 2.]])
    """
    if not isinstance(weight, Variable) or weight.ndim != 2:
        raise ValueError("embedding: expected the arguments (input, weight), with a weight of shape (rows, dim)")
    index = creation.as_tensor(input)
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices have dtype {index.dtype}; expected integers (quantise measurements first)")
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise ValueError(f"embedding: padding_idx={padding_idx} is out of range for {rows} rows")
        padding_idx %= rows
    check_indices("embedding", index.array, rows)
    if max_norm is not None:
        _limit_rows(weight, index, max_norm, norm_type)
    out = _embedding(weight, index, padding_idx=padding_idx)
    if not scale_grad_by_freq:
        return out
    share = (1 / cast(bincount(reshape(index, -1)), out.dtype))[index].unsqueeze(-1)
    return out.detach() + (out - out.detach()) * share


def _limit_rows(weight: Any, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows that `index` names, in place, to a norm of at most `max_norm`."""
    named = unique(index)
    rows = weight.detach()[named]
    size = vector_norm(rows, norm_type, -1, True)
    scaled = where(size > max_norm, rows * (max_norm / (size + 1e-7)), rows)  # 1e-7: as in PyTorch
    weight.detach()._write("embedding", (named.array,), scaled)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute input1 @ weight[o] @ input2 + bias[o] for each o: (..., i), (..., j), (o, i, j) -> (..., o).

    As torch.nn.functional.bilinear.

    >>> F.bilinear(ta.tensor([1.0, 2.0]), ta.tensor([3.0]), ta.ones(1, 2, 1)).tolist()
    [9.0]
    """
    out = einsum("...i,oij,...j->...o", input1, weight, input2)
    return out if bias is None else out + bias

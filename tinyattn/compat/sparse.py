"""Sparse tensors of PyTorch as dense ones, for models written for PyTorch: equal values, in the memory of all elements.

Gradients reach the stored elements only, as in PyTorch: those of an element that was not stored are 0.
"""

from __future__ import annotations

from typing import Any

import tinyattn as ta


def sparse_coo_tensor(
    indices: Any, values: Any, size: Any = None, *, dtype: Any = None, requires_grad: bool = False, **options: Any
) -> Any:
    """Return the dense tensor of `size` with values (n, ...) at indices (dims, n). As torch.sparse_coo_tensor.

    Values of one position are added. size: by default the largest index + 1 in each dimension. Raises
    NotImplementedError for requires_grad=True: the gradient of such a leaf is sparse.

    Example:
        >>> from tinyattn.compat.sparse import sparse_coo_tensor
        >>> sparse_coo_tensor([[0, 1, 1], [2, 0, 0]], [3.0, 4.0, 5.0], (2, 3)).tolist()
        [[0.0, 0.0, 3.0], [9.0, 0.0, 0.0]]
    """
    if requires_grad:
        raise NotImplementedError(
            "sparse_coo_tensor: requires_grad=True; the tensor is dense in tinyattn, and so would its gradient be. "
            "Give values that require a gradient"
        )
    values = ta.as_tensor(values, dtype=dtype)
    places = ta.as_tensor(indices, device=values.device).long()
    if size is None:
        size = (*(n + 1 for n in places.amax(1).tolist()), *values.shape[1:])
    out = ta.zeros(*size, dtype=values.dtype, device=values.device)
    return out.index_put(tuple(places), values.expand(places.shape[1], *values.shape[1:]), accumulate=True)


def to_sparse(self: Any, *layout: Any, **options: Any) -> Any:
    """Return a copy, whose gradient reaches the elements that are not 0. As torch.Tensor.to_sparse."""
    return ta.where(self != 0, self, ta.zeros_like(self))


def indices(self: Any) -> Any:
    """Return the positions (dims, n) of the elements that are not 0. As torch.Tensor.indices of a sparse tensor."""
    return self.nonzero().T


def values(self: Any) -> Any:
    """Return the elements (n,) that are not 0. As torch.Tensor.values of a sparse tensor."""
    return self[self != 0]


def mm(mat1: Any, mat2: Any) -> Any:
    """Multiply matrices (n, k), (k, m) -> (n, m). As torch.sparse.mm."""
    return ta.matmul(mat1, mat2)


def total(input: Any, dim: Any = None, dtype: Any = None) -> Any:
    """Add the elements along `dim`, by default all. As torch.sparse.sum."""
    return ta.sum(input, dim, dtype=dtype)


FUNCTIONS = {"sparse_coo_tensor": sparse_coo_tensor, "spmm": mm}
LEGACY = ("FloatTensor", "DoubleTensor", "LongTensor", "IntTensor")  # of the dtype of the values, as in PyTorch
SPARSE = {"mm": mm, "sum": total, "addmm": ta.addmm, **dict.fromkeys(LEGACY, sparse_coo_tensor)}
METHODS = {
    "to_sparse": to_sparse, "to_sparse_coo": to_sparse, "coalesce": ta.ops.alias, "is_coalesced": lambda self: True,
    "indices": indices, "_indices": indices, "values": values, "_values": values,
    "_nnz": lambda self: int((self != 0).sum().item()),
}  # fmt: skip

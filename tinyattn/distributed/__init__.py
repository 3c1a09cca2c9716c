"""Several processes that compute together, each with a rank: sums and copies between them. As torch.distributed.

    mpirun -n 2 python train.py        # in it, before anything else:
    ta.distributed.init_process_group("mpi")

Every process ("rank") runs the whole program and calls the same functions in the same order. "mpi" serves tensors on
the CPU (mpi4py), "nccl" tensors on GPUs, one for each process (CuPy). One number of processes gives the same bits each
time.

Each rank ends with `destroy_process_group()`. A rank that ends without it, by an error, Ctrl-C or sys.exit, names
itself and ends the others, which would wait for it for ever.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

from tinyattn import backends
from tinyattn.distributed import ending
from tinyattn.grad_mode import no_grad
from tinyattn.engine.opmath import widened
from tinyattn.tensors import Tensor

__all__ = [
    "ReduceOp", "Work", "all_gather", "all_reduce", "barrier", "broadcast", "destroy_process_group", "get_backend",
    "get_rank", "get_world_size", "init_process_group", "is_initialized",
]  # fmt: skip

_group: Any = None  # an mpi.Group or nccl.Group


class ReduceOp(enum.Enum):
    """How `all_reduce` combines the tensors of all ranks. As torch.distributed.ReduceOp.

    >>> [op.name for op in ta.distributed.ReduceOp]
    ['SUM', 'AVG', 'PRODUCT', 'MIN', 'MAX']
    """

    SUM, AVG, PRODUCT, MIN, MAX = "sum", "avg", "prod", "min", "max"


class Work:
    """An operation between ranks that goes on beside the program. As torch.distributed.Work."""

    def __init__(self, request: Any, write: Callable[[], None]) -> None:
        self._request, self._write = request, write

    def is_completed(self) -> bool:
        """Return whether all ranks have done their part, without waiting for them."""
        return bool(self._request.is_completed())

    def wait(self) -> bool:
        """Wait for all ranks; afterwards the tensors have their new values. Returns True."""
        self._request.wait()
        self._write()
        self._write = lambda: None
        return True


def init_process_group(backend: str = "mpi") -> None:
    """Join the group of all processes that were started together. As torch.distributed.init_process_group.

    backend: "mpi", under mpirun. "nccl": select the GPU of this process before, with `ta.cuda.set_device`; the ranks
    find each other by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment, otherwise by MPI.
    Raises ValueError for another backend, RuntimeError for a second call, ImportError if mpi4py, an MPI or NCCL is
    missing.
    """
    global _group
    if _group is not None:
        raise RuntimeError(f"init_process_group: there is a group already, with backend {_group.name!r}")
    if backend == "mpi":
        from tinyattn.distributed import mpi

        _group = mpi.Group()
    elif backend == "nccl":
        from tinyattn.distributed import nccl

        _group = nccl.Group()
    else:
        raise ValueError(f"init_process_group: backend={backend!r}; expected 'mpi' or 'nccl'")
    ending.watch(_group)


def destroy_process_group() -> None:
    """Leave the group: from here on, this process may end without ending the others."""
    global _group
    current_group("destroy_process_group")
    _group = None
    ending.watch(None)


def is_initialized() -> bool:
    """Return whether this process belongs to a group.

    >>> ta.distributed.is_initialized()
    False
    """
    return _group is not None


def current_group(what: str) -> Any:
    """Return the group; raises RuntimeError, which names `what` needs it, if there is none."""
    if _group is None:
        raise RuntimeError(f'{what} needs a group of processes: call ta.distributed.init_process_group("mpi") first')
    return _group


def get_backend() -> str:
    """Return "mpi" or "nccl"."""
    return str(current_group("get_backend").name)


def get_rank() -> int:
    """Return the number of this process, from 0 to `get_world_size() - 1`."""
    return int(current_group("get_rank").rank)


def get_world_size() -> int:
    """Return the number of processes."""
    return int(current_group("get_world_size").size)


def barrier() -> None:
    """Wait until every rank has come here."""
    current_group("barrier").barrier().wait()


def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, *, async_op: bool = False) -> Work | None:
    """Replace `tensor`, on every rank, by the combination of those of all ranks, which have one shape and dtype.

    async_op: return at once, with a Work to wait for. Raises RuntimeError for a tensor on a device that the backend
    does not serve, TypeError for booleans.
    """
    group = current_group("all_reduce")
    array = _elements("all_reduce", group, tensor)
    if array.dtype.kind == "b":
        raise TypeError("all_reduce: booleans have no sum; pass tensor.to(ta.uint8)")
    request = group.all_reduce(array, ReduceOp.SUM if op is ReduceOp.AVG else op)
    return _result(request, lambda: _write(tensor, array / group.size if op is ReduceOp.AVG else array), async_op)


def broadcast(tensor: Tensor, src: int, *, async_op: bool = False) -> Work | None:
    """Replace `tensor`, on every rank, by that of rank `src`.

    async_op, errors: as `all_reduce`; ValueError for a rank that does not exist.
    """
    group = current_group("broadcast")
    if not 0 <= src < group.size:
        raise ValueError(f"broadcast: src={src}; expected a rank from 0 to {group.size - 1}")
    array = _elements("broadcast", group, tensor)
    return _result(group.broadcast(array, src), lambda: _write(tensor, array), async_op)


def all_gather(tensor_list: Sequence[Tensor], tensor: Tensor, *, async_op: bool = False) -> Work | None:
    """Write the tensors of all ranks into `tensor_list`, in the order of the ranks.

    tensor_list: one tensor of the shape and dtype of `tensor` for each rank. async_op, errors: as `all_reduce`;
    ValueError for a list of another length.
    """
    group = current_group("all_gather")
    if len(tensor_list) != group.size:
        raise ValueError(f"all_gather: tensor_list has {len(tensor_list)} tensors; expected {group.size}, one a rank")
    array = _elements("all_gather", group, tensor)
    out = backends.of(array).zeros((group.size, *array.shape), array.dtype)

    def write() -> None:
        for to, found in zip(tensor_list, out, strict=True):
            _write(to, found)

    return _result(group.all_gather(out, array), write, async_op)


def _elements(what: str, group: Any, tensor: Tensor) -> Any:
    """The elements of `tensor` in row order, where MPI and NCCL may write; float16 as float32, as in all sums."""
    if tensor.device.type != group.device:
        raise RuntimeError(
            f"{what}: backend {group.name!r} takes tensors on {group.device!r}, but this one is on "
            f"{str(tensor.device)!r}"
        )
    return widened(tensor.detach().contiguous().array)


def _write(tensor: Tensor, array: Any) -> None:
    with no_grad():
        tensor.copy_(Tensor._from(backends.of(tensor.array).asarray(array).reshape(tensor.shape)))


def _result(request: Any, write: Callable[[], None], async_op: bool) -> Work | None:
    work = Work(request, write)
    if async_op:
        return work
    work.wait()
    return None

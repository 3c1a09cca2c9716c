"""DataParallel: shares of a batch in threads, side by side. As torch.nn.DataParallel, for cores instead of GPUs."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np

from tinyattn.cores import available_workers
from tinyattn.engine.fork import Fork
from tinyattn.engine.node import Node
from tinyattn.engine.operation import operation
from tinyattn.engine.threads import side_by_side
from tinyattn.files.nested import alike
from tinyattn.nn.distributed import DistributedDataParallel
from tinyattn.nn.module import Module
from tinyattn.random import Generator, Streams
from tinyattn.tensors import Tensor

__all__ = ["DataParallel", "DistributedDataParallel", "available_workers"]

in_later_share: ContextVar[bool] = ContextVar("in_later_share", default=False)  # of a batch, than the first


class DataParallel(Module):
    """Run `module` on equal shares of the batch at the same time, forward and backward. As torch.nn.DataParallel.

    module: its output must have the batch in dim 0: Tensors, or tuples, lists and dicts of them.
    workers: number of threads, at least 1; by default the cores available to this process, and never more than rows.
    Threads pay off if a share takes ten milliseconds or more; otherwise they wait for each other, because only one at
    a time can run Python, for longer than they save.

    Tensors and arrays among the arguments (also in tuples, lists and dicts) are split along dim 0; all other
    arguments, 0-d tensors included, are passed whole to every worker. The module computes over a share what it
    otherwise computes over the batch, and all workers change its attributes at once; but running statistics are moved
    by the first share alone, as in PyTorch. Backward cannot pass through a tensor that one worker stores for another.

    One seed and one number of workers give the same bits each time: gradients are added in the order of the workers,
    and each worker has its own stream of random numbers. A Generator among the arguments is split likewise; one that
    the module holds is drawn from in the order in which the workers arrive.

    While an Observer is active (detect_anomaly, memory_ledger), with create_graph=True, and inside another
    DataParallel, the shares are computed one after another, to the same bits. On a GPU, whose threads share the batch
    already, the module runs once on the whole batch.

    Raises TypeError for arguments without a batch and for outputs of other types, ValueError for different batch sizes
    and for workers below 1. An error in a worker is raised here, that of the first share first.

    >>> net = nn.DataParallel(nn.Linear(3, 2), workers=2)
    >>> net(ta.ones(5, 3)).shape
    (5, 2)
    """

    def __init__(self, module: Module, workers: int | None = None) -> None:
        super().__init__()
        if not isinstance(module, Module):
            raise TypeError(f"DataParallel: expected a Module to run, got {type(module).__name__}")
        self.workers = available_workers() if workers is None else operator.index(workers)
        if self.workers < 1:
            raise ValueError(f"DataParallel: workers={workers}; expected at least 1, or None for one per core")
        self.module = module

    def extra_repr(self) -> str:
        """Return the number of workers."""
        return f"workers={self.workers}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute module(*args, **kwargs), one share of the batch in each thread."""
        rows = _rows((args, kwargs))
        on_gpu = any(isinstance(x, Tensor) and x.is_cuda for x in _tensors((args, kwargs)))
        n = 1 if on_gpu else min(self.workers, rows)
        if n < 2:
            return self.module(*args, **kwargs)
        ends = [rows * i // n for i in range(n + 1)]
        shares = _cut((args, kwargs), [slice(a, b) for a, b in itertools.pairwise(ends)])
        end, streams = Tensor._from(np.zeros(())), Streams(n)
        floor = Node(None, (), end.array).id  # ids count up: what the workers record is newer

        def run(i: int) -> Any:
            streams.take(i)
            in_later_share.set(in_later_share.get() or i > 0)  # in this worker's own context
            own_args, own_kwargs = shares[i]
            try:
                return self.module(*own_args, **own_kwargs)
            except Exception as error:
                error.add_note(f"DataParallel: in worker {i} of {n}, which has rows {ends[i]} to {ends[i + 1] - 1}")
                raise

        outputs = side_by_side([partial(run, i) for i in range(n)])
        nodes = [[x.node for x in _tensors(out) if x.node is not None] for out in outputs]
        if any(nodes):
            end.node = Fork(floor, nodes, end.array)
        return _together(outputs, [b - a for a, b in itertools.pairwise(ends)], end)


def _join_rule(xp: Any, g: Any, parts_shapes: Any) -> list[Any]:
    *shapes, _ = parts_shapes
    stops = list(itertools.accumulate(shape[0] for shape in shapes))
    shares = [g[stop - shape[0] : stop] for stop, shape in zip(stops, shapes, strict=True)]
    return [*shares, g[:0].sum()]  # a zero: the backward pass must reach the Fork


@operation(backward=_join_rule)
def _join(xp: Any, *parts: Any) -> Any:
    """Concatenate the outputs of all branches; the last of `parts` marks where the branches end and is no output."""
    return xp.cat(parts[:-1], 0)


def _map(function: Callable[..., Any], value: Any, *more: Any) -> Any:
    """Apply `function` to the values in a tuple, list or dict; returns the same kind."""
    if isinstance(value, dict):
        return alike(value, {key: function(value[key], *(m[key] for m in more)) for key in value})
    return alike(value, [function(*values) for values in zip(value, *more, strict=True)])


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the tensors and arrays in nested tuples, lists and dicts."""
    if isinstance(value, tuple | list | dict):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inside)
    elif isinstance(value, Tensor | np.ndarray):
        yield value


def _rows(arguments: Any) -> int:
    """Return the batch size; raises TypeError or ValueError if there is none or more than one."""
    shapes = [tuple(x.shape) for x in _tensors(arguments) if x.ndim]
    if not shapes:
        raise TypeError("DataParallel: got no Tensor or array to split along dim 0, the batch; pass at least one")
    for shape in shapes:
        if shape[0] != shapes[0][0]:
            raise ValueError(
                f"DataParallel: got shapes {shapes[0]} and {shape} with different sizes of dim 0, the batch. Expand "
                "what every worker needs whole to the batch, or store it in the module."
            )
    return shapes[0][0]


def _cut(value: Any, shares: Sequence[slice]) -> list[Any]:
    """Split `value` into one share per worker."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return [value[share] for share in shares]
    if isinstance(value, Generator):
        return value.spawn(len(shares))
    if isinstance(value, tuple | list | dict):
        cut = _map(lambda x: _cut(x, shares), value)
        return [_map(operator.itemgetter(i), cut) for i in range(len(shares))]
    return [value] * len(shares)


def _kind(value: Any) -> str:
    """Describe what must agree for values to be joined."""
    inside = list(value) if isinstance(value, dict) else len(value) if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__} {inside}".rstrip()


def _together(outputs: Sequence[Any], rows: Sequence[int], end: Tensor) -> Any:
    """Join the outputs of all workers."""
    first = outputs[0]
    kinds = [_kind(out) for out in outputs]
    for kind in kinds:
        if kind != kinds[0]:
            raise TypeError(
                f"DataParallel: one worker returned {kinds[0]}, another {kind}; return the same kind for every share"
            )
    if isinstance(first, Tensor):
        for out, n in zip(outputs, rows, strict=True):
            if out.shape[:1] != (n,):
                raise ValueError(
                    f"DataParallel: the module returned shape {tuple(out.shape)} for {n} rows; expected {n} in dim 0, "
                    "the batch. Reduce (mean, sum) outside of it."
                )
        return _join(*outputs, end)
    if isinstance(first, tuple | list | dict):
        return _map(lambda *parts: _together(parts, rows, end), *outputs)
    if first is None:
        return None
    raise TypeError(
        f"DataParallel: the module returned a {type(first).__name__}; expected a Tensor with the batch in dim 0, None, "
        "or tuples, lists and dicts of them"
    )

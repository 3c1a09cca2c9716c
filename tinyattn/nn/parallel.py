"""DataParallel: the rows of a batch shared out among threads. As torch.nn.DataParallel, for cores."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinyattn.engine.fork import Fork
from tinyattn.engine.node import Node
from tinyattn.engine.operation import operation
from tinyattn.engine.threads import available_workers, side_by_side
from tinyattn.nn.module import Module
from tinyattn.random import Generator, Streams
from tinyattn.tensors import Tensor

__all__ = ["DataParallel", "available_workers"]


class DataParallel(Module):
    """Runs `module` on equal shares of the batch at the same time, forward and backward.

    module: what it gives must have the batch in dim 0; Tensors, or tuples, lists and dicts of them.
    workers: how many threads; None: as many as there are cores for this process. More than rows are
    not used. They pay where a share takes ten milliseconds or more; for less, the threads wait for each
    other (only one at a time can run Python) longer than they save.

    Tensors and arrays among the arguments (in tuples, lists and dicts too) are cut along dim 0;
    everything else, 0-d tensors too, goes to every worker as it is. What the module computes over the
    batch, it computes over a share, and what it changes in itself is changed by all workers at once;
    a tensor that requires gradients and is kept from one worker for another cannot be walked back.

    One seed and one number of workers give one result, bit for bit: gradients are added in the order
    of the workers, and each draws from a stream of its own. A Generator among the arguments is shared
    out likewise; one that the module holds is drawn from in whatever order the workers come.

    While an Observer watches (detect_anomaly, memory_ledger), with create_graph=True, and inside of
    another DataParallel, the shares are computed one after another, to the same bits.

    On a GPU, whose many threads share the batch already, the module runs once on all of it.

    Raises TypeError for arguments without a batch and outputs of other types, ValueError for arguments
    or outputs of different batches. An error in a worker is raised here, that of the first share first.
    As torch.nn.DataParallel.
    """

    def __init__(self, module: Module, workers: int | None = None) -> None:
        super().__init__()
        if not isinstance(module, Module):
            raise TypeError(f"DataParallel: expected a Module to run, got {type(module).__name__}")
        self.workers = available_workers() if workers is None else operator.index(workers)
        if self.workers < 1:
            raise ValueError(f"DataParallel: workers={workers}; expected at least 1, or None for one for each core")
        self.module = module

    def extra_repr(self) -> str:
        """The number of workers."""
        return f"workers={self.workers}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """module(*args, **kwargs), a share of the batch in each thread."""
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
    return [*shares, g[:0].sum()]  # zero, for the Fork: what counts is that the walk comes there


@operation(backward=_join_rule)
def _join(xp: Any, *parts: Any) -> Any:
    """The outputs of all branches in one; the last of `parts` is where the branches end, and no output."""
    return xp.cat(parts[:-1], 0)


def _map(function: Callable[..., Any], value: Any, *more: Any) -> Any:
    """`function` of what stands in nested tuples, lists and dicts, in the same nest."""
    if isinstance(value, dict):
        return type(value)((key, function(value[key], *(m[key] for m in more))) for key in value)
    results = [function(*values) for values in zip(value, *more, strict=True)]
    return type(value)(*results) if hasattr(value, "_fields") else type(value)(results)  # a namedtuple


def _tensors(value: Any) -> Iterator[Any]:
    """Tensors and arrays in nested tuples, lists and dicts."""
    if isinstance(value, tuple | list | dict):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inside)
    elif isinstance(value, Tensor | np.ndarray):
        yield value


def _rows(arguments: Any) -> int:
    """The size of the batch."""
    shapes = [tuple(x.shape) for x in _tensors(arguments) if x.ndim]
    if not shapes:
        raise TypeError("DataParallel: expected a Tensor or an array to cut along dim 0, the batch, and got none")
    for shape in shapes:
        if shape[0] != shapes[0][0]:
            raise ValueError(
                f"DataParallel: got shapes {shapes[0]} and {shape}, whose dim 0 is not one batch; what every worker "
                "shall have whole can be held by the module, or expanded to the batch."
            )
    return shapes[0][0]


def _cut(value: Any, shares: Sequence[slice]) -> list[Any]:
    """A share of `value` for each worker."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return [value[share] for share in shares]
    if isinstance(value, Generator):
        return value.spawn(len(shares))
    if isinstance(value, tuple | list | dict):
        cut = _map(lambda x: _cut(x, shares), value)
        return [_map(operator.itemgetter(i), cut) for i in range(len(shares))]
    return [value] * len(shares)


def _kind(value: Any) -> str:
    """What must be the same for values to be put together, in words."""
    inside = list(value) if isinstance(value, dict) else len(value) if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__} {inside}".rstrip()


def _together(outputs: Sequence[Any], rows: Sequence[int], end: Tensor) -> Any:
    """The outputs of all workers as one."""
    first = outputs[0]
    kinds = [_kind(out) for out in outputs]
    for kind in kinds:
        if kind != kinds[0]:
            raise TypeError(f"DataParallel: one worker gave {kinds[0]}, another {kind}; these cannot be put together")
    if isinstance(first, Tensor):
        for out, n in zip(outputs, rows, strict=True):
            if out.shape[:1] != (n,):
                raise ValueError(
                    f"DataParallel: the module gave shape {tuple(out.shape)} for {n} rows, and shares of a batch can "
                    f"be put together only if dim 0 is the batch, {n} here; reduce (mean, sum) outside of it."
                )
        return _join(*outputs, end)
    if isinstance(first, tuple | list | dict):
        return _map(lambda *parts: _together(parts, rows, end), *outputs)
    if first is None:
        return None
    raise TypeError(
        f"DataParallel: the module gave a {type(first).__name__}; expected a Tensor with the batch in dim 0, None, or "
        "tuples, lists and dicts of them"
    )

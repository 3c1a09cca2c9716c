"""Function: an operation with a gradient of its own, written on tensors. As torch.autograd.Function.

A call is one node of the graph. Several differentiable outputs are parts of one array, the output of that node, so
that their gradients arrive there together.
"""

from __future__ import annotations

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.modes import Mode, grad_mode, observers
from tinyattn.engine.node import Node, Saved, save
from tinyattn.engine.operation import Operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import no_grad
from tinyattn.ops import creation
from tinyattn.ops.copies import cast
from tinyattn.ops.indexing import getitem
from tinyattn.ops.shape import reshape

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx:
    """What the `forward` of a Function hands to its `backward`: saved tensors, and any attributes.

    needs_input_grad: for each argument, whether its gradient is needed.

    >>> ctx = ta.autograd.FunctionCtx((True, False))
    >>> ctx.save_for_backward(ta.ones(2))
    >>> ctx.saved_tensors
    (tensor([1., 1.]),)
    """

    def __init__(self, needs_input_grad: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs_input_grad)
        self._saved: Sequence[Any] = ()
        self._without: set[int] = set()  # ids of outputs
        self._materialize = True
        self._kept: list[int | None] = []  # which output each saved tensor is, if any
        self._outputs: list[Any] = []  # of differentiable tensors, Place; of other tensors, themselves; and values

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs, outputs or other tensors; a write to one before backward raises RuntimeError there."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors that were saved; with create_graph, with their history."""
        return tuple(self._saved)

    saved_variables = saved_tensors  # the older name, which models still use

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Mark outputs that require no gradient; outputs of integers never do."""
        self._without |= {id(tensor) for tensor in tensors}

    def set_materialize_grads(self, value: bool) -> None:
        """False: `backward` gets None for a gradient that is 0 everywhere, as of an output without effect, unless it is
        recorded. True, the default: zeros."""
        self._materialize = value

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Not supported: raises NotImplementedError."""
        raise NotImplementedError("a Function cannot change its inputs in place; return a new tensor instead.")


class _Place:
    """Where a differentiable output lies in the array of the node."""

    def __init__(self, start: int | None, like: Variable) -> None:
        self.start, self.shape, self.dtype = start, like.shape, like.dtype  # None: it is the whole array

    def of(self, whole: Tensor) -> Tensor:
        """The output, or its gradient."""
        if self.start is not None:
            whole = reshape(getitem(whole, slice(self.start, self.start + math.prod(self.shape))), self.shape)
        return cast(whole, self.dtype)


class Function:
    """An operation with a gradient of its own. As torch.autograd.Function.

    A subclass defines two static methods, which compute on tensors: `forward(ctx, *args)`, during which nothing is
    recorded, and `backward(ctx, *gradients)`, which takes a gradient for each output (zeros if the result does not
    depend on it) and returns one for each argument, None where there is none. `ctx` is a `FunctionCtx`.
    `forward(*args)` without ctx and `setup_context(ctx, inputs, output)` are the other form.
    With create_graph, `backward` is recorded, so that it has gradients too.

    `apply` calls it. It raises RuntimeError for a wrong number of gradients.

    >>> class Cube(ta.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * 3 * x * x
    >>> x = ta.tensor(2.0, requires_grad=True)
    >>> ta.grad(Cube.apply(x), x)
    (tensor(12.),)
    """

    _operation: Operation

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._operation = _Call(cls)

    @staticmethod
    def forward(*args: Any) -> Any:
        """Compute the outputs, a tensor or a tuple."""
        raise NotImplementedError("a Function defines a static method forward(ctx, *args).")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Fill ctx, where `forward` takes none."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Compute the gradient of each argument."""
        raise NotImplementedError("a Function defines a static method backward(ctx, *gradients).")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Compute the outputs, and record the call if an argument requires a gradient."""
        needs = [isinstance(x, Variable) and x.node is not None for x in args]
        ctx: Any = FunctionCtx(needs)
        if not (any(needs) and grad_mode.get()):
            with no_grad():
                return cls._forward(ctx, args)
        results: list[Any] = []
        ctx._tensors = [isinstance(x, Variable) for x in args]
        tensors = [x for x in args if isinstance(x, Variable)]
        whole = cls._operation(*tensors, context=ctx, run=lambda: _compute(cls, ctx, args, results))
        outputs = [out.of(whole) if type(out) is _Place else out for out in ctx._outputs]
        return tuple(outputs) if isinstance(results[0], tuple | list) else outputs[0]

    @classmethod
    def _forward(cls, ctx: FunctionCtx, args: tuple[Any, ...]) -> Any:
        if cls.setup_context is Function.setup_context:
            return cls.forward(ctx, *args)
        result = cls.forward(*args)
        cls.setup_context(ctx, args, result)
        return result


def _compute(function: type[Function], ctx: Any, args: tuple[Any, ...], results: list[Any]) -> Variable:
    """Run `forward`; return what the node is to hold, and append the result as it is to `results`."""
    watching = observers.set(())  # the call is one operation
    try:
        with Mode(grad_mode, False):
            result = function._forward(ctx, args)
    finally:
        observers.reset(watching)
    results.append(result)
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    places = [
        i for i, out in enumerate(outputs)
        if isinstance(out, Variable) and out.dtype.kind == "f" and id(out) not in ctx._without
    ]  # fmt: skip
    floats = [outputs[i] for i in places]
    ids = [id(outputs[i]) if i in places else None for i in range(len(outputs))]
    ctx._kept = [ids.index(id(x)) if id(x) in ids else None for x in ctx._saved]
    ctx._outputs = [Variable._from(x.array, None, x.storage) if isinstance(x, Variable) else x for x in outputs]
    starts = itertools.accumulate((math.prod(x.shape) for x in floats), initial=0)
    for i, start in zip(places, starts, strict=False):
        ctx._outputs[i] = _Place(None if len(places) == 1 else start, outputs[i])
    if len(places) == 1:
        return floats[0]
    xp = backends.of(*(x.array for x in args if isinstance(x, Variable)))
    if not floats:
        return Variable._from(xp.zeros((0,), np.float32))
    dtype = np.result_type(*(x.dtype for x in floats))
    return Variable._from(xp.cat([xp.cast(x.array, dtype).reshape(-1) for x in floats], 0))


class _Call(Operation):
    """The operation of a Function: its forward is that of the Function, and its node keeps what that saved."""

    def __init__(self, function: type[Function]) -> None:
        def forward(xp: Any, *inputs: Any, context: Any, run: Any, saved: Any = None) -> Any:
            context._raw = run()
            return context._raw.array

        def backward(xp: Any, g: Any, context: Any, saved: Any) -> Any:
            return _gradients(function, g, context, saved)

        super().__init__(forward, backward=backward, name=function.__name__, doc=function.__doc__)
        self.opmath = False  # the Function sees float16 as it is

    def _record(self, sources: Any, edges: Any, needed: int, options: Any, out: Variable) -> Node:
        ctx = options["context"]
        out._storage, out._version = ctx._raw.storage, ctx._raw.storage.version  # an input's, if it is one
        node = Node(self, edges, out.array, {"context": ctx})
        kept = [*zip(ctx._saved, ctx._kept, strict=True)]
        node.saved = {"saved": [save(x) if i is None else Saved(out) for x, i in kept]}
        ctx._dtypes = [getattr(x, "dtype", None) for x in ctx._saved]
        ctx._nodes = [getattr(x, "node", None) for x in ctx._saved]
        ctx._node, ctx._saved = weakref.ref(node), ()
        del ctx._raw
        return node


def _gradients(function: type[Function], g: Any, ctx: Any, saved: Sequence[Any]) -> list[Any]:
    """Run `backward`; return the gradients of the tensors among the arguments."""
    recording = isinstance(g, Variable)
    node = ctx._node()
    whole = cast(g if recording else Variable._from(g), node.dtype)
    kept: list[Any] = []
    for x, dtype, i, source in zip(saved, ctx._dtypes, ctx._kept, ctx._nodes, strict=True):
        if i is not None:  # an output, whose history begins at this node
            x = ctx._outputs[i].of(Variable._from(getattr(x, "array", x), node if recording else None))
        elif not recording and x is not None:  # backward may differentiate by it under enable_grad()
            x = Variable._from(x, source)
        kept.append(x if x is None else cast(x, dtype))
    incoming = [
        x.of(whole) if type(x) is _Place
        else creation.zeros_like(x) if isinstance(x, Variable) and ctx._materialize else None
        for x in ctx._outputs
    ]  # fmt: skip
    if not ctx._materialize and len(incoming) > 1 and not recording:  # the parts of one array all have numbers
        incoming = [x if x is None or x.array.any() else None for x in incoming]
    ctx._saved = kept
    watching = observers.set(observers.get() if recording else ())  # else the call is one rule
    try:
        found = function.backward(ctx, *incoming)
    finally:
        observers.reset(watching)
        ctx._saved = ()
    found = list(found) if isinstance(found, tuple | list) else [found]
    count = len(ctx.needs_input_grad)
    if len(found) < count or any(x is not None for x in found[count:]):
        raise RuntimeError(
            f"{function.__name__}.backward returned {len(found)} gradients for {count} arguments; "
            "return one for each, None where there is none."
        )
    for x in found:
        if x is not None and not isinstance(x, Variable):
            raise TypeError(f"{function.__name__}.backward returned a {type(x).__name__}; expected tensors and None.")
    wanted = [x for x, is_tensor in zip(found, ctx._tensors, strict=False) if is_tensor]
    return [x if x is None or recording else x.array for x in wanted]


def _refuse(xp: Any, g: Any) -> Any:
    raise RuntimeError(
        "a backward marked with once_differentiable was differentiated a second time; write it in operations on "
        "tensors and leave the decorator out."
    )


_once = Operation(lambda xp, *xs: xs[0], name="once_differentiable", view=True, backward=_refuse)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a `backward` whose result has no gradients. As torch.autograd.function.once_differentiable.

    Second derivatives through it raise RuntimeError.

    >>> @ta.autograd.once_differentiable
    ... def backward(ctx, g):
    ...     return g * 2
    """

    @functools.wraps(backward)
    def once(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            found = backward(ctx, *gradients)
        several = isinstance(found, tuple | list)
        sources = [x for x in (*gradients, *ctx.saved_tensors) if isinstance(x, Variable)]
        marked = [_once(x, *sources) if isinstance(x, Variable) else x for x in (found if several else [found])]
        return tuple(marked) if several else marked[0]

    return once

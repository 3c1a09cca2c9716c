"""What is recorded: operations, and the nodes they leave behind.

An `Operation` is a forward and, for each input, the *rule* that takes the gradient of the output
there. A rule is an ordinary function, and its parameter names say what it needs:

    mul = Operation(lambda xp, a, b: a * b, a=lambda xp, g, b: g * b, b=lambda xp, g, a: g * a)

Here `a`'s rule needs the incoming gradient `g` and the input `b`, so `b` is what gets saved. `xp` is
the array library; with `create_graph=True` it is `tinyattn.ops`, `b` is a Tensor, and the same line
records itself, which is all there is to second derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from tinyattn import backends
from tinyattn.engine.modes import call_site, definition_mode, grad_mode, module_stack
from tinyattn.engine.node import Node, Saved, _save
from tinyattn.engine.observer import observers

if TYPE_CHECKING:
    from tinyattn.tensors import Tensor


class Operation:
    """A differentiable function of tensors.

    `forward(xp, *inputs, **options)` computes arrays from arrays with the array library `xp` and
    returns the output, followed by one extra array for each name in `extras` (which the caller gets
    too, unless there is a definition that knows nothing of them). Each keyword rule is
    named after an input and returns the gradient there; its parameters after `xp, g` may be `out`,
    any input, `<input>_shape`, an option, or an extra, and exactly those are saved. Broadcasting
    and dtypes are none of a rule's business: the walk undoes them.

    backward:   instead of rules, one function that returns a gradient for every input at once; it
                may also ask for `needed`, a tuple of booleans.
    recorded:   what runs instead of `forward` where a node is recorded; then only it gives the
                extras, and who asks for no gradient does not pay for them.
    definition: `definition(xp, *inputs, **options)`, the same function in first-principles
                operations. It runs under `definitions()`, and gives the second derivatives of
                operations with a `backward`.
    promote:    called with the inputs, returns them with their dtypes aligned.
    view:       the output may share its memory with the first input.
    quiet:      keep NumPy's floating-point warnings silent, which takes a microsecond.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        definition: Callable[..., Any] | None = None,
        backward: Callable[..., Any] | None = None,
        recorded: Callable[..., Any] | None = None,
        promote: Callable[..., Sequence[Any]] | None = None,
        extras: tuple[str, ...] = (),
        view: bool = False,
        quiet: bool = True,
        name: str | None = None,
        **rules: Callable[..., Any],
    ) -> None:
        self.name = name or forward.__name__.strip("_")
        self.__name__, self.__doc__ = self.name, forward.__doc__
        self.forward, self.definition, self.backward = forward, definition, backward
        self._run = backends.quiet()(forward) if quiet and not view else forward
        self._run_recorded = backends.quiet()(recorded) if recorded else self._run
        self.promote, self.extras, self.view, self.rules = promote, extras, view, rules
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        self.inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self._asks = {key: _asked(rule) for key, rule in rules.items()}  # what follows xp and g
        self._joint = _asked(backward) if backward else []
        self._steps = [(rules.get(name), self._asks.get(name, [])) for name in self.inputs]
        self._plans: dict[tuple[bool, ...], list[tuple[str, str, int]]] = {}
        # Where to find what a rule may ask for: a kind and a position.
        self._sources = {"out": ("out", 0)}
        self._sources |= {name: ("extra", i) for i, name in enumerate(extras)}
        for i, name in enumerate(self.inputs):
            self._sources[name] = ("inputs" if self.variadic else "input", i)
            self._sources[f"{name}_shape" + "s" * self.variadic] = ("shapes" if self.variadic else "shape", i)
        known = {*self._sources, *self.options, "needed"}
        unknown = {*rules} - {*self.inputs} | {n for asks in (*self._asks.values(), self._joint) for n in asks} - known
        if unknown:
            raise TypeError(f"{self.name}: {sorted(unknown)} in its rules; they may name {sorted(known)}")

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:  # so that it can be a method
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run on tensors; record a node if one of them requires a gradient."""
        if options and len(inputs) < len(self.inputs):  # torch's names for the first two
            inputs += tuple(options.pop(k) for k in ("input", "other") if k in options)
        if self.promote is not None and not _agree(inputs):
            inputs = tuple(self.promote(*inputs))
        if self.definition is not None and definition_mode.get():
            return self._run_definition(inputs, options)
        Tensor = _tensor.Tensor
        arrays, edges, tracked = [], [], False
        for x in inputs:
            if isinstance(x, Tensor):
                arrays.append(x.array)
                edges.append(x.node)
                if x._storage is not None and x._version < x._storage.tracked:
                    _refuse_stale(x, self)
                if x.node is not None:
                    tracked = True
            else:
                arrays.append(x)
                edges.append(None)
        tracked = tracked and grad_mode.get()
        try:
            xp = backends.of(*arrays)
        except backends.MixedDevicesError:
            xp = None
        if xp is None:
            return self(*_numbers_moved(inputs), **options)
        watching = observers.get()
        for observer in watching:
            observer.before_forward(self, inputs, options)
        try:
            result = (self._run_recorded if tracked else self._run)(xp, *arrays, **options)
        except Exception as error:
            for observer in watching:
                observer.failed_forward(self, inputs, options, error)
            self._name_shapes(error, arrays)
            raise
        extra: Sequence[Any] = ()
        if self.extras and isinstance(result, tuple | list):  # not where they are left out, see `recorded`
            result, *more = result
            extra = [Tensor._from(xp.asarray(e)) for e in more]
        if type(result) is not xp.ndarray:  # a ufunc of 0-d arrays returns a scalar
            result = result if backends.is_array(result) else xp.asarray(result)
        out = Tensor._from(result)
        if self.view and _same_memory(result, arrays[0]):
            out._storage, out._is_view = inputs[0].storage, True
            out._version = out._storage.version
        if tracked and (self.rules or self.backward):
            out.node = self._record(inputs, arrays, tuple(edges), options, out, extra)
        for observer in watching:
            observer.after_forward(self, inputs, out, out.node)
        if extra and self.definition is None:  # with one, the extras are the kernel's own affair
            return (out, *extra)
        return out

    def _run_definition(self, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        assert self.definition is not None
        watching = observers.get()
        for observer in watching:
            observer.before_definition(self, inputs, options)
        try:
            return self.definition(_ops, *inputs, **options)
        finally:
            for observer in watching:
                observer.after_definition(self)

    def _name_shapes(self, error: Exception, arrays: Sequence[Any]) -> None:
        """NumPy's message about shapes that do not fit names neither the operation nor the remedy."""
        if isinstance(error, ValueError) and "broadcast" in str(error):
            shapes = " and ".join(str(tuple(a.shape)) for a in arrays if hasattr(a, "shape"))
            raise RuntimeError(
                f"{self.name}: shapes {shapes} do not broadcast; aligned at the right, sizes must be equal or 1"
            ) from None

    def _record(self, inputs: Any, arrays: Any, edges: Any, options: Any, out: Any, extra: Any) -> Node:
        node = Node(self, edges, out.array, options if len(options) == len(self.options) else self.options | options)
        node.site, node.modules = call_site(), module_stack.get()
        saved = node.saved
        assert saved is not None
        needed = tuple([edge is not None for edge in edges])
        plan = self._plans.get(needed)
        if plan is None:
            plan = self._plans[needed] = self._plan(needed)
        for name, kind, i in plan:
            if kind == "input":
                saved[name] = _save(inputs[i])
            elif kind == "shape":
                saved[name] = getattr(arrays[i], "shape", ())
            elif kind == "out":
                saved[name] = Saved(out.array, None, out.storage, out.storage.version)
            elif kind == "extra":
                saved[name] = _save(extra[i])
            elif kind == "inputs":  # of an operation with any number of inputs
                saved[name] = tuple(_save(x) for x in inputs)
            else:
                saved[name] = tuple(a.shape for a in arrays)
        return node

    def _plan(self, needed: tuple[bool, ...]) -> list[tuple[str, str, int]]:
        """What must be saved when the inputs marked in `needed` require gradients."""
        names = list(self._joint)
        if self.backward and self.definition:
            names += self.inputs  # the definition starts from the inputs
        if not self.variadic:
            for name, need in zip(self.inputs, needed, strict=False):
                names += self._asks.get(name, []) if need else []
        return [(name, *self._sources[name]) for name in dict.fromkeys(names) if name in self._sources]

    def gradients(self, xp: Any, node: Node, g: Any) -> Sequence[Any]:
        """The gradient at every edge of `node`, None where nobody needs one."""
        recording = xp is _ops
        if self.backward is not None:
            if recording and self.definition is not None:
                return self._gradients_by_definition(node, g)
            return self.backward(xp, g, *node.values(self._joint, recording))
        found: list[Any] = []
        for (rule, asks), edge in zip(self._steps, node.edges, strict=False):
            if edge is None or rule is None:
                found.append(None)
            elif asks:
                found.append(rule(xp, g, *node.values(asks, recording)))
            else:
                found.append(rule(xp, g))
        return found

    def _gradients_by_definition(self, node: Node, g: Tensor) -> Sequence[Tensor | None]:
        """Differentiate the definition instead of the kernel, which can be done any number of times.
        Every input slot gets a node of its own, so that attention(x, x, x) counts each once."""
        assert self.definition is not None
        slots = [node.value(name, True) for name in self.inputs]
        slots = [_ops.alias(s) if e is not None else s for s, e in zip(slots, node.edges, strict=False)]
        out = self.definition(_ops, *slots, **node.options)
        wanted = [s for s, e in zip(slots, node.edges, strict=False) if e is not None]
        found = iter(autograd.grad(out, wanted, g, create_graph=True, allow_unused=True))
        return [next(found) if edge is not None else None for edge in node.edges]


def operation(**how: Any) -> Callable[[Callable[..., Any]], Operation]:
    """`Operation` as a decorator of its forward: `@operation(x=lambda xp, g, out: g * out)`."""
    return lambda forward: Operation(forward, **how)


def _asked(rule: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(rule).parameters)[2:]


def _same_memory(a: Any, b: Any) -> bool:
    """Whether `a` is `b` or a view of it (a reshape may have had to copy)."""
    return a is b or (a.base is not None and (a.base is b or a.base is b.base))


def _numbers_moved(inputs: Sequence[Any]) -> list[Any]:
    """Inputs of several devices with those of the processor that are single numbers (0-d) moved to the GPU, as torch
    has it; the error of `backends.of` where that leaves several devices."""
    tensors = [x for x in inputs if isinstance(x, _tensor.Tensor)]
    movable = {id(x) for x in tensors if x.device == "cpu" and x.ndim == 0}
    backends.of(*(x.array for x in tensors if id(x) not in movable))
    there = next((x.device for x in tensors if x.device != "cpu"), None)
    return [_ops.move(x, there) if id(x) in movable else x for x in inputs]


def _refuse_stale(x: Tensor, op: Operation) -> None:
    what, where = x.storage.writer or ("an in-place write", "an unknown place")
    raise RuntimeError(
        f"{op.name} got a tensor of shape {tuple(x.shape)} that shares its memory with another one, "
        f"which {what} at {where} has changed since; its gradient would be that of the old values. "
        "Take the view after the change, or clone() it before."
    )


# Tensors are made of operations and operations make tensors: the core is one circle, closed here.
import tinyattn.tensors as _tensor  # noqa: E402 - tensor first: it imports ops
from tinyattn import autograd  # noqa: E402
from tinyattn import ops as _ops  # noqa: E402
from tinyattn.engine import node as _node  # noqa: E402
from tinyattn.ops.promotion import agree as _agree  # noqa: E402

_node._tensor = _tensor

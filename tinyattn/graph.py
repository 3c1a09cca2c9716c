"""What is recorded: operations, and the nodes they leave behind.

An `Operation` is a forward and, for each input, the *rule* that takes the gradient of the output
there. A rule is an ordinary function, and its parameter names say what it needs:

    mul = Operation(lambda F, a, b: a * b, a=lambda F, g, b: g * b, b=lambda F, g, a: g * a)

Here `a`'s rule needs the incoming gradient `g` and the input `b`, so `b` is what gets saved. `F` is
the array library; with `create_graph=True` it is `tinyattn.ops`, `b` is a Tensor, and the same line
records itself, which is all there is to second derivatives.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyattn import backends
from tinyattn.modes import Site, call_site, definition_mode, grad_mode, module_stack
from tinyattn.observer import observers

if TYPE_CHECKING:
    from tinyattn.tensor import Tensor


class Storage:
    """Counts the writes to one piece of memory. A tensor and its views share one."""

    __slots__ = ("tracked", "version", "writer")

    def __init__(self) -> None:
        self.version = 0
        self.tracked = 0  # the last version whose write was itself recorded for gradients
        self.writer: tuple[str, Site] | None = None


class Saved(NamedTuple):
    """An array kept for the walk backward, and the version it had when it was saved."""

    array: Any
    node: Node | None
    storage: Storage
    version: int


def _save(value: Any) -> Any:
    if not isinstance(value, _tensor.Tensor):
        return value
    storage = value._storage or value.storage
    return tuple.__new__(Saved, (value.data, value.node, storage, storage.version))  # half the time of Saved(...)


_ids = itertools.count(1)
_NO_OPTIONS: dict[str, Any] = {}


class Node:
    """One recorded operation, or a leaf (`op` is None). Its edges go to nodes, never to tensors, so
    arrays are freed by reference counting as soon as nothing saved them."""

    __slots__ = (
        "__weakref__", "dtype", "edges", "hooks", "id", "modules", "op", "options", "saved", "shape", "site", "tensor",
    )  # fmt: skip

    def __init__(
        self, op: Operation | None, edges: tuple[Node | None, ...], array: Any, options: dict[str, Any] | None = None
    ) -> None:
        self.id = next(_ids)  # ids count up: a consumer is always newer than what it consumes
        self.op = op
        self.edges = edges
        self.shape = array.shape
        self.dtype = array.dtype
        self.options: dict[str, Any] = options or _NO_OPTIONS
        self.saved: dict[str, Any] | None = {}
        self.hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None
        self.tensor: Callable[[], Tensor | None] | None = None  # weak: whose .grad to fill
        self.site: Site | None = None
        self.modules: tuple[Any, ...] = ()  # those whose forward made it, outermost first

    def values(self, names: Sequence[str], recording: bool) -> list[Any]:
        """What the rules know by these names: saved inputs or `out`, options, or `needed`."""
        saved, found = self.saved or {}, []
        for name in names:
            value = saved.get(name)
            if type(value) is Saved and not recording:
                array, _, storage, version = value
                if storage.version == version:  # nearly always
                    found.append(array)
                    continue
            found.append(self.value(name, recording))
        return found

    def value(self, name: str, recording: bool) -> Any:
        """One of them."""
        if name == "needed":
            return tuple(edge is not None for edge in self.edges)
        if name in self.options:
            return self.options[name]
        if self.saved is None:
            raise RuntimeError(
                f"backward a second time through {self}: what it had saved was freed by the first "
                "walk. Run the forward again for every backward (build the loss inside the loop), "
                "or pass retain_graph=True to the first backward."
            )
        value = self.saved[name]
        if type(value) is tuple:
            return tuple(self._unpack(name, v, recording) for v in value)
        return self._unpack(name, value, recording)

    def _unpack(self, name: str, value: Any, recording: bool) -> Any:
        if type(value) is not Saved:
            return value
        array, node, storage, version = value
        if storage.version != version:
            what, where = storage.writer or ("an in-place write", "an unknown place")
            raise RuntimeError(
                f"{self} saved '{name}' (shape {tuple(array.shape)}) for its gradient, and {what} "
                f"at {where} changed it in place before backward. Use the out-of-place form there, "
                "or clone() the tensor before changing it."
            )
        if not recording:
            return array
        return _tensor.Tensor._from(array, self if name == "out" else node, storage)

    def free(self) -> bool:
        """Drop the saved arrays; False if there are none (shapes stay, they cost nothing)."""
        for value in (self.saved or {}).values():
            if type(value) is Saved or (type(value) is tuple and value and type(value[0]) is Saved):
                self.saved = None
                return True
        return False

    @property
    def module(self) -> str:
        """The path of the module that made it, "blocks.0.attention"; "" outside of modules."""
        if not self.modules:
            return ""
        names = {id(module): name for name, module in self.modules[0].named_modules()}
        last = self.modules[-1]
        return names.get(id(last)) or type(last).__name__

    def __str__(self) -> str:
        inside = f" in {self.module}" if self.modules else ""
        return f"{self.op.name if self.op else 'leaf'}{inside} (made at {self.site})"


class Operation:
    """A differentiable function of tensors.

    `forward(F, *inputs, **options)` computes arrays from arrays with the array library `F` and
    returns the output, followed by one extra array for each name in `extras` (which the caller gets
    too, unless there is a definition that knows nothing of them). Each keyword rule is
    named after an input and returns the gradient there; its parameters after `F, g` may be `out`,
    any input, `<input>_shape`, an option, or an extra, and exactly those are saved. Broadcasting
    and dtypes are none of a rule's business: the walk undoes them.

    backward:   instead of rules, one function that returns a gradient for every input at once; it
                may also ask for `needed`, a tuple of booleans.
    recorded:   what runs instead of `forward` where a node is recorded; then only it gives the
                extras, and who asks for no gradient does not pay for them.
    definition: `definition(F, *inputs, **options)`, the same function in first-principles
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
        self._asks = {key: _asked(rule) for key, rule in rules.items()}  # what follows F and g
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
                arrays.append(x.data)
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
            F = backends.of(*arrays)
        except backends.MixedDevicesError:
            F = None
        if F is None:
            return self(*_numbers_moved(inputs), **options)
        watching = observers.get()
        for observer in watching:
            observer.before_forward(self, inputs, options)
        try:
            result = (self._run_recorded if tracked else self._run)(F, *arrays, **options)
        except Exception as error:
            for observer in watching:
                observer.failed_forward(self, inputs, options, error)
            self._name_shapes(error, arrays)
            raise
        extra: Sequence[Any] = ()
        if self.extras and isinstance(result, tuple | list):  # not where they are left out, see `recorded`
            result, *more = result
            extra = [Tensor._from(F.asarray(e)) for e in more]
        if type(result) is not F.ndarray:  # a ufunc of 0-d arrays returns a scalar
            result = result if backends.is_array(result) else F.asarray(result)
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
        node = Node(self, edges, out.data, options if len(options) == len(self.options) else self.options | options)
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
                saved[name] = Saved(out.data, None, out.storage, out.storage.version)
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

    def gradients(self, F: Any, node: Node, g: Any) -> Sequence[Any]:
        """The gradient at every edge of `node`, None where nobody needs one."""
        recording = F is _ops
        if self.backward is not None:
            if recording and self.definition is not None:
                return self._gradients_by_definition(node, g)
            return self.backward(F, g, *node.values(self._joint, recording))
        found: list[Any] = []
        for (rule, asks), edge in zip(self._steps, node.edges, strict=False):
            if edge is None or rule is None:
                found.append(None)
            elif asks:
                found.append(rule(F, g, *node.values(asks, recording)))
            else:
                found.append(rule(F, g))
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
    """`Operation` as a decorator of its forward: `@operation(x=lambda F, g, out: g * out)`."""
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
    backends.of(*(x.data for x in tensors if id(x) not in movable))
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
import tinyattn.tensor as _tensor  # noqa: E402 - tensor first: it imports ops
from tinyattn import autograd  # noqa: E402
from tinyattn import ops as _ops  # noqa: E402
from tinyattn.ops.promotion import agree as _agree  # noqa: E402

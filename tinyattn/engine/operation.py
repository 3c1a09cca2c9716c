"""Operation: a forward, and for each input the rule that takes the gradient of the output there.

A rule is an ordinary function, and its parameter names say what it needs:

    mul = Operation(lambda xp, a, b: a * b, a=lambda xp, g, b: g * b, b=lambda xp, g, a: g * a)

The rule of `a` needs the incoming gradient `g` and the input `b`, so `b` is what gets saved. `xp` is the
array library. With `create_graph=True` it is `tinyattn.ops` instead, `b` is a Tensor, and the same line
records itself: second derivatives need nothing more. (So does one `backward` for all inputs. Where there is
a `definition` beside it, that is differentiated instead.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from types import MethodType
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import float16
from tinyattn.engine.modes import call_site, definition_mode, grad_mode, module_stack, observers
from tinyattn.engine.node import Node, Saved, save
from tinyattn.engine.opmath import rounded, widened
from tinyattn.engine.variable import Variable, recording_namespace

TORCH_NAMES = ("input", "other")  # of the first two inputs, in calls by keyword
INPUTS, SHAPES, RESULTS, DEFAULTS = range(4)  # where a node finds what it saves; results: the output and the extras


class Operation:
    """A differentiable function of tensors.

    `forward(xp, *inputs, **options)` computes arrays from arrays with the array library `xp`, writes into none of
    them, and returns the output, followed by one more array for each name in `extras`. Each further keyword is a
    rule: it is named after an input and returns the gradient there. Its parameters after `xp, g` may be `out`, any
    input, `<input>_shape`, an option or an extra, and exactly those are saved. Broadcasting and dtypes are undone by
    the backward pass, not by rules. The first parameter of a forward or a rule may have any name.
    All of them receive float16 as float32, and each result is rounded once.

    backward:   one function instead of rules, which returns a gradient for every input at once; it may also
                take `needed`, a tuple of booleans.
    recorded:   the variant of `forward` used while recording; only it returns the extras, so inference does
                not pay for them.
    definition: `definition(xp, *inputs, **options)`, the same function in first-principles operations. It runs
                under `definitions()`, and is differentiated instead of a `backward` with `create_graph`.
    promote:    called with the inputs; returns them with their dtypes aligned.
    fresh:      a promise that each rule returns `g` itself or a new array that nothing else refers to. This saves
                copies. Without it, a rule may return any array, which is then never written to.
    traits:     words that describe it to tools such as `explain`; tinyattn/debug/reasons.py lists them. A forward
                that only "moves" or "compares" elements or changes a "sign", or returns a view, gets float16 itself.
    view:       the output may share its memory with the first input.
    quiet:      silence NumPy's floating-point warnings, which takes a microsecond; views compute nothing that warns.
    doc:        the docstring of an operation whose forward is a lambda.
    An operation with extras returns them to its caller after the output, as a tuple, when `forward` made them
    (with `recorded`: while recording). With a definition, which makes none, the caller gets the output alone.
    Extras have no gradients: a rule that uses floating-point ones has no second derivatives.

    Raises TypeError for a rule that names something unknown, and for an input, option or extra named `out` or `needed`.

    >>> cube = ta.Operation(lambda xp, x: x * x * x, name="cube", x=lambda xp, g, x: g * x * x * 3)
    >>> x = ta.tensor(2.0, requires_grad=True)
    >>> ta.grad(cube(x), x)
    (tensor(12.),)
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
        fresh: bool = False,
        traits: str = "",
        view: bool = False,
        quiet: bool = True,
        name: str | None = None,
        doc: str | None = None,
        **rules: Callable[..., Any],
    ) -> None:
        self.name = name or forward.__name__.strip("_")
        self.forward, self.definition, self.backward = forward, definition, backward
        self.promote, self.extras, self.fresh, self.view = promote, extras, fresh, view
        self.rules, self.traits = rules, frozenset(traits.split())
        self.differentiable = bool(rules or backward)
        self.opmath = not (view or {"moves", "compares", "sign"} & self.traits)
        silent = backends.quiet() if quiet and not view else lambda function: function
        self._kernel = silent(forward)
        self._recording_kernel = silent(recorded or forward)
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.inputs = [p.name for p in inputs]
        self._defaults = [p.default for p in inputs]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in inputs)
        self.options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.asks = {key: _asked(rule) for key, rule in rules.items()}  # what each rule takes besides xp and g
        self.backward_asks = _asked(backward) if backward else []
        self.steps = [(rules.get(key), self.asks.get(key, [])) for key in self.inputs]  # for each input
        self._keeps = bool(backward or any(self.asks.values()))  # else rules need the gradient alone
        self._plan = cache(self._to_save)
        self._check_names()
        self.__name__, self.__doc__, self.__module__ = self.name, doc or forward.__doc__, forward.__module__
        self.__signature__ = inspect.Signature(
            [_public(p, i) for i, p in enumerate(inputs)] + parameters[len(inputs) :]
        )

    def _check_names(self) -> None:
        reserved = {"out", "needed"} & {*self.inputs, *self.options, *self.extras}
        if reserved:
            raise TypeError(f"{self.name}: an input, option or extra is named {sorted(reserved)}; rules call others so")
        known = {"out", "needed", *self.inputs, *self.options, *self.extras, *map(self._shape_name, self.inputs)}
        unknown = set(self.rules) - set(self.inputs)
        for asks in (*self.asks.values(), self.backward_asks):
            unknown |= set(asks) - known
        if unknown:
            raise TypeError(
                f"{self.name}: {sorted(unknown)} in its rules; they may name {sorted(known)}. "
                "Inputs are the parameters of the forward after its first, the array library xp."
            )

    def _shape_name(self, name: str) -> str:
        return f"{name}_shapes" if self.variadic else f"{name}_shape"

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:  # so that it can be a method
        return self if instance is None else MethodType(self, instance)

    # --- forward ---

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run on tensors; record a node if one of them requires a gradient."""
        if options and len(inputs) < len(self.inputs):
            inputs = (*inputs, *self._by_keyword(len(inputs), options))
        if self.promote is not None and not agree(inputs):
            inputs = tuple(self.promote(*inputs))
        run = self._run_watched if observers.get() else self._run_and_record
        if self.definition is not None and definition_mode.get():
            run = self._run_definition
        return _on_gpu(run, inputs, options) if backends.in_use() else run(inputs, options)

    def _by_keyword(self, given: int, options: dict[str, Any]) -> list[Any]:
        """The inputs after the first `given`, taken out of `options`: by their own names, or PyTorch's.

        An input that was left out before one that is given has its default.
        """
        found, gap = [], []
        for i in range(given, len(self.inputs)):
            name = next((n for n in (self.inputs[i], *TORCH_NAMES[i : i + 1]) if n in options), None)
            if name is None:
                gap.append(self._defaults[i])
                continue
            if inspect.Parameter.empty in gap:
                raise TypeError(f"{self.name}: an input before {name!r} is missing; its inputs are {self.inputs}")
            found += [*gap, options.pop(name)]
            gap = []
        return found

    def _run_and_record(self, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        """Compute with the arrays of `inputs`, wrap the results, and record a node if an input requires a gradient."""
        arrays: list[Any] = []
        edges: list[Node | None] = []
        half, needed = False, 1  # needed: in binary a 1, and for each input whether it requires a gradient
        for x in inputs:
            if isinstance(x, Variable):
                if x._storage is not None and x._version < x._storage.last_recorded:
                    catch_up(x, self.name)
                array, edge = x.array, x._node
                half = half or array.dtype == float16
            else:
                array, edge = x, None
            arrays.append(array)
            edges.append(edge)
            needed = 2 * needed + (edge is not None)
        recording = self.differentiable and grad_mode.get() and any(edges)
        widen = half and self.opmath
        xp = backends.of(*arrays)
        kernel = self._recording_kernel if recording else self._kernel
        try:
            result = kernel(xp, *(widened(arrays) if widen else arrays), **options)
        except ValueError as error:
            self._raise_if_not_broadcastable(error, arrays)
            raise
        extras: Sequence[Variable | None] = ()
        if self.extras and type(result) in (tuple, list):  # extras are left out where nothing is recorded
            result, *extra_arrays = result
            extras = [x if x is None else Variable._from(self._as_array(xp, x)) for x in extra_arrays]
        unrounded = Variable._from(result if type(result) is xp.ndarray else self._as_array(xp, result))
        out = Variable._from(rounded(unrounded.array, arrays)) if widen else unrounded
        if self.view:
            _share_storage(out, inputs[0])
        if recording:
            sources = inputs, arrays, (unrounded, *extras), self._defaults  # in the order of INPUTS, SHAPES ...
            node = out._node = self._record(sources, tuple(edges), needed, options, out)
            node.half, node.site, node.modules = half, call_site(3), module_stack.get()
        return (out, *extras) if extras and self.definition is None else out

    def _as_array(self, xp: Any, x: Any) -> Any:
        """A result as an array: NumPy's functions of 0-d arrays return scalars."""
        if x is None or isinstance(x, Variable):
            raise TypeError(f"{self.name}: its forward gave a {type(x).__name__}; expected an array")
        return x if backends.is_array(x) else xp.asarray(x)

    def _run_watched(self, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        watching = observers.get()
        for observer in watching:
            observer.before_forward(self, inputs, options)
        try:
            result = self._run_and_record(inputs, options)
        except Exception as error:
            for observer in watching:
                observer.failed_forward(self, inputs, options, error)
            raise
        out = result[0] if type(result) is tuple else result
        for observer in watching:
            observer.after_forward(self, inputs, out, out.node)
        return result

    def _run_definition(self, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
        assert self.definition is not None
        watching = observers.get()
        for observer in watching:
            observer.before_definition(self, inputs, options)
        try:
            return rounded(self.definition(recording_namespace(), *widened(inputs), **options), inputs)
        finally:
            for observer in watching:
                observer.after_definition(self)

    def _raise_if_not_broadcastable(self, error: Exception, arrays: Sequence[Any]) -> None:
        """If NumPy's `error` is about broadcasting, raise one that names the operation and the shapes."""
        if "broadcast" in str(error):
            shapes = " and ".join(str(tuple(a.shape)) for a in arrays if hasattr(a, "shape"))
            raise RuntimeError(
                f"{self.name}: shapes {shapes} do not broadcast; aligned at the right, sizes must be equal or 1"
            ) from None

    # --- what is saved for the backward pass ---

    def _record(self, sources: Any, edges: Any, needed: int, options: Any, out: Variable) -> Node:
        """Make the node of `out`, which keeps what its rules name; sources: where that is found."""
        if len(options) < len(self.options):
            options = self.options | options
        node = Node(self, edges, out.array, options)
        if self._keeps:
            saved = node.saved = {}
            for name, place, i in self._plan(needed):
                value = sources[place][i]
                if isinstance(value, Variable):
                    saved[name] = Saved(value)
                else:
                    saved[name] = _shapes(value) if place == SHAPES else save(value)
        return node

    def _to_save(self, needed: int) -> list[tuple[str, int, int | slice]]:
        """What must be saved when the inputs marked in `needed` require gradients: name, place and index there."""
        marks = [bit == "1" for bit in f"{needed:b}"[1:]]
        names = list(self.backward_asks)
        if self.backward and self.definition:
            names += self.inputs  # second derivatives run the definition, from the inputs
        for name, need in zip(self.inputs, marks, strict=False):  # optional inputs may have been left out
            names += self.asks.get(name, []) if need else []
        found: dict[str, Any] = {name: (RESULTS, i) for i, name in enumerate(("out", *self.extras))}
        for i, name in enumerate(self.inputs):
            index = slice(None) if self.variadic else i
            value, shape = (INPUTS, SHAPES) if self.variadic or i < len(marks) else (DEFAULTS, DEFAULTS)
            found |= {name: (value, index), self._shape_name(name): (shape, index)}
        return [(name, *found[name]) for name in dict.fromkeys(names) if name in found]


def operation(*forward: Any, **how: Any) -> Callable[[Callable[..., Any]], Operation]:
    """`Operation` as a decorator of its forward: `@operation(x=lambda xp, g, out: g * out)`.

    Raises TypeError without brackets, and for rules that name something unknown.

    >>> @ta.operation(x=lambda xp, g, x: g * x * 2)
    ... def squared(xp, x):
    ...     return x * x
    >>> squared(ta.tensor(3.0)).item()
    9.0
    """
    if forward:
        raise TypeError("operation takes a rule for each input by its name: @ta.operation(x=lambda xp, g, x: ...)")
    return lambda forward: Operation(forward, **how)


def agree(inputs: Sequence[Any]) -> bool:
    """Whether `promote`, which is slower, can be skipped: all inputs are floating tensors of one dtype, or numbers."""
    dtype = None
    for x in inputs:
        if isinstance(x, Variable):
            if dtype is None:
                dtype = x.array.dtype
            elif x.array.dtype is not dtype:  # unusual objects of one dtype go to `promote`
                return False
        elif type(x) is not float and type(x) is not int:
            return False
    return dtype is not None and dtype.kind == "f"


def _asked(rule: Callable[..., Any]) -> list[str]:
    """The parameters of a rule after `xp, g`, which may have other names, but not each other's."""
    names = list(inspect.signature(rule).parameters)
    if names[:1] == ["g"]:
        raise TypeError(f"a rule has the parameters {names}; its first one is the array library: lambda xp, g, ...")
    return names[2:]


def _public(parameter: inspect.Parameter, i: int) -> inspect.Parameter:
    """The parameter of input `i` as callers see it: PyTorch's names instead of x, a and b."""
    renamed = parameter.name in ("x", "a", "b") and i < len(TORCH_NAMES)
    return parameter.replace(name=TORCH_NAMES[i]) if renamed else parameter


def _shapes(x: Any) -> tuple[Any, ...]:
    return tuple(map(_shapes, x)) if type(x) is list else getattr(x, "shape", ())


def _share_storage(out: Variable, source: Variable) -> None:
    """Give `out` the version counter of `source` if it is a view of it (a reshape may have had to copy)."""
    a, b = out.array, source.array
    if a is b or backends.owner(a) is backends.owner(b):
        out._storage = storage = source.storage
        out._version, out._base = storage.version, source if source._base is None else source._base


def _on_gpu(run: Callable[..., Any], inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """Run on the GPU of the inputs; CuPy's current GPU is afterwards what it was before."""
    before = backends.users_gpu()
    try:
        return run(tuple(_on_one_device(inputs)), options)
    finally:
        backends.return_to(before)


def _on_one_device(inputs: Sequence[Any]) -> Sequence[Any]:
    """`inputs` with single numbers (0-d) on the CPU moved to the GPU of the others, as in PyTorch.

    Raises MixedDevicesError if that leaves several devices.
    """
    tensors = [x for x in inputs if isinstance(x, Variable)]
    devices = {id(x): backends.device_of(x.array) for x in tensors}
    if len(set(devices.values())) < 2:
        return inputs
    movable = {id(x) for x in tensors if devices[id(x)] == "cpu" and x.ndim == 0}
    backends.of(*(x.array for x in tensors if id(x) not in movable))
    target = next(device for device in devices.values() if device != "cpu")
    return [recording_namespace().move(x, target) if id(x) in movable else x for x in inputs]


def catch_up(x: Variable, name: str) -> None:
    """Give `x`, which `name` got, the history of a tensor that shares its memory and that a recorded write has changed.

    Raises RuntimeError if it is not a view of that tensor.
    """
    if x._version >= x.storage.last_recorded:
        return
    if x._base is not None:
        recording_namespace().view_again(x)
    elif x.node is not None:
        raise RuntimeError(
            f"{name} got a tensor of shape {tuple(x.shape)} that shares its memory with another one, which "
            f"{x.storage.last_write()} has changed since; its gradient would be that of the old values. "
            "Take the view after the change, or clone() it before."
        )

"""Autograd: what an operation is, the node it leaves behind, and the walk back through the nodes.

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
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyattn import backends
from tinyattn.modes import Mode, Site, call_site, definition_mode, grad_mode

if TYPE_CHECKING:
    from tinyattn.tensor import Tensor

# --- what is recorded ----------------------------------------------------------------------------


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
    storage = value.storage
    return Saved(value.data, value.node, storage, storage.version)


_ids = itertools.count(1)


class Node:
    """One recorded operation, or a leaf (`op` is None). Its edges go to nodes, never to tensors, so
    arrays are freed by reference counting as soon as nothing saved them."""

    __slots__ = (
        "__weakref__", "dtype", "edges", "hooks", "id", "op", "options", "saved", "shape", "site", "tensor",
    )  # fmt: skip

    def __init__(self, op: Operation | None, edges: tuple[Node | None, ...], array: Any) -> None:
        self.id = next(_ids)  # ids count up: a consumer is always newer than what it consumes
        self.op = op
        self.edges = edges
        self.shape = array.shape
        self.dtype = array.dtype
        self.options: dict[str, Any] = {}
        self.saved: dict[str, Any] | None = {}
        self.hooks: list[Callable[[Tensor], Tensor | None]] | None = None
        self.tensor: Callable[[], Tensor | None] | None = None  # weak: whose .grad to fill
        self.site: Site | None = None

    def value(self, name: str, recording: bool) -> Any:
        """What the rules know as `name`: a saved input or `out`, an option, or `needed`."""
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

    def __str__(self) -> str:
        return f"{self.op.name if self.op else 'leaf'} (made at {self.site})"


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
    definition: `definition(F, *inputs, **options)`, the same function in first-principles
                operations. It runs under `definitions()`, and gives the second derivatives of
                operations with a `backward`.
    promote:    called with the inputs, returns them with their dtypes aligned.
    view:       the output may share its memory with the first input.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        definition: Callable[..., Any] | None = None,
        backward: Callable[..., Any] | None = None,
        promote: Callable[..., Sequence[Any]] | None = None,
        extras: tuple[str, ...] = (),
        view: bool = False,
        name: str | None = None,
        **rules: Callable[..., Any],
    ) -> None:
        self.name = name or forward.__name__.strip("_")
        self.__name__, self.__doc__ = self.name, forward.__doc__
        self.forward, self.definition, self.backward = forward, definition, backward
        self.promote, self.extras, self.view, self.rules = promote, extras, view, rules
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        self.inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        # What each input's rule asks for after (F, g), in order.
        self._asks = {key: _asked(rule) for key, rule in rules.items()}
        self._joint = _asked(backward) if backward else []
        self._plans: dict[tuple[bool, ...], list[tuple[str, str, int]]] = {}
        unknown = {*rules} - {*self.inputs}
        if unknown:
            raise TypeError(f"{self.name}: rules for {sorted(unknown)}, but its inputs are {self.inputs}")

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:  # so that it can be a method
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run on tensors; record a node if one of them requires a gradient."""
        if len(inputs) < len(self.inputs) and options:  # torch's names for the first two
            inputs += tuple(options.pop(k) for k in ("input", "other") if k in options)
        if self.promote is not None:
            inputs = tuple(self.promote(*inputs))
        if self.definition is not None and definition_mode.get():
            return self.definition(_ops, *inputs, **options)
        Tensor = _tensor.Tensor
        arrays, edges, tracked = [], [], False
        for x in inputs:
            if isinstance(x, Tensor):
                arrays.append(x.data)
                if x._storage is not None and x._version < x._storage.tracked:
                    _refuse_stale(x, self)
                edges.append(x.node)
                tracked = tracked or x.node is not None
            else:
                arrays.append(x)
                edges.append(None)
        F = backends.of(*arrays)
        result = self.forward(F, *arrays, **options)
        extra = ()
        if self.extras:
            result, *extra = result
        if type(result) is not F.ndarray:  # a ufunc of 0-d arrays returns a scalar
            result = F.asarray(result)
        out = Tensor._from(result)
        if self.view and _same_memory(result, arrays[0]):
            out._storage, out._is_view = inputs[0].storage, True
            out._version = out._storage.version
        if tracked and (self.rules or self.backward) and grad_mode.get():
            out.node = self._record(inputs, arrays, tuple(edges), options, out, extra)
        if extra and self.definition is None:  # with one, the extras are the kernel's own affair
            return (out, *(Tensor._from(F.asarray(e)) for e in extra))
        return out

    def _record(self, inputs: Any, arrays: Any, edges: Any, options: Any, out: Any, extra: Any) -> Node:
        node = Node(self, edges, out.data)
        node.options = options if len(options) == len(self.options) else {**self.options, **options}
        node.site = call_site()
        saved = node.saved
        assert saved is not None
        needed = tuple(edge is not None for edge in edges)
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
                saved[name] = Saved(extra[i], None, Storage(), 0)
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
        plan = []
        for name in dict.fromkeys(names):
            base = name.removesuffix("_shape").removesuffix("_shapes")
            if name in self.options or name == "needed":
                continue
            if name == "out":
                plan.append((name, "out", 0))
            elif name in self.extras:
                plan.append((name, "extra", self.extras.index(name)))
            elif self.variadic:
                plan.append((name, "inputs" if name in self.inputs else "shapes", 0))
            elif name in self.inputs:
                plan.append((name, "input", self.inputs.index(name)))
            else:
                plan.append((name, "shape", self.inputs.index(base)))
        return plan

    def gradients(self, F: Any, node: Node, g: Any) -> Sequence[Any]:
        """The gradient at every edge of `node`, None where nobody needs one."""
        recording = F is _ops
        if self.backward is not None:
            if recording and self.definition is not None:
                return self._gradients_by_definition(node, g)
            return self.backward(F, g, *[node.value(name, recording) for name in self._joint])
        found: list[Any] = []
        for name, edge in zip(self.inputs, node.edges, strict=False):
            rule = self.rules.get(name)
            if edge is None or rule is None:
                found.append(None)
            else:
                found.append(rule(F, g, *[node.value(n, recording) for n in self._asks[name]]))
        return found

    def _gradients_by_definition(self, node: Node, g: Tensor) -> Sequence[Tensor | None]:
        """Differentiate the definition instead of the kernel, which can be done any number of times.
        Every input slot gets a node of its own, so that attention(x, x, x) counts each once."""
        assert self.definition is not None
        slots = [node.value(name, True) for name in self.inputs]
        slots = [_ops.alias(s) if e is not None else s for s, e in zip(slots, node.edges, strict=False)]
        out = self.definition(_ops, *slots, **node.options)
        wanted = [s for s, e in zip(slots, node.edges, strict=False) if e is not None]
        found = iter(grad(out, wanted, g, create_graph=True, allow_unused=True))
        return [next(found) if edge is not None else None for edge in node.edges]


def operation(**how: Any) -> Callable[[Callable[..., Any]], Operation]:
    """`Operation` as a decorator of its forward: `@operation(x=lambda F, g, out: g * out)`."""
    return lambda forward: Operation(forward, **how)


def _asked(rule: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(rule).parameters)[2:]


def _same_memory(a: Any, b: Any) -> bool:
    """Whether `a` is `b` or a view of it (a reshape may have had to copy)."""
    return a is b or (a.base is not None and (a.base is b or a.base is b.base))


def _refuse_stale(x: Tensor, op: Operation) -> None:
    what, where = x.storage.writer or ("an in-place write", "an unknown place")
    raise RuntimeError(
        f"{op.name} got a tensor of shape {tuple(x.shape)} that shares its memory with another one, "
        f"which {what} at {where} has changed since; its gradient would be that of the old values. "
        "Take the view after the change, or clone() it before."
    )


# --- the walk ------------------------------------------------------------------------------------


def walk(
    roots: Iterable[tuple[Node, Any]], F: Any, *, inputs: Sequence[Node] | None = None, retain_graph: bool = False
) -> dict[Node, Any]:
    """Carry gradients from `roots` (pairs of a node and its seed) back through the graph.

    The newest node left has its complete gradient, since everything that consumed it is newer
    still: one heap of ids is the whole schedule. Returns the gradients of `inputs` if given;
    otherwise fills `.grad` of the leaves and of tensors that asked for it.
    """
    gradients: dict[int, Any] = {}
    nodes: dict[int, Node] = {}
    heap: list[int] = []
    owned: set[int] = set()  # whose gradient is an array that nobody else holds
    found: dict[Node, Any] = {}
    recording = F is _ops
    wanted = set(inputs or ())
    useful = None if inputs is None else _leading_to(inputs, [node for node, _ in roots])

    def receive(node: Node, g: Any, fresh: bool) -> None:
        key = node.id
        if key not in gradients:
            nodes[key] = node
            heappush(heap, -key)
            if isinstance(g, backends.Placed):
                g, fresh = g.dense(), True
            gradients[key] = g
            if fresh:
                owned.add(key)
        elif isinstance(g, backends.Placed):  # a few rows: add them where they belong
            if key not in owned:
                gradients[key] = gradients[key].copy()
            g.add_into(gradients[key])
            owned.add(key)
        elif key in owned and not recording:
            gradients[key] += g
        else:
            gradients[key] = gradients[key] + g
            owned.add(key)

    for node, seed in roots:
        receive(node, seed, False)
    while heap:
        key = -heappop(heap)
        node, g = nodes.pop(key), gradients.pop(key)
        if node.hooks:
            g = _run_hooks(node, g, recording)
            owned.discard(key)
        if node in wanted or (inputs is None and node.tensor is not None):
            # what leaves the engine shares its memory with nothing else
            kept = g if key in owned else F.clone(g)
            if inputs is None:
                _accumulate(node, kept, recording)
            else:
                found[node] = kept
        if node.op is None:
            continue
        for edge, gi in zip(node.edges, node.op.gradients(F, node, g), strict=False):
            if gi is None or edge is None or (useful is not None and edge.id not in useful):
                continue
            if gi.shape != edge.shape:
                gi = F.sum_to(gi, edge.shape)
            if gi.dtype != edge.dtype:
                gi = F.cast(gi, edge.dtype)
            receive(edge, gi, gi is not g and (gi.data if recording else gi).base is None)
        if not retain_graph and node.saved:
            node.saved = None  # freed as the walk passes
    return found


def _leading_to(inputs: Sequence[Node], roots: Sequence[Node]) -> set[int]:
    """Ids of the nodes from which one of `inputs` can be reached: no other gradient is needed."""
    oldest = min((node.id for node in inputs), default=0)
    reached = {node.id: node for node in roots}
    stack = list(reached.values())
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge.id >= oldest and edge.id not in reached:
                reached[edge.id] = edge
                stack.append(edge)
    useful = {node.id for node in inputs}
    for key in sorted(reached):
        if any(edge is not None and edge.id in useful for edge in reached[key].edges):
            useful.add(key)
    return useful


def _run_hooks(node: Node, g: Any, recording: bool) -> Any:
    tensor = g if recording else _tensor.Tensor._from(backends.of(g).asarray(g))
    for hook in list(node.hooks or ()):
        replaced = hook(tensor)
        tensor = tensor if replaced is None else replaced
    return tensor if recording else tensor.data


def _accumulate(node: Node, g: Any, recording: bool) -> None:
    """Add `g` to the `.grad` of the node's tensor."""
    tensor = node.tensor() if node.tensor is not None else None
    if tensor is None:
        return  # nobody can see it any more
    if recording:
        tensor.grad = g if tensor.grad is None else tensor.grad + g
    elif tensor.grad is None:
        tensor.grad = _tensor.Tensor._from(backends.of(g).asarray(g))
    else:
        tensor.grad.data += g


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` with respect to `inputs`, without touching any `.grad`.

    grad_outputs: one gradient for each output, of its shape; may be left out for scalars.
    create_graph: record the computation of the gradients too, so that they can be differentiated.
    allow_unused: None instead of an error for an input the outputs do not depend on.
    As torch.autograd.grad.
    """
    outputs = [outputs] if isinstance(outputs, _tensor.Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, _tensor.Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, _tensor.Tensor):
        grad_outputs = [grad_outputs] * len(outputs)
    for i, x in enumerate(inputs):
        if x.node is None:
            raise RuntimeError(
                f"grad: input {i} (shape {tuple(x.shape)}) does not require a gradient; call "
                "requires_grad_() on it before computing the outputs."
            )
    targets = [x.node for x in inputs]
    found = _backward(outputs, grad_outputs, retain_graph, create_graph, targets)  # type: ignore[arg-type]
    results: list[Tensor | None] = []
    for i, x in enumerate(inputs):
        g = found.get(x.node)  # type: ignore[arg-type]
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: the outputs do not depend on input {i} (shape {tuple(x.shape)}). Pass "
                "allow_unused=True to get None there."
            )
        wrapped = g is None or isinstance(g, _tensor.Tensor)
        results.append(g if wrapped else _tensor.Tensor._from(backends.of(g).asarray(g)))
    return tuple(results)


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add the gradients of `tensors` to the `.grad` of every leaf they depend on.

    As torch.autograd.backward.
    """
    roots = [tensors] if isinstance(tensors, _tensor.Tensor) else list(tensors)
    seeds: Sequence[Tensor | None]
    if grad_tensors is None or isinstance(grad_tensors, _tensor.Tensor):
        seeds = [grad_tensors] * len(roots)
    else:
        seeds = grad_tensors
    _backward(roots, seeds, retain_graph, create_graph, None)


def _backward(
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor | None],
    retain_graph: bool | None,
    create_graph: bool,
    inputs: Sequence[Node] | None,
) -> dict[Node, Any]:
    if len(seeds) != len(roots):
        raise ValueError(f"backward: {len(roots)} outputs but {len(seeds)} gradients for them")
    pairs = [(root, _seed(root, seed)) for root, seed in zip(roots, seeds, strict=True)]
    library = backends.of(*(root.data for root in roots))
    with Mode(grad_mode, create_graph), library.quiet():
        return walk(
            [(root.node, seed if create_graph else seed.data) for root, seed in pairs],  # type: ignore[misc]
            _ops if create_graph else library,
            inputs=inputs,
            retain_graph=create_graph if retain_graph is None else retain_graph,
        )


def _seed(root: Tensor, seed: Any) -> Tensor:
    """The gradient a walk starts from, checked."""
    if root.node is None:
        raise RuntimeError(
            f"backward: this tensor (shape {tuple(root.shape)}, {root.dtype}) does not require a gradient, "
            "so there is no graph to walk. Was it computed under no_grad(), cut off by detach() or .data, "
            "turned into integers (argmax, comparison, .long()), or made only from tensors with "
            "requires_grad=False? Setting requires_grad on the loss itself would train nothing."
        )
    if seed is None:
        if root.numel() != 1:
            raise RuntimeError(
                f"backward: the gradient can be left out only for a single number, and this tensor has "
                f"shape {tuple(root.shape)}. Reduce it first (loss.mean() or loss.sum()), or pass a "
                "gradient of the same shape."
            )
        return creation.ones_like(root)
    if not isinstance(seed, _tensor.Tensor):
        seed = creation.as_tensor(seed)
    if seed.shape != root.shape:
        raise RuntimeError(
            f"backward: the gradient has shape {tuple(seed.shape)}, but the tensor has shape "
            f"{tuple(root.shape)}; they must be equal."
        )
    return seed if seed.dtype == root.dtype else _ops.cast(seed, root.dtype)


# Tensors are made of operations and operations make tensors: this floor is one circle, closed here.
import tinyattn.tensor as _tensor  # noqa: E402 - tensor first: it imports ops
from tinyattn import creation  # noqa: E402
from tinyattn import ops as _ops  # noqa: E402

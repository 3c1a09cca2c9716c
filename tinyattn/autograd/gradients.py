"""grad and backward: the functions that start a backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyattn import backends
from tinyattn.engine.modes import Mode, grad_mode
from tinyattn.engine.node import Node
from tinyattn.engine.variable import Tensor, Variable, check_gradient, recording_namespace
from tinyattn.engine.walk import accumulate, walk
from tinyattn.ops import creation
from tinyattn.ops.copies import cast, move
from tinyattn.ops.joins import stack


@backends.keeps_gpu
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
    is_grads_batched: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` with respect to `inputs`; the `.grad` of leaves stays what it is.

    grad_outputs: one gradient for each output, of its shape; may be left out for scalars.
    create_graph: record the computation of the gradients too, so that they can be differentiated.
    allow_unused: None instead of an error for an input the outputs do not depend on; with materialize_grads, zeros.
    only_inputs: without effect. is_grads_batched: grad_outputs have a first axis more, and so have the gradients.
    As torch.autograd.grad.

    >>> x = ta.tensor([1.0, 2.0], requires_grad=True)
    >>> ta.grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    outputs = [outputs] if isinstance(outputs, Variable) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Variable) else list(inputs)
    if not inputs:
        raise RuntimeError("grad: inputs is empty; name the tensors whose gradients are wanted")
    if grad_outputs is None or isinstance(grad_outputs, Variable):
        grad_outputs = [None] * len(outputs) if grad_outputs is None else [grad_outputs]
    for i, x in enumerate(inputs):
        if x.node is None:
            hint = "call requires_grad_() on it before computing the outputs."
            raise RuntimeError(f"grad: input {i} (shape {tuple(x.shape)}) does not require a gradient; {hint}")
    if is_grads_batched:
        options = {"allow_unused": allow_unused, "materialize_grads": materialize_grads}
        return _batched(outputs, inputs, grad_outputs, retain_graph, create_graph=create_graph, **options)
    found = _backward(outputs, grad_outputs, retain_graph, create_graph, [x.node for x in inputs])
    results: list[Tensor | None] = []
    for i, x in enumerate(inputs):
        g = found.get(x.node)
        if g is None and materialize_grads:
            g = creation.zeros_like(x)
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: the outputs do not depend on input {i} (shape {tuple(x.shape)}). Pass "
                "allow_unused=True to get None there, or materialize_grads=True to get zeros."
            )
        wrapped = g is None or isinstance(g, Variable)
        results.append(g if wrapped else Variable._from(backends.of(g).asarray(g)))
    return tuple(results)


def _batched(outputs: Any, inputs: Any, batches: Any, retain_graph: bool | None, **options: Any) -> tuple[Any, ...]:
    """Gradients for every element of the first axis of grad_outputs, stacked along a first axis."""
    n = next(len(g) for g in batches if g is not None)
    keep = [True] * (n - 1) + [retain_graph]  # the graph, for the next
    each = [[None if g is None else g[i] for g in batches] for i in range(n)]
    rows = [grad(outputs, inputs, row, keep[i], **options) for i, row in enumerate(each)]
    return tuple(None if column[0] is None else stack(column) for column in zip(*rows, strict=True))


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of `tensors` to the `.grad` of every leaf that they depend on. As torch.autograd.backward.

    grad_tensors: one gradient for each tensor, of its shape; may be left out for single numbers (else RuntimeError).
    retain_graph, create_graph: as in `grad`. inputs: add to the `.grad` of these tensors only.

    >>> x = ta.tensor([1.0, 2.0], requires_grad=True)
    >>> ta.autograd.backward(x * x, ta.ones(2))
    >>> x.grad
    tensor([2., 4.])
    """
    roots = [tensors] if isinstance(tensors, Variable) else list(tensors)
    if grad_tensors is None or isinstance(grad_tensors, Variable):
        grad_tensors = [None] * len(roots) if grad_tensors is None else [grad_tensors]
    if inputs is not None:
        chosen = [inputs] if isinstance(inputs, Variable) else list(inputs)
        if not chosen:
            raise RuntimeError("backward: inputs is empty; leave it out to reach every leaf")
        for x, g in zip(chosen, grad(roots, chosen, grad_tensors, retain_graph, create_graph, True), strict=True):
            if g is not None and not (x.node.op and x.node.tensor):  # that retains it
                xp = recording_namespace() if create_graph else backends.of(g.array)
                accumulate(xp, x.node, x, g if create_graph else g.array, True, create_graph)
        return
    _backward(roots, grad_tensors, retain_graph, create_graph, None)


def _backward(
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor | None],
    retain_graph: bool | None,
    create_graph: bool,
    inputs: Sequence[Node] | None,
) -> dict[Node, Any]:
    if not isinstance(seeds, tuple | list):
        raise TypeError(
            f"backward: the gradient is a {type(seeds).__name__}; expected a tensor, None, or a list with one of these "
            "for each output"
        )
    if len(seeds) != len(roots):
        raise ValueError(f"backward: {len(roots)} outputs but {len(seeds)} gradients for them")
    pairs = [(root, _seed(root, seed)) for root, seed in zip(roots, seeds, strict=True)]
    with Mode(grad_mode, create_graph), backends.quiet():
        return walk(
            [(root.node, seed if create_graph else seed.array) for root, seed in pairs],
            create_graph=create_graph,
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
    if isinstance(seed, Variable):
        if seed.shape != root.shape:
            raise RuntimeError(
                f"backward: the gradient has shape {tuple(seed.shape)}, but the tensor has shape "
                f"{tuple(root.shape)}; they must be equal."
            )
        seed = cast(seed if seed.ndim else move(seed, root.device), root.dtype)  # as PyTorch does
    check_gradient(seed, root, "backward")
    return seed

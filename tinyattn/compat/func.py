"""torch.func: derivatives of functions of tensors, or of dicts, lists and tuples of tensors, and loops over a batch.

A result has a history only if an argument, or another tensor that the function uses, requires a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.compat.parts import tree_flatten, tree_map, tree_unflatten

Function = Callable[..., Any]


def _fresh(tree: Any) -> tuple[Any, list[Any]]:
    """The tree with tensors to differentiate by, which keep the history they have, and these tensors."""
    found: list[Any] = []

    def each(x: Any) -> Any:
        if ta.is_tensor(x) and x.is_floating_point():
            found.append(ta.ops.alias(x) if x.requires_grad else x.detach().requires_grad_())
            return found[-1]
        return x

    return tree_map(each, tree), found


def _grads(outputs: list[Any], inputs: list[Any], seeds: list[Any]) -> list[Any]:
    """The gradients by the inputs, recorded; zeros where an input has no effect."""
    pairs = [(y, g) for y, g in zip(outputs, seeds, strict=True) if y.requires_grad]
    if not pairs:
        return [ta.zeros_like(x) for x in inputs]
    outs, grads = zip(*pairs, strict=True)
    return list(ta.grad(outs, inputs, grads, create_graph=True, materialize_grads=True))


def _without_own(tree: Any, own: list[Any]) -> Any:
    """Cut the history of results that leads to `own` tensors alone: what PyTorch returns has none."""
    mine = {id(x.node) for x in own if x.is_leaf}

    def foreign(x: Any) -> bool:
        seen, left = set[int](), [x.node]
        while left:
            node = left.pop()
            if node is None or id(node) in seen or id(node) in mine:
                continue
            seen.add(id(node))
            if node.op is None:
                return True
            left.extend(node.edges)
        return False

    return tree_map(lambda x: x if not ta.is_tensor(x) or not x.requires_grad or foreign(x) else x.detach(), tree)


def grad_and_value(func: Function, argnums: Any = 0, has_aux: bool = False) -> Function:
    """Return the function that gives the gradients of `func`, and its value. As torch.func.grad_and_value."""

    @functools.wraps(func)
    @ta.enable_grad()
    def call(*args: Any, **options: Any) -> Any:
        chosen = [args[i] for i in argnums] if isinstance(argnums, tuple) else args[argnums]
        chosen, inputs = _fresh(chosen)
        given = list(args)
        for i, x in zip(argnums, chosen, strict=True) if isinstance(argnums, tuple) else [(argnums, chosen)]:
            given[i] = x
        value, *aux = func(*given, **options) if has_aux else (func(*given, **options),)
        if not ta.is_tensor(value) or value.ndim:
            raise RuntimeError(f"grad: the function returned {getattr(value, 'shape', value)!r}; expected a tensor ()")
        found = iter(_grads([value], inputs, [ta.ones_like(value)]))
        gradients = tree_map(lambda x: next(found) if any(x is each for each in inputs) else x, chosen)
        gradients = tuple(gradients) if isinstance(argnums, tuple) else gradients
        return _without_own((gradients, (value, *aux) if has_aux else value), inputs)

    return call


def grad(func: Function, argnums: Any = 0, has_aux: bool = False) -> Function:
    """Return the function that gives the gradients of `func`, which returns a number. As torch.func.grad.

    >>> from tinyattn.compat.func import grad
    >>> grad(grad(lambda x: x**3))(ta.tensor(2.0))
    tensor(12.)
    """

    @functools.wraps(func)
    def call(*args: Any, **options: Any) -> Any:
        gradients, value = grad_and_value(func, argnums, has_aux)(*args, **options)
        return (gradients, value[1]) if has_aux else gradients

    return call


@ta.enable_grad()
def vjp(func: Function, *primals: Any, has_aux: bool = False) -> Any:
    """Return func(*primals) and the function of v that gives v' J for each of them. As torch.func.vjp."""
    given, inputs = _fresh(primals)
    out, *aux = func(*given) if has_aux else (func(*given),)

    @ta.enable_grad()
    def pull(*cotangents: Any, **options: Any) -> Any:
        seeds = tree_flatten(cotangents[0] if len(cotangents) == 1 else cotangents)[0]
        found = iter(_grads(tree_flatten(out)[0], inputs, seeds))
        return _without_own(tree_map(lambda x: next(found) if any(x is y for y in inputs) else x, given), inputs)

    return (_without_own(out, inputs), pull, *_without_own(aux, inputs))


@ta.enable_grad()
def jvp(func: Function, primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """Return func(*primals) and how it changes along the tangents, by two backward passes. As torch.func.jvp."""
    given, inputs = _fresh(primals)
    out, *aux = func(*given) if has_aux else (func(*given),)
    leaves, spec = tree_flatten(out)
    seeds = [ta.zeros_like(y).requires_grad_() for y in leaves]
    pulled = _grads(leaves, inputs, seeds)
    changes = tree_unflatten(_grads(pulled, seeds, tree_flatten(tangents)[0]), spec)
    return (*_without_own((out, changes), [*inputs, *seeds]), *_without_own(aux, inputs))


def jacrev(func: Function, argnums: Any = 0, has_aux: bool = False, **options: Any) -> Function:
    """Return the function that gives the Jacobian, an output's shape before an input's. As torch.func.jacrev.

    >>> from tinyattn.compat.func import hessian
    >>> hessian(lambda x: (x**3).sum())(ta.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """

    @functools.wraps(func)
    @ta.enable_grad()
    def call(*args: Any, **keywords: Any) -> Any:
        places = argnums if isinstance(argnums, tuple) else (argnums,)
        given = list(args)
        chosen, inputs = _fresh([args[i] for i in places])
        for i, x in zip(places, chosen, strict=True):
            given[i] = x
        out, *aux = func(*given, **keywords) if has_aux else (func(*given, **keywords),)

        def of(y: Any) -> Any:
            units = ta.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(y.numel(), *y.shape)
            rows = [_grads([y], inputs, [unit]) for unit in units]
            blocks = iter(
                [ta.stack(rows_of).reshape(*y.shape, *rows_of[0].shape) for rows_of in zip(*rows, strict=True)]
            )
            each = tree_map(lambda x: next(blocks) if any(x is z for z in inputs) else x, chosen)
            return tuple(each) if isinstance(argnums, tuple) else each[0]

        found = _without_own(tree_map(of, out), inputs)
        return (found, *_without_own(aux, inputs)) if has_aux else found

    return call


jacfwd = jacrev  # the same numbers


def hessian(func: Function, argnums: Any = 0) -> Function:
    """Return the function that gives the second derivatives of `func`. As torch.func.hessian."""
    return jacrev(jacrev(func, argnums), argnums)


def _axes(dims: Any, tree: Any) -> list[Any]:
    """The batch axis of every leaf: of one number or None for all, or of a tree like it."""
    if dims is None or isinstance(dims, int):
        return [dims] * len(tree_flatten(tree)[0])
    if isinstance(tree, dict):
        return [axis for key in tree for axis in _axes(dims[key], tree[key])]
    return [axis for each, part in zip(dims, tree, strict=True) for axis in _axes(each, part)]


def vmap(func: Function, in_dims: Any = 0, out_dims: Any = 0, *others: Any, **options: Any) -> Function:
    """Return the function that calls `func` for every element of a batch, one after another. As torch.func.vmap.

    in_dims, out_dims: the axes of the batch; None for an argument that all share. PyTorch's other options, which say
    how it is computed, have no effect.

    >>> from tinyattn.compat.func import vmap
    >>> vmap(ta.dot)(ta.ones(3, 2), ta.ones(3, 2)).tolist()
    [2.0, 2.0, 2.0]
    """

    @functools.wraps(func)
    def call(*args: Any, **keywords: Any) -> Any:
        leaves, spec = tree_flatten(args)
        axes = [x if ta.is_tensor(leaf) else None for x, leaf in zip(_axes(in_dims, args), leaves, strict=True)]
        sizes = {leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None}
        if len(sizes) != 1:
            raise ValueError(f"vmap: batches of the sizes {sorted(sizes)}; expected one size, and an in_dims not None")
        found = []
        for i in range(sizes.pop()):
            part = [x if axis is None else x.select(axis, i) for x, axis in zip(leaves, axes, strict=True)]
            found.append(tree_flatten(func(*tree_unflatten(part, spec), **keywords)))
        out = tree_unflatten(found[0][0], found[0][1])
        where = _axes(out_dims, out)
        columns = zip(*(each for each, _ in found), strict=True)
        stacked = [x[0] if axis is None else ta.stack(x, axis) for x, axis in zip(columns, where, strict=True)]
        return tree_unflatten(stacked, found[0][1])

    return call


def stack_module_state(models: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and buffers of like modules, by name, along a new first axis. As in torch.func."""
    parameters = [dict(model.named_parameters()) for model in models]
    buffers = [dict(model.named_buffers()) for model in models]
    stacked = {name: ta.stack([each[name] for each in parameters]).detach() for name in parameters[0]}
    for name, x in stacked.items():
        x.requires_grad_(parameters[0][name].requires_grad)
    return stacked, {name: ta.stack([each[name] for each in buffers]) for name in buffers[0]}


NAMES: dict[str, Any] = {
    f.__name__: f for f in (grad, grad_and_value, hessian, jacrev, jvp, stack_module_state, vjp, vmap)
} | {"jacfwd": jacfwd}

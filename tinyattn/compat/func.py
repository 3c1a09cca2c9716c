"""torch.func: derivatives of functions, as functions, and `vmap`, nested in any order; torch.autograd's options.

Arguments and results are tensors, or dicts, lists and tuples of them. Everything runs by the backward pass; `vmap` runs
the function once for each element, so it saves writing, not time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.compat.parts import tree_flatten, tree_map, tree_unflatten

Function = Callable[..., Any]

# --- what a derivative is taken of ---


def _watched(x: Any) -> Any:
    """The same values, whose gradient is asked for: a new leaf, or a view, so that outer derivatives see through it."""
    if not ta.is_tensor(x) or not x.is_floating_point():
        return x
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def _free(result: Any, inputs: list[Any]) -> Any:
    """Detach tensors whose graph ends in `inputs` alone: then nobody outside can ask for more derivatives."""
    own = {id(x) for x in inputs if x.is_leaf}

    def freed(x: Any) -> Any:
        nodes, seen = [x.grad_fn] if ta.is_tensor(x) and x.grad_fn else [], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = node.tensor and node.tensor() if node.op is None else None
            if leaf is not None and id(leaf) not in own:
                return x
            nodes += node.edges
        return x.detach() if ta.is_tensor(x) and x.requires_grad and id(x) not in own else x

    return tree_map(freed, result)


def _gradients(out: Any, inputs: list[Any], g: Any = None) -> list[Any]:
    if not out.requires_grad:
        return [ta.zeros_like(x) for x in inputs]
    return list(ta.grad(out, inputs, g, create_graph=True, allow_unused=True, materialize_grads=True))


def _split(result: Any, has_aux: bool) -> tuple[Any, Any]:
    return result if has_aux else (result, None)


def _chosen(args: tuple[Any, ...], argnums: Any) -> tuple[list[Any], list[Any], Any]:
    """All arguments, those of `argnums` watched; these tensors; and the form of a result that has one for each."""
    new, form = list(args), []
    for i in argnums if isinstance(argnums, tuple) else (argnums,):
        new[i] = tree_map(_watched, args[i])
        form.append(new[i])
    return new, tree_flatten(form)[0], tuple(form) if isinstance(argnums, tuple) else form[0]


# --- PyTorch's names ---


def grad_and_value(func: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """Return a function that computes the gradients by these arguments of `func`, and its value: a number, ().

    has_aux: `func` returns (value, other); so does the result. As torch.func.grad_and_value.

    >>> grad_and_value(lambda x: (x * x).sum())(ta.tensor([1.0, 2.0]))
    (tensor([2., 4.]), tensor(5.))
    """

    @functools.wraps(func)
    @ta.enable_grad()
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args, inputs, form = _chosen(args, argnums)  # type: ignore[assignment]
        out, aux = _split(func(*args, **kwargs), has_aux)
        if not ta.is_tensor(out) or out.ndim:
            raise RuntimeError(
                f"grad: the function returned {tuple(out.shape) if ta.is_tensor(out) else type(out).__name__}; "
                "expected a tensor of shape (); use jacrev, or sum it"
            )
        gradients = tree_unflatten(_gradients(out, inputs), form)
        return _free((gradients, (out, aux) if has_aux else out), inputs)

    return wrapped


def grad(func: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """Return a function that computes the gradients by these arguments of `func`. As torch.func.grad.

    Arguments as `grad_and_value`; with has_aux, the result is (gradients, other).

    >>> grad(grad(lambda x: x**3))(ta.tensor(2.0))  # 6 x
    tensor(12.)
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        gradients, value = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return wrapped


def vjp(func: Function, *primals: Any, has_aux: bool = False) -> Any:
    """Return func(*primals), and the function from its gradients to those of the primals. As torch.func.vjp.

    has_aux: `func` returns (output, other), and `other` is a third result.

    >>> out, pull = vjp(lambda x: x * x, ta.tensor([1.0, 2.0]))
    >>> pull(ta.ones(2))
    (tensor([2., 4.]),)
    """
    with ta.enable_grad():
        args, inputs, form = _chosen(primals, tuple(range(len(primals))))
        out, aux = _split(func(*args), has_aux)

    def pulled(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        pairs = zip(tree_flatten(out)[0], tree_flatten(cotangents)[0], strict=True)
        with ta.enable_grad():
            each = [_gradients(y, inputs, g) for y, g in pairs]
            return _free(tree_unflatten([sum(gs) for gs in zip(*each, strict=True)], form), inputs)

    found = _free((out, aux), inputs)
    return (found[0], pulled, found[1]) if has_aux else (found[0], pulled)


@ta.enable_grad()
def jvp(func: Function, primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """Return func(*primals), and its derivative along the tangents: a gradient of a gradient. As torch.func.jvp.

    primals, tangents: tuples of as many tensors, of the same shapes. has_aux: as `vjp`. strict: without effect.

    >>> jvp(lambda x: x * x, (ta.tensor([1.0, 2.0]),), (ta.tensor([1.0, 0.0]),))
    (tensor([1., 4.]), tensor([2., 0.]))
    """
    args, inputs, _ = _chosen(tuple(primals), tuple(range(len(primals))))
    out, aux = _split(func(*args), has_aux)
    along = tree_flatten(list(tangents))[0]

    def pushed(y: Any) -> Any:
        v = ta.zeros_like(y).requires_grad_()
        rows = [(g * t).sum() for g, t in zip(_gradients(y, inputs, v), along, strict=True) if g.requires_grad]
        return _gradients(sum(rows), [v])[0] if rows else ta.zeros_like(y)

    found = _free((out, tree_map(pushed, out), aux), inputs)
    return found if has_aux else found[:2]


def jacrev(
    func: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *, chunk_size: int | None = None,
    randomness: str = "error",
) -> Function:  # fmt: skip
    """Return a function that computes the Jacobians (*output, *input) of `func`. As torch.func.jacrev, and jacfwd.

    chunk_size, randomness: without effect.

    >>> jacrev(lambda x: x * x)(ta.tensor([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    @functools.wraps(func)
    @ta.enable_grad()
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args, inputs, form = _chosen(args, argnums)  # type: ignore[assignment]
        out, aux = _split(func(*args, **kwargs), has_aux)

        def rows(y: Any) -> Any:
            found = [_gradients(element, inputs) for element in y.reshape(-1)]
            columns = zip(*found, strict=True)
            each = [ta.stack(c).reshape(*y.shape, *x.shape) for c, x in zip(columns, inputs, strict=True)]
            return tree_unflatten(each, form)

        found = _free((tree_map(rows, out), aux), inputs)
        return found if has_aux else found[0]

    return wrapped


def hessian(func: Function, argnums: int | tuple[int, ...] = 0) -> Function:
    """Return a function that computes the Jacobian of the Jacobian, (*output, *input, *input). As torch.func.hessian.

    >>> hessian(lambda x: (x**3).sum())(ta.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacrev(jacrev(func, argnums), argnums)


def vmap(
    func: Function, in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *, chunk_size: int | None = None
) -> Function:
    """Return `func` over an axis of its arguments: called for each element, its results stacked. As torch.vmap.

    in_dims: the axis of each argument, or of each tensor in it; None: the whole of it each time. out_dims: the axis in
    the results. Raises ValueError if the axes have different sizes, or if there is none.

    >>> vmap(lambda x, y: (x * y).sum(), in_dims=(0, None))(ta.tensor([[1.0, 2.0], [3.0, 4.0]]), ta.ones(2))
    tensor([3., 7.])
    """

    def taken(x: Any, dim: Any, i: int | None, sizes: list[int]) -> Any:
        if isinstance(x, dict):
            return {name: taken(v, dim[name] if isinstance(dim, dict) else dim, i, sizes) for name, v in x.items()}
        if isinstance(x, list | tuple):
            dims = dim if isinstance(dim, list | tuple) else [dim] * len(x)
            return type(x)(taken(v, d, i, sizes) for v, d in zip(x, dims, strict=True))
        if dim is None or not ta.is_tensor(x):
            return x
        sizes.append(x.shape[dim])
        return x if i is None else x.select(dim, i)

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        dims, sizes = tuple(in_dims) if isinstance(in_dims, list | tuple) else (in_dims,) * len(args), list[int]()
        taken(args, dims, None, sizes)
        if len({*sizes}) != 1:
            raise ValueError(f"vmap: axes of sizes {sizes} to map over; expected one size (in_dims={in_dims})")
        each = [func(*taken(args, dims, i, []), **kwargs) for i in range(sizes[0])]
        if not each:
            raise ValueError(f"vmap: an axis of size 0 to map over; expected at least 1 (in_dims={in_dims})")
        columns = list(zip(*(tree_flatten(out)[0] for out in each), strict=True))
        axes = tree_flatten(out_dims)[0] if isinstance(out_dims, list | tuple | dict) else [out_dims] * len(columns)
        stacked = [
            xs[0] if d is None else ta.stack([ta.as_tensor(x) for x in xs], d)
            for xs, d in zip(columns, axes, strict=True)
        ]
        return tree_unflatten(stacked, each[0])

    return wrapped


def stack_module_state(models: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and the buffers of models of one kind, stacked, for `functional_call` in `vmap`.

    Each is a dict from name to tensor (models, *shape). As torch.func.stack_module_state.

    >>> params, buffers = stack_module_state([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> params["weight"].shape
    (2, 2, 3)
    """
    kinds = [[dict(m.named_parameters()) for m in models], [dict(m.named_buffers()) for m in models]]
    params, buffers = ({n: ta.stack([s[n].detach() for s in kind]) for n in kind[0]} for kind in kinds)
    return {n: p.requires_grad_(kinds[0][0][n].requires_grad) for n, p in params.items()}, buffers


# --- torch.autograd's, whose further options choose how, not what ---


def gradients(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
    only_inputs: bool = True, allow_unused: bool | None = None, is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> Any:  # fmt: skip
    """As torch.autograd.grad: `ta.grad` with its order of arguments, also of a dict of inputs."""
    if isinstance(inputs, dict):
        options = {name: value for name, value in locals().items() if name not in ("outputs", "inputs")}
        return dict(zip(inputs, gradients(outputs, list(inputs.values()), **options), strict=True))
    return ta.grad(
        outputs, inputs, grad_outputs, retain_graph, create_graph, only_inputs, allow_unused, materialize_grads,
        is_grads_batched,
    )  # fmt: skip


def _without(function: Function, names: str) -> Function:
    """The function, which ignores these options."""
    options, ignored = set(names.split()), functools.wraps(function)
    return ignored(lambda *args, **named: function(*args, **{n: v for n, v in named.items() if n not in options}))


CHECKS = """check_undefined_grad check_grad_dtypes check_batched_grad check_batched_forward_grad check_forward_ad
check_backward_ad check_fwd_over_rev check_rev_over_rev gen_non_contig_grad_outputs masked"""
AUTOGRAD = {
    "jacobian": _without(ta.jacobian, "vectorize strategy"), "vhp": ta.hvp,  # a Hessian is symmetric
    "hessian": _without(ta.hessian, "vectorize outer_jacobian_strategy"),
}  # fmt: skip
CHECKING = {f.__name__: _without(f, CHECKS) for f in (ta.gradcheck, ta.gradgradcheck)}
FUNC = {f.__name__: f for f in (grad, grad_and_value, hessian, jacrev, jvp, stack_module_state, vjp, vmap)}
FUNC["jacfwd"] = jacrev

"""Operations have the traits that they show: a new operation without them fails here."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tinyattn as ta
from tinyattn.backends import cpu
from tinyattn.backends.windows import Windows
from tinyattn.debug.flow import image
from tinyattn.debug.reasons import ENDS, FLAT
from tinyattn.engine.operation import Operation

RNG = np.random.default_rng(0)
ALL = [o for o in gc.get_objects() if type(o) is Operation and o.forward.__module__.startswith("tinyattn.ops")]
OPERATIONS = {op.name: op for op in sorted(ALL, key=lambda op: op.name) if op.differentiable}


def some(*shape):
    return RNG.uniform(0.5, 1.5, shape)


X, ODD = some(3, 4), np.arange(12).reshape(3, 4) % 2 == 1
INDEX = np.array([[0, 2], [1, 1]])
EXAMPLES = {  # inputs and options; without an entry, X for every input and no options
    "cast": ([X], {"dtype": np.dtype("float32")}),
    "to": ([X], {"device": "cpu", "source": "cpu"}),
    "rounded_div": ([X, X.copy()], {"mode": "floor"}),
    "where": ([ODD, X, some(4)], {}),
    "masked_fill": ([X, ODD, np.array(2.0)], {}),
    "dropout": ([X, np.float64(~ODD)], {"scale": 2.0}),
    "softplus": ([X], {"beta": 1.0, "threshold": 20.0}),
    "gelu": ([X], {"approximate": "none"}),
    "reshape": ([X], {"shape": (2, 6)}),
    "permute": ([X], {"dims": (1, 0)}),
    "flip": ([X], {"dims": (1,)}),
    "roll": ([X], {"shifts": (1,), "dims": (1,)}),
    "broadcast_to": ([X], {"shape": (2, 3, 4)}),
    "tril": ([X], {"diagonal": 0}),
    "triu": ([X], {"diagonal": 0}),
    "pad": ([X], {"pad": ((1, 0), (0, 2)), "value": 0.0}),
    "cat": ([X, some(2, 4)], {"dim": 0}),
    "stack": ([X, some(3, 4)], {"dim": 1}),
    "getitem": ([X], {"index": (slice(1, None), np.array([0, 0, 3]))}),
    "setitem": ([X, some(4)], {"index": (1,)}),
    "place": ([some(3, 2)], {"index": (np.array([0, 0, 3]),), "shape": (5, 2)}),
    "gather": ([X, INDEX], {"dim": 1}),
    "scatter": ([some(2, 2), INDEX], {"dim": 1, "shape": (2, 4)}),
    "embedding": ([X, INDEX], {"padding_idx": None}),
    "embedding_gradient": ([some(2, 2, 4), INDEX], {"rows": 3, "padding_idx": None}),
    "vector_norm": ([X], {"p": 2.0, "dim": (1,), "keepdim": False}),
    "diagonal": ([X], {"offset": 1}),
    "unfold": ([X], {"dim": 1, "size": 2, "step": 1}),
    "as_strided": ([X, np.array([1, 2, 3, 3, 4, 5])], {"size": (2, 3), "stride": (2, 1), "offset": 1}),
    "pick": ([X], {"dim": 1, "keepdim": False, "largest": True}),
    "var": ([X], {"dim": (1,), "correction": 1, "keepdim": False}),
    "std": ([X], {"dim": (1,), "correction": 1, "keepdim": False}),
    "cumprod": ([X], {"dim": 1}),
    "cumsum": ([X], {"dim": 1}),
    "softmax": ([X], {"dim": 0}),
    "log_softmax": ([X], {"dim": 1}),
    "layer_norm": ([X, some(4), some(4)], {"shape": (4,), "eps": 1e-5}),
    "windows": ([some(1, 1, 3, 4)], {"how": Windows((2, 2))}),
    "overlap_add": ([some(1, 1, 2, 2, 2, 2)], {"size": (3, 3), "how": Windows((2, 2))}),
    "convolve": ([some(1, 2, 3, 3), some(2, 2, 2, 2), some(2)], {"how": Windows((2, 2))}),
    "convolve_input": ([some(1, 2, 2, 2), some(2, 2, 2, 2)], {"size": (3, 3), "how": Windows((2, 2))}),
    "convolve_weight": ([some(1, 2, 2, 2), some(1, 2, 3, 3)], {"how": Windows((2, 2))}),
    "max_pool": ([some(1, 1, 3, 3)], {"how": Windows((2, 2)), "places": (2, 2)}),
    "batch_norm": ([some(3, 4, 2), some(4), some(4), some(4), some(4)], {"eps": 1e-5}),
    "matmul": ([X, some(4, 2)], {}),
    "recurrent": ([some(3, 2, 4), some(4, 4), some(4), some(2, 4), None, None], {"kind": "tanh", "reverse": False}),
    "linear": ([X, some(2, 4), some(2)], {}),
    "linear_gelu": ([X, some(2, 4), some(2)], {"approximate": "none"}),
    "einsum": ([X, some(4, 2)], {"equation": "ij,jk->ik"}),
    "cross_entropy": ([X, np.array([0, 3, 1])], {}),
    "nll": ([X, np.array([0, 3, 1])], {}),
    "attention": ([X, X, X, None, None, None], {"scale": 1.0}),
    "tiled_attention": ([X, X, X, None, None], {"causal": False, "scale": 1.0}),
    "packed_attention": ([some(1, 2, 6)], {"heads": 1, "scale": 1.0}),
    **{name: ([X], {"dim": (1,), "keepdim": False}) for name in "sum mean amax amin prod logsumexp".split()},
}  # fmt: skip
IN_LAST_ROWS = {"linear", "linear_gelu"}  # of x; their weights mix rows


def example(op):
    inputs, options = EXAMPLES.get(op.name, ([X * (1 + 0.1 * i) for i in range(len(op.inputs))], {}))
    return [x.copy() if isinstance(x, np.ndarray) else x for x in inputs], options


def run(op, inputs, options):
    with np.errstate(all="ignore"):
        out = op.forward(cpu, *inputs, **options)
    return np.array(out[0] if isinstance(out, tuple) else out)


def differentiable(op, inputs):
    """The places of the inputs that may have a gradient."""
    named = op.inputs * len(inputs) if op.variadic else op.inputs
    return [
        i
        for i, x in enumerate(inputs)
        if x is not None and x.dtype.kind == "f" and (op.backward or named[i] in op.rules)
    ]


def influence(op, k):
    """Whether each element of the output depends on each element of input k: (outputs, elements)."""
    inputs, options = example(op)
    before, found = run(op, inputs, options), []
    flat = inputs[k].reshape(-1)
    for i, value in enumerate(flat.copy()):
        changed = np.zeros(before.shape, bool)
        for other in (value * 1.01, 40.0, -40.0):
            flat[i] = other
            changed |= ~np.isclose(run(op, inputs, options), before, rtol=0, atol=1e-12, equal_nan=True)
        flat[i] = value
        found.append(changed.reshape(-1))
    return np.stack(found, -1)


def is_elementwise(op):
    inputs, options = example(op)
    out = run(op, inputs, options)
    for k in differentiable(op, inputs):
        try:
            own = np.broadcast_to(np.arange(inputs[k].size).reshape(inputs[k].shape), out.shape).reshape(-1)
        except ValueError:
            return False
        if (influence(op, k) & (own[:, None] != np.arange(inputs[k].size))).any():
            return False
    return True


def is_moving(op):
    """Each output is one element of one input, whatever the values, or a constant."""
    inputs, options = example(op)
    whole = np.concatenate([influence(op, k) for k in differentiable(op, inputs)], -1)
    values = np.concatenate([inputs[k].reshape(-1) for k in differentiable(op, inputs)])
    out = run(op, inputs, options).reshape(-1)
    return (whole.sum(-1) <= 1).all() and all(
        np.isclose(y, values[row]).all() for y, row in zip(out, whole, strict=True)
    )


def recorded(op):
    inputs, options = example(op)
    wanted = differentiable(op, inputs)
    xs = [None if x is None else ta.tensor(x, requires_grad=i in wanted) for i, x in enumerate(inputs)]
    out = op(*xs, **options)
    return xs, out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("op", OPERATIONS.values(), ids=OPERATIONS)
def test_traits_show_which_elements_outputs_depend_on(op):
    if is_elementwise(op) or is_moving(op):
        assert op.traits & {"maps", "moves", "overwrites"}
    assert is_moving(op) or "moves" not in op.traits
    if op.traits & {"moves", "maps", "rows"}:
        xs, out = recorded(op)
        for k in differentiable(op, example(op)[0])[: 1 if op.name in IN_LAST_ROWS else None]:
            for share in (0.1, 0.5, 1.0):
                region = RNG.random(xs[k].shape) < share
                depends = (influence(op, k) & region.reshape(-1)).any(-1).reshape(out.shape)
                told = image(out.node, region, xs[k].node)
                assert not (depends & ~told).any()
                if "moves" in op.traits:
                    assert (depends == told).all()


ELEMENTWISE = {name: op for name, op in OPERATIONS.items() if op.traits & {"maps", "moves"}}


@pytest.mark.parametrize("op", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_traits_show_where_slopes_are_zero(op):
    xs, out = recorded(op)
    out.sum().backward()
    for x in xs:
        if x is not None and x.grad is not None and not x.grad.array.all():
            assert op.traits & {*ENDS}
    if len(xs) > 1 or "moves" in op.traits:
        return
    x = ta.tensor([30.0, -30.0, 0.0, 0.7], dtype=ta.float64, requires_grad=True)
    op(x, **example(op)[1]).sum().backward()
    *far, origin, near = abs(x.grad.array)
    assert ("stairs" in op.traits) == (near == 0)
    flat = min(far) < FLAT  # NaN where it is not defined is not flat
    assert flat == bool(op.traits & {"saturates", "rectifies", "clamps", "stairs"})
    if origin == 0:
        assert op.traits & {"multiplies", *ENDS}


@pytest.mark.parametrize("op", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_traits_show_which_inputs_are_factors(op):
    for at, other in [(0, 1), (1, 0)] if len(op.inputs) == 2 and not op.variadic else []:
        if op.asks.get(op.inputs[at]) == [op.inputs[other]]:
            xs = [ta.tensor(X, requires_grad=i == at) if i == at else ta.zeros(3, 4, dtype=ta.float64) for i in (0, 1)]
            with np.errstate(all="ignore"):
                op(*xs, **example(op)[1]).sum().backward()
            assert xs[at].grad.array.any() or "multiplies" in op.traits


def test_every_trait_has_a_meaning():
    known = {"moves", "maps", "rows", "multiplies", "compares", "sign", *ENDS}
    assert set().union(*(op.traits for op in ALL)) == known

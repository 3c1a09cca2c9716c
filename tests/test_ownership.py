"""Whose is a gradient's array? The walk writes only into arrays that it made, or that `fresh` rules made."""

from __future__ import annotations

import importlib
import math
import pkgutil
import random

import numpy as np
import pytest
from answers import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TABLE

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import backends, ops
from tinyattn.debug.describe import saved_by
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.walk import Walk


def leaf(*values):
    return ta.tensor(values, dtype=ta.float64, requires_grad=True)


# --- arrays that rules return and somebody else holds ---


def test_a_saved_input_returned_by_a_rule_keeps_its_value():
    dot = operation(x=lambda xp, g, w: w, w=lambda xp, g, x: x)(lambda xp, x, w: xp.asarray((x * w).sum()))
    w, y = leaf(2.0), leaf(3.0)
    (dot(y, w) + dot(y, w)).backward()
    assert (w.tolist(), y.tolist()) == ([2], [3])
    assert (w.grad.tolist(), y.grad.tolist()) == ([6], [4])


def test_a_kept_array_returned_by_a_rule_keeps_its_value():
    kept = np.array([1.0, 2.0])
    op = operation(x=lambda xp, g: kept)(lambda xp, x: x * 1)
    x = leaf(1.0, 1.0)
    (op(x) + op(x)).sum().backward()
    assert kept.tolist() == [1, 2]
    assert x.grad.tolist() == [2, 4]


def test_a_kept_array_returned_through_a_reshape_keeps_its_value():
    kept = np.array([[1.0, 2.0]])
    op = operation(x=lambda xp, g: kept)(lambda xp, x: x * 1)
    x = leaf(1.0, 1.0)
    y = x.reshape(1, 2)
    (op(y) + op(y)).sum().backward()
    assert kept.tolist() == [[1, 2]]
    assert x.grad.tolist() == [2, 4]


def test_a_slope_returned_in_three_backwards_keeps_its_value():
    specify = operation(x=lambda xp, g, slope: slope)(lambda xp, x, slope: xp.sum(x) * 0)
    x, slope = leaf(1.0, 1.0, 1.0), ta.tensor([1.0, 2.0, 3.0], dtype=ta.float64)
    for _ in range(3):
        specify(x, slope).backward()
    assert (x.grad.tolist(), slope.tolist()) == ([3, 6, 9], [1, 2, 3])


def test_a_gradient_kept_by_a_rule_is_not_changed_by_its_user():
    seen = []
    op = operation(x=lambda xp, g: seen.append(g) or g)(lambda xp, x: x * 1)
    x = leaf(1.0, 2.0)
    (inner,) = ta.grad((op(x) * 3).sum(), x)
    inner.array[:] = 0
    assert seen[0].tolist() == [3, 3]


KEPT = np.arange(1.0, 7.0)
RULES = {  # the gradient, and what the operation's rule returns for it: each an array that the walk may not write to
    "g": lambda xp, g: g,
    "a view of g": lambda xp, g: g[:],
    "g turned round twice": lambda xp, g: g[::-1][::-1],
    "a saved input": lambda xp, g, x: x,
    "a view of a saved input": lambda xp, g, x: x[:],
    "the output": lambda xp, g, out: out,
    "a kept array": lambda xp, g: KEPT,
    "part of a kept array": lambda xp, g: np.concatenate([KEPT, KEPT])[:6],
    "a read-only array": lambda xp, g: np.broadcast_to(np.float64(2.0), (6,)),
}
HOSTILE = {name: Operation(lambda xp, x: x + 1.0, name="hostile", x=rule) for name, rule in RULES.items()}


def copying(rule):
    """The same rule, returning an array of its own."""
    return eval(
        "lambda xp, g{0}: np.array(rule(xp, g{0}))".format(
            "".join(f", {n}" for n in Operation(lambda xp, x: x, x=rule).asks["x"])
        ),
        {"rule": rule, "np": np},
    )


TAME = {name: Operation(lambda xp, x: x + 1.0, name="tame", x=copying(rule)) for name, rule in RULES.items()}


def program(seed: int, table: dict[str, Operation]) -> list[list[float]]:
    """A random graph of such operations, sums and views; its leaves, their gradients and those of inner nodes."""
    draw = random.Random(seed)
    leaves = [leaf(*np.linspace(0.5, 1.5, 6) + i) for i in range(2)]
    tensors = list(leaves)
    for _ in range(draw.randint(3, 9)):
        x, y = draw.choice(tensors), draw.choice(tensors)
        kind = draw.random()
        if kind < 0.55:
            tensors.append(table[draw.choice(list(table))](x))
        elif kind < 0.75:
            tensors.append(x + y)
        elif kind < 0.85:
            tensors.append(x.reshape(2, 3).reshape(6))
        else:
            tensors.append(ops.alias(x))
    inner = [t for t in tensors[2:] if draw.random() < 0.4]
    for t in inner:
        t.retain_grad()
    loss = sum((t.sum() for t in tensors[2:]), start=ta.zeros((), dtype=ta.float64))
    wanted = [*leaves, *inner]
    found = [g for g in ta.grad(loss, wanted, retain_graph=True, allow_unused=True) if g is not None]
    for _ in range(2):
        loss.backward(retain_graph=True)
    results = [x.tolist() for x in tensors]
    return results + [g.tolist() for g in found] + [t.grad.tolist() for t in wanted if t.grad is not None]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_rules_may_return_any_array(seed):
    kept = KEPT.copy()
    assert program(seed, HOSTILE) == program(seed, TAME)
    assert (kept == KEPT).all()


# --- what `fresh` promises ---

UNARY = """
neg exp expm1 log log1p sqrt rsqrt reciprocal square sin cos tanh erf abs sign relu sigmoid silu softplus logsigmoid gelu
""".split()
CALLS = {name: lambda x, name=name: getattr(F if hasattr(F, name) else ta, name)(x) for name in UNARY} | {
    "add": lambda x: x + x[0],
    "sub": lambda x: x - x[:, :1],
    "mul": lambda x: x * x.mT.reshape(4, 6),
    "div": lambda x: x / (x + 1),
    "pow": lambda x: x**3 + x ** (x + 1) + 2.0**x,
    "maximum": lambda x: ta.maximum(x, 1 - x),
    "minimum": lambda x: ta.minimum(x, 1 - x),
    "clamp": lambda x: x.clamp(0.2, 0.6) + ta.clamp(x, min=x.mean() * 0.5, max=x.mean()),
    "where": lambda x: ta.where(x.detach() > 0.5, x, x * 2),
    "masked_fill": lambda x: x.masked_fill(x.detach() > 0.5, x.mean()),
    "matmul": lambda x: x @ x.mT,
    "linear": lambda x: F.linear(x, x[:3], x[:3, 0]),
    "linear_gelu": lambda x: F.linear_gelu(x, x[:3], x[:3, 0]),
    "embedding": lambda x: F.embedding(ta.tensor([0, 2, 2]), x),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 0),
    "cross_entropy": lambda x: F.cross_entropy(x, [0, 5, 2, 2], reduction="none"),
    "nll": lambda x: F.nll_loss(x, ta.tensor([0, 5, 2, 2]), reduction="none"),
    "leaky_relu": lambda x: F.leaky_relu(x - 0.5),
    "hardtanh": lambda x: F.hardtanh(x, 0.2, 0.6),
    "hardswish": lambda x: F.hardswish(x * 8 - 4),
    "huber": lambda x: F.huber_loss(x, x * 0.5 + 0.1, reduction="none", delta=0.2),
    "layer_norm": lambda x: F.layer_norm(x, 6, x[0], x[1]),
    "packed_attention": lambda x: F.packed_attention(x[None], 2),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x * 3),
}


def fresh_operations() -> dict[int, Operation]:
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(ops.__path__, "tinyattn.ops.")]
    found = [x for module in modules for x in vars(module).values() if isinstance(x, Operation) and x.fresh]
    return {id(op): op for op in found}


def part(x, shape):
    """A tensor of this shape from the first elements of x."""
    return x.flatten()[: math.prod(shape)].reshape(shape)


def call(op):
    """The first call of an operation in the table of samples, on parts of x."""
    case = TABLE[op.name][0]
    return lambda x: case.call(op, *(part(x, shape) for shape in case.shapes))


CALLS = {op.name: call(op) for op in fresh_operations().values() if op.name not in CALLS and op.name in TABLE} | CALLS


def test_every_operation_that_says_fresh_is_in_the_table():
    assert {op.name for op in fresh_operations().values()} == set(CALLS)


def check(node, g, first, second):
    """Nothing that the rules gave shares memory with what they were given, with one another, or with a second run."""
    held = [g, *(saved.array for _, saved in saved_by(node)), *node.options.values()]
    ours = [x for x in first if x is not None and x is not g and not isinstance(x, backends.Placed)]
    other = [x for x in second if x is not None and x is not g and not isinstance(x, backends.Placed)]
    for i, x in enumerate(ours):
        for y in (*held, *ours[:i], *other):
            shared = isinstance(y, np.ndarray) and np.shares_memory(x, y)
            assert not shared, f"{node.op.name} says fresh, and its rule returns an array that something else holds"
        assert not isinstance(x, np.ndarray) or x.flags.writeable


@pytest.mark.parametrize("name", CALLS)
def test_fresh_rules_return_arrays_of_their_own(name, monkeypatch):
    seen = []
    apply_rules = Walk.apply_rules

    def twice(self, xp, node, g):
        found = apply_rules(self, xp, node, g)
        if node.op.fresh:
            seen.append(node.op.name)
            check(node, g, found, apply_rules(self, xp, node, g))
        return found

    monkeypatch.setattr(Walk, "apply_rules", twice)
    for dtype in (ta.float32, ta.float64):
        x = ta.tensor(np.random.default_rng(0).uniform(0.1, 0.9, (4, 6)), dtype=dtype, requires_grad=True)
        out = CALLS[name](x)
        out.backward(ta.ones_like(out))
    assert name in seen


# --- results that are no views ---

FORMS = [
    "{0}(x)",
    "{0}(x, 0)",
    "{0}(x, 1)",
    "{0}(x, 2)",
    "{0}(x, 1, 0)",
    "{0}(x, (1,))",
    "{0}(x, x)",
    "{0}([x])",
    "{0}(x, 0.0)",
]
TRIVIAL = [[2.0], 2.0, [[2.0]], [[1.0], [3.0]], [[[1.0, 2.0]]], [[[[1.0]]]]]  # where there is nothing to do


def shared_with_input(library, text, values):
    """Which results of `text` lie in the memory of `x`; None if it is refused."""
    x = library.tensor(values, dtype=library.float64)
    try:
        out = eval(text, {"T": library, "F": library.nn.functional, "x": x})
    except Exception:
        return None
    found = [y for y in (out if isinstance(out, list | tuple) else [out]) if type(y) is type(x)]
    if library is ta:
        return [np.shares_memory(y.numpy(), x.numpy()) for y in found]
    return [y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for y in found]


@pytest.mark.parametrize(
    "text",
    [
        "x[:, ::2].ravel()",
        "x[0].ravel()",
        "x.T.ravel()",
        "x.unfold(1, 2, 2)",
        "x.T.unfold(0, 2, 3)",
        "x[:, 1:].unfold(0, 1, 1)",
    ],
)
def test_writes_reach_the_input_only_where_those_of_pytorch_do(text):
    found = []
    for library in (ta, torch):
        x = library.arange(24).reshape(4, 6)
        y = eval(text, {"x": x})
        y[0] = -1
        found.append((y.tolist(), x.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["T", "F", "x"])
def test_results_share_memory_only_where_those_of_pytorch_do(where):
    """A copy, a scan, a resizing that has nothing to do still gives memory of its own: `repeat` of one number."""
    ours, theirs = ((lib, lib.nn.functional, lib.Tensor)["TFx".index(where)] for lib in (ta, torch))
    names = [name for name in dir(ours) if name.islower() and name[0] != "_" != name[-1] and hasattr(theirs, name)]
    names = [
        name
        for name in names
        if callable(getattr(ours, name)) and not name.startswith(("set_", "manual", "compile", "save", "load", "cuda"))
    ]
    wrong, compared = [], 0
    for call in (call.format(f"{where}.{name}") for name in names for call in FORMS):
        text = call.replace("(x, ", "(").replace("(x)", "()") if where == "x" else call
        for values in TRIVIAL:
            shared = shared_with_input(ta, text, values)
            if shared and any(shared) and (right := shared_with_input(torch, text, values)) is not None:
                compared += 1
                if len(right) == len(shared) and any(s and not r for s, r in zip(shared, right, strict=True)):
                    wrong.append((text, values))
    assert not wrong and compared > 20, wrong


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad_by_nothing_is_a_copy(mode):
    x = ta.ones(1, 2, 3)
    F.pad(x, (0, 0), mode=mode).mul_(2)
    assert x.tolist() == [[[1.0] * 3] * 2]


@pytest.mark.parametrize(
    "itself",
    [
        lambda t, x: t.atleast_1d(x),
        lambda t, x: t.atleast_2d(x),
        lambda t, x: t.atleast_3d((x, x))[1],
        lambda t, x: t.broadcast_tensors(x, x)[0],
        lambda t, x: x.real,
        lambda t, x: x.conj(),
        lambda t, x: +x,
    ],
)
@pytest.mark.parametrize("library", [ta, torch])
def test_nothing_to_do_gives_the_tensor_itself(itself, library):
    x = library.ones(1, 2, 3, requires_grad=True)
    assert itself(library, x) is x


def test_scatter_of_nothing_is_no_view():
    x = ta.ones(2, requires_grad=True)
    assert x.scatter(0, ta.zeros(0, dtype=ta.int64), x)._base is None

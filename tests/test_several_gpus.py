"""CuPy and tinyattn in one program on two GPUs: each computes where its arrays lie, and CuPy's current GPU stays."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from gpus import counting, only_where_counted
from samples import TABLE
from test_properties import OPERATIONS

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn, optim

pytestmark = pytest.mark.usefixtures("gpu")
INDEXED = {"diagonal", "getitem", "place", "setitem"}  # by arrays of the CPU: an index is brought to the GPU before
ALONE = {"to"}  # to the CPU
LOOKS = {"attention", "tiled_attention"}  # in second derivatives, for NaN behind a mask
SEVERAL = [(0, 1), (1, 0)]  # CuPy's current GPU, and where the tensors lie


@pytest.fixture(autouse=True)
def two_gpus(gpu):
    if ta.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    ta.zeros(1, device="cuda")  # from the first use on


def kept(current, call):
    """Call it while `current` is CuPy's GPU, and see that it still is."""
    import cupy

    with cupy.cuda.Device(current):
        result = call()
        assert cupy.cuda.Device().id == current
        assert cupy.zeros(1).device.id == current
    return result


@pytest.mark.parametrize(("current", "other"), SEVERAL)
@pytest.mark.parametrize("name", sorted(TABLE.keys() - INDEXED - ALONE))
def test_operation_works_on_its_gpu_and_keeps_cupys(name, current, other):
    rng, where = np.random.default_rng(0), f"cuda:{other}"

    def call(*inputs, **options):  # the masks of the table lie on the CPU
        return OPERATIONS[name](*(x.to(where) if isinstance(x, ta.Tensor) else x for x in inputs), **options)

    for case in TABLE[name]:
        inputs = [
            ta.tensor(rng.uniform(case.low, case.high, shape), dtype=ta.float32, device=where, requires_grad=True)
            for shape in case.shapes
        ]
        out = kept(current, lambda: case.call(call, *inputs))  # noqa: B023
        outs = [x for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad]
        assert outs and {x.device for x in outs} == {where}
        total = sum(x.sum() for x in outs)
        grads = kept(current, lambda: ta.grad(total, inputs, create_graph=True, allow_unused=True))  # noqa: B023
        assert {g.device for g in grads if g is not None} == {where}
        kept(current, total.backward)
        assert all(x.grad is None or x.grad.device == where for x in inputs)


@only_where_counted
@pytest.mark.parametrize("name", sorted(TABLE.keys() - INDEXED - ALONE))
def test_operation_copies_nothing_in_secret(name):
    """Forward, gradients and their gradients wait for nothing and move nothing between processor and GPU."""
    rng, costs = np.random.default_rng(0), Counter()

    def counted(call):
        with counting() as cost:
            found = call()
        costs.update(cost)
        return found

    def call(*inputs, **options):
        inputs = [x.cuda() if isinstance(x, ta.Tensor) else x for x in inputs]
        return counted(lambda: OPERATIONS[name](*inputs, **options))

    for case, first in itertools.product(TABLE[name], (True, False)):
        inputs = [
            ta.tensor(rng.uniform(case.low, case.high, shape), dtype=ta.float32, device="cuda", requires_grad=True)
            for shape in case.shapes
        ]
        out = case.call(call, *inputs)
        total = sum(x.sum() for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad)
        grads = counted(lambda: ta.grad(total, inputs, create_graph=True, allow_unused=True))  # noqa: B023
        again = sum((g * g).sum() for g in grads if g is not None and g.requires_grad)
        if isinstance(again, ta.Tensor):
            counted(again.backward)
        waits = costs["download"] * (name not in LOOKS)
        assert first or not costs["upload"] + costs["synchronise"] + waits, costs
        costs.clear()  # CuPy may look at the GPU when it first sees a kernel


def training(where):
    """A model, what it learns, and a step."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.2), nn.Linear(4, 5)).to(where)
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    tokens = ta.tensor([[0, 1, 4], [2, 3, 3]], device=where)

    def step(tokens):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return model, tokens, step


CALLS = {
    "zeros": lambda x, where: ta.zeros(3, device=where),
    "full": lambda x, where: ta.full((2,), 1.5, device=where),
    "tensor": lambda x, where: ta.tensor([1.0, 2.0], device=where),
    "arange": lambda x, where: ta.arange(5, device=where),
    "linspace": lambda x, where: ta.linspace(0, 1, 5, device=where),
    "eye": lambda x, where: ta.eye(3, device=where),
    "rand": lambda x, where: ta.rand(3, device=where),
    "randn": lambda x, where: ta.randn(3, device=where),
    "randint": lambda x, where: ta.randint(0, 5, (3,), device=where),
    "randperm": lambda x, where: ta.randperm(5, device=where),
    "zeros_like": lambda x, where: ta.zeros_like(x),
    "randn_like": lambda x, where: ta.randn_like(x),
    "to": lambda x, where: ta.ones(2).to(where),
    "item": lambda x, where: x.sum().item(),
    "tolist": lambda x, where: x.tolist(),
    "cpu": lambda x, where: x.cpu(),
    "repr": lambda x, where: repr(x),
    "bool": lambda x, where: bool((x == x).all()),
    "any": lambda x, where: (x > 0).any(),
    "argmax": lambda x, where: x.argmax(1),
    "sort": lambda x, where: x.sort(1),
    "unique": lambda x, where: ta.unique(x),
    "nonzero": lambda x, where: x.nonzero(),
    "where": lambda x, where: ta.where(x > 0),
    "mask": lambda x, where: x[x > 0],
    "index": lambda x, where: x[ta.tensor([1, 0], device=where)],
    "write": lambda x, where: x.detach().clone().__setitem__(0, 1.0),
    "write by a mask": lambda x, where: x.detach().clone().masked_fill_(x > 0, 1.0),
    "in place": lambda x, where: x.detach().clone().add_(1).mul_(2).clamp_(0, 1),
    "uniform_": lambda x, where: x.detach().clone().uniform_(),
    "deepcopy": lambda x, where: copy.deepcopy(x.detach()),
    "dropout": lambda x, where: F.dropout(x, 0.5),
    "one_hot": lambda x, where: F.one_hot(ta.tensor([0, 2], device=where), 3),
    "allclose": lambda x, where: ta.allclose(x, x),
    "seed": lambda x, where: ta.manual_seed(0),
    "generator": lambda x, where: ta.Generator(where).manual_seed(1).get_state(),
    "memory": lambda x, where: ta.cuda.memory_allocated(where) + ta.cuda.mem_get_info(where)[0],
    "synchronize": lambda x, where: ta.cuda.synchronize(where),
    "empty_cache": lambda x, where: ta.cuda.empty_cache(),
    "median": lambda x, where: x.median(),
    "topk": lambda x, where: x.topk(2),
    "diagonal": lambda x, where: ta.diagonal(x).sum(),
    "gradient of an index": lambda x, where: ta.grad(x.requires_grad_()[[1, 0, 1]].sum(), x)[0],
    "detached": lambda x, where: x.detach() + 1,
}  # fmt: skip


@pytest.mark.parametrize(("current", "other"), SEVERAL)
@pytest.mark.parametrize("name", CALLS)
def test_call_keeps_cupys_gpu(name, current, other):
    where = f"cuda:{other}"
    x = ta.tensor([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], device=where)
    found = kept(current, lambda: CALLS[name](x, where))
    for each in found if isinstance(found, tuple) else (found,):
        assert not isinstance(each, ta.Tensor) or each.device in (where, "cpu")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("current", "other"), SEVERAL)
def test_training_on_another_gpu_has_the_same_bits(current, other, compiled):
    results = []
    for where, gpu in ((f"cuda:{other}", current), (f"cuda:{current}", current)):
        ta.manual_seed(0)
        model, tokens, step = training(where)
        step = ta.compile(step) if compiled else step
        losses = [kept(gpu, functools.partial(step, tokens)).item() for _ in range(4)]
        results.append((losses, [p.tolist() for p in model.parameters()]))
    assert results[0] == results[1]

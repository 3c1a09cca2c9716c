"""Where the time goes: counts against the graph's, FLOPs against definitions and torch, times, threads, the trace."""

from __future__ import annotations

import gc
import json
import sys
import weakref

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn, optim
from tinyattn.debug.flops import COUNTS, forward_flops
from tinyattn.debug.flow import graph_of
from tinyattn.engine.operation import Operation
from tinyattn.ops import recurrent


def small_classifier():
    ta.manual_seed(0)
    return models.AttentionClassifier(12, 3, hidden_dim=16, mlp_dim=16, num_heads=2, pooling="attention")


@pytest.fixture
def step():
    """A profile of a forward, a backward and an optimizer step, and the graph they ran over."""
    model = small_classifier()
    optimizer = optim.AdamW(model.parameters())
    with ta.profile() as p:
        loss = F.cross_entropy(model(ta.rand(4, 12, 12)), ta.randint(0, 10, (4,)))
        graph = graph_of(loss.node)
        loss.backward()
        optimizer.step()
    return p, graph, model


# --- counts ---


def test_profile_has_each_call_of_the_graph(step):
    p, graph, _ = step
    operations = [node for node in graph if node.op is not None]
    leaves = [node for node in graph if node.op is None]
    for phase in ("forward", "backward"):
        events = [e for e in p.events if e.phase == phase and e.operation != "accumulate" and e.node is not None]
        assert sorted(e.node for e in events) == sorted(node.id for node in operations)
    for name, row in p.by_operation.items():
        if name not in ("accumulate", "AdamW.step"):
            assert row.backward_calls == sum(node.op.name == name for node in operations)
    assert p.by_operation["accumulate"].backward_calls == len(leaves)
    assert p.by_operation["AdamW.step"].calls == 1
    assert {node.id for node in graph} == set(p.by_node)


def test_profile_sums_by_operation_module_node_agree(step):
    p, graph, model = step
    assert sum(row.seconds for row in p.by_operation.values()) == pytest.approx(p.total.seconds)
    modules = p.by_module
    assert list(modules)[:3] == ["", "embed", "blocks"]
    names = {name for name, _ in model.named_modules()}
    assert set(modules) <= names and "blocks.1.mlp.fc2" in modules
    for node in graph:  # a module has at least what its nodes took
        if node.op is not None and node.modules:
            path = "" if node.modules == (model,) else node.module
            assert modules[path].seconds >= p.by_node[node.id].seconds
    inside = [modules[f"blocks.{i}"] for i in range(2)]
    assert modules["blocks"].seconds == pytest.approx(sum(row.seconds for row in inside))
    assert modules["blocks"].flops == sum(row.flops for row in inside)
    assert modules["blocks.0.mlp"].calls == 2  # a linear map and its GELU, and another map


def test_profile_counts_bytes_of_the_arrays():
    a, b = ta.rand(30, 20, requires_grad=True), ta.rand(20, 10)
    with ta.profile() as p:
        (a @ b).reshape(-1).backward(ta.ones(300))
    forward, backward = (e for e in p.events if e.operation == "matmul")
    assert forward.bytes == 4 * (600 + 200 + 300)
    assert backward.bytes == 4 * (300 + 200 + 600)  # g, b, and the gradient of a; nobody needs that of b
    assert p.by_operation["reshape"].bytes == 0  # a view moves nothing
    assert (forward.flops, backward.flops) == (2 * 30 * 20 * 10, 2 * 30 * 20 * 10)


# --- FLOPs ---

FUSED = [
    lambda x: F.softmax(x, 1),
    lambda x: F.log_softmax(x, 2),
    lambda x: F.relu(x),
    lambda x: F.gelu(x),
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: F.sigmoid(x),
    lambda x: F.silu(x),
    lambda x: F.softplus(x),
    lambda x: F.logsigmoid(x),
    lambda x: F.dropout(x, 0.5),
    lambda x: F.layer_norm(x, (6,)),
    lambda x: F.layer_norm(x, (4, 6), ta.rand(4, 6), ta.rand(4, 6)),
    lambda x: F.linear(x, ta.rand(5, 6)),
    lambda x: F.linear(x, ta.rand(5, 6), ta.rand(5)),
    lambda x: F.linear_gelu(x, ta.rand(5, 6), ta.rand(5), "tanh"),
    lambda x: F.cross_entropy(x[0], ta.tensor([1, 2, 3, 4]), reduction="none"),
    lambda x: F.scaled_dot_product_attention(x, ta.rand(3, 7, 6), ta.rand(3, 7, 5)),
    lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=ta.rand(4, 4)),
    lambda x: F.packed_attention(x, 2),
    lambda x: F.batch_norm(x, None, None, training=True),
    lambda x: F.batch_norm(x, None, None, ta.rand(4), ta.rand(4), training=True),
    lambda x: F.conv1d(x, ta.rand(6, 2, 3), ta.rand(6), groups=2),
    lambda x: F.conv2d(x[None], ta.rand(5, 3, 2, 2), padding=1),
    lambda x: recurrent(x, ta.rand(6, 6), ta.rand(6), ta.rand(4, 6), None, None, kind="tanh", reverse=False),
    lambda x: recurrent(x, ta.rand(6, 2), ta.rand(6), ta.rand(4, 2), None, None, kind="gru", reverse=False),
    lambda x: recurrent(x[..., :4], ta.rand(4, 1), None, ta.rand(4, 1), ta.rand(4, 1), None, kind="lstm", reverse=True),
]


@pytest.mark.parametrize("run", FUSED)
def test_flops_of_fused_operations_are_their_definitions(run):
    x = ta.rand(3, 4, 6)
    with ta.profile() as fused:
        run(x)
    with ta.profile() as defined, ta.definitions():
        run(x)
    assert fused.total.flops == defined.total.flops > 0


def test_flops_are_known_for_every_operation():
    ours = [o for o in gc.get_objects() if type(o) is Operation and o.forward.__module__.startswith("tinyattn.")]
    rest = [op for op in ours if op.name not in COUNTS]
    assert len(ours) > 70 and all(forward_flops(op, [(2,)], (2,), {}) in (0, 2) for op in rest)
    counts = {op.name: forward_flops(op, [(2,)], (2,), {}) for op in rest}
    assert (counts["reshape"], counts["cat"], counts["mul"], counts["rounded_div"]) == (0, 0, 2, 2)


def test_flops_of_products_are_torchs():
    ours = nn.Sequential(nn.Linear(20, 30, bias=False), nn.ReLU(), nn.Linear(30, 5, bias=False))
    theirs = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in ((20, 30), (30, 5))))
    with FlopCounterMode(display=False) as counter:
        theirs(torch.rand(4, 7, 20)).sum().backward()
    with ta.profile() as p:
        ours(ta.rand(4, 7, 20)).sum().backward()
    assert p.by_operation["linear"].flops == counter.get_total_flops()

    q, k, v = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 9, 9))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    q, k, v = (ta.tensor(x.detach().numpy(), requires_grad=True) for x in (q, k, v))
    with ta.profile() as p:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    scores = 2 * 3 * 5 * 9
    beside = 5 * scores + 2 * 2 * 3 * 5 + q.numel()  # softmax and scale
    assert p.by_operation["attention"].flops - 3 * beside == counter.get_total_flops()


def test_flops_of_convolution_are_torchs():
    x, w = torch.rand(2, 4, 9, 8, requires_grad=True), torch.rand(6, 4, 3, 2, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(x, w, padding=1).sum().backward()
    with ta.profile() as p:
        F.conv2d(*(ta.tensor(t.detach().numpy(), requires_grad=True) for t in (x, w)), padding=1).sum().backward()
    assert p.by_operation["convolve"].flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("equation", "shapes", "flops"),
    [("ij,jk->ik", [(3, 4), (4, 5)], 2 * 60), ("i,j->ij", [(3,), (4,)], 12), ("ij->i", [(3, 4)], 12),
     ("bij,bjk,k->bi", [(2, 3, 4), (2, 4, 5), (5,)], 3 * 120)],
)  # fmt: skip
def test_flops_of_einsum(equation, shapes, flops):
    with ta.profile() as p:
        out = ta.einsum(equation, *(ta.rand(*shape) for shape in shapes))
    assert out.node is None and p.total.flops == flops


def test_profile_of_a_custom_operation_has_no_flops():
    double = ta.operation(x=lambda F, g: g * 2)(lambda F, x: x * 2)
    with ta.profile() as p:
        double(ta.rand(3, requires_grad=True)).sum().backward()
    row = next(row for name, row in p.by_operation.items() if name not in ("sum", "accumulate"))
    assert row.flops is None and row.forward > 0 and row.backward > 0
    assert "FLOPs" in str(p)


# --- times ---


class Clock:
    """Stands still unless it is told that time has passed."""

    def __init__(self):
        self.now, self.each_look = 0, 0

    def look(self):
        self.now += self.each_look
        return self.now

    def passes(self, x, milliseconds):
        self.now += milliseconds * 10**6
        return x + 0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("profiling", "profile_report"):
        monkeypatch.setattr(sys.modules[f"tinyattn.debug.{module}"], "perf_counter_ns", clock.look)
    return clock


@pytest.fixture
def slow(clock):
    """Takes 20 ms forward and 10 ms backward, on that clock."""
    return ta.operation(x=lambda F, g: clock.passes(g, 10))(lambda F, x: clock.passes(x, 20))


def test_profile_times_are_those_that_passed(clock, slow):
    with ta.profile() as p:
        y = slow(ta.rand(3, requires_grad=True))
        clock.passes(0, 15)  # outside of all operations
        y.sum().backward()
    row = p.by_operation["<lambda>"]
    assert (row.forward, row.backward, row.seconds) == (0.02, 0.01, 0.03)
    assert (p.total.seconds, p.seconds) == (0.03, 0.045)
    assert next(iter(p.by_operation)) == "<lambda>"
    assert p.by_node[y.node.id].forward == 0.02 and p.by_node[y.node.id].backward == 0.01


def test_profile_waits_for_an_asynchronous_device(clock, monkeypatch):
    """Operations that only ask for work: it is done when somebody waits."""
    asked = [0]

    def ask(x, milliseconds):
        asked[0] += milliseconds
        return x + 0

    def wait():
        clock.passes(0, asked[0])
        asked[0] = 0

    later = ta.operation(x=lambda F, g: ask(g, 3))(lambda F, x: ask(x, 5))
    x = ta.rand(3, requires_grad=True)
    asked[0] = 100  # from before
    with ta.profile(wait=wait) as p:
        later(x).sum().backward()
    row = p.by_operation["<lambda>"]
    assert (row.forward, row.backward, p.total.seconds) == (0.005, 0.003, 0.008)


def test_profile_times_are_exclusive(clock, slow):
    """Under checkpoint the forward runs again inside of a rule, and with create_graph rules are operations."""
    x = ta.rand(3, requires_grad=True)
    with ta.profile() as p:
        ta.checkpoint(lambda x: (slow(x) ** 2) * 3, x).sum().backward()
    row = p.by_operation["<lambda>"]
    assert (row.calls, row.forward, row.backward) == (2, 0.04, 0.01)
    assert p.total.seconds == p.seconds == 0.05
    with ta.profile() as p:
        ta.grad(slow(x * x).sum(), x, create_graph=True)
    assert {e.depth for e in p.events} == {0, 1}
    assert p.total.seconds == p.seconds == 0.03


def test_profile_overhead_is_in_no_operation(clock, slow):
    clock.each_look = 1000
    x = ta.rand(3, requires_grad=True)
    with ta.profile() as p:  # operations within rules, with the profile's work between them
        ta.grad(slow(x * x).sum(), x, create_graph=True)
    assert {e.depth for e in p.events} == {0, 1} and p.overhead > 0
    assert sum(e.own for e in p.events) + p.overhead_ns <= p.wall


def test_profile_counts_gradient_sums_for_the_rule(clock, monkeypatch):
    """A bias' gradient is summed over the rows by the walk, after the rule: that is time of `add` too."""
    sum_to = ta.backends.cpu.sum_to
    monkeypatch.setattr(ta.backends.cpu, "sum_to", lambda *args: clock.passes(sum_to(*args), 7))
    bias = ta.rand(3, requires_grad=True)
    bias.register_hook(lambda g: [clock.passes(0, 2), None][1])
    with ta.profile() as p:
        (ta.rand(5, 3) + bias).sum().backward()
    assert p.by_operation["add"].backward == 0.007
    assert p.by_operation["accumulate"].backward == 0.002 and p.seconds == 0.009


def test_profile_is_right_after_an_error():
    with ta.profile() as p:
        with pytest.raises(RuntimeError):
            ta.rand(3) + ta.rand(4)
        ta.rand(3) + ta.rand(3)
    assert [e.depth for e in p.events] == [0] and p.by_operation["add"].calls == 1

    def fail(F, g):
        raise RuntimeError("no gradient today")

    with ta.profile() as p:
        y = ta.operation(x=fail)(lambda F, x: x + 0)(ta.rand(3, requires_grad=True))
        with pytest.raises(RuntimeError, match="today"):
            y.sum().backward()
        ta.rand(3) + 1
        (ta.rand(3, requires_grad=True) * 2).sum().backward()
    assert {e.depth for e in p.events} == {0} and p.by_operation["mul"].backward_calls == 1


def test_profile_continues_when_entered_again():
    p = ta.profile()
    for _ in range(2):
        with p:
            ta.ones(3) + 1
    assert p.by_operation["add"].calls == 2
    assert str(ta.profile()) == "profile: no operation ran"


def test_profile_overhead_is_reported_and_small():
    x, each = ta.rand(8, 8, requires_grad=True), []
    for _ in range(20):
        with ta.profile() as p:
            (x @ x).exp().sum().backward()
        assert 0 < p.overhead < p.seconds and p.total.seconds + p.overhead <= p.seconds
        each.append(p.overhead / len(p.events))
    assert min(each) < 100e-6  # about 10 us on a quiet machine


def test_profile_separates_a_loss_module_from_the_model():
    model, loss = nn.Sequential(nn.Linear(4, 3)), nn.CrossEntropyLoss()
    with ta.profile() as p:
        loss(model(ta.rand(2, 4)), ta.tensor([0, 1])).backward()
        assert p.seconds > 0  # so far
    modules = p.by_module
    assert list(modules) == ["", "0", "CrossEntropyLoss"]
    assert modules["0"].calls == modules[""].calls == 1 and modules["0"].backward > 0
    assert modules[""].seconds + modules["CrossEntropyLoss"].seconds <= p.total.seconds
    assert "\n  CrossEntropyLoss " in str(p) and "\n    0 " in str(p)


def test_profile_retains_no_array(step):
    x = ta.rand(50, 50, requires_grad=True)
    with ta.profile() as p:
        y = (x * 2).exp()
        gone = weakref.ref(y.array)
        y.sum().backward()
        del y
    assert gone() is None and len(p.events) > 5
    layer = nn.Linear(50, 50)
    with p:
        layer(x)
    used = [weakref.ref(x.array), weakref.ref(layer.weight.array)]
    del x, layer
    assert [ref() for ref in used] == [None, None]


# --- threads ---


def test_profile_of_data_parallel_changes_no_bits():
    images, labels = ta.rand(8, 12, 12), ta.randint(0, 10, (8,))
    results = []
    for observe in (False, True):
        model = small_classifier()
        network = nn.DataParallel(model, 2)
        p = ta.profile()
        if observe:
            p.__enter__()
        F.cross_entropy(network(images), labels).backward()
        if observe:
            p.__exit__(None, None, None)
        results.append(np.concatenate([q.grad.numpy().ravel() for q in model.parameters()]).tobytes())
    assert results[0] == results[1]
    threads = {e.thread for e in p.events}
    assert len(threads) == 2
    for phase in ("forward", "backward"):
        assert [sum(e.thread == t and e.operation == "packed_attention" and e.phase == phase for e in p.events)
                for t in threads] == [2, 2]  # fmt: skip
    assert p.by_module["module.blocks.0.attention"].calls == 2 * 3
    with ta.memory_ledger() as ledger, ta.profile() as p:  # one that is not for threads keeps all in one
        network(images)
    assert len({e.thread for e in p.events}) == 1 and ledger.rows


# --- as text and as a trace ---


def test_profile_prints_a_table(step):
    p, *_ = step
    text = str(p)
    assert text.splitlines()[0].startswith("profile: ") and "the profile itself took" in text
    for word in ("operation", "module, with what is in it", "forward", "backward", "share", "GFLOP/s", "AdamW.step"):
        assert word in text
    assert "\n      0 " in text and "\n        attention " in text  # the tree of modules
    assert "more with" in p.table(rows=3)


def test_profile_trace_nests_and_has_arrows(step, tmp_path):
    p, graph, _ = step
    trace = json.loads(p.save_trace(tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [e for e in trace if e["ph"] == "X"]
    assert sum(e["cat"] != "module" for e in slices) == len(p.events)
    for tid in {e["tid"] for e in slices}:  # in one row a slice lies inside of another or beside it
        stack = []
        for e in (e for e in slices if e["tid"] == tid):  # in the order of the file: an outer one comes first
            while stack and e["ts"] >= stack[-1] - 1e-6:
                stack.pop()
            assert not stack or e["ts"] + e["dur"] <= stack[-1] + 1e-6, e
            stack.append(e["ts"] + e["dur"])
    attention = next(e for e in slices if e["name"] == "packed_attention" and e["cat"] == "forward")
    around = {e["name"] for e in slices if e["cat"] == "module" and e["ts"] <= attention["ts"] < e["ts"] + e["dur"]}
    assert around == {"model", "blocks", "blocks.0", "blocks.0.attention"}
    arrows = [e for e in trace if e["ph"] in "sf"]
    starts, ends = ({e["id"] for e in arrows if e["ph"] == ph} for ph in "sf")
    assert starts == ends == {node.id for node in graph if node.op is not None}
    assert attention["args"]["module"] == "blocks.0.attention" and "test_profile.py" in attention["args"]["line"]


def test_profile_trace_has_each_thread(tmp_path):
    network = nn.DataParallel(small_classifier(), 2)
    with ta.profile() as p:
        network(ta.rand(8, 12, 12)).sum().backward()
    trace = json.loads(p.save_trace(tmp_path / "t.json").read_text())["traceEvents"]
    assert [e["args"]["name"] for e in trace if e["ph"] == "M"] == ["main", "worker 1"]

"""ta.viz.graph: what is recorded is the engine's own graph, what is drawn is all of it, and nothing is kept."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
import xml.dom.minidom

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn
from tinyattn.engine import modes
from tinyattn.engine.observer import Observer
from tinyattn.viz.graphs import dot, formulas, graph, labels, source
from tinyattn.viz.graphs import model as fold
from tinyattn.viz.graphs.arrays import EXACT, Gallery
from tinyattn.viz.graphs.dot import GET_DOT

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz' dot is not installed")
RECIPE = {
    "patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128, "mlp_dim": 128, "pooling": "attention",
}  # fmt: skip


# --- graphs that are drawn in these tests and in test_viz_page.py ---


def simple():
    a, b, c = (ta.tensor(x, requires_grad=True) for x in ([1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [0.5, 0.5, 0.5]))
    y = (a * b + c).relu().sum()
    return graph(y), y


def data(count=2):
    return ta.rand(count, 28, 28), ta.randint(0, 10, (count,))


def loss_of(model):
    def loss(images, labels):
        return F.cross_entropy(model(images), labels)

    return loss


def seconds(function):
    """The least processor time of three calls."""
    gc.collect()
    gc.freeze()  # what other tests of this process have left is not looked through again and again
    took = []
    try:
        for _ in range(3):
            start = time.process_time()
            function()
            took.append(time.process_time() - start)
    finally:
        gc.unfreeze()
    return min(took)


def article(**how):
    ta.manual_seed(0)
    return graph(loss_of(models.AttentionModel(10, 64, 10)), *data(), **how)


def classifier(num_layers=2, **how):
    ta.manual_seed(0)
    return graph(loss_of(models.AttentionClassifier(num_layers=num_layers, **RECIPE)), *data(), **how)


def second_order():
    x = ta.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (slope,) = ta.grad((x**3).sum(), x, create_graph=True)
    return graph(slope.sum())


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(9, 2)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))


def crashed():
    ta.manual_seed(0)
    return graph(Broken(), ta.rand(3, 4))


class Shared(nn.Module):
    """One layer three times in a row, and a loop with layers in it."""

    def __init__(self):
        super().__init__()
        self.fc, self.step = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.fc(self.fc(self.fc(x)))
        half = ta.tensor(0.5)
        for part in [x] * 6:
            h = (self.step(h) + self.fc(part)).tanh() * half
        return h


def shared():
    ta.manual_seed(0)
    return graph(Shared(), ta.rand(2, 4))


def chain(n):
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    y = x
    for _ in range(n // 2):
        y = y * 1.0001 + 0.1
    return y.sum()


def wild(n):
    """A graph in which nothing repeats: each operation takes one of the last few at random."""
    random = np.random.default_rng(0)
    made = [ta.ones(2, requires_grad=True)]
    for _ in range(n - 1):
        a, b = (made[-1 - int(k)] for k in random.integers(0, min(5, len(made)), 2))
        made.append((a * b).tanh() if random.random() < 0.5 else a + b)
    return made[-1].sum()


GOLDEN = {
    "simple": lambda: simple()[0],
    "article": article,
    "classifier": classifier,
    "classifier, operations": lambda: classifier(mode="operations"),
    "classifier, definitions": lambda: classifier(mode="definitions", depth=9),
    "classifier, depth 0": lambda: classifier(depth=0),
    "12 blocks": lambda: classifier(12),
    "second order": second_order,
    "crashed": crashed,
    "shared": shared,
}


# --- the engine's own counts ---


def engine(*roots):
    """(operations, leaves, edges) behind tensors, counted without viz."""
    seen, stack = {}, [r.node for r in roots]
    while stack:
        node = stack.pop()
        if node.id not in seen:
            seen[node.id] = node
            stack += [e for e in node.edges if e is not None]
    nodes = list(seen.values())
    return (
        sum(n.op is not None for n in nodes),
        sum(n.op is None for n in nodes),
        sum(e is not None for n in nodes for e in n.edges),
    )


def counts(picture):
    recorded = [v for v in picture.vertices if v.recorded]
    return (
        sum(v.is_operation for v in recorded),
        sum(not v.is_operation for v in recorded),
        sum(e.recorded for e in picture.edges),
    )


class Steps(Observer):
    def __init__(self):
        self.taken, self.handed = [], 0

    def before_backward(self, node, g):
        self.taken.append((node.op.name if node.op else "leaf", np.array(g)))

    def received(self, edge, node, gradient, total):
        self.handed += 1


def test_graph_counts_and_steps_equal_the_engines():
    ta.manual_seed(0)
    for model in (models.AttentionModel(10, 64, 10), models.AttentionClassifier(**RECIPE)):
        images, labels = data()
        out = loss_of(model)(images, labels)
        for picture in (graph(out), graph(loss_of(model), images, labels)):
            assert counts(picture) == engine(out)
            with Steps() as steps:
                ta.grad(out, list(model.parameters()), retain_graph=True)
            vertices = picture.vertices
            assert [vertices[s.vertex].op or "leaf" for s in picture.steps] == [name for name, _ in steps.taken]
            assert sum(len(s.arrivals) for s in picture.steps) == steps.handed
            forward = [v.op for v in vertices if v.is_operation and v.recorded]
            order = sorted(behind(out), key=lambda n: n.id)
            assert forward == [n.op.name for n in order if n.op is not None]


def behind(out):
    seen, stack = {}, [out.node]
    while stack:
        node = stack.pop()
        if node.id not in seen:
            seen[node.id] = node
            stack += [e for e in node.edges if e is not None]
    return list(seen.values())


def value(picture, place):
    entry = picture.trace.gallery.entries[place]
    return np.array(entry["values"], dtype=entry["dtype"]).reshape(entry["shape"])


def test_graph_gradients_equal_grad():
    for dtype in (ta.float32, ta.float64):
        a, b = (ta.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
        h = a * b
        y = (h.tanh() + h * 0.1 + a.exp() / 3).sum()
        picture = graph(y)
        wanted = {"a": a, "b": b, "h": h}
        gradients = dict(zip(wanted, ta.grad(y, list(wanted.values()), retain_graph=True), strict=True))
        by_name = {v.name: v for v in picture.vertices}
        for name, g in gradients.items():
            np.testing.assert_array_equal(value(picture, by_name[name].gradient), g.numpy())
        np.testing.assert_array_equal(value(picture, by_name["h"].value), h.numpy())
        np.testing.assert_array_equal(value(picture, by_name["y"].value), y.numpy())
        # what arrives adds up to what is there when the node is taken
        last = {arrival.vertex: arrival.total for step in picture.steps for arrival in step.arrivals}
        taken = {step.vertex: step.gradient for step in picture.steps}
        assert all(taken[vertex] == total for vertex, total in last.items())
        assert sum(len(s.arrivals) for s in picture.steps) == len(picture.edges)
        assert all(x.grad is None for x in (a, b))


def test_graph_arrivals_name_their_input():
    x = ta.tensor([3.0], requires_grad=True)
    picture = graph((x * x).sum())
    arrivals = picture.steps[1].arrivals
    assert [a.slot for a in arrivals] == ["a", "b"]
    assert [value(picture, a.total) for a in arrivals] == [[3.0], [6.0]]


def test_graph_statistics_describe_the_gradients():
    ta.manual_seed(0)
    model = models.AttentionClassifier(**RECIPE)
    images, labels = data()
    picture = graph(loss_of(model), images, labels)
    named = dict(model.named_parameters())
    out = loss_of(model)(images, labels)
    gradients = dict(zip(named, ta.grad(out, list(named.values())), strict=True))
    seen = [v for v in picture.vertices if v.kind == "parameter"]
    assert {v.name for v in seen} == set(named)
    for vertex in seen:
        entry, g = picture.trace.gallery.entries[vertex.gradient], gradients[vertex.name].numpy().astype(float)
        if g.size > EXACT:
            for name, of in (("min", g.min()), ("max", g.max()), ("mean", g.mean()), ("norm", np.linalg.norm(g))):
                assert entry[name] == pytest.approx(of, rel=1e-5, abs=1e-12), (vertex.name, name)
        else:
            np.testing.assert_array_equal(value(picture, vertex.gradient), gradients[vertex.name].numpy())


# --- what a run shows that nodes cannot ---


def test_graph_of_run_shows_unrecorded_operations():
    weight = ta.ones(3, requires_grad=True)

    def f(x, scale):
        cut = (x * weight).detach()
        return (cut * scale + x).sum()

    picture = graph(f, ta.tensor([1.0, 2.0, 3.0]), scale=ta.tensor(2.0, requires_grad=True))
    kinds = {v.name: v.kind for v in picture.vertices}
    assert kinds["x"] == "input" and kinds["weight"] == "leaf" and kinds["scale"] == "leaf"
    cut = next(v for v in picture.vertices if v.op == "detach")
    assert not cut.recorded and cut.name == "cut"
    assert {picture.vertices[s.vertex].name for s in picture.steps if picture.vertices[s.vertex].kind == "leaf"} == {
        "scale"
    }


def test_graph_without_gradients_has_no_backward():
    model = nn.Linear(3, 2)
    with ta.no_grad():
        picture = graph(model, ta.rand(4, 3))
    assert [v.op for v in picture.vertices if v.is_operation] == ["linear"]
    assert not picture.steps and "no backward pass" in picture.trace.note


def test_graph_after_backward_shows_the_forward():
    x = ta.ones(3, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    picture = graph(y)
    assert counts(picture) == (2, 1, 3) and not picture.steps
    assert repr(picture).endswith("3 edges, backward not shown>")
    assert "backward() has freed the saved values" in picture.trace.note


def test_graph_of_partly_freed_loss_says_so():
    x = ta.ones(3, requires_grad=True)
    shared = x * x
    first, second = shared.sum(), shared.exp().sum()
    first.backward()
    picture = graph(second)
    assert "backward not shown" in repr(picture) and "has freed" in picture.trace.note


def test_graph_counts_steps_after_retained_backward():
    x = ta.ones(3, requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    assert repr(graph(y)).endswith("3 backward steps>")


def test_graph_after_inplace_write_shows_the_reason():
    x = ta.ones(3, requires_grad=True)
    y = (z := x * 1).square().sum()
    with ta.no_grad():
        z += 1
    picture = graph(y)
    assert "backward not shown" in repr(picture) and "freed" not in picture.trace.note and picture.trace.note


def test_graph_starts_from_given_gradient():
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    picture = graph(y, gradient=ta.tensor([10.0, 0.5]))
    leaf = next(v for v in picture.vertices if v.name == "x")
    np.testing.assert_array_equal(value(picture, leaf.gradient), [30.0, 1.5])
    np.testing.assert_array_equal(value(graph(y), next(v for v in graph(y).vertices if v.name == "x").gradient), [3, 3])


def test_graph_restores_random_state_and_grads():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    x = ta.rand(2, 3)
    ta.manual_seed(5)
    expected = ta.rand(4).numpy().copy()
    ta.manual_seed(5)
    graph(model, x)
    np.testing.assert_array_equal(ta.rand(4).numpy(), expected)
    assert all(p.grad is None for p in model.parameters())


def test_graph_draws_shared_parameters_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(F.relu(self.fc(x)))

    picture = graph(Tied(), ta.rand(2, 3), mode="operations")
    weights = [v for v in picture.vertices if v.name == "fc.weight"]
    assert len(weights) == 1 and sum(e.source == weights[0].index for e in picture.edges) == 2
    assert [b.name for b in picture.trace.boxes if b.type == "Linear"] == ["fc", "fc"]
    assert weights[0].box == next(b.index for b in picture.trace.boxes if b.type == "Tied")


def test_graph_of_data_parallel_and_checkpoint():
    ta.manual_seed(0)
    model = models.AttentionClassifier(num_layers=1, hidden_dim=16, mlp_dim=16, num_heads=2)
    images, labels = data(4)
    for f in (
        loss_of(nn.DataParallel(model, workers=2)),
        lambda images, labels: ta.checkpoint(loss_of(model), images, labels),
    ):
        picture = graph(f, images, labels)
        out = f(images, labels)
        found = ta.grad(out, list(model.parameters()))
        by_name = {v.name.removeprefix("module."): v for v in picture.vertices}
        for (name, _), g in zip(model.named_parameters(), found, strict=True):
            entry = picture.trace.gallery.entries[by_name[name].gradient]
            if "values" in entry:
                np.testing.assert_array_equal(value(picture, by_name[name].gradient), g.numpy())
        assert picture.steps


# --- a crash ---


def test_graph_of_failed_forward_marks_the_operation():
    picture = crashed()
    last = picture.vertices[-1]
    assert last.kind == "failed" and last.op == "linear"
    shapes = {e.slot: picture.vertices[e.source].shape for e in last.inputs}
    assert shapes == {"input": (3, 8), "weight": (2, 9), "bias": (2,)}
    assert picture.trace.boxes[last.box].path == "fc2"
    assert "RuntimeError: linear: input (3, 8)" in picture.error and picture.error in repr(picture)
    assert [v.op for v in picture.vertices if v.is_operation] == ["linear", "relu", "linear"]
    assert "self.fc2(F.relu(self.fc1(x)))" in last.site.code


@pytest.mark.parametrize(
    ("f", "op", "slots"),
    [
        (lambda x: (x @ ta.ones(5, 5)).sum(), "matmul", 2),
        (lambda x: x + ta.ones(7), "add", 2),
        (lambda x: x.reshape(5, 5), "reshape", 1),
        (lambda x: F.embedding(ta.tensor([9]), ta.ones(3, 2)), "embedding", 2),
        (lambda x: ta.cat([x, ta.ones(3, 3, 3)]), "cat", 2),
        (lambda x: ta.einsum("ij,jk->ik", x, x), "einsum", 2),
        (lambda x: ta.maximum(x, "a"), "maximum", 1),  # before the operation runs
        (lambda x: (x * 2).nothing, "AttributeError", 0),
    ],
)
def test_graph_of_various_failures(f, op, slots):
    picture = graph(f, ta.ones(2, 3))
    last = picture.vertices[-1]
    assert (last.kind, last.op, len(last.inputs)) == ("failed", op, slots) and picture.error
    assert picture.dot and picture.html


# --- boxes and folding ---


def test_graph_nests_modules_and_collapses_blocks():
    picture = classifier(12)
    boxes = {b.path: b for b in picture.trace.boxes if b.kind == "module"}
    path, trace = "blocks.3.attention.out_proj", picture.trace
    chain_of = [trace.boxes[i].path for i in fold.chain(trace.boxes, boxes[path].index)]
    assert chain_of == ["", "", "blocks.3", "blocks.3.attention", path]  # "": the model, the repeat
    (group,) = [b for b in picture.trace.boxes if b.kind == "repeat"]
    assert group.name == "blocks.0–11" and len(group.members) == 12
    assert len({len(m) for m in group.members}) == 1
    for member in group.members[1:]:
        for vertex, twin in zip(member, group.members[0], strict=True):
            a, b = picture.vertices[vertex], picture.vertices[twin]
            assert (a.op, a.shape, a.kind) == (b.op, b.shape, b.kind)
    assert "×12" in picture.dot
    seen = fold.view(picture.trace, fold.folded_at(picture.trace.boxes, 1))
    assert len(seen.items) < 25  # one screen


def test_graph_keeps_unequal_blocks_apart():
    class Net(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    kinds = lambda sizes: [b.kind for b in graph(Net(sizes), ta.rand(2, sizes[0])).trace.boxes]  # noqa: E731
    assert "repeat" not in kinds([4, 5, 6])
    assert kinds([4, 4, 4]).count("repeat") == 1


@pytest.mark.parametrize("name", list(GOLDEN))
def test_folding_makes_no_cycle_and_loses_no_edge(name):
    picture = GOLDEN[name]()
    trace = picture.trace
    random = np.random.default_rng(1)
    choices = [set(), fold.folded_in(trace.boxes, "modules"), *(fold.folded_at(trace.boxes, d) for d in range(4))]
    choices += [{b.index for b in trace.boxes if random.random() < 0.4 and b.kind != "repeat"} for _ in range(10)]
    for folded, tidy in itertools.product(choices, (False, True)):
        seen = fold.view(trace, folded, tidy)
        assert set(seen.of) == set(seen.items)
        if not any(b.members for b in trace.boxes):
            drawn = {(w.source, w.target) for w in seen.wires}
            real = {(seen.of[e.source], seen.of[e.target]) for e in trace.edges}
            assert drawn == {pair for pair in real if pair[0] != pair[1]}
        after = {item: set() for item in seen.items}
        waiting = dict.fromkeys(seen.items, 0)
        for wire in seen.wires:
            after[wire.source].add(wire.target)
        for targets in after.values():
            for item in targets:
                waiting[item] += 1
        ready = [item for item, n in waiting.items() if not n]
        for item in ready:
            for target in after[item]:
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
        assert len(ready) == len(seen.items), f"a cycle with {folded} folded"


def test_graph_of_modules_hides_changes_of_shape():
    modules, operations = article(), article(mode="operations")
    assert not re.findall(r"<b>(?:reshape|permute)</b>", modules.dot) and "<b>pixels = reshape</b>" in modules.dot
    assert "<b>reshape</b>" in operations.dot and "<b>permute</b>" in operations.dot
    assert page_data(modules)["tidy"] and not page_data(operations)["tidy"]


def test_graph_modes_unfold_layers_and_definitions():
    modules, operations, definitions = (classifier(mode=m, depth=9) for m in ("modules", "operations", "definitions"))
    visible = [len(fold.view(p.trace, p._folded).items) for p in (modules, operations)]
    assert visible[0] < visible[1]
    assert "packed_attention" in {v.op for v in operations.vertices}
    ops = {v.op for v in definitions.vertices}
    assert {"matmul", "exp", "div"} <= ops and not ops & {"packed_attention", "softmax", "linear", "layer_norm"}
    names = {b.name for b in definitions.trace.boxes if b.kind == "definition"}
    assert {"packed_attention", "softmax", "linear", "layer_norm", "gelu", "cross_entropy"} <= names
    vertices = {v.name for v in definitions.vertices}
    assert {"q", "k", "v", "scores"} <= vertices  # the definition's own words
    # folded up to fused operations, a definition's graph is the fused graph
    folded = {b.index for b in definitions.trace.boxes if b.kind == "definition"}
    seen = fold.view(definitions.trace, folded)
    fused = sorted(v.op for v in operations.vertices if v.is_operation and v.op in names)
    assert len([i for i in seen.items if i.kind == "box"]) >= len(set(fused))
    with ta.definitions():
        out = loss_of(models.AttentionClassifier(**RECIPE))(*data())
    assert counts(definitions) == engine(out)


def test_definition_box_contains_only_its_operations():
    picture = graph(lambda x: x.softmax(-1) + x.tanh(), ta.ones(2, 3), mode="definitions")
    (box,) = picture.trace.boxes
    assert box.name == "softmax"
    assert {v.op: v.box for v in picture.vertices if v.is_operation and v.op in ("exp", "div")} == {"exp": 0, "div": 0}
    assert {v.op: v.box for v in picture.vertices if v.op in ("tanh", "add")} == {"tanh": -1, "add": -1}


def test_folded_box_with_the_output_looks_like_one():
    for how in ({"depth": 0}, {"depth": 1}):
        picture = graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), ta.rand(1, 2), **how)
        assert picture.dot.count(dot.COLOURS["output"][0]) == 1
        outputs = [box["name"] for box in page_data(picture)["boxes"] if box["output"]]
        assert outputs == ["Sequential", "2"]


def test_search_finds_the_definition_by_its_formula():
    q, k, v = (ta.rand(3, 2, requires_grad=True) for _ in range(3))
    data = page_data(graph(F.scaled_dot_product_attention, q, k, v, mode="definitions"))
    assert sum("softmax" in vertex["searched"] for vertex in data["vertices"]) > 5


def page_data(picture):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', picture.html, re.S)[1])


def test_graph_depth_zero_is_one_box():
    picture = classifier(depth=0)
    items = fold.view(picture.trace, picture._folded).items
    assert {(i.kind, picture.trace.boxes[i.number].type) for i in items if i.kind == "box"} == {
        ("box", "AttentionClassifier")
    }


def test_graph_collapses_loops():
    picture = graph(chain(200))
    (loop,) = [b for b in picture.trace.boxes if b.kind == "repeat"]
    assert len(loop.members) == 99  # the first turn starts from a leaf
    assert len(fold.view(picture.trace, set()).items) < 10
    assert "×99" in picture.dot


def test_graph_collapses_loops_with_layers():
    picture = shared()
    groups = [b for b in picture.trace.boxes if b.kind == "repeat"]
    assert [(b.name, len(b.members)) for b in groups] == [("fc", 3), ("loop", 6)]
    weights = {v.name: v.box for v in picture.vertices if v.kind == "parameter"}
    model = next(b.index for b in picture.trace.boxes if b.type == "Shared")
    assert weights == dict.fromkeys(["fc.weight", "fc.bias", "step.weight", "step.bias"], model)
    assert [v.box for v in picture.vertices if v.kind == "constant"] == [model]


def test_graph_names_vertices_after_variables():
    tokens = ta.rand(2, 3, requires_grad=True)
    weights = (tokens * 2).softmax(-1)
    picture = graph(weights.sum())
    assert [v.name for v in picture.vertices] == ["tokens", "mul", "weights", "sum"]
    text = picture.dot
    assert "<i>a ⊙ 2</i>" in text and "<b>weights = softmax</b>" in text
    assert picture.vertices[1].site.code == "weights = (tokens * 2).softmax(-1)"


def formulas_of(picture):
    return [labels.formula_text(v) for v in picture.vertices if v.is_operation]


def test_formula_never_names_another_tensor():
    assert formulas_of(simple()[0]) == ["a ⊙ b", "‹mul› + c", "max(x, 0)", "Σ x"]
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    weights = (x * 3).exp()
    assert formulas_of(graph((weights * 2).tanh().sum())) == ["a ⊙ 3", "e^‹mul›", "a ⊙ 2", "tanh ‹mul›", "Σ ‹tanh›"]
    y = x * x
    (mul, exp) = [v for v in graph(y.exp()).vertices if v.is_operation]
    assert (mul.letters, exp.letters) == ({}, {"x": "y", "y": "out"})


def test_formula_names_all_its_tensors_or_none():
    w, x, b = (ta.tensor(value, requires_grad=True) for value in (2.0, 3.0, 1.0))
    p = w * x
    y = p + b
    assert formulas_of(graph(y * y)) == ["w ⊙ x", "p + b", "y ⊙ y"]
    assert formulas_of(graph(w * 2 + b)) == ["a ⊙ 2", "‹mul› + b"]
    layer = nn.Linear(1, 1)
    assert formulas_of(graph(nn.Sequential(layer), ta.rand(1, 1))) == ["x Wᵀ + b"]  # weights keep their letters


def test_pow_formula_shows_its_exponent():
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    assert formulas_of(graph([x**3, x**-2, x**2.5, 2**x])) == ["a³", "a⁻²", "a^2.5", "2^b"]
    assert formulas.filled_in("g ⊙ b a^(b−1)", {"b": "3"}) == "g ⊙ 3 a^(3−1)"


def test_seed_of_second_order_graph_is_named_by_its_value():
    assert [v.name for v in second_order().vertices if v.kind == "constant"] == ["all 1"]
    named, x = ta.tensor([1.0, 2.0]), ta.ones(2, requires_grad=True)
    for picture, name in ((graph(x * named), "named"), (graph(x * ta.tensor([3.0, 4.0])), "constant")):
        assert [v.name for v in picture.vertices if v.kind == "constant"] == [name]


# --- the rules, in signs and in source ---


def all_operations():
    import importlib
    import pkgutil

    from tinyattn import ops
    from tinyattn.engine.operation import Operation
    from tinyattn.nn import parallel

    modules = [importlib.import_module(f"tinyattn.ops.{m.name}") for m in pkgutil.iter_modules(ops.__path__)]
    found = {id(x): x for module in [*modules, parallel] for x in vars(module).values() if isinstance(x, Operation)}
    return list(found.values())


def test_every_operation_has_a_formula():
    for op in all_operations():
        known = formulas.formula(op.name)
        assert known.forward, op.name
        if op.name not in formulas.FORMULAS:  # the docstring stands for the formula, the source for the rules
            continue
        assert set(known.rules) <= set(op.inputs), op.name
        if op.rules:
            assert set(op.rules) <= set(known.rules), op.name
        elif op.backward:
            assert known.rules, op.name
    names = {op.name for op in all_operations()} | {"argmax", "argmin", "detach"}
    assert set(formulas.FORMULAS) <= names


def test_rule_source_is_that_rule_alone():
    for op in all_operations():
        for name, text in source.rules_of(op).items():
            assert text != "source not available", (op.name, name)
            compile(text, "rule", "exec")
            rule = op.rules.get(name, op.backward)
            if text.startswith("lambda"):
                code = compile(text, "rule", "eval").co_consts[0]
                for part in ("co_names", "co_varnames"):
                    assert getattr(code, part) == getattr(rule.__code__, part), (op.name, name)
                numbers = [[c for c in x.co_consts if isinstance(c, int | float)] for x in (code, rule.__code__)]
                assert numbers[0] == numbers[1], (op.name, name)
    from tinyattn.ops import mul

    assert source.rules_of(mul) == {"a": "lambda xp, g, b: g * b", "b": "lambda xp, g, a: g * a"}


# --- drawing ---


def test_graph_boxes_show_shapes_in_and_out():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 3), nn.Tanh()))
    trace = (picture := graph(lambda x: (model(x) * x[:, :3]).sum(), ta.rand(5, 4))).trace
    text = dot.dot_text(trace, fold.view(trace, picture._folded, True))
    assert ">Linear  5×4 → 5×8<" in text and ">40 parameters<" in text
    assert ">Linear  5×8 → 5×3<" in text and ">27 parameters<" in text
    first, second = (v for v in trace.vertices if v.op == "linear")
    (product,) = (v for v in trace.vertices if v.op == "mul")
    assert labels.flow_text(trace, [v for v in trace.vertices if v.is_operation]) == "5×4 → scalar"
    assert labels.flow_text(trace, [product]) == "5×3" and labels.flow_text(trace, [first, second]) == ""


@needs_dot
@pytest.mark.parametrize("name", list(GOLDEN))
def test_dot_renders_every_item_and_wire(name, tmp_path):
    picture = GOLDEN[name]()
    tree = xml.dom.minidom.parseString(picture.svg)
    nodes = [g for g in tree.getElementsByTagName("g") if g.getAttribute("class") == "node"]
    edges = [g for g in tree.getElementsByTagName("g") if g.getAttribute("class") == "edge"]
    seen = fold.view(picture.trace, picture._folded, picture._mode == "modules")
    assert (len(nodes), len(edges)) == (len(seen.items), len(seen.wires))


@needs_dot
def test_graph_saves_every_format(tmp_path):
    picture, _ = simple()
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph", "html": b"<!DOCTYPE html>"}
    for kind, start in starts.items():
        path = picture.save(tmp_path / f"x.{kind}")
        assert path.read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"'x.gif' ends in none of .svg, .png"):
        picture.save(tmp_path / "x.gif")


def test_graph_without_dot_writes_text_and_page(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    picture, _ = simple()
    assert picture.dot.startswith("digraph") and "<!DOCTYPE html>" in picture.html
    with pytest.raises(RuntimeError, match="apt-get install graphviz") as caught:
        picture.save(tmp_path / "x.svg")
    assert str(caught.value) == GET_DOT and "\n" not in GET_DOT
    bundle = picture._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"} and bundle["text/html"].startswith("<iframe srcdoc=")


def test_graph_without_graphviz_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    picture, _ = simple()
    assert picture.dot
    with pytest.raises(ImportError, match=r'pip install "tinyattn\[viz\]"'):
        _ = picture.svg


@needs_dot
def test_svg_has_room_for_the_widest_font():
    picture = simple()[0]
    assert "DejaVu" not in picture.svg and "Helvetica" in picture.svg
    wide = [
        max(map(float, re.findall(r"(?<=[ ,-])\d+\.\d+(?=,)", text))) for text in (picture.svg, narrow_svg(picture))
    ]
    assert wide[0] > wide[1]


def narrow_svg(picture):
    return subprocess.run(["dot", "-Tsvg"], input=picture.dot, capture_output=True, text=True, check=True).stdout


def test_graph_pages_of_operations_open_unfolded():
    for mode in ("operations", "definitions"):
        data = page_data(classifier(mode=mode))
        assert not data["auto"] and not data["folded"]
    assert page_data(classifier())["auto"]


def test_times_of_boxes_and_heat_count_all_that_they_stand_for():
    picture = classifier(12, times=True)
    spent = dot._spent(picture.trace, fold.view(picture.trace, picture._folded))
    total = sum(v.seconds + v.seconds_back for v in picture.vertices if v.is_operation)
    assert sum(map(sum, spent.values())) == pytest.approx(total)
    blocks = graph(models.AttentionClassifier(num_layers=12, **RECIPE), data()[0], times=True, depth=1)
    (line,) = [row for row in blocks.dot.splitlines() if "×12" in row and "operations" in row]
    every = sum(
        v.seconds
        for v in blocks.vertices
        if "blocks" in dict(enumerate([b.path for b in blocks.trace.boxes])).get(v.box, "")
    )
    shown = float(re.search(r"([\d.]+) ms[,<]", line)[1])
    assert shown == pytest.approx(1e3 * every, rel=0.01)


def test_boxes_of_a_small_graph_show_value_and_gradient():
    picture = simple()[0]
    lines = {
        v["title"].split(" ")[0]: [text for line in v["lines"] for _, text in line]
        for v in page_data(picture)["vertices"]
    }
    assert lines["a"][-2:] == ["1, 2, 3", "gradient 4, 0, 6"] and lines["y"][-2:] == ["23", "gradient 1"]
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    assert "gradient 2, 4" in graph((x * x).sum(), stats=True).dot
    assert "gradient" not in json.dumps([v["lines"] for v in page_data(classifier())["vertices"]])


@needs_dot
def test_graph_in_a_notebook():
    bundle = simple()[0]._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<?xml") and bundle["text/plain"].startswith("<graph of y: 4 operations")


NASTY = '<b>&"\\N\x00\u2028</script>{}|'


@needs_dot
def test_dot_labels_are_escaped():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(NASTY, nn.Linear(2, 2))

        def forward(self, x):
            return next(self.children())(x)

    for mode in ("modules", "operations"):
        picture = graph(Odd(), ta.rand(1, 2), mode=mode, title=NASTY)
        tree = xml.dom.minidom.parseString(picture.svg)  # well-formed
        text = "".join(t.firstChild.data for t in tree.getElementsByTagName("text") if t.firstChild)
        assert '<b>&"' in text.replace("\u00a0", " ")
        assert picture.html.count("</script>") == 2


def test_same_graph_gives_same_bytes():
    script = (
        "import sys; sys.path.insert(0, 'tests'); import test_viz_graph as t, hashlib\n"
        "for p in (t.classifier(), t.article(mode='definitions')):\n"
        "    print(hashlib.sha256((p.dot + p.html).encode()).hexdigest())"
    )

    def run(seed):
        return subprocess.check_output([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed})

    assert run("1") == run("2")


def test_graph_shows_stats_and_times_on_request():
    plain, full = classifier(mode="operations"), classifier(mode="operations", stats=True, times=True)
    assert "gradient norm" not in plain.dot and "µs" not in plain.dot
    assert (
        re.search(r"min -?[\d.e-]+ mean -?[\d.e-]+ max", full.dot) and "gradient norm" in full.dot and "µs" in full.dot
    )
    assert "µs" in full.html


def test_graph_is_coloured_by_profile_times():
    model, (images, labels) = models.AttentionModel(10, 64, 10), data()
    with ta.profile() as p:
        loss = loss_of(model)(images, labels)
        loss.backward(retain_graph=True)
    picture = graph(loss, profile=p)
    order = [n for n in sorted(behind(loss), key=lambda n: n.id) if n.op is not None]
    for vertex, node in zip((v for v in picture.vertices if v.is_operation), order, strict=True):
        row = p.by_node[node.id]
        assert (vertex.seconds, vertex.seconds_back) == (row.forward, row.backward)
    assert "µs back" in picture.dot and "µs back" in picture.html
    fills = re.findall(r'fillcolor="(#ff\w{4})"\]', picture.dot)
    assert "#ffa85c" in fills and len(set(fills)) > 2  # the most is orange, the others paler
    with pytest.raises(ValueError, match=r"this profile contains none of the tensor.s operations"):
        graph((ta.ones(2, requires_grad=True) * 2).sum(), profile=p)
    with pytest.raises(TypeError, match="profile= needs the tensor"):
        graph(model, images, profile=p)


# --- size and cost ---


@pytest.mark.slow
@pytest.mark.no_cover  # which would be timed too
@pytest.mark.parametrize("make", [chain, wild])
def test_time_of_a_graph_grows_with_its_nodes(tmp_path, make):
    def draw(nodes):
        picture = graph(make(nodes))
        picture.save(tmp_path / "x.html")
        assert "digraph" in picture.dot
        return picture

    few = seconds(lambda: draw(2_000))
    assert seconds(lambda: draw(10_000)) < 18 * few  # five times the nodes; were it with their square, 25
    picture = draw(10_000)
    assert make is wild or len(picture.vertices) == 10_002
    assert len(fold.view(picture.trace, picture._folded).items) <= 100


def test_dot_limit_names_boxes_to_fold():
    picture = graph(wild(3000), depth=100)
    with pytest.raises(ValueError, match=r"dot draws at most 1000. Fold with depth=1 or .* most are in"):
        _ = picture.dot
    assert picture.html


def test_graph_of_deep_chain_needs_no_recursion():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        graph(chain(3000))
    finally:
        sys.setrecursionlimit(limit)


def test_graph_keeps_no_array_alive():
    model = models.AttentionClassifier(num_layers=1)
    images, labels = data()
    out = loss_of(model)(images, labels)
    pictures = [graph(loss_of(model), images, labels), graph(out), crashed()]
    assert all(p.html and p.dot for p in pictures)
    gone = [weakref.ref(x) for x in (model, images, images.array, out, out.node, model.head.weight.array)]
    del model, images, labels, out
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert all(pictures)


def test_graph_leaves_no_observer_and_is_imported_lazily():
    before = modes.observers.get()
    simple()
    crashed()
    assert modes.observers.get() == before == ()
    code = "import tinyattn, sys; print([m for m in sys.modules if m.startswith('tinyattn.viz')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- refusals ---


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: graph(3), TypeError, "expected a Tensor, a model or a function, got int"),
        (lambda: graph(ta.ones(3)), ValueError, "nothing was recorded .* Give graph\\(\\) the model and its inputs"),
        (lambda: graph(nn.ReLU(), ta.ones(2), mode="boxes"), ValueError, "mode='boxes'; expected one of modules"),
        (lambda: graph(ta.ones(2, requires_grad=True) * 2, ta.ones(1)), TypeError, "a tensor takes no inputs"),
        (lambda: graph(nn.Linear(2, 2)), TypeError, "graph: Linear: missing a required argument: 'input'; the inputs"),
        (lambda: graph(nn.ReLU(), ta.ones(2), depth=-1), ValueError, "depth=-1; expected the number of levels"),
        (lambda: graph(nn.ReLU(), ta.ones(2), depth="1"), ValueError, "depth='1'; expected the number of levels"),
        (lambda: graph(lambda: 3), TypeError, "must return a Tensor, or several; it returned int"),
    ],
)
def test_graph_refuses_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- arrays ---


def test_gallery_keeps_numbers_or_heat_maps():
    gallery = Gallery()
    small = np.array([[0.1, np.nan], [np.inf, -2.5]], dtype=np.float32)
    assert gallery.add(small) == gallery.add(small.copy()) == 0  # each content once
    assert gallery.entries[0]["values"] == [0.1, "nan", "inf", -2.5]
    large = np.arange(200 * 300, dtype=np.float64).reshape(200, 300)
    large[0, 0] = np.nan
    entry = gallery.entries[gallery.add(large)]
    assert (entry["bad"], entry["zeros"], entry["min"], entry["max"]) == (1, 0, 1.0, 59999.0)
    assert entry["mean"] == pytest.approx(np.nanmean(large), rel=1e-5)
    frames, rows, columns = entry["cells"].shape
    assert frames == 1 and rows * columns <= 48 * 48 and entry["cells"][0, 0, 0] == 255
    assert entry["cells"][0, -1, -1] == 254 and entry["cells"][0, 0, 1] < 5
    images = gallery.entries[gallery.add(np.random.default_rng(0).random((2, 784)))]
    assert images["square"] == 28 and images["cells"].shape == (2, 28, 28)
    many = gallery.entries[gallery.add(np.random.default_rng(0).normal(size=(2, 4, 60, 60)))]
    assert many["frames"] == 8 and many["cells"].shape[0] == 4
    whole = gallery.shrunk(10_000)
    assert whole[1]["grid"] == [1, rows, columns]
    assert sum(np.prod(e["grid"]) for e in gallery.shrunk(1000) if "grid" in e) <= 1000


def test_heat_map_cells_are_means():
    a = np.random.default_rng(0).random((96, 96))
    entry = Gallery()
    cells = entry.entries[entry.add(a)]
    shown = cells["low"] + cells["cells"][0] / 254 * (cells["high"] - cells["low"])
    np.testing.assert_allclose(shown, a.reshape(48, 2, 48, 2).mean((1, 3)), atol=0.003)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1, 1, 1), (129,), (2, 65), (1, 500), (500, 1), (3, 2, 1, 400)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool", "uint8"])
def test_gallery_accepts_every_shape_and_dtype(shape, dtype):
    gallery = Gallery()
    gallery.add(np.ones(shape, dtype))
    gallery.shrunk(100)


# --- operations of the user's own ---


def test_graph_shows_rules_of_user_operations():
    @ta.operation(x=lambda F, g, x: g * 2 * x)
    def relu(F, x):  # a name that is taken
        return x * x

    @ta.operation(x=lambda F, g: g)
    def mine(F, x):
        return x * 1

    x = ta.tensor([3.0], requires_grad=True)
    picture = graph(mine(relu(x).relu()).sum())
    own, ours = [v for v in picture.vertices if v.op == "relu"]
    rules = picture.trace.rules
    assert rules[own.rule] == {"x": "lambda F, g, x: g * 2 * x"} and rules[ours.rule]["x"].startswith(
        "lambda xp, g, out"
    )
    assert formulas.formula(own.rule).forward == "" and formulas.formula(ours.rule).forward == "max(x, 0)"
    assert rules[next(v for v in picture.vertices if v.op == "mine").rule] == {"x": "lambda F, g: g"}
    assert picture.dot.count("max(‹relu›, 0)") == 1  # x is another tensor


def test_graph_refuses_gradient_of_wrong_shape():
    x = ta.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"the gradient has shape \(2,\)"):
        graph(x * 2, gradient=ta.ones(2))
    with pytest.raises(ValueError, match="2 outputs have gradients, and gradient= gives 1"):
        graph([x * 2, x * 3], gradient=ta.ones(3))


def test_graph_ignores_cyclic_variables_of_the_caller():
    endless = []
    endless.append(endless)
    x = ta.ones(3, requires_grad=True)
    assert graph((x * 2).sum()).vertices[0].name == "x" and endless

"""The tab with the program of a compiled step, in a real browser: from the graph to the lines and back."""

from __future__ import annotations

import pytest
from browser import UNREADABLE, needs_chromium

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn
from tinyattn.viz import graph
from tinyattn.viz.graphs.page import blocks_of, origin_of

MARKED = "[...document.querySelectorAll('.block[aria-selected=true] b')].map((e) => e.textContent)"
STATE = "document.getElementById('where').textContent"


def compiled(calls: int = 3):
    """A classifier's loss, its compiled training step, and a batch."""
    ta.manual_seed(0)
    model = ta.models.AttentionClassifier(12, 3, hidden_dim=8, num_heads=2, num_layers=1)
    optimizer = ta.optim.Adam(model.parameters())
    batch = ta.rand(4, 12, 12), ta.randint(0, 10, (4,))

    def loss_of(images, labels):
        return F.cross_entropy(model(images), labels)

    @ta.compile
    def step(images, labels):
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(calls):
        step(*batch)
    return loss_of, step, batch


def picture_of_step(**options):
    loss_of, step, batch = compiled()
    return graph(loss_of, *batch, program=step, **options), step


@pytest.mark.parametrize("mode", ["modules", "definitions"])
def test_program_lines_have_an_operation_of_the_graph(mode):
    if mode == "modules":
        picture, step = picture_of_step()
    else:
        with ta.definitions():
            picture, step = picture_of_step(mode="definitions")
    origins = {origin.removeprefix("d ") for origin, _ in picture.trace.program} - {""}
    known = {origin_of(picture.trace, v): v for v in picture.vertices if v.is_operation}
    assert origins and origins <= set(known)
    views = {"reshape", "permute", "broadcast_to", "getitem", "alias", "detach"}  # which need no call
    assert {known[origin].op for origin in set(known) - origins} <= views
    shown = "\n".join(lines for _, lines in picture.trace.program).split()
    assert "Adam.step()" in shown
    calls = [line for line in str(step.program).splitlines() if not line.strip().startswith("#")]
    assert shown == "\n".join(calls).split()  # every line, in order


def test_program_of_workers_keeps_its_functions():
    ta.manual_seed(0)
    model = nn.DataParallel(nn.Linear(3, 2), 2)
    optimizer = ta.optim.SGD(model.parameters(), 0.1)

    @ta.compile
    def step(x):
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(ta.ones(4, 3))
    origins = [origin for origin, _ in blocks_of(step)]
    assert sum(lines.startswith("def ") for _, lines in blocks_of(step)) == step.program.text.count("def ") > 1
    assert "module: linear" in origins and "d module: linear" in origins


def test_program_refuses_what_has_none():
    loss_of, step, batch = compiled(calls=1)
    with pytest.raises(ValueError, match="program= has no program; call it twice first, on the CPU"):
        graph(loss_of, *batch, program=step)
    with pytest.raises(TypeError, match=r"program= is a function; expected a function compiled by ta\.compile"):
        graph(loss_of, *batch, program=loss_of)
    reads = ta.compile(lambda x: x.sum().item())
    for _ in range(3):
        reads(ta.ones(2))
    with pytest.raises(ValueError, match=r"runs without one \(\.item\(\) reads a number"):
        graph(loss_of, *batch, program=reads)


@needs_chromium
def test_program_follows_steps_and_clicks_in_the_graph(show):
    picture, step = picture_of_step()
    page = show(picture, fragment="level=3&tab=program")
    assert page.run("byId('panel').hidden") and page.run("byId('program').checkVisibility()") and not page.run(MARKED)
    operations = [v for v in picture.vertices if v.is_operation]
    norm = next(i for i, v in enumerate(operations) if v.op == "layer_norm")
    page.run(f"page.goTo({norm + 1})")
    assert page.run(MARKED) == ["blocks.0.norm1: layer_norm"]
    back = [step.vertex for step in picture.steps].index(operations[norm].index)
    page.run(f"page.goTo({len(operations) + back + 1})")
    assert page.run(MARKED) == ["d blocks.0.norm1: layer_norm"]
    marked = page.text(".block[aria-selected=true]").splitlines()[1:]
    assert all(line in str(step.program) and "d_blocks_0_norm1_" in line for line in marked[:3])
    inside = (
        "(() => { const r = (e) => e.getBoundingClientRect(); const b = r(document.querySelector('.block[aria-selected="
        "true]')), p = r(byId('program')); return b.bottom > p.top && b.top < p.bottom; })()"
    )
    assert page.run(inside)
    adds = [v.index for v in operations if v.op == "add"]
    page.run(f"page.select({adds[1]})")
    assert page.run(MARKED) == ["blocks.0: add"] * 2  # both residual connections; "d" needs no call
    box = page.run("page.model.boxes.find((b) => b.path === 'blocks.0.mlp').index")
    page.run(f"page.toggle({box})")
    assert {text.removeprefix("d ") for text in page.run(MARKED)} == {
        "blocks.0.mlp.fc1: linear_gelu", "blocks.0.mlp.fc2: linear"
    }  # fmt: skip


@needs_chromium
def test_program_leads_to_the_graph_by_mouse_and_keys(show):
    page = show(picture_of_step()[0], fragment="tab=program")
    page.run("[...document.querySelectorAll('.block')].find((b) => b.textContent.startsWith('d head')).id = 'one'")
    page.click("#one b")
    assert page.run(STATE).startswith("backward ") and page.run(STATE).endswith("linear")
    assert page.run(MARKED) == ["d head: linear"] and page.run(
        "page.now() === page.model.vertices.find((v) => v.origin === 'head: linear').index"
    )
    page.run("document.querySelector('.block').focus()")
    page.press("ArrowDown", times=2)
    assert page.run("document.activeElement.textContent").startswith("embed: linear")
    page.press("Enter")
    assert page.run(STATE).startswith("forward ") and page.run(MARKED) == ["embed: linear"]
    page.press("p")
    assert page.run("byId('program').hidden") and page.text("#panel h2").endswith("linear")
    page.click("#tab-program")
    page.click("#tab-program")
    assert page.run("byId('panel').hidden") and page.run("byId('tab-program').ariaSelected") == "true"
    page.run("[...document.querySelectorAll('.block')].at(-1).id = 'last'")
    page.click("#last")
    assert page.text("#last") == "Adam.step()" and page.run(MARKED) == ["embed: linear"]  # of no operation


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_program_can_be_read(show, width, height, scheme):
    page = show(picture_of_step()[0], width=width, height=height, fragment="tab=program&step=30")
    page.prefer(scheme)
    page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
    assert page.run(MARKED) and page.run(UNREADABLE) == []
    assert page.run("byId('program').clientHeight") > 150


@needs_chromium
def test_graph_without_program_has_no_tabs(show):
    page = show(graph(nn.Linear(2, 2), ta.ones(1, 2)), fragment="tab=program")
    assert not page.run("byId('tabs').checkVisibility()") and page.run("byId('panel').checkVisibility()")
    assert "program" not in page.text("#keys")

"""The page of a graph, in a real browser: what it shows is the engine's, and a keyboard is enough."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from browser import needs_chromium
from test_viz_graph import GOLDEN, NASTY, RECIPE, article, chain, classifier, crashed, data, loss_of, simple, wild

import tinyattn as ta
from tinyattn import models, nn
from tinyattn.engine.observer import Observer
from tinyattn.viz.graphs import graph

pytestmark = needs_chromium
SHIFT = 8


def items(page):
    return page.run("document.querySelectorAll('.item').length")


def wires(page):
    return page.run("document.querySelectorAll('.wire').length")


def state(page):
    return page.text("#where")


# --- what it shows is the engine's ---


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "12 blocks" else n for n in GOLDEN])
def test_graph_page_unfolds_completely(show, name):
    picture = GOLDEN[name]()
    page = show(picture)
    page.run(
        "(window.page.model.tidy = false, window.page.model.folded.clear(), window.page.model.boxes.forEach(b => b.members.length && window.page.model.spread.add(b.index)), window.page.redraw())"
    )
    assert items(page) == len(picture.vertices)
    pairs = {(e.source, e.target) for e in picture.edges}
    assert wires(page) == len(pairs)
    operations = sum(v.is_operation for v in picture.vertices)
    assert page.run("Number(document.getElementById('slider').max)") == operations + len(picture.steps)
    assert f"{operations} operations" in page.text("#counts") and f"{len(picture.steps)} backward steps" in page.text(
        "#counts"
    )
    assert page.run(OVERLAPS) == []


OVERLAPS = """(() => {  // pairs of items that overlap, items outside of their frames, wires that run upwards
  const {layout, view, model} = {...window.page.picture, view: window.page.picture.view, model: window.page.model};
  const found = [], all = [...layout.items];
  for (const [a, r] of all) for (const [b, s] of all)
    if (a < b && r.x < s.x + s.w - 0.5 && s.x < r.x + r.w - 0.5 && r.y < s.y + s.h - 0.5 && s.y < r.y + r.h - 0.5) found.push([a, b]);
  for (const item of view.items.values()) if (item.box >= 0) {
    const r = layout.items.get(item.key), f = layout.boxes.get(item.box);
    if (r.x < f.x || r.y < f.y + 20 || r.x + r.w > f.x + f.w || r.y + r.h > f.y + f.h) found.push([item.key, "frame " + item.box]);
  }
  for (const [key, points] of layout.wires) {
    const [from, to] = key.split(">").map((k) => layout.items.get(k));
    const [first, last] = [points[0], points[points.length - 1]];
    if (Math.abs(first[1] - from.y - from.h) > 1 || Math.abs(last[1] - to.y) > 1 || first[1] > last[1]) found.push(key);
    if (first[0] < from.x - 1 || first[0] > from.x + from.w + 1 || last[0] < to.x - 1 || last[0] > to.x + to.w + 1) found.push("sideways " + key);
  }
  return found;
})()"""


def shown_numbers(page, card):
    """The exact elements of the first array in the panel's cards of a kind."""
    texts = page.run(f"[...document.querySelector('{card} .array').querySelectorAll('td')].map(td => td.title)")
    return np.array([float(text) for text in texts], np.float32).tolist()


def test_graph_page_gradients_equal_grad(show):
    a, b, c = (ta.tensor(x, requires_grad=True) for x in ([1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [0.5, 0.5, 0.5]))
    h = a * b
    y = (h.tanh() * h + (a * b + c).relu()).sum()
    page = show(graph(y))
    steps, nodes = [], {}

    class Watch(Observer):
        def before_backward(self, node, g):
            steps.append((node, np.array(g), []))

        def received(self, edge, node, gradient, total):
            steps[-1][2].append((np.array(gradient), np.array(total)))

    leaves, stack = [], [y.node]
    while stack:
        node = stack.pop()
        nodes[node] = node
        leaves += [node] if node.op is None else []
        stack += [e for e in node.edges if e is not None and e not in nodes]
    tensors = [node.tensor() for node in leaves]
    with Watch():
        found = ta.grad(y, tensors)
    page.press("b")
    for i, (node, g, handed) in enumerate(steps):
        assert state(page).startswith(f"backward {i + 1} of {len(steps)}")
        assert shown_numbers(page, "#panel .card.back") == g.ravel().tolist()
        arrays = page.run(
            "[...document.querySelectorAll('#panel .card:not(.back)')].filter(c => c.querySelector('.goes')).map(c => [...c.querySelectorAll('.array')].map(a => [...a.querySelectorAll('td')].map(td => Number(td.title))))"
        )
        arrays = [[np.array(numbers, np.float32).tolist() for numbers in card] for card in arrays]
        assert [a[0] for a in arrays] == [gradient.ravel().tolist() for gradient, _ in handed]
        assert [a[-1] for a in arrays] == [total.ravel().tolist() for _, total in handed]
        if node.op is None:
            wanted = found[leaves.index(node)].numpy()
            assert shown_numbers(page, "#panel .card.back") == wanted.tolist()
        page.press("ArrowRight")


def test_graph_page_contains_gradients_of_a_model(show, tmp_path):
    ta.manual_seed(0)
    model = models.AttentionModel(10, 64, 10)
    images, labels = data()
    loss = loss_of(model)
    page = show(graph(loss, images, labels))
    found = ta.grad(loss(images, labels), list(model.parameters()))
    told = page.run(
        "(() => { const m = window.page.model; return m.vertices.filter(v => v.kind === 'parameter').map(v => [v.title, m.arrays[v.gradient]]); })()"
    )
    assert {name for name, _ in told} == dict(model.named_parameters()).keys()
    for name, entry in told:
        g = found[[n for n, _ in model.named_parameters()].index(name)].numpy()
        if "values" in entry:
            np.testing.assert_array_equal(np.array(entry["values"], g.dtype), g.ravel())
        else:
            assert entry["norm"] == pytest.approx(float(np.linalg.norm(g.astype(float))), rel=1e-5)
            assert [entry["min"], entry["max"]] == pytest.approx([g.min(), g.max()], rel=1e-5)


def test_graph_page_panel_describes_each_step(show):
    picture = classifier()
    page = show(picture)
    forward = [v for v in picture.vertices if v.is_operation]
    for i in range(1, len(forward) + 1):
        page.press("ArrowRight")
        assert state(page) == f"forward {i} of {len(forward)}: {page.text('#panel h2')}"
    panel = page.text("#panel")
    assert "mean" in panel and "Σ x / n" in panel and "return F.cross_entropy(model(images), labels)" in panel
    for i, step in enumerate(picture.steps):
        page.press("ArrowRight")
        vertex = picture.vertices[step.vertex]
        assert page.text("#panel .phase") == f"Backward, step {i + 1} of {len(picture.steps)}"
        panel = page.text("#panel")
        if vertex.op == "linear":
            assert "gᵀ x" in panel and "lambda xp, g, x: xp.matmul(_rows(xp, g).mT, _rows(xp, x))" in panel
            assert "Saved values that the rules use" in panel
        if vertex.kind == "parameter":
            assert "as stored in .grad" in panel
    assert page.run("document.querySelectorAll('#panel canvas').length > 0")
    page.press("End")
    assert state(page).startswith(f"backward {len(picture.steps)} of")


def test_graph_page_marks_accumulated_gradients(show):
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    page = show(graph(y))
    page.press("b")
    page.press("ArrowRight")
    cards = page.run("[...document.querySelectorAll('#panel .goes')].map(p => p.textContent)")
    assert cards == ["goes to x", "added to the gradient of x, which is now:"]
    assert "lambda xp, g, b: g * b" in page.text("#panel") and "g ⊙ b" in page.text("#panel")


# --- hands ---


def test_graph_page_after_backward_counts_no_steps(show):
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    (y := (x * x).sum()).backward()
    page = show(graph(y))
    assert page.text("#counts").endswith("backward not shown") and "0 nodes" not in page.text("#panel")
    assert "backward() has freed the saved values" in page.text("#panel")
    assert page.run("byId('turn').hidden") and page.run("Number(byId('slider').max)") == 2


def test_graph_page_folds_by_click_and_key(show):
    page = show(classifier(12))
    assert items(page) < 25 and "×12" in page.text("#scene")  # one screen
    page.click(".item.box .times")
    assert all(f"blocks.{i}" in page.text("#scene") for i in range(12))
    page.press("x")
    assert "×12" in page.text("#scene") and "blocks.7" not in page.text("#scene")
    few = items(page)
    page.press("0")
    page.click(".item.box .shape")
    assert items(page) > few and page.run("document.querySelector('.frame:focus') !== null")
    page.press("Enter")  # on the frame that has the focus
    assert items(page) == few
    levels = page.text("#depth")
    page.press("]")
    assert page.text("#depth") != levels and items(page) > few
    page.click("#less")
    assert page.text("#depth") == levels and items(page) == few
    for _ in range(6):
        page.press("]")
    assert page.run("document.querySelectorAll('.item.parameter').length") > 10
    for _ in range(6):
        page.press("[")
    assert items(page) == 5  # images, labels, the model, and two for the loss
    page.click("#more")
    assert items(page) > 5


def test_graph_page_shows_an_opened_block_on_one_screen(show):
    page = show(graph(models.AttentionClassifier(num_layers=12), ta.rand(2, 28, 28), depth=1), height=640)
    page.click(".item.box:has(.times) .shape")
    assert page.run("page.model.boxes[document.querySelector('.frame:focus').dataset.box].type") == "Block"
    frame, canvas = (page.run(f"(() => {{ const r = {e}.getBoundingClientRect(); return [r.x, r.y, r.right, r.bottom]; }})()")
                     for e in ("document.querySelector('.frame:focus')", "page.eye.canvas"))  # fmt: skip
    assert frame[0] >= canvas[0] and frame[1] >= canvas[1] and frame[2] <= canvas[2] and frame[3] <= canvas[3]
    assert page.run("page.eye.scale") > 0.55


def test_graph_page_search_unfolds_hits(show):
    page = show(classifier(12))
    page.press("/")
    page.write("blocks.7.attention.out_proj")
    assert page.text("#found") == "3 found"
    assert page.run("document.querySelectorAll('.item.hit').length") == 1  # the pile of blocks that it is folded into
    page.press("Enter")
    assert page.text("#found") == "1 of 3"
    assert page.run("document.querySelector('.item.hit .name').textContent") in ("linear", "weight", "bias"), page.text(
        ".item.hit"
    )
    assert "blocks.7.attention.out_proj" in page.text("#panel .path")
    page.press("Enter", modifiers=SHIFT)
    assert page.text("#found") == "3 of 3"
    page.press("Escape")
    assert page.run("document.querySelectorAll('.item.hit').length") == 0


def test_graph_page_slider_and_buttons(show):
    picture = article()
    page = show(picture)
    operations = sum(v.is_operation for v in picture.vertices)
    assert state(page) == "overview"
    page.click("#next")
    assert state(page).startswith(f"forward 1 of {operations}")
    page.click("#turn")
    assert state(page).startswith("backward 1 of")
    assert page.run("document.body.classList.contains('backward')")
    page.click("#previous")
    assert state(page).startswith(f"forward {operations} of")
    page.run("document.getElementById('slider').focus()")
    page.press("ArrowRight", 3)
    assert state(page).startswith("backward 3 of")
    assert page.run("document.querySelectorAll('.item.now').length") == 1
    assert page.run("document.querySelectorAll('.wire.carries').length") >= 1
    assert page.run("document.getElementById('slider').getAttribute('aria-valuetext')") == state(page)
    page.press("Home")
    assert state(page) == "overview"
    page.press("ArrowRight", modifiers=SHIFT)
    assert state(page).startswith("forward 10 of")
    page.click("#first")
    page.click("#play")
    page.wait("document.getElementById('where').textContent.startsWith('forward 2')")
    page.click("#play")
    assert page.run("window.page.timer") is None


def test_graph_page_shows_changes_of_shape_on_request(show):
    page = show(article())
    few = items(page)
    page.click("#shapes")
    assert items(page) > few and page.run("document.getElementById('shapes').getAttribute('aria-pressed')") == "true"
    page.press("m")
    assert items(page) == few
    hidden = page.run("window.page.model.vertices.find((v) => v.bookkeeping).index")
    page.run(f"window.page.select({hidden})")
    assert page.text("#panel h2") in ("reshape", "permute")


def test_graph_page_zooms_and_pans(show):
    page = show(classifier())
    eye = lambda: page.run("(({x, y, scale}) => ({x, y, scale}))(window.page.eye)")  # noqa: E731
    before = eye()
    page.press("+")
    assert eye()["scale"] > before["scale"]
    page.press("0")
    assert eye()["scale"] <= before["scale"]
    here = eye()
    page.press("s")
    assert eye()["y"] == here["y"] - 60
    told = page.text("#panel h2")
    x, y = page.run(
        "(() => { const r = document.querySelector('.item.operation').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    page.drag((x, y), (x + 100, y + 30))
    assert eye()["x"] == pytest.approx(here["x"] + 100)
    assert page.text("#panel h2") == told  # a drag is no click
    here = eye()
    page.wheel(300, 300, 120)
    assert eye()["y"] == pytest.approx(here["y"] - 120) and eye()["scale"] == here["scale"]


def test_graph_page_shows_details_on_click(show):
    picture, _ = simple()
    page = show(picture)
    page.click("[data-key='v2'] .shape")
    assert page.text("#panel h2") == "mul" and "a ⊙ b" in page.text("#panel .equation")
    page.click("#panel .link")
    assert page.text("#panel h2") == "a"
    assert page.run("document.activeElement.dataset.key") == "v0"
    assert "Gradient" in page.text("#panel")


def test_graph_page_works_by_keyboard_alone(show):
    page = show(classifier())
    for _ in range(40):  # from the address bar into the graph
        page.press("Tab")
        if page.run("document.activeElement.closest('#scene') !== null"):
            break
    first = page.run("document.activeElement.dataset.key")
    assert page.run("document.querySelectorAll('#scene [tabindex=\"0\"]').length") == 1
    page.press("Tab")
    second = page.run("document.activeElement.dataset.key")
    assert second != first
    page.press("Tab", modifiers=SHIFT)
    assert page.run("document.activeElement.dataset.key") == first
    way = []
    for _ in range(30):  # down along the data to the loss
        page.press("ArrowDown")
        way.append(page.run("document.activeElement.getAttribute('aria-label')"))
    assert way[-1].startswith("mean") and way[0] != way[-1]
    for _ in range(30):
        page.press("ArrowUp")
    assert "images" in page.run("document.activeElement.getAttribute('aria-label')")
    box = "[...document.querySelectorAll('.item.box')].find(e => e.textContent.startsWith('blocks'))"
    page.run(f"({box}).focus()")
    few = items(page)
    page.press("Enter")
    assert items(page) > few
    page.press("f")
    assert items(page) == few
    page.press("Escape")
    assert page.run("document.activeElement.id") == "panel"
    told = page.text("#panel h2")
    page.press("ArrowDown")
    assert page.text("#panel h2") == told  # it scrolls, and shows nothing else
    page.press("t")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.press("?")
    assert page.run("document.getElementById('help').open")
    page.press("Escape")
    assert not page.run("document.getElementById('help').open")
    labelled = "[...document.querySelectorAll('button, input, [role=button]')].every(e => e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)"
    assert page.run(labelled)


def test_graph_page_opens_at_step_in_address(browser, tmp_path):
    page = browser.open(classifier().save(tmp_path / "x.html"))
    page.run("location.hash = 'step=50&level=3&theme=dark'")
    page.call("Page.reload")
    page.wait("window.page !== undefined && window.page.step === 50")
    assert state(page).startswith("backward 14 of") and page.text("#depth").startswith("3/")
    assert page.run("document.documentElement.dataset.theme") == "dark"


def test_graph_page_announces_steps_to_screen_readers(show):
    page = show(simple()[0])
    assert page.run("document.getElementById('where').getAttribute('aria-live')") == "polite"
    label = page.run("document.querySelector('[data-key=v2]').getAttribute('aria-label')")
    assert label == "mul, 3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_graph_page_text_has_sufficient_contrast(browser, tmp_path, scheme):
    page = browser.open(classifier().save(tmp_path / "x.html"))
    page.prefer(scheme)
    page.call("Page.reload")
    page.wait("window.page !== undefined")
    assert (page.run("document.documentElement.dataset.theme") == "dark") == (scheme == "dark")
    pairs = [
        ("--text", "--page"),
        ("--quiet", "--page"),
        ("--quiet", "--raised"),
        ("--text", "--card"),
        ("--quiet", "--card"),
    ]
    pairs += [(f"--{k}-text", f"--{k}") for k in ("parameter", "input", "constant", "output", "failed")]
    pairs += [("--quiet", "--folded"), ("--text", "--gradient-fill"), ("--gradient", "--page"), ("--now", "--raised")]
    for ink, paper in pairs:
        colours = [
            page.run(f"getComputedStyle(document.documentElement).getPropertyValue('{c}').trim()") for c in (ink, paper)
        ]
        assert contrast(*colours) >= 4.5, (ink, paper, colours)


def test_graph_page_follows_the_system_theme_until_chosen(show):
    page = show(simple()[0])
    theme = "document.documentElement.dataset.theme"
    page.prefer("dark")
    page.wait(f"{theme} === 'dark'")
    page.press("t")
    assert page.run(theme) == "light"
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        page.wait(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        page.run(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )  # its events have run
    assert page.run(theme) == "light"


def contrast(*colours):
    """As WCAG 2.1 defines it."""

    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted(map(light, colours), reverse=True)
    return (high + 0.05) / (low + 0.05)


# --- odd pages ---


def test_graph_page_marks_failed_operation(show):
    page = show(crashed())
    assert "RuntimeError: linear: input (3, 8)" in page.text("#panel")
    assert page.run("document.querySelectorAll('.item.failed').length") == 1
    assert "weight 2×9" in page.text(".item.failed")
    assert page.run("document.getElementById('turn').offsetParent === null")


def test_graph_page_escapes_texts_of_the_user(show):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(NASTY.replace(".", ""), nn.Linear(2, 2))

        def forward(self, x):
            return next(self.children())(x)

    page = show(graph(Odd(), ta.rand(1, 2), title="<img src=x onerror=alert(1)>" + NASTY))
    assert page.text("#title").startswith("<img src=x")
    assert page.run("document.querySelectorAll('img, b:not(#panel b)').length") == 0
    page.press("ArrowRight")
    assert NASTY[:5] in page.text("#panel")


@pytest.mark.slow
def test_graph_page_of_ten_thousand_nodes(show):
    picture = graph(wild(9_000))
    assert len(picture.vertices) > 10_000
    page = show(picture)
    assert page.run("performance.getEntriesByType('navigation')[0].domComplete") < 4000
    assert items(page) < 200
    few = items(page)
    page.run("(window.page.model.folded.clear(), window.page.redraw())")
    assert "would be visible" in page.text("#message") and items(page) == few  # as it was
    page.click(".item.box .shape")
    assert items(page) > few
    assert page.text("#message") == ""
    page.press("/")
    page.write("tanh")
    assert page.text("#found").endswith(" found")
    loop = show(graph(chain(10_000)))
    assert items(loop) < 12 and "×4999" in loop.text("#scene")
    loop.press("End")
    assert "10002 of 10002" in state(loop)


def test_graph_page_of_classifier_is_small(tmp_path):
    ta.manual_seed(0)
    model = models.AttentionClassifier(**RECIPE)
    for mode in ("modules", "definitions"):
        path = graph(loss_of(model), *data(8), mode=mode).save(tmp_path / "x.html")
        assert path.stat().st_size < 2_000_000


def test_graph_page_is_self_contained():
    text = simple()[0].html
    assert not re.findall(r"""(?:src|href)\s*=\s*["'][^"']""", text)
    assert [u for u in re.findall(r"https?://[^\s\"']+", text) if "w3.org/2000/svg" not in u] == []
    assert "default-src 'none'" in text
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None and json.loads(found[1])["steps"]


def test_graph_page_in_a_narrow_window(show):
    page = show(classifier(), width=420, height=760)
    assert page.run("document.documentElement.scrollWidth <= 420")
    page.press("ArrowRight", 5)
    assert page.run("document.getElementById('panel').getBoundingClientRect().height > 150")

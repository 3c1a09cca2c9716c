"""The playground, in a real browser: its numbers are the engine's, and it can be used with pointer, keyboard and phone."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from browser import UNREADABLE, needs_chromium

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models
from tinyattn.__main__ import main as command_line
from tinyattn.data.digits import load_digits
from tinyattn.train.run import FORMAT

pytestmark = needs_chromium
CharacterModel = runpy.run_path(str(Path(__file__).parents[1] / "examples/reverse_words.py"))["CharacterModel"]
MODELS = {
    "the recipe's": {"patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 24, "pooling": "attention"},
    "plain": {"patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 20, "num_classes": 3},
    "of another size": {"image_size": 12, "patch_size": 3, "num_layers": 1, "num_heads": 1, "hidden_dim": 8},
}


def model_of(name: str = "the recipe's") -> models.AttentionClassifier:
    ta.manual_seed(0)
    model = models.AttentionClassifier(**MODELS[name])
    with ta.no_grad():
        for p in model.parameters():  # far from the even attention of new weights
            p += 0.1 * ta.randn(*p.shape)
    return model


def images_of(model, count: int):
    return np.random.default_rng(0).integers(0, 256, (count, model.image_size, model.image_size)).astype(np.uint8)


def engine(model, image, temperature: float, target: int):
    """Scores, weights and gradient x attention of every head in float64; the queries carry the temperature."""
    model = models.AttentionClassifier(**MODELS[model.kind]).double()
    model.load_state_dict({k: v.double() for k, v in engine.states.items()})
    dim = model.position.shape[1]
    with ta.no_grad():
        for block in model.blocks:
            block.attention.in_proj_weight[:dim] /= temperature
            block.attention.in_proj_bias[:dim] /= temperature
    maps = ta.viz.attention(model, ta.tensor(image[None] / 255.0, dtype=ta.float64), target=target)
    scores = model(ta.tensor(image[None] / 255.0, dtype=ta.float64))[0]
    layers = maps.layers
    return scores.tolist(), [x.weights[0] for x in layers], [x.gradient_x_attention[0] for x in layers]


@pytest.mark.parametrize(
    ("name", "count"), [*((name, 4) for name in MODELS), pytest.param("the recipe's", 50, marks=pytest.mark.slow)]
)
def test_playground_numbers_are_the_engines(show, name, count):
    model = model_of(name)
    model.kind, engine.states = name, model.state_dict()
    images = images_of(model, count)
    if count == 50:  # handwriting, not pixels by chance
        images = load_digits().train_images[:count]
    page = show(ta.viz.playground(model, images[:1], names=[f"c{i}" for i in range(model.head.out_features)]))
    worst = 0.0
    for i, image in enumerate(images):
        for temperature in (0.3, 1.0, 3.0):
            target = i % model.head.out_features
            found = page.run(
                f"(() => {{ const r = page.model.forward({json.dumps((image.ravel() / 255).tolist())}, {temperature});"
                f"const e = page.model.backward(r, {target}), list = (m) => m.map((h) => h.map((x) => [...x]));"
                "return [[...r.scores], list(r.weights), list(e)]; })()"
            )
            for ours, theirs in zip(found, engine(model, image, temperature, target), strict=True):
                a, b = np.array(ours).ravel(), np.array(theirs).ravel()
                assert a.shape == b.shape and a.size
                worst = max(worst, np.abs(a - b).max() / max(np.abs(b).max(), 1))
    assert worst < 1e-10


def compared(**options):
    ta.manual_seed(1)
    found = {}
    for score in ("additive", "dot", "scaled_dot", "multihead"):
        found[score] = models.AttentionModel(6, 8, 10, score=score, num_heads=2, **options)
        with ta.no_grad():
            for p in found[score].parameters():
                p += 0.1 * ta.randn(*p.shape)
    return found


def word_model(length: int = 6):
    ta.manual_seed(2)
    return CharacterModel("_abc", length, num_layers=2, num_heads=2, dim=8)


def all_tabs(**options):
    model = model_of()
    return ta.viz.playground(model, images_of(model, 10), compare=compared(), words=word_model(), **options)


def test_playground_score_functions_are_the_engines(show):
    page, image = show(all_tabs()), images_of(model_of(), 1)[0] / 255
    for i, model in enumerate(compared().values()):
        model.double()
        own = model.attention.scores
        for temperature in (0.3, 1.0):
            model.attention.scores = lambda tokens, own=own, t=temperature: own(tokens) / t
            found = page.run(
                f"(() => {{ const r = page.compared({i}).forward({json.dumps(image.ravel().tolist())}, {temperature});"
                "return [[...r.scores], r.weights.map((w) => [...w])]; })()"
            )
            np.testing.assert_allclose(found[0], model(image[None])[0].tolist(), rtol=0, atol=1e-10)
            maps = model.attention_maps(image[None])[0][0].flatten(1)
            np.testing.assert_allclose(found[1], maps.tolist(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("word", ["", "abca", "cbabcc"])
def test_playground_words_are_the_engines(show, word):
    page, model = show(ta.viz.playground(words=word_model())), word_model().double()
    seen = ta.tensor([["_abc".index(c) for c in word.ljust(6, "_")]])
    maps, attend = [], ta.nn.MultiheadAttention.forward

    def noted(self, q, k, v, **options):
        maps.append(attend(self, q, k, v, average_attn_weights=False)[1][0].flatten(1).tolist())
        return attend(self, q, k, v, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ta.nn.MultiheadAttention, "forward", noted)
        scores = model(seen)[0]
    found = page.run(
        f"(() => {{ const r = page.characters.forward({word!r});"
        "return [[...r.scores], r.weights.map((b) => b.map((m) => [...m])), r.best.map((x) => x.character).join('')]; })()"
    )
    np.testing.assert_allclose(found[0], scores.flatten().tolist(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[1], maps, rtol=0, atol=1e-10)
    assert found[2] == "".join("_abc"[i] for i in scores.argmax(-1).tolist())


def test_playground_tabs_by_keyboard(show):
    page = show(all_tabs())
    shown = (
        "[...document.querySelectorAll('main > section')].filter((e) => e.checkVisibility()).map((e) => e.ariaLabel)"
    )
    assert page.run(shown) == ["draw", "what the model sees", "heads"]
    page.run("document.querySelector('[role=tab]').focus()")
    page.press("ArrowRight")
    assert page.run(shown) == ["draw", "score functions"]
    drawn = page.text("#four")
    page.click("#samples button:nth-child(2)")
    assert page.text("#four") != drawn
    page.run("document.getElementById('four').focus()")
    page.press("ArrowDown", times=2)
    page.press("ArrowRight")
    assert page.text("#four article:last-child .quiet").startswith("Row 3, column 2: ")
    page.press("Escape")
    assert page.text("#four .quiet").startswith("Spread as over ")
    page.run("document.querySelector('[aria-selected=true]').focus()")
    page.press("ArrowRight")
    assert page.run(shown) == ["words"] and page.run("document.activeElement.value") == "words"


def test_playground_words_follow_what_is_typed(show):
    page = show(ta.viz.playground(words=word_model()))
    assert page.run("document.getElementById('word').value") == "abc" and not page.run("byId('tabs').checkVisibility()")
    page.run("document.getElementById('word').select()")
    page.write("Ca b")
    assert page.text("#given") == "cab___" and page.text("#unknown") == "It knows only abc."
    first = page.run("[...document.querySelectorAll('#grids td')].map((e) => e.title).join()")
    page.press("Backspace")
    assert page.text("#given") == "ca____"
    assert page.run("[...document.querySelectorAll('#grids td')].map((e) => e.title).join()") != first
    page.press("Backspace")
    page.write("aaaaaa")
    assert page.text("#given") == "caaaaa" and page.text("#unknown") == "The model has 6 places."
    page.run("document.querySelector('#written button').focus()")
    page.press("ArrowRight", times=2)
    assert page.run("page.words.place") == 2 and page.text("#sure").startswith("Place 3: ")
    written = page.run("[...page.words.run.scores]")
    page.click("#grids button")
    assert page.run("[...page.words.run.scores]") != written
    page.click("#reset")
    assert page.run("[...page.words.run.scores]") == written
    page.press("Escape")
    assert page.run("page.words.place") is None


def test_playground_draws_blanks_and_silences(show):
    model = model_of()
    page = show(ta.viz.playground(model, images_of(model, 2)))
    before = page.text("#classes")
    page.click("#clear")
    assert page.run("page.state.image.every((v) => v === 0)")
    box = page.run("(() => { const r = paper.canvas.getBoundingClientRect(); return [r.x, r.y]; })()")
    page.drag((box[0] + 30, box[1] + 40), (box[0] + 90, box[1] + 200))
    image = np.array(page.run("[...page.state.image]")).reshape(28, 28)
    rows, columns = np.nonzero(image > 0.2)
    assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22  # in a box of 20, as MNIST
    ys, xs = np.mgrid[:28, :28] + 0.5
    assert abs((image * ys).sum() / image.sum() - 14) < 0.5 and abs((image * xs).sum() / image.sum() - 14) < 0.5
    drawn = page.text("#classes")
    assert drawn != before
    page.click("#seen")
    assert page.run("page.state.blank.size") == 1 and "1 blank" in page.text("#readout")
    page.click("#seen")
    page.click(".cells button")
    assert page.text("#classes") != drawn and page.run("document.querySelectorAll('.silent').length") == 1
    page.click("#reset")
    assert page.text("#classes") == drawn
    page.click("#erase")
    page.drag((box[0] + 30, box[1] + 40), (box[0] + 90, box[1] + 200))
    page.drag((box[0] + 30, box[1] + 40), (box[0] + 90, box[1] + 200))
    assert page.run("page.state.image.reduce((a, b) => a + b)") < image.sum()
    page.click("#samples button")
    assert page.text("#classes") == before


def test_playground_orders_of_chance_are_different_permutations(show):
    page = show(ta.viz.playground(model_of("of another size")))
    orders = page.run("[1, 2, 3].map((seed) => shuffled([...Array(16).keys()], seed))")
    assert all(sorted(order) == list(range(16)) for order in orders)
    turned = [orders[0][i:] + orders[0][:i] for i in range(16)]
    assert orders[1] not in turned and orders[2] not in turned and orders[1] != orders[2]


def test_playground_is_used_by_keyboard(show):
    model = model_of()
    page = show(ta.viz.playground(model, images_of(model, 1)))
    page.run("document.getElementById('seen').focus()")
    page.press("ArrowDown")
    assert page.run("page.state.token") == 7
    page.press("ArrowRight", times=2)
    assert "row 2, column 3" in page.text("#readout")
    page.press("Enter")
    assert page.run("[...page.state.blank]") == [9]
    page.press("Escape")
    assert page.run("page.state.token") is None
    page.run("document.querySelector('#classes button').focus()")
    page.press("Enter")
    assert page.run("page.state.target") == 0
    page.run("document.querySelector('[value=effect]').click()")
    assert "score of 0" in page.text("#of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_playground_can_be_read(show, width, scheme):
    page = show(all_tabs(), width=width)
    page.prefer(scheme)
    page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
    assert page.run(UNREADABLE) == []
    for tab in ("scores", "words"):
        page.click(f"[value={tab}]")
        page.run("page.words.run && document.querySelector('#written button').focus()")
        page.click("#reset")
        assert page.run(UNREADABLE) == []
    page.run("heat(-9), choosePlace(1)")  # one letter has all of the attention
    assert page.run(UNREADABLE) == []
    page.click("[value=digit]")
    page.wait("document.querySelectorAll('#curve path').length === 3")
    sizes = page.run(
        "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3"
        " && n.textContent.trim())).map((e) => parseFloat(getComputedStyle(e).fontSize) * (e.ownerSVGElement ?"
        " e.ownerSVGElement.getBoundingClientRect().width / 420 : 1))"
    )
    assert min(sizes) >= 10


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_playground_maps_of_few_scores_fit_the_window(show, width, height, scheme):
    for names in (["additive"], ["multihead"], ["dot", "scaled_dot"]):
        model, scores = model_of(), {name: compared()[name] for name in names}
        page = show(ta.viz.playground(model, compare=scores), width=width, height=height)
        page.prefer(scheme)
        page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
        page.click("[value=scores]")
        sizes = page.run("[...document.querySelectorAll('#four article')].map((e) => e.getBoundingClientRect().width)")
        assert len(sizes) == len(names) and min(sizes) >= 150 and max(sizes) <= 282
        assert page.run(UNREADABLE) == []


def test_playground_answers_a_stroke_at_once(show):
    model = models.AttentionClassifier(
        patch_size=7, patch_stride=4, patch_padding=2, stem_dim=128, mlp_dim=128, pooling="attention"
    )
    playground = ta.viz.playground(model, images_of(model, 10))
    assert len(playground.html.encode()) < 2_000_000
    page = show(playground)
    took = page.run(
        "(() => { const took = []; for (let i = 0; i < 40; i++) { const t = performance.now(); page.state.image = Float64Array.from("
        "page.state.image, () => Math.random()); page.update(); took.push(performance.now() - t); } return took.sort((a, b) => a - b); })()"
    )
    assert took[10] < 50  # ms; the slower ones are those of a busy machine


def test_playground_of_runs_compares_them(tmp_path, capsys):
    def a_run(name, kind, model, **options):
        folder = tmp_path / name
        folder.mkdir()
        config = {"format": FORMAT, "arguments": {"model": kind, "data": "digits"}, "recipe": {"model": options}}
        (folder / "config.json").write_text(json.dumps(config))
        ta.save(model.state_dict(), folder / "model.safetensors")
        return str(folder)

    first = a_run("classifier", "classifier", model_of(), **MODELS["the recipe's"])
    scores = {"input_dim": 6, "embed_dim": 8, "num_heads": 2}
    others = [a_run(score, "article", model, score=score, **scores) for score, model in compared().items()]
    assert command_line(["playground", first, *others]) == 0
    html = (tmp_path / "classifier" / "playground.html").read_text()
    assert all(f'"name":"{folder}"' in html for folder in others)
    assert command_line(["playground", others[0]]) == 2
    assert "got AttentionModel; expected an AttentionClassifier" in capsys.readouterr().err


def test_playground_refuses_other_models():
    with pytest.raises(TypeError, match="got Linear; expected an AttentionClassifier"):
        ta.viz.playground(ta.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="2 names for 10 classes"):
        ta.viz.playground(model_of(), names=["a", "b"])
    with pytest.raises(ValueError, match="at most 2 MB"):
        ta.viz.playground(models.AttentionClassifier(hidden_dim=256))
    with pytest.raises(TypeError, match="got NoneType; expected an AttentionClassifier"):
        ta.viz.playground(compare=compared())
    with pytest.raises(TypeError, match="words=Linear has no alphabet, embedding, position"):
        ta.viz.playground(words=ta.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"compare\['a'\] is a Linear; expected an AttentionModel"):
        ta.viz.playground(model_of(), compare={"a": ta.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"image_size, classes = \(14, 10\); expected the classifier's \(28, 10\)"):
        ta.viz.playground(model_of(), compare=compared(image_size=14))


def test_playground_in_a_notebook_is_a_frame():
    model = model_of("of another size")
    assert F.softmax(model(ta.rand(1, 12, 12)), -1).shape == (1, 10)
    assert ta.viz.playground(model)._repr_html_().startswith("<iframe srcdoc=")

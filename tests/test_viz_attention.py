"""Where a model looks: the weights and their gradients, rollout, the pictures, and the page in a real browser."""

from __future__ import annotations

import json
import re
import struct
import zlib
from base64 import b64decode

import numpy as np
import pytest
import torch
from browser import needs_chromium
from numpy.testing import assert_allclose

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn, ops, viz
from tinyattn.viz.maps.page import png

DOUBLE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def classifier():
    ta.manual_seed(0)
    return models.AttentionClassifier(
        image_size=12, patch_size=3, hidden_dim=16, mlp_dim=16, num_heads=2, pooling="attention"
    ).double()


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 12, 12))


# --- weights and gradients ---


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_attention_maps_equal_the_models_own_weights(pooling, images):
    model = models.AttentionClassifier(12, 3, hidden_dim=16, mlp_dim=16, num_heads=2, pooling=pooling)
    maps = viz.attention(model, images)
    *layers, pool = model.attention_maps(images)
    assert [layer.name for layer in maps.layers] == ["blocks.0.attention", "blocks.1.attention"]
    assert repr(maps).startswith("<attention of 3 inputs, heads x queries x keys: blocks.0.attention 2 x 16 x 16, ")
    for ours, own in zip(maps.layers, layers, strict=True):
        assert_allclose(ours.weights, own.numpy(), rtol=1e-5)
    if pooling == "attention":
        assert_allclose(maps.pooling.weights[:, 0, 0], pool.numpy(), rtol=1e-5)
    else:
        assert maps.pooling is None


def forward_by_hand(model, image, layer, change):
    """The classifier once more, with `change` added to the weights of one layer (2: the pooling)."""
    x = model.tokens(image)
    for i, block in enumerate(model.blocks):
        attention = block.attention
        qkv = F.linear(block.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = ops.split_heads(qkv, attention.num_heads)
        weights = ops.attention_weights(q, k) + (change if i == layer else 0)
        x = x + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    x = model.norm(x)
    weights = F.softmax(model.pool.scores(x), -1) + (change if layer == 2 else 0)
    return model.head((weights.unsqueeze(1) @ x).squeeze(1))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_attention_gradients_equal_finite_differences(layer, classifier, images):
    found = viz.attention(classifier, images, target=4).every_layer[layer]
    rng, eps = np.random.default_rng(layer), 1e-6
    for _ in range(6):
        place = tuple(rng.integers(0, n) for n in found.weights.shape)
        change = np.zeros((1, *found.weights.shape[1:]))
        change[0, *place[1:]] = eps
        change = change if layer < 2 else change[:, 0, 0]
        with ta.no_grad():
            up, down = (
                forward_by_hand(classifier, images[place[0]][None], layer, ta.tensor(s * change)) for s in (1, -1)
            )
        slope = (up - down)[0, 4].item() / (2 * eps)
        assert_allclose(found.gradients[place], slope, rtol=1e-5, atol=1e-8)


class Encoder(nn.Module):
    """Somebody else's model: an embedding, torch's kind of encoder layers, a linear layer."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.layer(x) if self.batch_first else self.layer(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x.mean(1))


def torchs(model, tokens, target):
    """Weights and their gradients by torch's autograd, with the weights of `model`."""
    p = {k: torch.tensor(v.numpy(), dtype=torch.float64) for k, v in model.state_dict().items()}
    x = p["embed.weight"][torch.tensor(tokens)].requires_grad_()
    qkv = x @ p["layer.self_attn.in_proj_weight"].T + p["layer.self_attn.in_proj_bias"]
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in qkv.chunk(3, -1))
    weights = torch.softmax(q @ k.mT / 4**0.5, -1)
    weights.retain_grad()
    out = (weights @ v).transpose(1, 2).flatten(2)
    norm = torch.nn.functional.layer_norm
    x = x + out @ p["layer.self_attn.out_proj.weight"].T + p["layer.self_attn.out_proj.bias"]
    x = norm(x, (8,), p["layer.norm1.weight"], p["layer.norm1.bias"])
    fed = torch.relu(x @ p["layer.linear1.weight"].T + p["layer.linear1.bias"])
    x = x + fed @ p["layer.linear2.weight"].T + p["layer.linear2.bias"]
    x = norm(x, (8,), p["layer.norm2.weight"], p["layer.norm2.bias"])
    (x.mean(1) @ p["head.weight"].T + p["head.bias"])[:, target].sum().backward()
    return weights.detach().numpy(), weights.grad.numpy()


@pytest.mark.parametrize("way", ["plain", "batch second", "tiles", "frozen", "no_grad", "definitions", "workers"])
def test_attention_map_gradients_equal_torch_for_every_kernel(way):
    ta.manual_seed(1)
    model = Encoder(batch_first=way != "batch second").double().train()
    tokens = np.random.default_rng(1).integers(0, 11, (3, 7))
    if way == "frozen":
        model.requires_grad_(False)
    modes = {"tiles": ta.tiled_attention, "no_grad": ta.no_grad, "definitions": ta.definitions}
    with modes.get(way, ta.enable_grad)():
        run = nn.DataParallel(model, 2) if way == "workers" else model
        maps = viz.attention(run, tokens, words=["w"] * 7, target=2)
    weights, gradients = torchs(model, tokens, 2)
    (layer,) = maps.layers
    assert layer.name == "layer.self_attn"
    assert_allclose(layer.weights, weights, **DOUBLE)
    assert_allclose(layer.gradients, gradients, **DOUBLE)
    assert_allclose(layer.gradient_x_attention, weights * gradients, **DOUBLE)
    # and the model is as it was
    assert model.training and all(p.grad is None for p in model.parameters())
    assert {p.requires_grad for p in model.parameters()} == {way != "frozen"}


def test_attention_maps_record_attention_written_by_hand(images):
    """One head, no fused operation, class probabilities at the end, and a class token in front."""

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(9, 8), nn.Linear(8, 3)
            self.first = nn.Parameter(ta.randn(1, 1, 8))

        def forward(self, images):
            x = ta.as_tensor(images).float().reshape(-1, 4, 3, 4, 3).transpose(2, 3).reshape(-1, 16, 9)
            x = ta.cat([self.first.expand(len(x), 1, 8), self.embed(x)], 1)
            self.weights = F.softmax(x @ x.mT, -1)
            return F.softmax(self.head((self.weights @ x)[:, 0]), -1)

    model = ByHand()
    maps = viz.attention(model, images)
    model(images)
    assert_allclose(maps.layers[0].weights[:, 0], model.weights.numpy(), rtol=1e-5)
    assert len(maps.every_layer) == 1 and maps.grid.extra == 1 and (maps.grid.rows, maps.grid.columns) == (4, 4)
    assert_allclose(maps.where_it_looked(), maps.rollout()[:, 0])  # the answer is read from the class token


def test_attention_maps_of_the_article_model(images):
    model = models.AttentionModel(10, 8, 10, image_size=12, score="multihead", num_heads=4)
    maps = viz.attention(model, images)
    assert maps.layers == [] and maps.pooling.weights.shape == (3, 4, 1, 144)
    assert_allclose(maps.where_it_looked().reshape(3, 12, 12), model.where_it_looked(images).numpy(), rtol=1e-5)
    assert (maps.grid.rows, maps.grid.columns) == (12, 12)
    assert maps.relevance().shape == (3, 144)


class Decoder(nn.Module):
    """Three learned queries look at the patches, then at each other; and experts are chosen by a softmax."""

    def __init__(self):
        super().__init__()
        self.embed, self.queries = nn.Linear(9, 8), nn.Parameter(ta.randn(1, 3, 8))
        self.across = nn.MultiheadAttention(8, 2, batch_first=True)
        self.within = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gate, self.head = nn.Linear(8, 5), nn.Linear(5, 4)

    def forward(self, images):
        x = self.embed(ta.as_tensor(images).float().reshape(-1, 4, 3, 4, 3).transpose(2, 3).reshape(-1, 16, 9))
        q = self.across(self.queries.expand(len(x), 3, 8), x, x)[0]
        q = self.within(q, q, q, need_weights=False)[0]
        return self.head(F.softmax(self.gate(q), -1).mean(1))


def test_attention_maps_without_rollout_show_single_layers(images):
    maps = viz.attention(Decoder(), images)
    assert [(layer.name, layer.weights.shape[1:]) for layer in maps.layers] == [
        ("across", (2, 3, 16)),
        ("within", (2, 3, 3)),
    ]
    assert maps.tokens == 16 and not maps.can_follow
    with pytest.raises(ValueError, match=r"across 3 x 16, within 3 x 3.*one by one"):
        maps.rollout()
    assert [ax.get_ylabel() for ax in maps.figure().axes if ax.get_ylabel()] == ["across"]
    assert '"rollout":null' in maps.html and '"within"' not in maps.html


def test_attention_maps_refuse_windowed_attention(images):
    def windows(x):
        x = ta.as_tensor(x).reshape(-1, 2, 6, 2, 6).permute(0, 1, 3, 2, 4).reshape(-1, 2, 6, 6)
        return F.scaled_dot_product_attention(x, x, x).sum((1, 2))

    with pytest.raises(ValueError, match=r"weights \(2, 2, 6, 6\) for a batch of one.*windows"):
        viz.attention(windows, images, gradients=False)


@pytest.mark.parametrize("masked", ["causal", "padding", "float"])
def test_attention_maps_of_masked_tokens_are_zero(masked):
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    hide = {"causal": {"is_causal": True}, "padding": {"key_padding_mask": ta.tensor([[False] * 3 + [True] * 2])},
            "float": {"attn_mask": ta.tensor(np.where(np.arange(25).reshape(5, 5) % 3, 0.0, -np.inf))}}[masked]  # fmt: skip
    x = ta.rand(1, 5, 8, dtype=ta.float64)
    maps = viz.attention(lambda x: layer(x, x, x, need_weights=False, **hide)[0].sum(1), x, words=["w"] * 5, target=0)
    wanted = layer(x, x, x, need_weights=True, average_attn_weights=False, **hide)[1]
    assert_allclose(maps.layers[0].weights, wanted.numpy(), **DOUBLE)
    assert (maps.layers[0].gradient_x_attention[wanted.numpy() == 0] == 0).all() and (wanted.numpy() == 0).any()


@pytest.mark.parametrize("tiles", [True, False])
def test_attention_maps_of_causal_attention_are_triangular(tiles):
    x = ta.rand(1, 2, 5, 8, dtype=ta.float64, requires_grad=True)
    with ta.tiled_attention(tiles):
        maps = viz.attention(
            lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True).sum((1, 2)), x, words=list("abcde")
        )
    scores = np.where(np.tri(5) == 1, (x @ x.mT).numpy() / 8**0.5, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    assert_allclose(maps.layers[0].weights, e / e.sum(-1, keepdims=True), **DOUBLE)


def test_attention_maps_number_repeated_calls():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def twice(x):
        for _ in range(2):
            x = layer(x, x, x, need_weights=False)[0]
        return x.mean(1)

    maps = viz.attention(twice, np.ones((1, 3, 8), dtype="float32"), words=["a", "b", "c"])
    assert [m.name for m in maps.layers] == ["MultiheadAttention", "MultiheadAttention (2)"]


def test_attention_maps_refuse_a_layer_with_batch_second():
    for layer in (nn.TransformerEncoderLayer(8, 2, 8), nn.MultiheadAttention(8, 2)):
        run = layer if isinstance(layer, nn.TransformerEncoderLayer) else lambda x, layer=layer: layer(x, x, x)[0]
        for batch in (1, 2):
            with pytest.raises(ValueError, match=r"batch_first=False.*one token; pass inputs .*x\.transpose\(0, 1\)"):
                viz.attention(run, ta.rand(4, batch, 8), words=list("abcd"), target=lambda out: out.sum())
    maps = viz.attention(
        lambda x: run(x.transpose(0, 1)), ta.rand(2, 4, 8), words=list("abcd"), target=lambda out: out.sum()
    )
    assert maps.layers[0].weights.shape[2:] == (4, 4) and len(maps) == 2


# --- through the layers ---


def test_rollout_is_the_product_of_mean_weights(classifier, images):
    maps = viz.attention(classifier, images)
    rollout = maps.rollout()
    assert_allclose(rollout.sum(-1), 1, rtol=1e-12)
    for i in range(3):
        first, second = (0.5 * layer.weights[i].mean(0) + 0.5 * np.eye(16) for layer in maps.layers)
        assert_allclose(rollout[i], second @ first, **DOUBLE)
        assert_allclose(maps.where_it_looked()[i], maps.pooling.weights[i, 0, 0] @ second @ first, **DOUBLE)
    # the model's own, spread over the pixels of its patches, which here do not overlap
    pixels = classifier.where_it_looked(images).numpy()
    assert_allclose(maps.grid.place(maps.where_it_looked()), pixels.reshape(3, 4, 3, 4, 3).sum((2, 4)), **DOUBLE)


def test_relevance_accumulates_positive_gradient_x_attention(classifier, images):
    maps = viz.attention(classifier, images, target=[1, 2, 3])
    assert list(maps.target) == [1, 2, 3]
    for i in range(3):
        r = np.eye(16)
        for layer in maps.layers:
            r = r + np.maximum(layer.weights[i] * layer.gradients[i], 0).mean(0) @ r
        pool = np.maximum(maps.pooling.weights[i, 0, 0] * maps.pooling.gradients[i, 0, 0], 0)
        assert_allclose(maps.relevance()[i], pool @ (r - np.eye(16)), **DOUBLE)


def test_rollout_reads_the_mean_or_one_token(images):
    model = models.AttentionClassifier(12, 3, hidden_dim=16, mlp_dim=16, num_heads=2)
    maps = viz.attention(model, images)
    assert_allclose(maps.where_it_looked(), maps.rollout().mean(1))
    assert_allclose(viz.attention(model, images, read_from=-1).where_it_looked(), maps.rollout()[:, -1])


def test_grid_cells_match_patch_index():
    model = models.AttentionClassifier(patch_size=7, patch_stride=4, patch_padding=2, hidden_dim=8, num_heads=1)
    grid = viz.attention(model, np.zeros((1, 28, 28)), gradients=False).grid
    assert (grid.rows, grid.columns) == (7, 7)
    assert_allclose(grid.boxes[8], [2, 2, 9, 9])  # the second patch of the second row: -2 + 4 to 2 + 7
    assert_allclose(grid.cells[8], [3.5, 3.5, 7.5, 7.5])  # four pixels around its middle


# --- what cannot be ---


def test_attention_maps_refuse_wrong_arguments(classifier, images, monkeypatch):
    lm = nn.Sequential(nn.Embedding(5, 8), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    tokens = np.zeros((2, 5), dtype=int)
    cases = [
        (lambda: viz.attention(nn.Linear(12, 3), images), "ran without any attention"),
        (lambda: viz.attention(classifier, images[:0]), "no inputs"),
        (lambda: viz.attention(classifier, images, target=10), "target=10.*classes 0 to 9"),
        (
            lambda: viz.attention(classifier, images, target=[1, 2]),
            r"target=\[1, 2\]; expected a class, one for each of the 3",
        ),
        (lambda: viz.attention(classifier, images, target=0.5), "target=0.5"),
        (lambda: viz.attention(classifier, images, labels=[1]), r"labels have shape \(1,\)"),
        (lambda: viz.attention(classifier, images, grid=(3, 3)), "16 tokens do not make a grid of 3 x 3"),
        (lambda: viz.attention(lm, tokens, words=["a"] * 5), r"returns shape \(1, 5, 8\).*target="),
        (lambda: viz.attention(lm, tokens, words=["a"] * 3, gradients=False), "words for .*expected 2 lists of 5"),
        (lambda: viz.attention(lm, tokens, gradients=False), "are not images"),
        (lambda: viz.attention(classifier, images).figure(5), "item=5, but 3 inputs"),
        (lambda: viz.attention(classifier, images).figure(token=(4, 0)), r"no patch \(4, 0\)"),
        (lambda: viz.attention(classifier, images, gradients=False).relevance(), "without gradients"),
        (lambda: viz.attention(classifier, images * np.nan), "NaN or infinities in blocks.0.attention"),
    ]
    for do, message in cases:
        with pytest.raises((ValueError, IndexError), match=message):
            do()
    monkeypatch.setattr("tinyattn.viz.maps.page.MOST", 1000)
    with pytest.raises(ValueError, match="3,120 weights of 3 inputs would have"):
        _ = viz.attention(classifier, images, gradients=False).html


def test_attention_target_can_be_a_function():
    lm = nn.Sequential(nn.Embedding(5, 8), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    maps = viz.attention(lm, np.arange(4)[None], words=list("abcd"), target=lambda out: out[0, -1, 2], read_from=-1)
    assert maps.scores is None and maps.target is None and maps.relevance().shape == (1, 4)
    assert "relevance for the target" in str([t.get_text() for t in maps.figure().axes[0].get_yticklabels()])


# --- pictures ---


def test_attention_figure_shows_every_head(classifier, images):
    maps = viz.attention(classifier, images, labels=[1, 2, 3])
    figure = maps.figure(1, token=(1, 2))
    shown = {ax.get_title().split(" (")[0]: ax for ax in figure.axes if ax.get_visible()}
    rows = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert rows == ["blocks.0.attention", "blocks.1.attention", "all layers"]
    assert {"the image", "head 0", "head 1", "mean", "rollout, output", "rollout, this token", "pooling"} < set(shown)
    values = maps.layers[1].weights[1, 1, 1 * 4 + 2]  # the last "head 1": of the second layer
    overlay = shown["head 1"].images[1].get_array()[..., 3]
    layers = [layer.weights[1, :, 6] for layer in maps.layers]
    shares = [*layers, maps.where_it_looked()[1], maps.pooling.weights[1], np.array(4 / 16)]
    assert_allclose(overlay, 0.85 * values.reshape(4, 4) / max(x.max() for x in shares), rtol=1e-6)  # one scale for all
    even = shown["pooling"].images[1].get_array()[..., 3]
    assert even.max() < 0.85 / 2  # nearly even attention is pale
    assert f"{100 * values.max():.0f} %" in shown["head 1"].get_title()


def test_attention_maps_save_without_pyplot(classifier, images, tmp_path):
    import sys

    maps = viz.attention(classifier, images)
    for name, how in {"a.png": {"token": 3, "what": "gradient"}, "b.svg": {}, "c.html": {}}.items():
        assert maps.save(tmp_path / name, **how).stat().st_size > 5000
    assert "matplotlib.pyplot" not in sys.modules
    with pytest.raises(TypeError, match="item is for pictures only"):
        maps.save(tmp_path / "d.html", item=1)


def test_png_encoder_writes_valid_png():
    image = np.array([[0.0, 0.5, 1.0], [1.0, 0.2, 0.0]])
    raw = b64decode(png(image).removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", raw[16:24]) == (3, 2)
    start = raw.index(b"IDAT")
    (size,) = struct.unpack(">I", raw[start - 4 : start])
    lines = np.frombuffer(zlib.decompress(raw[start + 4 : start + 4 + size]), np.uint8).reshape(2, 4)
    assert lines.tolist() == [[0, 0, 128, 255], [0, 255, 51, 0]]


# --- the page, read back ---


def test_attention_page_is_self_contained_and_reproducible(classifier, images):
    page = viz.attention(classifier, images, title="<b>&</b>").html
    assert not re.search(r"(src|href)=[\"'](?!data:)|https?://(?!www.w3.org/2000/svg)|@import|url\(", page)
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in page and "<b>&</b>" not in page
    assert page == viz.attention(classifier, images, title="<b>&</b>").html  # to the byte


def test_attention_page_contains_weights_and_gradients(classifier, images):
    maps = viz.attention(classifier, images, labels=[1, 2, 3])
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', maps.html, re.S).group(1)
    data = json.loads(text)
    for packed, layer in zip(data["layers"], maps.every_layer, strict=True):
        for name, values in (("attention", layer.weights), ("gradient", layer.gradient_x_attention)):
            most = packed[name]["largest"]
            read = np.frombuffer(b64decode(packed[name]["data"]), "<i2").reshape(values.shape) / 32767 * most
            assert_allclose(read, values, atol=most / 60000)


def shown(value, share=True):
    """A number as the page writes it."""
    return (
        f"{100 * value:.1f} %" if share else np.format_float_positional(value, precision=3, fractional=False, trim="-")
    )


@needs_chromium
def test_attention_page_of_images_in_a_browser(browser, classifier, images, tmp_path):
    maps = viz.attention(classifier, images, labels=[1, 2, 3])
    page = browser.open(maps.save(tmp_path / "attention.html"))
    # a click on a patch, and every map is what that patch looks at
    page.click("#token-6")
    assert page.run("document.querySelectorAll('.mini').length") == 2 * 3 + 4
    labels = page.run("[...document.querySelectorAll('.mini em')].map(e => e.textContent)")
    weights = [layer.weights[0, :, 6] for layer in maps.layers]
    wanted = [shown(head.max()) for w in weights for head in (*w, w.mean(0))]
    assert labels[:6] == wanted
    assert labels[6] == shown(maps.rollout()[0, 6].max()) and labels[7] == shown(maps.where_it_looked()[0].max())
    assert labels[9] == page.run(f"number({maps.relevance()[0].max()}, false)")
    # arrow keys walk over the patches: right, then down
    page.press("ArrowRight")
    page.press("ArrowDown")
    assert page.run("state.token") == 6 + 1 + 4
    said = page.run("document.querySelector('#token-3').getAttribute('aria-label')")
    assert said == f"(0, 3): {shown(maps.layers[0].weights[0, 0, 11, 3])}"
    assert page.text("#readout").startswith("Patch (2, 3) attends most to")
    # another head of another layer by the keyboard, then its gradient, the other direction, the next image
    page.run("document.querySelector('#all [tabindex=\"0\"]').focus()")
    page.press("ArrowDown")
    page.press("ArrowRight")
    assert page.text("#name").endswith("blocks.1.attention · head 1")
    assert page.run("document.activeElement.getAttribute('aria-selected')") == "true"
    page.press("d")
    said = page.run("document.querySelector('#token-3').getAttribute('aria-label')")
    assert said == f"(0, 3): {shown(maps.layers[1].weights[0, 1, 3, 11])}"
    page.press("d")
    page.press("g")
    page.press(".")
    page.run("document.querySelector('#big').focus()")
    page.press("ArrowUp")
    value = maps.layers[1].gradient_x_attention[1, 1, 7, 3]
    said = page.run("document.querySelector('#token-3').getAttribute('aria-label')").split(": ")[1]
    assert abs(float(said) - value) <= 0.01 * abs(value) + np.abs(maps.layers[1].gradient_x_attention).max() / 60000
    # the mouse on another map and another image, Escape, dark
    page.click(".row:last-child .mini:last-child")
    assert page.text("#name").endswith(f"relevance for {maps.target[1]}")
    page.click("#items button:nth-child(3)")
    page.press("Escape")
    assert page.run("[state.item, state.token]") == [2, None]
    there = browser.open(f"{tmp_path}/attention.html", fragment="item=2&token=5&row=1&cell=9&what=gradient&token=x")
    assert there.run("[state.item, state.token, state.row, state.cell, state.what]") == [2, 5, 1, 2, "gradient"]
    scales = there.run("scales")  # the pooling's terms are far larger, and would leave those of the heads blank
    assert scales["gradient"] != scales["pooling"]
    largest = max(np.abs(layer.gradient_x_attention[2, :, 5]).max() for layer in maps.layers)
    assert abs(abs(scales["gradient"]) - largest) <= 1e-3 * largest
    assert there.problems == [] and there.requests == []
    light = page.run("getComputedStyle(document.body).backgroundColor")
    page.call("Page.bringToFront")  # a hidden tab is not told of a new theme
    page.prefer("dark")
    page.wait(f"getComputedStyle(document.body).backgroundColor != '{light}'")
    page.click("#theme")
    assert page.run("getComputedStyle(document.body).backgroundColor") == light
    assert page.problems == [] and page.requests == []


@needs_chromium
def test_attention_page_on_a_phone_shows_the_chosen_input(browser, classifier, images, tmp_path):
    many = ta.cat([ta.as_tensor(images)] * 4)
    maps = ta.viz.attention(classifier, many)
    last = len(many) - 1
    page = browser.open(maps.save(tmp_path / "many.html"), width=390, height=844, fragment=f"item={last}")
    page.wait("document.querySelector('#items [aria-checked=true]') !== null")
    assert page.run("""(() => {
        const strip = document.getElementById('items').getBoundingClientRect();
        const chosen = document.querySelector('#items [aria-checked=true]').getBoundingClientRect();
        return chosen.left >= strip.left - 1 && chosen.right <= strip.right + 1;
    })()""")
    heights = page.run("[...document.querySelectorAll('fieldset label')].map((e) => e.getBoundingClientRect().height)")
    assert max(heights) < 30  # a label on one line, beside its button
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


@needs_chromium
def test_attention_page_shows_class_token_as_button(browser, images, tmp_path):
    layer, embed = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(9, 8)

    def model(images):
        x = embed(ta.as_tensor(images).float().mean(1).reshape(-1, 4, 3, 4, 3).transpose(2, 3).reshape(-1, 16, 9))
        x = ta.cat([ta.ones(len(x), 1, 8), x], 1)
        return layer(x, x, x, need_weights=False)[0][:, 0]

    maps = viz.attention(model, np.repeat(images[:, None], 3, 1))  # in colour
    page = browser.open(maps.save(tmp_path / "token.html"))
    page.click("#token-0")
    assert page.text("#token-0") == f"the class token: {shown(maps.layers[0].weights[0, 0, 0, 0])}"
    assert page.text("#readout").startswith("the class token attends most to")
    page.press("ArrowDown")
    assert page.run("state.token") == 1 and page.text("#readout").startswith("Patch (0, 0) attends")
    page.press("ArrowUp")
    assert page.run("state.token") == 0
    assert page.run("document.querySelector('#big img').naturalWidth") == 12
    assert page.problems == [] and page.requests == []


@needs_chromium
def test_attention_page_of_words_in_a_browser(browser, tmp_path):
    ta.manual_seed(0)
    words = ["the", "<cat>", "sat", "&", "the", "mat", "."]
    model = Encoder().double()
    maps = viz.attention(model, np.array([[1, 2, 3, 4, 1, 5, 6]]), words=words)
    page = browser.open(maps.save(tmp_path / "words.html"))
    page.click("#token-1")
    assert page.run("[...document.querySelectorAll('#big .words span')].map(e => e.firstChild.textContent)") == words
    numbers = page.run("[...document.querySelectorAll('#big small')].map(e => e.textContent)")
    assert numbers == [shown(w) for w in maps.layers[0].weights[0, 0, 1]]
    page.press("ArrowRight")
    assert page.text("#readout").startswith("“sat” attends most to")
    page.run("document.querySelector('#all [tabindex=\"0\"]').focus()")
    page.press("ArrowDown", times=2)
    assert page.text("#name").endswith("mean")
    assert page.problems == [] and page.requests == []

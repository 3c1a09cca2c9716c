"""The models: against PyTorch, against their definition spelled out, and that they learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import tinyattn as ta
from tinyattn import nn
from tinyattn.models import AttentionClassifier, AttentionModel, SparseAttention
from tinyattn.nn import functional as F

F64 = np.dtype("float64")
RECIPE = {
    "patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128, "mlp_dim": 128, "pooling": "attention",
}  # fmt: skip


def pictures(batch, size=28, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size), dtype=np.uint8)


def labels(batch, classes=10):
    return np.random.default_rng(1).integers(0, classes, batch)


# --- the article's numbers, corrected (docs/article.md) ---


def test_softmax_gives_the_articles_example():
    z = ta.tensor([2.3, 1.1, 0.7], dtype=F64)
    np.testing.assert_allclose(ta.exp(z).numpy(), [9.9742, 3.0042, 2.0138], atol=5e-5)
    assert ta.exp(z).sum().item() == pytest.approx(14.9921, abs=5e-5)
    np.testing.assert_allclose(ta.softmax(z, 0).numpy(), [0.6653, 0.2004, 0.1343], atol=5e-5)
    with ta.definitions():
        np.testing.assert_allclose(ta.softmax(z, 0).numpy(), [0.6653, 0.2004, 0.1343], atol=5e-5)


def test_softmax_of_large_scores_does_not_overflow():
    expected = [1 / (1 + math.e), math.e / (1 + math.e)]
    for dtype in (ta.float32, F64):
        z = ta.tensor([1000.0, 1001.0], dtype=dtype, requires_grad=True)
        p = ta.softmax(z, 0)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-6)
        (g,) = ta.grad(p[0], z)
        np.testing.assert_allclose(g.numpy(), [0.19661193, -0.19661193], rtol=1e-5)


def test_attention_gives_the_articles_example():
    """A query meets five keys: five scores, and equal weights only where the scores are equal."""
    e = ta.tensor(np.eye(3)[[0, 1, 2, 2, 2]])  # (tokens, dim)
    query = ta.ones(1, 3, dtype=F64)
    weights = ta.ops.attention_weights(query, e)
    np.testing.assert_allclose(weights.numpy(), np.full((1, 5), 0.2))
    mixed = ta.scaled_dot_product_attention(query, e, e)
    np.testing.assert_allclose(mixed.numpy(), [[0.2, 0.2, 0.6]])
    weights = ta.ops.attention_weights(ta.tensor([[2.0, 0.0, 0.0]], dtype=F64), e)
    np.testing.assert_allclose(weights.numpy(), [[0.4424, *[0.1394] * 4]], atol=5e-5)


# --- AttentionModel ---


def spelled_out(model, images, score):
    """The model's definition in PyTorch, one vector for every pixel of every image."""
    p = {name: torch.from_numpy(t.numpy()).requires_grad_() for name, t in model.state_dict().items()}
    top = model.input_dim - 1
    levels = torch.from_numpy(np.rint(images.reshape(len(images), -1) / 255 * top).astype("int64"))
    x = p["embedding.weight"][levels] + p["position"]  # (batch, pixels, dim)
    if "attention.query" not in p:
        weights = torch.tanh(TF.linear(x, p["attention.hidden.weight"], p["attention.hidden.bias"])).softmax(1)
        mean = (weights * x).sum(1)
    else:
        heads, head_dim = p["attention.query"].shape
        keys = TF.linear(x, p["attention.key.weight"], p["attention.key.bias"]).unflatten(-1, (heads, head_dim))
        scale = 1 if score == "dot" else head_dim**-0.5
        scores = (keys * p["attention.query"]).sum(-1) * scale  # (batch, pixels, heads)
        mean = (scores.softmax(1)[..., None] * x.unflatten(-1, (heads, head_dim))).sum(1).flatten(1)
    mean = TF.layer_norm(mean, mean.shape[-1:], p["norm.weight"], p["norm.bias"])
    return TF.linear(mean, p["fc.weight"], p["fc.bias"]), p


@pytest.mark.parametrize("score", ["additive", "dot", "scaled_dot", "multihead"])
def test_attention_model_equals_its_definition_in_torch(score):
    ta.manual_seed(0)
    model = AttentionModel(10, 12, 4, score=score, num_heads=3, image_size=9).double()
    images, target = pictures(5, 9), labels(5, 4)
    out = model(images)
    expected, parameters = spelled_out(model, images, score)
    np.testing.assert_allclose(out.detach().numpy(), expected.detach().numpy(), rtol=1e-10)
    ta.cross_entropy(out, target).backward()
    TF.cross_entropy(expected, torch.from_numpy(target)).backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            parameter.grad.numpy(), parameters[name].grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=name
        )


def test_attention_model_has_the_articles_parameters():
    model = AttentionModel(10, 64, 10)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "position": (784, 64), "embedding.weight": (10, 64), "attention.hidden.weight": (1, 64),
        "attention.hidden.bias": (1,), "norm.weight": (64,), "norm.bias": (64,), "fc.weight": (10, 64),
        "fc.bias": (10,),
    }  # fmt: skip
    assert repr(model).startswith("AttentionModel(\n  input_dim=10, image_size=28\n  (embedding): Embedding(10, 64)")
    out = model(pictures(3))
    assert out.shape == (3, 10)
    assert out.dtype == ta.float32


@pytest.mark.parametrize("score", ["additive", "multihead"])
def test_attention_model_maps_sum_to_one(score):
    model, images = AttentionModel(10, 8, 4, score=score), pictures(3)
    (maps,) = model.attention_maps(images)
    assert maps.shape == (3, 4 if score == "multihead" else 1, 28, 28)
    assert not maps.requires_grad
    np.testing.assert_allclose(maps.numpy().sum((2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(model.where_it_looked(images).numpy(), maps.numpy().mean(1), rtol=1e-6)


@pytest.mark.parametrize("input_dim", [2, 5, 10, 256])
def test_quantize_rounds_to_the_nearest_level(input_dim):
    model = AttentionModel(input_dim, 4, 2, image_size=16)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    levels = model.quantize(every).numpy()
    np.testing.assert_array_equal(levels.ravel(), np.rint(np.arange(256) / 255 * (input_dim - 1)))
    for dtype in ("float32", "float64"):
        np.testing.assert_array_equal(model.quantize((every / 255).astype(dtype)).numpy(), levels)


SHAPES = [lambda x: x, lambda x: x[:, None], lambda x: x.reshape(len(x), -1)]
KINDS = [
    lambda x: x, lambda x: x.astype("int64"), lambda x: (x / 255).astype("float32"), lambda x: x / 255,
    lambda x: ta.tensor(x), lambda x: torch.from_numpy(x),
]  # fmt: skip
MODELS = {
    "AttentionModel": lambda: AttentionModel(10, 8, 4),
    "AttentionClassifier": lambda: AttentionClassifier(hidden_dim=8, mlp_dim=8),
    "with padding": lambda: AttentionClassifier(hidden_dim=8, mlp_dim=8, patch_size=7, patch_stride=4, patch_padding=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_take_images_in_any_form(name):
    model, images = MODELS[name](), pictures(2)
    expected = model(images).detach().numpy()
    for shape in SHAPES:
        for kind in KINDS:
            out = model(kind(shape(images)))
            assert out.dtype == ta.float32
            np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert model(images[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: AttentionModel(1, 8, 4), ValueError, "at least 2 levels"),
        (lambda: AttentionModel(10, 8, 4, score="cosine"), ValueError, "score='cosine'; expected 'additive', 'dot'"),
        (lambda: AttentionModel(10, 8, 4, score="multihead", num_heads=3), ValueError, "embed_dim=8 must be"),
        (lambda: AttentionModel(10, 8, 4)(np.zeros((28, 28))), ValueError, r"shape \(28, 28\); expected \(batch, "),
        (lambda: AttentionModel(10, 8, 4)(np.zeros((2, 3, 28, 28))), ValueError, r"\(2, 3, 28, 28\)"),
        (lambda: AttentionModel(10, 8, 4)(np.zeros((2, 28, 28), bool)), TypeError, "dtype bool; expected uint8"),
        (lambda: AttentionModel(10, 8, 4)(np.full((2, 784), -0.5)), ValueError, "values from -0.5 to -0.5; give uint8"),
        (lambda: AttentionModel(10, 8, 4)(np.full((2, 784), 255.0)), ValueError, "values from 255 to 255"),
        (lambda: AttentionModel(10, 8, 4)(np.full((2, 784), np.nan)), ValueError, "values from nan"),
        (lambda: AttentionClassifier(hidden_dim=10), ValueError, "hidden_dim=10 must be a multiple of num_heads=4"),
        (lambda: AttentionClassifier(pooling="max"), ValueError, "pooling='max'; expected 'mean' or 'attention'"),
        (lambda: AttentionClassifier(attention="max"), ValueError, "attention='max'; expected 'softmax', 'sparsemax' or"),
        (lambda: AttentionClassifier(patch_size=5), ValueError, "patches of 5 pixels every 5 with padding 0"),
        (lambda: AttentionClassifier(patch_stride=6), ValueError, "do not cover an image of 28"),
        (lambda: AttentionClassifier(patch_size=30), ValueError, "do not cover"),
    ],
)  # fmt: skip
def test_models_refuse_wrong_arguments(act, error, message):
    with pytest.raises(error, match=message):
        act()


# --- AttentionClassifier ---


class TorchBlock(torch.nn.Module):
    def __init__(self, dim, heads, mlp_dim):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(dim), torch.nn.LayerNorm(dim)
        self.attention, self.mlp = torch.nn.MultiheadAttention(dim, heads, batch_first=True), torch.nn.Module()
        self.mlp.fc1, self.mlp.fc2 = torch.nn.Linear(dim, mlp_dim), torch.nn.Linear(mlp_dim, dim)

    def forward(self, x):
        normal = self.norm1(x)
        attended, self.weights = self.attention(normal, normal, normal, average_attn_weights=False)
        x = x + attended
        return x + self.mlp.fc2(TF.gelu(self.mlp.fc1(self.norm2(x)), approximate="tanh"))


class TorchClassifier(torch.nn.Module):
    """AttentionClassifier in PyTorch, with the same names."""

    def __init__(
        self, image_size=28, patch_size=4, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=256, num_classes=10,
        *, pooling="mean", patch_stride=None, patch_padding=0, stem_dim=None,
    ):  # fmt: skip
        super().__init__()
        self.cut = {"kernel_size": patch_size, "stride": patch_stride or patch_size, "padding": patch_padding}
        pixels = patch_size**2
        tokens = TF.unfold(torch.zeros(1, 1, image_size, image_size), **self.cut).shape[-1]
        if stem_dim:
            self.embed = torch.nn.Module()
            self.embed.fc1, self.embed.fc2 = torch.nn.Linear(pixels, stem_dim), torch.nn.Linear(stem_dim, hidden_dim)
        else:
            self.embed = torch.nn.Linear(pixels, hidden_dim)
        self.position = torch.nn.Parameter(torch.empty(tokens, hidden_dim))
        self.blocks = torch.nn.ModuleList(TorchBlock(hidden_dim, num_heads, mlp_dim) for _ in range(num_layers))
        self.norm = torch.nn.LayerNorm(hidden_dim)
        if pooling == "attention":
            self.pool = torch.nn.Module()
            self.pool.hidden = torch.nn.Linear(hidden_dim, 1)
        self.head = torch.nn.Linear(hidden_dim, num_classes)

    def forward(self, images):
        x = TF.unfold(images[:, None], **self.cut).mT  # (batch, tokens, pixels)
        if isinstance(self.embed, torch.nn.Linear):
            x = self.embed(x)
        else:
            x = self.embed.fc2(TF.gelu(self.embed.fc1(x), approximate="tanh"))
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if hasattr(self, "pool"):
            self.pooling = torch.tanh(self.pool.hidden(x)).softmax(1)
        else:
            self.pooling = torch.full_like(x[..., :1], 1 / x.shape[1])
        return self.head((self.pooling * x).sum(1))


CONFIGURATIONS = {
    "default": {},
    "recipe": RECIPE,
    "stem": {"stem_dim": 20},
    "overlap": {"patch_size": 6, "patch_stride": 2, "hidden_dim": 16, "mlp_dim": 24, "num_heads": 2, "num_layers": 1},
    "attention pooling": {"pooling": "attention", "num_layers": 1, "num_classes": 3},
    "padding": {"image_size": 9, "patch_size": 4, "patch_padding": 2, "hidden_dim": 8, "mlp_dim": 8},
    "no blocks": {"num_layers": 0, "image_size": 8},
}


def twins(options):
    """Our model and PyTorch's, in float64 and in the same state, which crosses over by plain copying."""
    ours, theirs = AttentionClassifier(**options).double(), TorchClassifier(**options).double()
    theirs.load_state_dict({name: torch.from_numpy(t.numpy().copy()) for name, t in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("row", CONFIGURATIONS)
def test_classifier_equals_its_torch_twin(row):
    ta.manual_seed(0)
    ours, theirs = twins(CONFIGURATIONS[row])
    images = pictures(3, ours.image_size) / 255.0
    x, y = ta.tensor(images, requires_grad=True), torch.from_numpy(images).requires_grad_()
    out, expected = ours(x), theirs(y)
    np.testing.assert_allclose(out.detach().numpy(), expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    (out * out).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-9, atol=1e-12)
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), gradients[name], rtol=1e-9, atol=1e-12, err_msg=name)
    *maps, pooling = ours.attention_maps(images)
    for found, block in zip(maps, theirs.blocks, strict=True):
        np.testing.assert_allclose(found.numpy(), block.weights.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(pooling.numpy(), theirs.pooling.detach().numpy()[..., 0], rtol=1e-10)


@pytest.mark.parametrize(("options", "parameters"), [({}, 104_970), (RECIPE, 85_579)])
def test_classifier_has_the_stated_parameters(options, parameters):
    assert sum(p.numel() for p in AttentionClassifier(**options).parameters()) == parameters


def test_classifier_state_dict_names():
    assert repr(AttentionClassifier()).startswith(
        "AttentionClassifier(\n  image_size=28, tokens=49\n  (embed): Linear("
    )
    assert list(AttentionClassifier(num_layers=1).state_dict()) == [
        "position", "embed.weight", "embed.bias", "blocks.0.norm1.weight", "blocks.0.norm1.bias",
        "blocks.0.attention.in_proj_weight", "blocks.0.attention.in_proj_bias", "blocks.0.attention.out_proj.weight",
        "blocks.0.attention.out_proj.bias", "blocks.0.norm2.weight", "blocks.0.norm2.bias", "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc1.bias", "blocks.0.mlp.fc2.weight", "blocks.0.mlp.fc2.bias", "norm.weight", "norm.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip


def test_classifier_loads_older_files():
    """Attention was two linear layers, qkv and proj, before it was nn.MultiheadAttention."""
    model, other = AttentionClassifier(), AttentionClassifier()
    older = {
        name.replace("in_proj_", "qkv.").replace("out_proj", "proj"): value
        for name, value in other.state_dict().items()
    }
    assert {"blocks.1.attention.qkv.bias", "blocks.1.attention.proj.weight"} < set(older)
    assert not any(model.load_state_dict(older))
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    with pytest.raises(TypeError, match="expected a mapping"):
        model.load_state_dict([])


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), {**RECIPE, "num_layers": 1}])
def test_classifier_trains_as_in_torch(options):
    """Same start, same batches, Adam: every parameter within 1e-9 of PyTorch's at the end."""
    ta.manual_seed(0)
    ours, theirs = twins(options)
    our_adam = ta.optim.Adam(ours.parameters(), lr=1e-3)
    their_adam = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    start = ours.head.weight.numpy().copy()
    for step in range(100):
        images, target = pictures(8, seed=step) / 255.0, labels(8)
        loss = ta.cross_entropy(ours(images), target)
        our_adam.zero_grad()
        loss.backward()
        our_adam.step()
        expected = TF.cross_entropy(theirs(torch.from_numpy(images)), torch.from_numpy(target))
        their_adam.zero_grad()
        expected.backward()
        their_adam.step()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    parameters = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        worst = np.abs(p.numpy() - parameters[name].detach().numpy()).max()
        assert worst < 1e-9, f"{name} is off by {worst}"
    assert np.abs(ours.head.weight.numpy() - start).max() > 1e-2  # it did train


@pytest.mark.parametrize("row", ["default", "recipe", "overlap"])
def test_where_it_looked_sums_to_one_without_dropout(row):
    model = AttentionClassifier(**CONFIGURATIONS[row], dropout=0.5)
    images = pictures(2)
    state = ta.default_generator.get_state()
    shares = model.where_it_looked(images).numpy()
    assert shares.shape == (2, 28, 28)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(shares, model.where_it_looked(images).numpy())  # no dropout
    assert model.training
    assert all(m.training for m in model.modules())
    assert ta.default_generator.get_state() == state
    # looking leaves no trace: the same training step afterwards
    assert all(p.grad is None for p in model.parameters())


def test_where_it_looked_follows_the_patches():
    """Without blocks and with all of the pooling on one token, the look is that token's patch."""
    model = AttentionClassifier(num_layers=0, pooling="attention", patch_size=14)
    model.pool.scores = lambda x: ta.tensor([[0.0, 100.0, 0.0, 0.0]])
    shares = model.where_it_looked(pictures(1)).numpy()[0]
    expected = np.zeros((28, 28))
    expected[:14, 14:] = 1 / 196
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_where_it_looked_of_equal_shares_is_even():
    """Overlapping patches cover some pixels four times and some once; no lattice may show."""
    model = AttentionClassifier(num_layers=0, patch_size=7, patch_stride=4, patch_padding=2)
    np.testing.assert_allclose(model.where_it_looked(pictures(2)).numpy(), 1 / 784, rtol=1e-5)


def test_classifier_drops_out_in_training_only():
    model, images = AttentionClassifier(dropout=0.5), pictures(2)
    assert (model(images).detach().numpy() != model(images).detach().numpy()).any()
    model.eval()
    np.testing.assert_array_equal(model(images).detach().numpy(), model(images).detach().numpy())


def test_classifier_training_repeats_with_one_seed():
    def train():
        ta.manual_seed(7)
        model = AttentionClassifier(hidden_dim=16, mlp_dim=16, dropout=0.1)
        adam = ta.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            adam.zero_grad()
            ta.cross_entropy(model(pictures(4)), labels(4)).backward()
            adam.step()
        return model.state_dict()

    for a, b in zip(train().values(), train().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


LEARNERS = {
    **{
        f"article, {score}": lambda score=score: AttentionModel(10, 32, 10, score=score, image_size=8)
        for score in ("additive", "dot", "scaled_dot", "multihead")
    },
    "classifier": lambda: AttentionClassifier(8, 2, 1, 2, 32, 64),
    "overlapping, attention pooling": lambda: AttentionClassifier(
        8, 3, 1, 2, 32, 64, patch_stride=2, patch_padding=1, pooling="attention"
    ),
}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=() if row == "classifier" else pytest.mark.slow) for row in LEARNERS]
)
def test_models_learn_small_digits(row):
    """Scikit-learn's 8 x 8 digits: 1,297 to learn from, 500 by other hands to know (guessing: 0.1)."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images, target = (digits.images / 16).astype("float32"), digits.target
    ta.manual_seed(0)
    model, order = LEARNERS[row](), np.random.default_rng(0)
    adam = ta.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(20):
        for batch in np.array_split(order.permutation(1297), 20):
            adam.zero_grad()
            ta.cross_entropy(model(images[batch]), target[batch]).backward()
            adam.step()
    model.eval()
    with ta.no_grad():
        right = (model(images[1297:]).argmax(1).numpy() == target[1297:]).mean()
    assert right > 0.83, f"{row} knows {right:.3f} of the digits"


def test_pooling_modules_agree_on_their_interface():
    x = ta.randn(2, 5, 8)
    for pool in (nn.AdditiveAttentionPooling(8), AttentionClassifier().pool):
        pooled, weights = pool(x, need_weights=True)
        assert pooled.shape == (2, 8)
        np.testing.assert_allclose(weights.detach().numpy().sum(-1), 1, rtol=1e-6)
        np.testing.assert_array_equal(pool(x).detach().numpy(), pooled.detach().numpy())


# --- sparse attention ---


@pytest.mark.parametrize("kind", ["sparsemax", "entmax"])
def test_sparse_attention_is_entmax_of_the_scaled_scores(kind):
    ta.manual_seed(0)
    attention = SparseAttention(6, 2, kind).double()
    x = 3 * ta.randn(2, 5, 6, dtype=ta.float64)
    if kind == "entmax":
        attention.shape.data.copy_(ta.tensor([[[-1.0]], [[2.0]]]))
    out, weights = attention(x, x, x, average_attn_weights=False)
    q, k, v = (
        x @ w.T + b for w, b in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    heads = []
    for head, part in enumerate((slice(0, 3), slice(3, 6))):
        alpha = 2 if kind == "sparsemax" else 1 + 1 / (1 + math.exp([1.0, -2.0][head]))
        expected = F.entmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(3), alpha)
        np.testing.assert_allclose(weights[:, head].detach().numpy(), expected.detach().numpy(), atol=1e-12)
        heads.append(expected @ v[..., part])
    np.testing.assert_allclose(out.detach().numpy(), attention.out_proj(ta.cat(heads, 2)).detach().numpy(), atol=1e-12)
    quick, _ = attention(x, x, x, need_weights=False)
    assert (quick == out).all() and (weights == 0).any()
    with pytest.raises(NotImplementedError, match="got a mask"):
        attention(x, x, x, is_causal=True)


@pytest.mark.parametrize("kind", ["sparsemax", "entmax"])
def test_classifier_with_sparse_attention_learns_its_alpha(kind):
    ta.manual_seed(0)
    model = AttentionClassifier(8, 4, 1, 2, 16, 32, attention=kind)
    images = ta.rand(4, 8, 8)
    assert len(model.attention_maps(images)) == 2
    nn.functional.cross_entropy(model(images), ta.tensor([0, 1, 2, 3])).backward()
    names = {name for name, p in model.named_parameters() if "shape" in name}
    assert names == ({"blocks.0.attention.shape"} if kind == "entmax" else set())
    assert all((p.grad != 0).any() for name, p in model.named_parameters() if name in names)
    for refuse in (ta.viz.attention, ta.viz.playground):
        with pytest.raises(ValueError, match="attends by sparsemax or entmax; take its attention_maps"):
            refuse(model, images)

"""Layers, losses and initial values against torch.nn, and what a Module promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from answers import torch
from oracle import host, tensors, to_ours

import tinyattn as ta
from tinyattn import nn

ON_EVERY_DEVICE = True

F64 = np.dtype("float64")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(3))


def close(ours, theirs, what="", tolerance=1e-12):
    theirs = theirs.detach().numpy(force=True)
    assert ours.dtype == theirs.dtype, f"{what}: dtype {ours.dtype}, torch {theirs.dtype}"
    assert tuple(ours.shape) == theirs.shape, f"{what}: shape {ours.shape}, torch {theirs.shape}"
    np.testing.assert_allclose(ours.detach().cpu().numpy(), theirs, rtol=tolerance, atol=tolerance, err_msg=what)


def copied(ours, theirs):
    """Give `ours` the state of `theirs`, by name."""
    result = ours.load_state_dict(theirs.state_dict())
    assert result == ([], [])
    return ours


def compare(ours, theirs, *inputs, tolerance=1e-12, orders=2, **options):
    """Equal outputs, and equal gradients of all orders for inputs and parameters.

    The first order is that of a random combination of the outputs, the second that of a random
    combination of the first.
    """
    inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    our_inputs = to_ours(inputs)
    with torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH
    ):  # torch's other attention kernels know no second order
        expected = theirs(*inputs, **options)
    found = ours(*our_inputs, **to_ours(options))
    expected, found = (tensors(expected, torch.Tensor), tensors(found, ta.Tensor))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        close(a, b, "output", tolerance)
    mine, yours = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names = [*(f"input {i}" for i, x in enumerate(inputs) if x.requires_grad), *mine]
    x_ours = [*(x for x in our_inputs if x.requires_grad), *mine.values()]
    x_theirs = [*(x for x in inputs if x.requires_grad), *(yours[name] for name in mine)]
    for order in range(1, orders + 1):
        seeds = [randn(*y.shape, seed=i).to(y.dtype) for i, y in enumerate(expected)]
        expected = gradients(torch, expected, x_theirs, seeds, order < orders)
        found = gradients(ta, found, x_ours, to_ours(seeds), order < orders)
        for name, a, b in zip(names, found, expected, strict=True):
            close(a, b, f"gradient of {name}, order {order}", tolerance)


def gradients(library, outputs, inputs, seeds, create_graph):
    """As `grad`, with zeros where nothing depends; some outputs may be constants."""
    grad = getattr(library, "autograd", library).grad
    pairs = [(y, s) for y, s in zip(outputs, seeds, strict=True) if y.requires_grad]
    found = [None] * len(inputs)
    if pairs and inputs:
        y, s = zip(*pairs, strict=True)
        found = grad(y, inputs, s, create_graph=create_graph, allow_unused=True)
    return [library.zeros(x.shape, dtype=x.dtype) if g is None else g for g, x in zip(found, inputs, strict=True)]


# --- every layer and every loss: name, arguments, inputs ---

ACTIVATIONS = """
    ReLU6 LeakyReLU ELU CELU SELU GLU Mish Hardswish Hardtanh Hardshrink Softshrink Softsign Tanhshrink
""".split()
LAYERS = [
    ("Linear", (5, 3), {}, [randn(2, 4, 5)]),
    ("Linear", (5, 3), {"bias": False}, [randn(5)]),
    ("Linear", (5, 3), {}, [randn(0, 5)]),
    ("Embedding", (7, 3), {}, [integers(7, 2, 4)]),
    ("Embedding", (7, 3), {"padding_idx": 2}, [integers(7, 20)]),
    ("Embedding", (7, 3), {"padding_idx": -1}, [integers(7, 20)]),
    ("LayerNorm", (5,), {}, [randn(2, 4, 5)]),
    ("LayerNorm", ((4, 5),), {"eps": 1e-3}, [randn(2, 4, 5)]),
    ("LayerNorm", (5,), {"bias": False}, [randn(2, 5)]),
    ("LayerNorm", (5,), {"elementwise_affine": False}, [randn(2, 5)]),
    ("Conv2d", (4, 6, 3), {"padding": 1}, [randn(2, 4, 5, 6)]),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "dilation": (1, 2), "groups": 2, "bias": False}, [randn(2, 4, 7, 6)]),
    ("Conv2d", (4, 4, 3), {"groups": 4, "padding": "same"}, [randn(2, 4, 5, 5)]),
    *(
        ("Conv2d", (2, 3, 3), {"padding": (1, 2), "padding_mode": mode}, [randn(2, 2, 5, 5)])
        for mode in ("reflect", "replicate", "circular")
    ),
    ("Conv2d", (2, 3, 4), {"padding": "same", "padding_mode": "reflect"}, [randn(2, 5, 5)]),
    ("Conv1d", (4, 6, 3), {"padding": 1, "stride": 2}, [randn(2, 4, 7)]),
    ("Conv1d", (4, 6, 2), {"padding": "same"}, [randn(4, 7)]),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, [randn(2, 4, 3, 4)]),
    ("ConvTranspose3d", (4, 6, 2), {"stride": 2, "padding": 1, "bias": False}, [randn(4, 3, 2, 3)]),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "dilation": 2}, [randn(2, 4, 3)]),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, [randn(2, 3, 6, 7)]),
    ("MaxPool1d", (2,), {"dilation": 2}, [randn(3, 7)]),
    (
        "AvgPool2d",
        (3,),
        {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        [randn(2, 3, 6, 7)],
    ),
    ("AvgPool2d", (2,), {"divisor_override": 3}, [randn(2, 3, 6, 7)]),
    ("AvgPool1d", (2,), {"ceil_mode": True}, [randn(2, 3, 7)]),
    ("AdaptiveAvgPool2d", ((3, None),), {}, [randn(2, 3, 7, 4)]),
    ("AdaptiveAvgPool1d", (2,), {}, [randn(2, 3, 4)]),
    ("AdaptiveMaxPool2d", (3,), {}, [randn(2, 3, 7, 4)]),
    ("AdaptiveMaxPool1d", (2,), {}, [randn(2, 3, 5)]),
    ("Unfold", ((2, 3),), {"padding": 1, "stride": 2}, [randn(2, 3, 5, 6)]),
    ("Fold", ((4, 5), 2), {"stride": 2, "padding": 1}, [randn(2, 8, 9)]),
    *(("BatchNorm2d", (3,), {"momentum": m}, [randn(4, 3, 2, 5)]) for m in (0.1, None)),
    ("BatchNorm2d", (3,), {"affine": False, "track_running_stats": False}, [randn(4, 3, 2, 5)]),
    ("BatchNorm1d", (3,), {"eps": 0.1}, [randn(4, 3)]),
    ("BatchNorm3d", (3,), {}, [randn(2, 3, 2, 4, 3)]),
    ("Conv3d", (4, 6, (2, 3, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 2), "groups": 2}, [randn(2, 4, 4, 5, 3)]),
    ("Conv3d", (2, 3, 3), {"padding": "same", "padding_mode": "circular", "bias": False}, [randn(2, 3, 4, 3)]),
    ("MaxPool3d", ((1, 2, 2),), {"stride": (2, 1, 2)}, [randn(2, 3, 4, 5, 4)]),
    ("AvgPool3d", (2,), {"padding": 1, "count_include_pad": False}, [randn(3, 4, 5, 4)]),
    ("AdaptiveAvgPool3d", ((None, 2, 1),), {}, [randn(2, 3, 4, 5, 4)]),
    ("AdaptiveMaxPool3d", ((2, None, 3),), {}, [randn(2, 3, 5, 2, 4)]),
    ("LPPool2d", (2, 3), {"stride": (2, 1), "ceil_mode": True}, [randn(2, 3, 6, 5)]),
    ("LPPool1d", (4, 2), {}, [randn(2, 3, 6)]),
    ("BatchNorm1d", (3,), {}, [randn(4, 3, 5)]),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, [randn(4, 3, 2, 5)]),
    ("InstanceNorm1d", (3,), {}, [randn(3, 5)]),
    ("GroupNorm", (2, 4), {}, [randn(3, 4, 2, 3)]),
    ("RMSNorm", (5,), {"eps": 1e-3}, [randn(2, 4, 5)]),
    ("Dropout", (0.0,), {}, [randn(3)]),
    ("Dropout", (1.0,), {}, [randn(3)]),
    ("ReLU", (), {}, [randn(2, 3)]),
    ("GELU", (), {}, [randn(2, 3)]),
    ("GELU", (), {"approximate": "tanh"}, [randn(2, 3)]),
    ("SiLU", (), {}, [randn(2, 3)]),
    ("Tanh", (), {}, [randn(2, 3)]),
    ("Sigmoid", (), {}, [randn(2, 3)]),
    ("LogSigmoid", (), {}, [randn(2, 3)]),
    ("Softplus", (), {}, [randn(2, 3)]),
    ("Softplus", (), {"beta": 2.0, "threshold": 0.5}, [randn(2, 3)]),
    ("Bilinear", (3, 4, 5), {}, [randn(2, 3), randn(2, 4)]),
    ("Bilinear", (3, 4, 5), {"bias": False}, [randn(2, 6, 3), randn(2, 6, 4)]),
    ("CosineSimilarity", (), {"dim": -1}, [randn(2, 3), randn(2, 3, seed=1)]),
    ("PairwiseDistance", (), {"p": 3.0, "keepdim": True}, [randn(2, 3), randn(2, 3, seed=1)]),
    ("Unflatten", (1, (2, -1)), {}, [randn(2, 6, 3)]),
    ("PixelShuffle", (2,), {}, [randn(2, 3, 8, 2, 3)]),
    ("ChannelShuffle", (2,), {}, [randn(2, 6, 2, 3)]),
    ("LocalResponseNorm", (3,), {"alpha": 0.5, "k": 2.0}, [randn(2, 5, 2, 3)]),
    ("PixelUnshuffle", (2,), {}, [randn(3, 2, 4, 6)]),
    ("Upsample", (), {"scale_factor": 2}, [randn(2, 3, 3, 4)]),
    ("Upsample", (), {"scale_factor": (1.7, 0.6), "mode": "bilinear"}, [randn(2, 3, 3, 4)]),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True}, [randn(2, 3, 3, 4)]),
    ("Upsample", ((5, 3),), {"mode": "bilinear", "align_corners": True}, [randn(2, 3, 3, 4)]),
    ("Upsample", (7,), {"mode": "nearest-exact"}, [randn(2, 3, 4)]),
    ("Upsample", ((3, 5, 2),), {"mode": "trilinear"}, [randn(2, 1, 2, 3, 4)]),
    ("Upsample", ((3, 9),), {"mode": "bicubic"}, [randn(2, 1, 3, 4)]),
    ("UpsamplingNearest2d", (), {"scale_factor": 1.5}, [randn(2, 3, 3, 4)]),
    ("UpsamplingBilinear2d", ((1, 7),), {}, [randn(2, 3, 3, 4)]),
    *(
        (f"{kind}Pad{n}d", (p,), {}, [randn(2, 1, *(4, 3, 5)[:n])])
        for kind in ("Zero", "Reflection", "Replication", "Circular")
        for n in (1, 2, 3)
        for p in (1, (2, 0, 1, 1, 0, 2)[: 2 * n])
    ),
    *((f"ConstantPad{n}d", (1, 3.5), {}, [randn(2, 1, *(4, 3, 5)[:n])]) for n in (1, 2, 3)),
    *((name, (p,), {}, [randn(2, 3, 2)]) for name in ("Dropout1d", "Dropout2d") for p in (0.0, 1.0)),
    ("Dropout3d", (1.0,), {}, [randn(2, 3, 2, 2)]),
    *(("AlphaDropout", (p,), {}, [randn(2, 3)]) for p in (0.0, 1.0)),
    *((name, (), {}, [randn(2, 4) * 4]) for name in ACTIVATIONS),
    ("LeakyReLU", (0.3,), {}, [randn(2, 3)]),
    ("ELU", (0.7,), {}, [randn(2, 3)]),
    ("CELU", (0.5,), {}, [randn(2, 3)]),
    ("Hardtanh", (-0.3, 0.8), {}, [randn(2, 3)]),
    ("Threshold", (0.2, -3.0), {}, [randn(2, 3)]),
    ("Hardshrink", (0.8,), {}, [randn(2, 3)]),
    ("Softshrink", (0.8,), {}, [randn(2, 3)]),
    ("GLU", (1,), {}, [randn(2, 4, 3)]),
    ("PReLU", (), {}, [randn(5)]),
    ("PReLU", (3, 0.4), {}, [randn(2, 3, 4)]),
    ("Softmax2d", (), {}, [randn(2, 3, 2, 2)]),
    ("Softmin", (), {"dim": 0}, [randn(2, 3)]),
    ("Softmax", (), {"dim": -1}, [randn(2, 3)]),
    ("LogSoftmax", (), {"dim": 0}, [randn(2, 3)]),
    ("Identity", (54,), {"unused": True}, [randn(2, 3)]),
    ("Flatten", (), {}, [randn(2, 3, 4)]),
    ("Flatten", (0, 1), {}, [randn(2, 3, 4)]),
]
W3, LOGP = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64), randn(6, 3).log_softmax(-1)
SOFT = randn(6, 3, seed=1).softmax(-1)
LOSSES = [
    ("CrossEntropyLoss", {}, [randn(6, 3), integers(3, 6)]),
    ("CrossEntropyLoss", {"weight": W3, "label_smoothing": 0.1}, [randn(6, 3), integers(3, 6)]),
    ("CrossEntropyLoss", {"ignore_index": 1, "reduction": "sum"}, [randn(6, 3, 2), integers(3, 6, 2)]),
    ("CrossEntropyLoss", {"weight": W3, "reduction": "none"}, [randn(6, 3), integers(3, 6)]),
    ("CrossEntropyLoss", {"label_smoothing": 0.2}, [randn(6, 3), SOFT]),
    ("NLLLoss", {}, [LOGP, integers(3, 6)]),
    ("NLLLoss", {"weight": W3, "ignore_index": 0, "reduction": "mean"}, [LOGP, integers(3, 6)]),
    ("BCEWithLogitsLoss", {}, [randn(6, 3), SOFT]),
    ("BCEWithLogitsLoss", {"weight": W3, "pos_weight": W3 * 2, "reduction": "sum"}, [randn(6, 3), SOFT]),
    ("MSELoss", {}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("MSELoss", {"reduction": "none"}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("L1Loss", {"reduction": "sum"}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("HuberLoss", {"delta": 0.7}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("HuberLoss", {"reduction": "none"}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("SmoothL1Loss", {"beta": 0.4}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("SmoothL1Loss", {"beta": 0.0, "reduction": "sum"}, [randn(6, 3), randn(6, 3, seed=1)]),
    ("GaussianNLLLoss", {"full": True}, [randn(6, 3), randn(6, 3, seed=1), randn(6, 3, seed=2).abs()]),
    ("GaussianNLLLoss", {"eps": 0.5, "reduction": "none"}, [randn(6, 3), randn(6, 3, seed=1), randn(6, seed=2).abs()]),
    ("PoissonNLLLoss", {"full": True}, [randn(6, 3), randn(6, 3, seed=1).abs() * 3]),
    ("PoissonNLLLoss", {"log_input": False, "eps": 0.1}, [randn(6, 3).abs(), randn(6, 3, seed=1).abs() * 3]),
    ("KLDivLoss", {"reduction": "batchmean"}, [LOGP, SOFT]),
    ("KLDivLoss", {"log_target": True, "reduction": "sum"}, [LOGP, SOFT.log()]),
    ("MultiLabelSoftMarginLoss", {"weight": W3}, [randn(6, 3), SOFT]),
    ("CosineEmbeddingLoss", {"margin": 0.1}, [randn(6, 3), randn(6, 3, seed=1), integers(2, 6) * 2 - 1]),
    ("MarginRankingLoss", {"margin": 0.1}, [randn(6), randn(6, seed=1), integers(2, 6) * 2 - 1]),
    ("HingeEmbeddingLoss", {}, [randn(6), integers(2, 6) * 2 - 1]),
    ("SoftMarginLoss", {}, [randn(6), integers(2, 6) * 2 - 1]),
    ("TripletMarginLoss", {"swap": True, "p": 3.0}, [randn(6, 3), randn(6, 3, seed=1), randn(6, 3, seed=2)]),
]
ROWS = [*LAYERS, *((name, (), options, inputs) for name, options, inputs in LOSSES)]


@pytest.mark.parametrize(("name", "args", "options", "inputs"), ROWS, ids=lambda x: x if isinstance(x, str) else None)
def test_layer_equals_torchs(name, args, options, inputs):
    theirs = getattr(torch.nn, name)(*args, **options).double()
    ours = getattr(nn, name)(*args, **to_ours(options)).double()
    compare(copied(ours, theirs), theirs, *inputs)
    # float32 stays float32, forward and backward
    single = [x.float() if x.is_floating_point() else x for x in inputs]
    compare(ours.float(), theirs.float(), *single, tolerance=1e-5, orders=1)
    assert ours(*to_ours(single)).dtype == ta.float32


@pytest.mark.parametrize("name", ["MultiMarginLoss", "MultiLabelMarginLoss"])
def test_margin_losses_of_classes_equal_torchs(name):
    options = {"p": 2, "margin": 0.5, "weight": W3} if name == "MultiMarginLoss" else {"reduction": "none"}
    target = integers(3, 6) if name == "MultiMarginLoss" else torch.tensor([[2, -1, 0], [-1, 0, 1], [0, 1, 2]] * 2)
    ours, theirs = getattr(nn, name)(**to_ours(options)), getattr(torch.nn, name)(**options)
    compare(ours, theirs, randn(6, 3), target, orders=1)  # PyTorch has no second derivatives


@pytest.mark.parametrize("size", [[12, 11], (2, 4, 11, 12)])
def test_transposed_convolution_to_an_output_size_equals_torchs(size):
    theirs = torch.nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1).double()
    ours = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1).double()
    ours.load_state_dict({name: ta.tensor(x.numpy()) for name, x in theirs.state_dict().items()})
    x = np.random.RandomState(0).standard_normal((2, 3, 6, 6))
    expected = theirs(torch.tensor(x), output_size=size).detach().numpy()
    np.testing.assert_allclose(ours(ta.tensor(x), output_size=size).detach().cpu().numpy(), expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"expected sizes from \[11, 11\] to \[12, 12\]"):
        ours(ta.tensor(x), output_size=[13, 12])


def test_bce_loss_equals_torchs():
    ours, theirs = nn.BCELoss(to_ours(W3)), torch.nn.BCELoss(W3)
    inputs = (torch.sigmoid(randn(6, 3)), SOFT)
    compare(ours, theirs, *inputs, orders=1)
    compare(ours, theirs, *inputs, tolerance=1e-9)  # torch's second derivative has an epsilon
    ends, target = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    compare(nn.BCELoss(reduction="none"), torch.nn.BCELoss(reduction="none"), ends, target, orders=1)
    if ta.get_default_device() == "cpu":
        with pytest.raises(RuntimeError, match="an input is outside 0 to 1"):
            ours(ta.tensor([[0.1, 0.2, 1.1]]), ta.ones(1, 3))


def test_hardsigmoid_equals_torchs():
    compare(
        nn.Hardsigmoid(), torch.nn.Hardsigmoid(), randn(2, 4) * 4, tolerance=1e-7, orders=1
    )  # torch's 1 / 6 is a float32


@pytest.mark.parametrize(
    "make",
    [
        *(lambda n, row=row: getattr(n, row[0])(*row[1], **row[2]) for row in LAYERS),
        lambda n: n.ReLU(inplace=True),
        lambda n: n.Sequential(n.Linear(2, 3), n.ReLU(), n.Sequential(n.Dropout(0.1), n.Identity())),
        lambda n: n.ModuleList([n.Linear(2, 3), n.Linear(2, 3), n.Tanh(), n.Linear(2, 3)]),
        lambda n: n.Sequential(),
        lambda n: n.CrossEntropyLoss(),
    ],
)  # fmt: skip
def test_layer_repr_equals_torchs(make):
    assert repr(make(nn)) == repr(make(torch.nn))


@pytest.mark.parametrize(
    "older", [{"size_average": False}, {"reduce": False}, {"size_average": True}, {"reduce": True}]
)
def test_losses_take_the_older_names_of_reduction(older):
    x, y = randn(4, 3), integers(3, 4)
    for name, inputs in (("MSELoss", (x, x * 2)), ("CrossEntropyLoss", (x, y)), ("SmoothL1Loss", (x, x * 2))):
        with pytest.warns(UserWarning, match="reduction='"):
            ours = getattr(nn, name)(**older)(*to_ours(inputs))
        with pytest.warns(UserWarning, match="reduction='"):
            theirs = getattr(torch.nn, name)(**older)(*inputs)
        close(ours, theirs, name)
    for name, inputs in (("l1_loss", (x, x * 2)), ("nll_loss", (x, y)), ("smooth_l1_loss", (x, x * 2))):
        with pytest.warns(UserWarning, match="reduction='"):
            ours = getattr(nn.functional, name)(*to_ours(inputs), **older)
        with pytest.warns(UserWarning, match="reduction='"):
            close(ours, getattr(torch.nn.functional, name)(*inputs, **older), name)
    with pytest.warns(UserWarning, match="reduction='sum'"):  # by position, as in PyTorch
        close(
            nn.functional.cross_entropy(*to_ours((x, y)), None, False),
            torch.nn.functional.cross_entropy(x, y, reduction="sum"),
        )


def test_losses_warn_of_targets_that_are_broadcast():
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss"):
        with pytest.warns(UserWarning, match=rf"{name}: target \(3,\) is broadcast to input \(3, 1\)"):
            getattr(nn.functional, name)(ta.ones(3, 1), ta.ones(3))


def test_own_losses_derive_from_the_base():
    class Weighted(nn.losses._WeightedLoss):
        def forward(self, input, target):
            return nn.functional.cross_entropy(input, target, self.weight, reduction=self.reduction)

    x, y = randn(6, 3), integers(3, 6)
    close(
        Weighted(to_ours(W3), reduction="sum")(*to_ours((x, y))), torch.nn.CrossEntropyLoss(W3, reduction="sum")(x, y)
    )


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: nn.PReLU(3)(ta.ones(2, 2)), RuntimeError, "expected one number, or one for each channel"),
        (lambda: nn.GLU()(ta.ones(3)), RuntimeError, "cannot be halved along dim=-1"),
        (lambda: nn.Softshrink(-1)(ta.ones(3)), RuntimeError, "lambd=-1; expected a number of at least 0"),
        (lambda: nn.CELU(0)(ta.ones(3)), RuntimeError, "celu: alpha=0"),
        (lambda: nn.PixelShuffle(2)(ta.ones(3, 2, 2)), RuntimeError, r"expected \(..., c \* r \* r, h, w\)"),
        (lambda: nn.PixelUnshuffle(2)(ta.ones(3, 2, 3)), RuntimeError, r"expected \(..., c, h \* r, w \* r\)"),
        (lambda: nn.ELU(beta=1), TypeError, r"ELU.__init__\(\) got an unexpected keyword argument 'beta'"),
        (lambda: nn.Threshold(), TypeError, r"Threshold.__init__\(\) missing 2 .*: 'threshold' and 'value'"),
    ],
)
def test_layers_refuse_in_a_sentence(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.parametrize("name", ["Dropout1d", "Dropout2d", "Dropout3d"])
def test_channel_dropout_drops_whole_channels(name):
    n = int(name[-2])
    for shape in ((200, 10, *(2,) * n), *([(2000, *(2,) * n)] if n != 2 else [])):
        x = ta.ones(*shape, requires_grad=True)
        y = getattr(nn, name)(0.3)(x)
        flat = y.detach().cpu().numpy().reshape(2000, -1)
        assert (flat == flat[:, :1]).all() and set(flat[:, 0].round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
        assert abs((flat[:, 0] == 0).mean() - 0.3) < 0.05
        y.sum().backward()
        np.testing.assert_array_equal(x.grad.cpu().numpy(), y.detach().cpu().numpy())
        x = ta.ones(*shape)
        assert getattr(nn, name)(0.3, inplace=True)(x) is x and getattr(nn, name)(0.3).eval()(x) is x


def test_alpha_dropout_keeps_mean_and_variance():
    x = ta.randn(200, 200)
    y = nn.AlphaDropout(0.4)(x).cpu().numpy()
    assert abs(y.mean()) < 0.03 and abs(y.std() - 1) < 0.03
    assert abs(np.unique(y, return_counts=True)[1].max() / y.size - 0.4) < 0.02
    assert nn.AlphaDropout(0.4, inplace=True)(x) is x and nn.functional.alpha_dropout(x) is x


@pytest.mark.parametrize("freeze", [True, False])
def test_embedding_from_pretrained_equals_torchs(freeze):
    weight = randn(5, 3)
    theirs = torch.nn.Embedding.from_pretrained(weight.clone(), freeze=freeze, padding_idx=-1)
    given = to_ours(weight)
    ours = nn.Embedding.from_pretrained(given, freeze=freeze, padding_idx=-1)
    assert repr(ours) == repr(theirs) and ours.weight.requires_grad == theirs.weight.requires_grad == (not freeze)
    compare(ours, theirs, integers(5, 2, 4)) if not freeze else close(
        ours(to_ours(integers(5, 4))), theirs(integers(5, 4))
    )
    given.zero_()
    assert not ours.weight.detach().any()  # one memory, as in PyTorch


def test_kl_div_counts_targets_of_zero_as_zero():
    x, target = LOGP.clone().requires_grad_(), torch.nn.functional.one_hot(integers(3, 6)).double()
    found, expected = to_ours(x), torch.nn.KLDivLoss(reduction="sum")(x, target)
    loss = nn.KLDivLoss(reduction="sum")(found, to_ours(target))
    close(loss, expected)
    loss.backward()
    expected.backward()
    close(found.grad, x.grad)


def test_prelu_of_infinities_has_finite_gradients():
    x = torch.tensor([[math.inf, 2.0, -1.0]], dtype=torch.float64)
    compare(copied(nn.PReLU().double(), theirs := torch.nn.PReLU().double()), theirs, x, orders=1)


def test_embedding_takes_sparse_without_effect():
    assert not nn.Embedding(3, 2, _freeze=True).weight.requires_grad
    ours = nn.Embedding(3, 2, sparse=True)
    assert repr(ours) == repr(torch.nn.Embedding(3, 2, sparse=True))
    ours(ta.tensor([1, 1])).sum().backward()
    assert ours.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0]]


def test_lazy_linear_takes_the_size_of_its_first_input():
    ours, theirs = (
        nn.Sequential(nn.LazyLinear(3), nn.ReLU()),
        torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.ReLU()),
    )
    assert repr(ours) == repr(theirs)
    weight, optimizer = ours[0].weight, ta.optim.SGD(ours.parameters(), lr=0.1)
    ours(ta.ones(2, 5)).sum().backward()
    optimizer.step()
    theirs(torch.ones(2, 5))
    assert (
        type(ours[0]) is nn.Linear
        and ours[0].weight is weight
        and weight.shape == (3, 5)
        and repr(ours) == repr(theirs)
    )
    assert weight.detach().abs().max().item() > 0
    fresh = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    fresh.load_state_dict(ours.state_dict())
    np.testing.assert_array_equal(fresh[0].weight.detach().cpu().numpy(), weight.detach().cpu().numpy())
    assert type(fresh[0]) is nn.Linear and fresh[0].weight.requires_grad


LAZY = {
    "LazyConv1d": ((4, 3), {"groups": 2}, (2, 6, 5)), "LazyConv2d": ((4, 3), {"padding": 1}, (2, 3, 5, 5)),
    "LazyBatchNorm1d": ((), {}, (3, 5)), "LazyBatchNorm2d": ((), {"momentum": 0.3}, (3, 5, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAZY)
def test_lazy_layers_take_the_size_of_their_first_input_or_state(name):
    args, options, shape = LAZY[name]
    ours, theirs = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    x, parameters = randn(*shape), list(ours.parameters())
    theirs(x.float())
    ours.load_state_dict({key: to_ours(value) for key, value in theirs.state_dict().items()})
    assert repr(ours) == repr(theirs) and type(ours).__name__ == name.removeprefix("Lazy")
    assert all(a is b and a.requires_grad for a, b in zip(parameters, ours.parameters(), strict=True))
    fresh = getattr(nn, name)(*args, **options)
    assert fresh(to_ours(x.float())).shape == tuple(theirs(x.float()).shape) and repr(fresh) == repr(ours)
    fresh.load_state_dict(ours.state_dict())
    np.testing.assert_allclose(
        host(fresh(to_ours(x.float()))), theirs(x.float()).detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_lazy_convolution_refuses_channels_its_groups_do_not_divide():
    with pytest.raises(ValueError, match="LazyConv1d: groups=2 must divide the input's 3 channels"):
        nn.LazyConv1d(4, 1, groups=2)(ta.ones(1, 3, 5))


@pytest.mark.parametrize(
    "options", [{"max_norm": 1.5}, {"max_norm": 1.0, "norm_type": 1.0}, {"scale_grad_by_freq": True}]
)
def test_embedding_limits_rows_and_scales_gradients_by_frequency(options):
    weight, index = randn(5, 3) * 2, torch.tensor([[1, 1, 4], [0, 1, 4]])
    for name in ("Embedding", "EmbeddingBag")[: 1 if "scale_grad_by_freq" in options else 2]:  # PyTorch's bags take
        found = []  # the frequencies of other rows
        for library, convert in ((nn, to_ours), (torch.nn, torch.clone)):
            layer = getattr(library, name).from_pretrained(convert(weight.clone()), freeze=False, **options)
            layer(convert(index)).sin().sum().backward()
            found.append((host(layer.weight) if library is nn else layer.weight.detach().numpy(), layer.weight.grad))
        np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
        np.testing.assert_allclose(host(found[0][1]), found[1][1].numpy(), rtol=1e-12)


def test_embedding_bag_layer_has_pytorchs_arguments():
    ours, theirs = (library.EmbeddingBag(5, 3, None, 2.0, False, "sum", padding_idx=1) for library in (nn, torch.nn))
    assert repr(ours) == repr(theirs) and host(ours.weight)[1].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="embedding_bag: mode='middle'"):
        nn.EmbeddingBag(5, 3, mode="middle")(ta.tensor([[1]]))
    with pytest.raises(ValueError, match="per_sample_weights need mode='sum'"):
        nn.EmbeddingBag(5, 3)(ta.tensor([[1]]), per_sample_weights=ta.ones(1, 1))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch recommends its parametrizations
def test_weight_norm_and_its_removal_equal_torchs():
    x, weight = randn(2, 4, 5), randn(6, 4, 3)
    for dim in (0, 1, None):
        ours, theirs = nn.Conv1d(4, 6, 3, bias=False), torch.nn.Conv1d(4, 6, 3, bias=False)
        ours.weight, theirs.weight = nn.Parameter(to_ours(weight)), torch.nn.Parameter(weight.clone())
        ours, theirs = nn.utils.weight_norm(ours, dim=dim), torch.nn.utils.weight_norm(theirs, dim=dim)
        assert sorted(ours.state_dict()) == sorted(theirs.state_dict()) == ["weight_g", "weight_v"]
        for layer, y in ((ours, to_ours(x)), (theirs, x)):
            layer(y).sin().sum().backward()
        for a, b in ((ours.weight_g, theirs.weight_g), (ours.weight_v, theirs.weight_v)):
            np.testing.assert_allclose(host(a.grad), b.grad.numpy(), rtol=1e-10, atol=1e-12)
        with pytest.raises(RuntimeError, match="weight_norm: 'weight' of Conv1d is normalised already"):
            nn.utils.weight_norm(ours)
        nn.utils.remove_weight_norm(ours)
        np.testing.assert_allclose(host(ours.weight), weight.numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="Conv1d has no normalised 'weight'"):
        nn.utils.remove_weight_norm(ours)


@pytest.mark.parametrize(("shape", "groups"), [((4, 2, 3), 2), ((3, 5, 2, 4), 1), ((4, 1, 1, 3, 2), 4)])
def test_dirac_initialisation_equals_torchs(shape, groups):
    ours, theirs = nn.init.dirac_(ta.ones(shape), groups), torch.nn.init.dirac_(torch.ones(shape), groups)
    assert ours.tolist() == theirs.tolist()
    with pytest.raises(ValueError, match="expected a convolution's weight of 3 to 5 axes"):
        nn.init.dirac_(ta.ones(3, 3))


def test_parameters_as_a_vector_and_back():
    layer = nn.Linear(3, 2)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    vector.square().sum().backward()
    assert layer.weight.grad.tolist() == (layer.weight * 2).tolist()
    nn.utils.vector_to_parameters(ta.arange(8.0), layer.parameters())
    assert layer.bias.tolist() == [6, 7]
    with pytest.raises(ValueError, match=r"vector_to_parameters: shape \(7,\); expected \(8,\)"):
        nn.utils.vector_to_parameters(ta.ones(7), layer.parameters())


def test_attention_as_a_function_equals_torchs():
    for kdim in (None, 6):
        theirs = torch.nn.MultiheadAttention(E, H, kdim=kdim, add_bias_kv=True).double()
        parameters = dict(theirs.named_parameters())
        q, k, v = randn(T, B, E), randn(S, B, kdim or E), randn(S, B, E)

        def call(f, q, k, v, p, separate=kdim is not None):
            parts = {n: p.get(n) for n in ("q_proj_weight", "k_proj_weight", "v_proj_weight")}
            args = (p.get("in_proj_weight"), p["in_proj_bias"], p["bias_k"], p["bias_v"], True, 0.0)
            return f(
                q,
                k,
                v,
                E,
                H,
                *args,
                p["out_proj.weight"],
                p["out_proj.bias"],
                use_separate_proj_weight=separate,
                **parts,
            )

        expected = call(torch.nn.functional.multi_head_attention_forward, q, k, v, parameters)
        found = call(nn.attention.multi_head_attention_forward, *to_ours((q, k, v, parameters)))
        for a, b in zip(found, expected, strict=True):
            close(a, b)
    with pytest.raises(NotImplementedError, match="static_k and static_v must be None"):
        nn.attention.multi_head_attention_forward(
            *[ta.ones(1, 1, 2)] * 3, 2, 1, *[None] * 4, False, 0.0, None, None, static_k=1
        )


INPLACE = "ReLU ReLU6 LeakyReLU ELU CELU SELU SiLU Mish Hardswish Hardsigmoid Hardtanh".split()


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_activations_write_into_their_input(name):
    assert (
        repr(getattr(nn, name)(inplace=True))
        == f"{name}("
        + {
            "ELU": "alpha=1.0, ",
            "CELU": "alpha=1.0, ",
            "LeakyReLU": "negative_slope=0.01, ",
            "Hardtanh": "min_val=-1.0, max_val=1.0, ",
        }.get(name, "")
        + "inplace=True)"
    )
    theirs, ours = torch.tensor([-1.0, 2.0], requires_grad=True), ta.tensor([-1.0, 2.0], requires_grad=True)
    x, y = ours * 3, theirs * 3
    assert getattr(nn, name)(inplace=True)(x) is x
    getattr(torch.nn, name)(inplace=True)(y)
    close(x, y, name, 1e-6)
    x.sum().backward()
    y.sum().backward()
    close(ours.grad, theirs.grad, name, 1e-6)


@pytest.mark.parametrize("name", "relu leaky_relu elu selu celu hardtanh threshold".split())
def test_inplace_functions_write_into_their_input(name):
    args = (0.5, -4.0) if name == "threshold" else ()
    for act in (getattr(nn.functional, f"{name}_"), lambda x, *a: getattr(nn.functional, name)(x, *a, inplace=True)):
        x = ta.tensor([-1.0, 2.0])
        assert act(x, *args) is x
        close(x, getattr(torch.nn.functional, name)(torch.tensor([-1.0, 2.0]), *args), name, 1e-6)


def test_gumbel_softmax_draws_classes_by_their_probabilities():
    logits = ta.tensor([0.0, math.log(3.0)]).expand(4000, 2).clone().requires_grad_()
    for dim in (-1, 0):
        drawn = nn.functional.gumbel_softmax(logits if dim else logits.T, hard=True, dim=dim)
        drawn = drawn if dim else drawn.T
        assert set(drawn.detach().cpu().numpy().round(6).ravel()) == {0.0, 1.0}
        assert abs(drawn.detach().mean(0)[1].item() - 0.75) < 0.03
    (drawn[:, 1].sum()).backward()
    assert (logits.grad.cpu().numpy()[:, 1] > 0).any()
    soft = nn.functional.gumbel_softmax(logits.detach(), tau=0.5)
    np.testing.assert_allclose(soft.sum(-1).cpu().numpy(), 1, rtol=1e-5)


# --- attention ---

E, H, B, T, S = 8, 2, 3, 4, 5
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
HIDDEN = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
FLOATS = randn(T, S, seed=9)
PER_HEAD = integers(4, B * H, T, S).eq(0) & torch.tensor([False, True, True, True, True])
ATTENTIONS = {  # constructor, forward, self-attention?
    "plain": ({}, {}, False),
    "self": ({}, {}, True),
    "no bias": ({"bias": False}, {}, False),
    "batch first": ({"batch_first": True}, {}, False),
    "self, batch first": ({"batch_first": True}, {}, True),
    "no weights": ({}, {"need_weights": False}, False),
    "each head's weights": ({}, {"average_attn_weights": False}, False),
    "bias_kv": ({"add_bias_kv": True}, {}, False),
    "zero_attn": ({"add_zero_attn": True}, {}, False),
    "bias_kv, zero_attn, masks": (
        {"add_bias_kv": True, "add_zero_attn": True}, {"key_padding_mask": HIDDEN, "attn_mask": PER_HEAD}, False,
    ),
    "kdim": ({"kdim": 6}, {}, False),
    "kdim, vdim, bias_kv": ({"kdim": 6, "vdim": 10, "add_bias_kv": True}, {}, False),
    "padding": ({}, {"key_padding_mask": HIDDEN}, False),
    "float padding": ({}, {"key_padding_mask": randn(B, S), "attn_mask": FLOATS}, False),
    "float mask": ({}, {"attn_mask": FLOATS}, False),
    "float mask, padding": ({}, {"attn_mask": FLOATS, "key_padding_mask": HIDDEN}, False),
    "mask of each head": ({"batch_first": True}, {"attn_mask": PER_HEAD, "need_weights": False}, False),
    "both masks": ({}, {"attn_mask": PER_HEAD, "key_padding_mask": HIDDEN}, False),
    "causal": ({}, {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}, True),
    "self, no weights": ({}, {"need_weights": False}, True),
    "self, no weights, batch first": ({"batch_first": True}, {"need_weights": False}, True),
    "self, no weights, no bias, zero_attn": ({"bias": False, "add_zero_attn": True}, {"need_weights": False}, True),
    "self, no weights, bias_kv": ({"add_bias_kv": True}, {"need_weights": False}, True),
    "self, no weights, masks": (
        {}, {"attn_mask": PER_HEAD[..., 1:], "key_padding_mask": HIDDEN[:, 1:], "need_weights": False}, True,
    ),
}  # fmt: skip


def attention_inputs(options, alone):
    shapes = [(T, E), (S, options.get("kdim", E)), (S, options.get("vdim", E))]
    order = (lambda t, d: (B, t, d)) if options.get("batch_first") else (lambda t, d: (t, B, d))
    q, k, v = (randn(*order(t, d), seed=i) for i, (t, d) in enumerate(shapes))
    return (q, q, q) if alone else (q, k, v)


@pytest.mark.parametrize("row", ATTENTIONS)
def test_multihead_attention_equals_torchs(row):
    options, forward, alone = ATTENTIONS[row]
    theirs = torch.nn.MultiheadAttention(E, H, **options).double()
    for bias in (theirs.in_proj_bias, theirs.out_proj.bias):
        if bias is not None:
            torch.nn.init.normal_(bias)
    ours = copied(nn.MultiheadAttention(E, H, **options).double(), theirs)
    inputs = attention_inputs(options, alone)
    if alone:
        compare_self(ours, theirs, inputs[0], **forward)
    else:
        compare(ours, theirs, *inputs, **forward)


def compare_self(ours, theirs, x, **forward):
    """The three inputs one tensor, so that each gradient is counted three times."""
    ours_self, theirs_self = nn.Module(), torch.nn.Module()
    ours_self.a, theirs_self.a = ours, theirs
    ours_self.forward = lambda x, **f: ours(x, x, x, **f)
    theirs_self.forward = lambda x, **f: theirs(x, x, x, **f)
    compare(ours_self, theirs_self, x, **forward)


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention_without_batch(weights):
    theirs = torch.nn.MultiheadAttention(E, H).double()
    ours = copied(nn.MultiheadAttention(E, H).double(), theirs)
    options = {"key_padding_mask": HIDDEN[0], "need_weights": weights, "attn_mask": PER_HEAD[:H]}
    compare(ours, theirs, randn(T, E), randn(S, E), randn(S, E, seed=1), **options)


def test_multihead_attention_is_causal_without_a_mask():
    attention = nn.MultiheadAttention(E, H)
    assert f"embed_dim={E}, num_heads={H}" in repr(attention)
    x = ta.randn(T, 1, E)
    _, weights = attention(x, x, x, is_causal=True)
    assert (weights.cpu().numpy()[0][np.triu_indices(T, 1)] == 0).all()


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_of_a_fully_masked_query_is_zero(need_weights):
    attention = nn.MultiheadAttention(E, H, bias=False, batch_first=True)
    x = ta.randn(2, T, E, requires_grad=True)
    hidden = ta.tensor([[True] * T, [False] * T])
    out, weights = attention(x, x, x, key_padding_mask=hidden, need_weights=need_weights)
    assert (out.cpu().numpy()[0] == 0).all()
    if need_weights:
        assert (weights.cpu().numpy()[0] == 0).all()
        np.testing.assert_allclose(weights.cpu().numpy()[1].sum(-1), 1, rtol=1e-6)
    out.sum().backward()
    assert (x.grad.cpu().numpy()[0] == 0).all()
    assert (x.grad.cpu().numpy()[1] != 0).any()
    assert all(np.isfinite(p.grad.cpu().numpy()).all() for p in attention.parameters())


def test_attention_ignores_nan_behind_a_padding_mask():
    attention = nn.MultiheadAttention(E, H, batch_first=True)
    q, kv = ta.randn(1, T, E), ta.randn(1, S, E)
    hidden = ta.tensor([[False] * (S - 1) + [True]])
    expected, _ = attention(q, kv, kv, key_padding_mask=hidden)
    kv[0, -1] = math.nan
    out, weights = attention(q, kv, kv, key_padding_mask=hidden)
    np.testing.assert_allclose(out.cpu().numpy(), expected.cpu().numpy(), atol=1e-6)
    assert np.isfinite(weights.cpu().numpy()).all()


def test_attention_drops_out_in_training_only():
    attention = nn.MultiheadAttention(E, H, dropout=0.5)
    x = ta.randn(T, 1, E)
    first, second = attention(x, x, x)[0], attention(x, x, x)[0]
    assert (first.cpu().numpy() != second.cpu().numpy()).any()
    attention.eval()
    np.testing.assert_array_equal(attention(x, x, x)[0].cpu().numpy(), attention(x, x, x)[0].cpu().numpy())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: nn.MultiheadAttention(8, 3), r"embed_dim=8 must be a positive multiple of num_heads=3"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ta.zeros(4, 8)] * 2, ta.zeros(2, 4, 8)), "expected three axes each"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ta.zeros(4, 1, 6)] * 3), r"expected last sizes \(8, 8, 8\)"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ta.zeros(4, n, 8) for n in (1, 2, 2)]), "all three one batch"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ta.zeros(4, 1, 8)] * 3, attn_mask=ta.zeros(3, 3)), r"\(4, 4\) or \(2"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ta.zeros(4, 1, 8)] * 3, key_padding_mask=ta.zeros(2, 4)), "key_padding"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="swish"), "expected 'relu', 'gelu' or a function"),
    ],
)  # fmt: skip
def test_attention_refuses_wrong_shapes(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_attention_masks_are_bool_or_float():
    x = ta.zeros(4, 1, 8)
    with pytest.raises(TypeError, match=r"int64.*expected bool \(True hides\) or float"):
        nn.MultiheadAttention(8, 2)(x, x, x, attn_mask=ta.zeros(4, 4).long())


ENCODERS = {
    "plain": ({}, {}),
    "norm first, gelu": ({"norm_first": True, "activation": "gelu"}, {}),
    "batch first, no bias": ({"batch_first": True, "bias": False}, {}),
    "own activation": ({"activation": "tanh"}, {}),
    "masks": ({}, {"src_mask": CAUSAL, "src_key_padding_mask": HIDDEN[:, 1:]}),
    "causal": ({"layer_norm_eps": 1e-3}, {"src_mask": CAUSAL, "is_causal": True}),
}


@pytest.mark.parametrize("row", ENCODERS)
def test_encoder_layer_equals_torchs(row):
    options, forward = ENCODERS[row]
    options = {"dim_feedforward": 16, "dropout": 0.0, **options}
    theirs_options = {**options}
    if options.get("activation") == "tanh":
        options["activation"], theirs_options["activation"] = ta.tanh, torch.tanh
    theirs = torch.nn.TransformerEncoderLayer(E, H, **theirs_options).double()
    ours = copied(nn.TransformerEncoderLayer(E, H, **options).double(), theirs)
    compare(ours, theirs, randn(*((B, T, E) if options.get("batch_first") else (T, B, E))), **forward)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_linear_gelu_equals_torchs_linear_then_gelu(approximate):
    theirs = torch.nn.Linear(E, 5).double()
    ours = copied(nn.LinearGELU(E, 5, approximate=approximate).double(), theirs)
    assert repr(ours) == f"LinearGELU(in_features={E}, out_features=5, bias=True, approximate='{approximate}')"
    x = randn(B, T, E)
    expected = torch.nn.functional.gelu(theirs(x.detach()), approximate=approximate)
    np.testing.assert_allclose(
        ours(ta.tensor(x.numpy())).detach().cpu().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-12
    )
    with pytest.raises(ValueError, match="approximate='fast'"):
        nn.LinearGELU(E, 5, approximate="fast")(ta.ones(2, E, dtype=ta.float64))


def test_encoder_equals_torchs():
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(E, H, 16, 0.0), 3, torch.nn.LayerNorm(E), enable_nested_tensor=False
    ).double()
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 16, 0.0), 3, nn.LayerNorm(E)).double()
    first, second = ours.layers[0], ours.layers[1]
    assert first.linear1.weight is not second.linear1.weight
    np.testing.assert_array_equal(first.linear1.weight.cpu().numpy(), second.linear1.weight.cpu().numpy())
    for i, layer in enumerate(theirs.layers):  # not equal any more
        torch.nn.init.normal_(layer.linear1.weight, std=0.1 * (i + 1))
    compare(copied(ours, theirs), theirs, randn(T, B, E), mask=CAUSAL, src_key_padding_mask=HIDDEN[:, 1:])


class TorchPooling(torch.nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.hidden = torch.nn.Linear(dim, hidden or 1)
        self.v = torch.nn.Linear(hidden, 1, bias=False) if hidden else None

    def forward(self, x, key_padding_mask=None, need_weights=False):
        scores = torch.tanh(self.hidden(x))
        scores = (scores if self.v is None else self.v(scores)).squeeze(-1)
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask, -math.inf)
        weights = scores.softmax(-1)
        pooled = (weights[..., None] * x).sum(-2)
        return (pooled, weights) if need_weights else pooled


@pytest.mark.parametrize("hidden", [None, 1, 6])
@pytest.mark.parametrize("mask", [None, HIDDEN])
def test_additive_pooling_equals_its_formula(hidden, mask):
    theirs = TorchPooling(E, hidden).double()
    ours = copied(nn.AdditiveAttentionPooling(E, hidden).double(), theirs)
    compare(ours, theirs, randn(B, S, E), key_padding_mask=mask, need_weights=True)
    assert isinstance(ours(ta.randn(S, E, dtype=F64)), ta.Tensor)
    assert f"embed_dim={E}, hidden_dim={hidden}" in repr(ours)


def test_additive_pooling_of_hidden_tokens_is_zero():
    pooling = nn.AdditiveAttentionPooling(E)
    x = ta.tensor(np.array([[[math.nan] * E] * 2, [[1.0] * E] * 2], dtype="float32"), requires_grad=True)
    pooled, weights = pooling(x, ta.tensor([[True, True], [False, True]]), need_weights=True)
    np.testing.assert_array_equal(weights.cpu().numpy(), [[0, 0], [1, 0]])
    np.testing.assert_array_equal(pooled.cpu().numpy(), [[0] * E, [1] * E])
    pooled.sum().backward()
    assert (x.grad.cpu().numpy()[0] == 0).all()
    assert all(np.isfinite(p.grad.cpu().numpy()).all() for p in pooling.parameters())


# --- first values ---


def statistics(tensor):
    values = np.asarray(tensor.detach().cpu()).astype("float64").ravel()
    return np.array([values.mean(), values.std(), values.min(), values.max()])


def assert_alike(ours, theirs, what):
    """Mean, deviation and range of many random numbers, within what chance allows."""
    a, b = statistics(ours), statistics(theirs)
    scale, n = max(b[1], 1e-12), ours.numel()
    assert abs(a[0] - b[0]) < 8 * scale / math.sqrt(n), f"{what}: means {a[0]} and {b[0]}"
    assert abs(a[1] - b[1]) < 8 * scale / math.sqrt(n), f"{what}: deviations {a[1]} and {b[1]}"
    uniform = b[3] - b[2] < 3.5 * b[1]  # it ends at sqrt(3) deviations, and its samples near there
    assert np.abs(a[2:] - b[2:]).max() < (40 / n if uniform else 2.5) * scale, f"{what}: ranges {a[2:]} and {b[2:]}"


BIG = {
    "Linear": (lambda n: n.Linear(200, 300)),
    "Embedding": (lambda n: n.Embedding(300, 200, padding_idx=4)),
    "LayerNorm": (lambda n: n.LayerNorm(300)),
    "MultiheadAttention": (lambda n: n.MultiheadAttention(160, 4, add_bias_kv=True)),
    "with kdim": (lambda n: n.MultiheadAttention(160, 4, kdim=200, vdim=80)),
    "TransformerEncoderLayer": (lambda n: n.TransformerEncoderLayer(160, 4, 400)),
}


@pytest.mark.parametrize("row", BIG)
def test_initial_parameters_are_distributed_as_torchs(row):
    ta.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = BIG[row](nn), BIG[row](torch.nn)
    assert [(n, tuple(t.shape)) for n, t in ours.state_dict().items()] == [
        (n, tuple(t.shape)) for n, t in theirs.state_dict().items()
    ]
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_alike(a, b, name)
        assert a.dtype == ta.float32
        assert a.requires_grad
        if b.std() == 0:
            np.testing.assert_array_equal(a.detach().cpu().numpy(), b.detach().cpu().numpy())
    if row == "Embedding":
        assert (ours.weight.detach().cpu().numpy()[4] == 0).all()


INITS = [
    ("uniform_", {"a": -2.0, "b": 3.0}),
    ("normal_", {"mean": 2.0, "std": 0.5}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"std": 0.02}),
    ("trunc_normal_", {"mean": 0.5, "std": 2.0, "a": 0.0, "b": 1.0}),
    ("constant_", {"val": 3.5}),
    ("zeros_", {}),
    ("ones_", {}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": 0.3}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {"nonlinearity": "tanh"}),
    ("kaiming_normal_", {"mode": "fan_out"}),
    ("orthogonal_", {"gain": 2.0}),
]


@pytest.mark.parametrize(("name", "options"), INITS)
@pytest.mark.parametrize("shape", [(100, 300), (30, 20, 50)])
def test_init_is_distributed_as_torchs(name, options, shape):
    ta.manual_seed(1)
    torch.manual_seed(1)
    parameter = nn.Parameter(ta.empty(shape))
    assert getattr(nn.init, name)(parameter, **options) is parameter
    assert parameter.is_leaf
    if name == "trunc_normal_":
        assert options.get("a", -2) <= parameter.amin().item() < parameter.amax().item() <= options.get("b", 2)
    assert_alike(parameter, getattr(torch.nn.init, name)(torch.empty(shape), **options), name)


def test_init_takes_a_generator():
    for name in dict(INITS).keys() - {"constant_", "zeros_", "ones_"}:
        first, second = (
            getattr(nn.init, name)(ta.empty(3, 4), generator=ta.Generator(ta.get_default_device()).manual_seed(5))
            .cpu()
            .numpy()
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3)])
def test_orthogonal_rows_or_columns_have_length_one(shape):
    w = nn.init.orthogonal_(ta.empty(shape, dtype=F64), gain=2.0).reshape(shape[0], -1).cpu().numpy()
    w = w if w.shape[0] < w.shape[1] else w.T
    np.testing.assert_allclose(w @ w.T, 4 * np.eye(len(w)), atol=1e-12)


def test_orthogonal_signs_are_random():
    drawn = [nn.init.orthogonal_(ta.empty(2, 2)).cpu().numpy() for _ in range(300)]
    assert abs(np.mean([w[0, 0] > 0 for w in drawn]) - 0.5) < 0.12
    assert abs(np.mean([np.linalg.det(w) > 0 for w in drawn]) - 0.5) < 0.12


def test_eye_fills_a_matrix():
    assert nn.init.eye_(ta.empty(2, 3)).tolist() == torch.nn.init.eye_(torch.empty(2, 3)).tolist()


@pytest.mark.parametrize(
    "name", "uniform normal constant eye xavier_uniform xavier_normal kaiming_uniform kaiming_normal orthogonal".split()
)
def test_init_takes_the_older_names(name):
    args = (0.5,) if name == "constant" else ()
    x = ta.empty(3, 4)
    with pytest.warns(FutureWarning, match=f"write nn.init.{name}_"):
        assert getattr(nn.init, name)(x, *args) is x


@pytest.mark.parametrize(
    "name", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu", "conv2d", "conv_transpose2d"]
)
def test_calculate_gain_equals_torchs(name):
    assert nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert nn.init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: nn.init.xavier_uniform_(ta.empty(3)), r"need a weight \(out, in, ...\), got shape \(3,\)"),
        (lambda: nn.init.kaiming_normal_(ta.empty(3, 3), mode="fan"), "mode='fan'; expected 'fan_in' or 'fan_out'"),
        (lambda: nn.init.calculate_gain("step"), "nonlinearity='step'; expected one of"),
        (lambda: nn.init.trunc_normal_(ta.empty(3), a=8, b=9), r"hardly any number.*\[8, 9\]"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), "padding_idx=3 is out of range for 3 embeddings"),
        (lambda: nn.Dropout(1.5), "p=1.5; a probability lies between 0 and 1"),
        (lambda: nn.Embedding.from_pretrained(ta.ones(3)), r"from_pretrained: shape \(3,\)"),
        (lambda: nn.Embedding(3, 2, _weight=ta.ones(2, 3)), r"_weight has shape \(2, 3\); expected \(3, 2\)"),
        (lambda: nn.ZeroPad2d((1, 2)), r"ZeroPad2d: padding=\(1, 2\); expected a number, or 4"),
        (lambda: nn.Upsample()(ta.ones(1, 1, 2)), "size=None and scale_factor=None"),
        (lambda: nn.Upsample(2, mode="linear")(ta.ones(1, 1, 2, 2)), "mode='linear' for 2 axes; expected one of"),
        (lambda: nn.Upsample((2, 2))(ta.ones(1, 1, 2)), r"interpolate: \(2, 2\) for 1 axes"),
        (lambda: nn.Upsample(scale_factor=0.1)(ta.ones(1, 1, 2)), r"\(2,\) to \(0,\); expected sizes of at least 1"),
        (
            lambda: nn.functional.interpolate(ta.ones(1, 1, 2, 2), 2, antialias=True),
            "antialias=True with mode='nearest'",
        ),
        (lambda: nn.Softmax2d()(ta.ones(2, 2)), "expected 3 or 4 axes"),
        (lambda: nn.init.orthogonal_(ta.ones(2)), r"orthogonal_: shape \(2,\)"),
        (lambda: nn.init.eye_(ta.ones(2)), r"eye_: shape \(2,\)"),
        (lambda: nn.SmoothL1Loss(reduction="batchmean"), "expected 'mean' or 'sum' or 'none'"),
        (lambda: nn.SmoothL1Loss(beta=-1)(ta.ones(2), ta.ones(2)), "smooth_l1_loss: beta=-1"),
        (lambda: nn.HuberLoss(delta=0)(ta.ones(2), ta.ones(2)), "huber_loss: delta=0"),
        (lambda: nn.BCELoss()(ta.ones(2), ta.ones(3)), "must have one shape"),
        (lambda: nn.GaussianNLLLoss()(ta.ones(2, 3), ta.ones(2, 3), ta.ones(3)), r"var \(3,\) does not fit"),
        (lambda: nn.MSELoss("average"), "MSELoss: reduction='average'; expected 'mean'"),
    ],
)
def test_layers_refuse_wrong_arguments(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_running_statistics_equal_torchs(name, momentum):
    momentum = 0.3 if name == "InstanceNorm1d" else momentum
    theirs = getattr(torch.nn, name)(3, momentum=momentum, track_running_stats=True, affine=True).double()
    ours = copied(getattr(nn, name)(3, momentum=momentum, track_running_stats=True, affine=True).double(), theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for seed in range(3):
        x = randn(4, 3, 5, seed=seed)
        close(ours(to_ours(x)), theirs(x), "training")
    for key, value in theirs.state_dict().items():
        if key != "num_batches_tracked" or name == "BatchNorm1d":
            close(ours.state_dict()[key], value, key)
    close(ours.eval()(to_ours(x)), theirs.eval()(x), "evaluation")
    compare(ours, theirs, x)
    if name == "BatchNorm1d":  # InstanceNorm1d of PyTorch would move them in evaluation
        ours.track_running_stats = theirs.track_running_stats = False
        close(ours(to_ours(x[:2])), theirs(x[:2]), "evaluation, by the statistics that are there")
        close(ours.train()(to_ours(x[:2])), theirs.train()(x[:2]), "training, which moves nothing")
        for key, value in theirs.state_dict().items():
            close(ours.state_dict()[key], value, key)


def test_a_layer_is_a_kind_of_another_where_pytorchs_is():
    """Loops over `modules()` ask isinstance to choose initial values."""
    names = [n for n in nn.__all__ if isinstance(getattr(nn, n), type) and n != "Module" and hasattr(torch.nn, n)]

    def pairs(library):
        layers = {n: getattr(library, n) for n in names}
        return {(a, b) for a, c in layers.items() for b, d in layers.items() if a != b and issubclass(c, d)}

    assert pairs(nn) - pairs(torch.nn) == {(f"LazyBatchNorm{n}d", f"BatchNorm{n}d") for n in (1, 2)}  # there at a call
    pads = {(f"ZeroPad{n}d", f"ConstantPad{n}d") for n in (1, 2, 3)}  # which have no initial values
    assert pairs(torch.nn) - pairs(nn) == pads


def test_convolution_and_batch_norm_use_overridden_parts():
    class Standardised(nn.Conv2d):
        def forward(self, input):
            return self._conv_forward(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), None)

    layer = Standardised(2, 3, 3, padding=1, padding_mode="circular")
    x = ta.randn(1, 2, 4, 4)
    plain = nn.functional.conv2d(
        nn.functional.pad(x, (1, 1, 1, 1), "circular"), layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    )
    assert ta.equal(layer(x), plain)

    class AnyAxes(nn.normalization._BatchNorm):
        def _check_input_dim(self, input):
            assert input.ndim > 1

    assert AnyAxes(3)(ta.ones(2, 3, 4, 4, 4)).shape == (2, 3, 4, 4, 4)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align", [False, True])
def test_interpolate_antialiased_as_torch(mode, align):
    by = [{"size": (3, 4)}, {"size": (8, 5)}, {"size": (11, 20)}, {"size": 1}, {"scale_factor": 0.4},
          {"scale_factor": (1.7, 1.4)}, {"scale_factor": 0.55, "recompute_scale_factor": True}]  # fmt: skip
    for options in (dict(o, mode=mode, align_corners=align, antialias=True) for o in by):
        x = randn(2, 3, 8, 9)
        theirs, ours = x.clone().requires_grad_(), to_ours(x).requires_grad_()
        outs = [
            f(t, **options) for f, t in ((torch.nn.functional.interpolate, theirs), (nn.functional.interpolate, ours))
        ]
        for out in outs:
            out.sin().sum().backward()  # not with scale_factor=1.1: PyTorch's gradient is not that of its copied columns
        np.testing.assert_allclose(host(outs[1]), outs[0].detach().numpy(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(host(ours.grad), theirs.grad.numpy(), rtol=1e-12, atol=1e-13)

"""Tensors as text: what PyTorch prints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinyattn as ta
from tinyattn.compat import printing

RNG = np.random.default_rng(0)
ARRAYS = {
    "numbers": RNG.normal(size=(3, 4)), "whole": np.arange(-3.0, 9.0).reshape(3, 4), "large": np.array([1e10, 1.0]),
    "small": np.array([1e-8, 1.5]), "far apart": np.array([1000.5, 0.001]), "zeros": np.zeros((2, 3)),
    "no number": np.array([[np.nan, 1.0], [np.inf, -np.inf]]), "no number, fractions": np.array([np.nan, 0.5, -np.inf]),
    "only nan": np.array([np.nan]), "scalar": np.array(3.14159), "whole scalar": np.array(3.0), "empty": np.zeros((3, 0)),
    "empty vector": np.zeros(0), "empty integers": np.zeros(0, np.int64), "integers": np.array([[1, -20], [300, 4]]),
    "booleans": np.array([True, False]), "int32": np.arange(3, dtype=np.int32), "float32": np.ones(2, np.float32) / 3,
    "long": np.arange(2000), "long fractions": RNG.normal(size=1500), "wide": RNG.normal(size=(2, 30)),
    "square": np.zeros((100, 100)), "deep": RNG.normal(size=(12, 2, 40, 3)), "three axes": RNG.normal(size=(2, 2, 2)),
    "float16": np.ones((1, 15), np.float16) / 3, "large whole": np.array([123456789.0, 1.0]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def usual():
    yield
    printing.set_printoptions(profile="default")
    torch.set_printoptions(profile="default")


@pytest.mark.parametrize("options", [{}, {"precision": 2, "sci_mode": False}, {"profile": "short"}, {"linewidth": 40, "edgeitems": 2},
                                     {"threshold": 5, "sci_mode": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ARRAYS)
def test_tensors_are_printed_as_in_pytorch(name, options):
    printing.set_printoptions(**options)
    torch.set_printoptions(**options)
    assert printing.text_of(ta.tensor(ARRAYS[name])) == repr(torch.tensor(ARRAYS[name]))


def test_gradients_and_shapes_are_printed_as_in_pytorch():
    for make in (
        lambda t: t.ones(2, requires_grad=True),
        lambda t: t.ones(2, requires_grad=True) * 2,
        lambda t: t.ones(2, 9, requires_grad=True).sum(),
        lambda t: (t.ones(3, 30, requires_grad=True) / 3).exp().double(),
    ):
        ours, theirs = printing.text_of(make(ta)), repr(make(torch))
        assert ours == theirs.replace("ToCopy", "Cast")
    assert printing.size_text(ta.ones(2, 3).shape) == repr(torch.ones(2, 3).shape)
    assert printing.size_text(ta.ones(()).shape) == repr(torch.ones(()).shape)


def test_compiled_functions_are_printed_by_name():
    assert repr(ta.compile(ta.manual_seed)) == "<compiled manual_seed>"
    assert repr(ta.compile(ta.nn.ReLU())) == "<compiled ReLU()>"

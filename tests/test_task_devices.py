"""The models of the tasks on a GPU: the numbers of the CPU."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture
def load():
    return lambda name: runpy.run_path(str(EXAMPLES / name))


def test_detection_on_a_gpu_gives_the_loss_of_the_cpu(load):
    detection = load("detection.py")
    ta.manual_seed(0)
    model = detection["Detector"]()
    images = np.random.default_rng(0).integers(0, 256, (2, 56, 56), dtype=np.uint8)
    labels, truth = ta.tensor([[3, 1, -1, -1, -1], [-1] * 5]), ta.rand(2, 5, 4)
    losses = []
    for device in ("cpu", "cuda"):
        scores, boxes, _ = model.to(device)(ta.from_numpy(images).to(device))
        loss, _ = detection["criterion"](scores, boxes, labels.to(device), truth.to(device))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(len(some) <= detection["QUERIES"] for some in detection["detect"](model, images))


def test_ask_the_image_on_a_gpu_gives_the_scores_of_the_cpu(load):
    ta.manual_seed(0)
    model, look = load("parts/image_reader.py")["Reader"]().eval(), load("ask_the_image.py")["look"]
    images = np.random.default_rng(0).integers(0, 256, (2, 56, 56), dtype=np.uint8)
    words = np.random.default_rng(0).integers(0, 20, (2, 6, 8))
    found = [look(model.to(device), images, words)[1] for device in ("cpu", "cuda")]
    assert found[0].shape == (2, 6, 9, 49)
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


@pytest.mark.parametrize("name", ["Transformer", "Gru"])
def test_translate_dates_on_a_gpu_looks_where_the_cpu_does(load, name):
    models, translate = load("parts/date_models.py"), load("translate_dates.py")["translate"]
    ta.manual_seed(0)
    model, texts = models[name](30), ta.randint(0, 30, (2, 40))
    (dates, sums, weights), (others, found, theirs) = (
        translate(model.to(device), texts.to(device), beam=2) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(found.tolist(), sums.tolist(), atol=1e-4)
    assert dates.tolist() == others.tolist()
    np.testing.assert_allclose(theirs, weights, atol=1e-4)

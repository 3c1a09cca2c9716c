"""examples/detection.py: canvases, matching, overlap, average precision, and --quick as a user runs it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
from tinyattn import data

EXAMPLES = Path(__file__).parents[1] / "examples"
PYCOCOTOOLS = importlib.util.find_spec("pycocotools")
if PYCOCOTOOLS:
    from pycocotools import coco, cocoeval
HALF = [0.25, 0.5, 0.5, 1]  # the left half of an image: centre, width and height


@pytest.fixture
def canvases():
    return runpy.run_path(str(EXAMPLES / "parts" / "canvases.py"))


@pytest.fixture
def detection():
    return runpy.run_path(str(EXAMPLES / "detection.py"))


@pytest.fixture
def boxes():
    return runpy.run_path(str(EXAMPLES / "parts" / "found_boxes.py"))


@pytest.mark.slow
def test_detection_finds_digits_and_nothing_on_an_empty_canvas(tmp_path, detection):
    command = [sys.executable, str(EXAMPLES / "detection.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["mean_average_precision"]["transformer"] > 0.8
    assert 0.5 < summary["mean_average_precision"]["connected ink"] < 1
    assert summary["attention_in_box"] > 4 * summary["even"]
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    model = detection["Detector"]()
    model.load_state_dict(ta.load(folder / "model.safetensors"))
    empty = np.zeros((1, 56, 56), np.uint8)
    assert not [one for one in detection["detect"](model, empty)[0] if one.score > 0.5]


def test_canvases_hold_what_their_boxes_say(canvases):
    digits = data.load_digits()
    made = canvases["make"](digits.train_images, digits.train_labels, 300, np.random.default_rng(0))
    again = canvases["make"](digits.train_images, digits.train_labels, 300, np.random.default_rng(0))
    assert all((a == b).all() for a, b in zip(made, again, strict=True))
    counts = (made.labels >= 0).sum(1)
    assert {*counts.tolist()} == {0, 1, 2, 3, 4, 5} and (counts == 0).mean() < 0.15
    for image, labels, boxes in zip(made.images, made.labels, made.boxes, strict=True):
        count = (labels >= 0).sum()
        assert (labels[:count] >= 0).all() and (np.diff(boxes[:count, 0]) >= 0).all()  # from the left, blanks last
        around = np.rint(
            56 * np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        ).astype(int)
        covered = np.zeros_like(image)
        for left, top, right, bottom in around[:count].tolist():
            assert 0 <= left < right <= 56 and 0 <= top < bottom <= 56 and 12 <= bottom - top <= 28
            assert image[top : top + 2, left:right].any() and image[bottom - 2 : bottom, left:right].any()
            covered[top:bottom, left:right] = 1
        assert not image[covered == 0].any()


def test_canvas_centres_are_in_their_patch(canvases):
    known = canvases["Canvases"](
        np.zeros((2, 56, 56)),
        np.array([[7, 3], [-1, -1]]),
        np.array([[[0.1, 0.1, 0.1, 12 / 56], [0.5, 0.99, 0.1, 0.5]]] * 2),
    )
    target, heights = canvases["centres"](known)
    assert target[0, 0] == 7 and target[0, 6 * 7 + 3] == 3 and (target[0] == 10).sum() == 47 and (target[1] == 10).all()
    np.testing.assert_allclose(heights[0, [0, 1, 45]], [-1, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        (HALF, 1, 1),
        ([0.5, 0.5, 1, 1], 1 / 2, 1 / 2),
        ([0.75, 0.5, 0.5, 1], 0, 0),  # side by side: no gap between them
        ([0.875, 0.5, 0.25, 1], 0, -1 / 4),  # a quarter of the image is between them
        ([0.25, 0.25, 0.5, 0.5], 1 / 2, 1 / 2),
        ([0.5, 0.5, 0.5, 1], 1 / 3, 1 / 3),
    ],
)
def test_iou_and_giou_on_hand_cases(boxes, other, iou, giou):
    for a, b in ((HALF, other), (other, HALF)):
        found = boxes["iou_and_giou"](ta.tensor(a), ta.tensor(b))
        np.testing.assert_allclose([x.item() for x in found], [iou, giou], atol=1e-6)


def precision(boxes, found, labels, truth):
    some = [
        [boxes["Found"](score, kind, np.array(box, np.float32), None) for score, kind, box in image] for image in found
    ]
    return boxes["average_precision"](some, np.array(labels), np.array(truth, np.float32))


def test_average_precision_on_hand_cases(boxes):
    left, right, none = HALF, [0.75, 0.5, 0.5, 1], [0, 0, 0, 0]
    truth = [[left, right]]
    assert precision(boxes, [[(0.9, 1, left), (0.8, 2, right)]], [[1, 2]], truth) == 1
    assert precision(boxes, [[(0.9, 1, left)]], [[1, 2]], truth) == 0.5  # nothing found of class 2
    assert precision(boxes, [[(0.9, 2, left), (0.8, 1, right)]], [[1, 2]], truth) == 0  # wrong classes
    assert (
        precision(boxes, [[(0.9, 1, left), (0.8, 1, left)]], [[1, 1]], truth) == 0.5
    )  # the second one finds nothing new
    assert precision(boxes, [[(0.9, 1, right), (0.8, 1, left)]], [[1, -1]], [[left, none]]) == 0.5  # a surer wrong one
    assert precision(boxes, [[(0.8, 1, right), (0.9, 1, left)]], [[1, -1]], [[left, none]]) == 1  # a less sure one
    assert precision(boxes, [[(0.9, 1, [0.2, 0.5, 0.4, 1])]], [[1, -1]], [[left, none]]) == 1  # IoU 0.8
    assert precision(boxes, [[(0.9, 1, [0.1, 0.5, 0.2, 1])]], [[1, -1]], [[left, none]]) == 0  # IoU 0.4
    two = precision(
        boxes, [[(0.9, 1, left)], [(0.8, 1, left), (0.7, 1, right)]], [[1, -1], [-1, 1]], [[left, none], [none, right]]
    )
    assert two == pytest.approx((1 + 2 / 3) / 2)  # right, wrong, right
    assert (
        precision(boxes, [[(0.9, 1, left)], []], [[-1, -1], [1, -1]], [[none, none], [left, none]]) == 0
    )  # another image's
    assert np.isnan(precision(boxes, [[(0.9, 1, left)]], [[-1, -1]], [[none, none]]))  # no digit anywhere


def coco_precision(some, labels, truth, recalls=None):
    """The mean average precision at IoU 0.5 by pycocotools; recalls: where precision is read (its own 101)."""
    with contextlib.redirect_stdout(io.StringIO()):
        known, pixels = coco.COCO(), 1000

        def corner(box):
            x, y, width, height = (pixels * np.asarray(box, float)).tolist()
            return [x - width / 2, y - height / 2, width, height]

        places = [(i, j) for i, row in enumerate(labels) for j, kind in enumerate(row) if kind >= 0]
        known.dataset = {
            "images": [{"id": i} for i in range(len(labels))], "categories": [{"id": k} for k in range(10)],
            "annotations": [{"id": n, "image_id": i, "category_id": int(labels[i][j]), "bbox": corner(truth[i][j]),
                             "area": 1.0, "iscrowd": 0} for n, (i, j) in enumerate(places, 1)],
        }  # fmt: skip
        known.createIndex()
        detections = known.loadRes([{"image_id": i, "category_id": one.kind, "score": one.score, "bbox": corner(one.box)}
                                    for i, image in enumerate(some) for one in image])  # fmt: skip
        judge = cocoeval.COCOeval(known, detections, "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.params.recThrs = judge.params.recThrs if recalls is None else recalls
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    found = judge.eval["precision"][0, :, :, 0, -1]  # (recalls, classes), -1 without a digit of the class
    return found[:, found[0] > -1].mean()


@pytest.mark.skipif(not PYCOCOTOOLS, reason="needs pycocotools")
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_pycocotools(boxes, seed):
    """It reads precision at 101 recalls; ours is the whole area, which its own is at ever more of them."""
    g = np.random.default_rng(seed)
    labels, truth = g.integers(-1, 10, (60, 5)), g.uniform(0.2, 0.6, (60, 5, 4)).astype(np.float32)
    some = []
    for row, their in zip(labels, truth, strict=True):
        near = (their + g.normal(0, 0.06, their.shape)).clip(0.05, 0.95)[g.random(5) < 0.9]  # some are missed
        near = np.concatenate([near, near[:2], g.uniform(0.2, 0.6, (2, 4))])  # some twice, and some anywhere
        kinds = np.where(g.random(len(near)) < 0.8, np.resize(row.clip(0), len(near)), g.integers(10, size=len(near)))
        some.append([boxes["Found"](*one, None) for one in zip(g.random(len(near)), kinds, near, strict=True)])
    ours = boxes["average_precision"](some, labels, truth)
    assert 0.05 < ours < 0.95
    assert coco_precision(some, labels, truth, np.linspace(1e-9, 1, 20_001)) == pytest.approx(ours, abs=2e-4)
    assert coco_precision(some, labels, truth) == pytest.approx(ours, abs=0.02)


def test_detection_match_is_the_cheapest_of_all_assignments(detection):
    ta.manual_seed(0)
    queries = detection["QUERIES"]
    truth = ta.rand(3, 5, 4)
    scores, found = ta.randn(3, queries, 11), ta.rand(3, queries, 4)
    found[1] = 0.5  # all boxes are alike: the class alone decides
    labels = ta.tensor([[3, 1, -1, -1, -1], [7, -1, -1, -1, -1], [-1, -1, -1, -1, -1]])
    rows, of, digits = detection["match"](scores, found, labels, truth)
    assert rows.tolist() == [0, 0, 1] and sorted(digits.tolist()[:2]) == [0, 1] and digits[2] == 0
    assert of[2] == ta.softmax(scores[1], -1)[:, 7].argmax().item()

    def cost(pairs):
        total = 0.0
        for query, digit in pairs:
            a, b = found[0, query], truth[0, digit]
            giou = detection["iou_and_giou"](a, b)[1].item()
            total += (
                5 * (a - b).abs().sum().item() - 2 * giou - ta.softmax(scores[0, query], -1)[labels[0, digit]].item()
            )
        return total

    least = min(cost([(a, 0), (b, 1)]) for a, b in itertools.permutations(range(queries), 2))
    assert cost(zip(of[:2].tolist(), digits[:2].tolist(), strict=True)) == pytest.approx(least, abs=1e-5)


def test_detection_loss_is_zero_only_where_all_is_found(detection):
    labels, truth = ta.tensor([[3, 1, -1, -1, -1]]), ta.rand(1, 5, 4) * 0.3 + 0.3
    scores, found = ta.full((1, detection["QUERIES"], 11), -30.0), ta.full((1, detection["QUERIES"], 4), 0.5)
    scores[..., 10] = 30.0
    for query, digit in ((4, 0), (7, 1)):
        scores[0, query, 10], scores[0, query, labels[0, digit]], found[0, query] = -30.0, 30.0, truth[0, digit]
    loss, named = detection["criterion"](scores, found, labels, truth)
    assert abs(loss.item()) < 1e-5 and named.item() == 1
    blank = ta.full((1, 5), -1)
    assert detection["criterion"](scores, found, blank, truth)[0].item() > 1  # two were found that are not there
    scores[0, [4, 7], 10] = 90.0
    loss, named = detection["criterion"](scores, found, blank, truth)  # a canvas with nothing on it
    assert abs(loss.item()) < 1e-5 and named.item() == 0


def test_detection_attention_share_counts_the_box_alone(boxes):
    looked = np.zeros((7, 7))
    looked[0, 0], looked[6, 6] = 0.75, 0.25
    one = boxes["Found"](
        0.9, 1, np.array([1 / 7, 1 / 14, 2 / 7, 1 / 7]), looked
    )  # the first two patches of the first row
    unsure = boxes["Found"](0.3, 1, np.array([0.5, 0.5, 1, 1]), looked)
    assert boxes["attention_share"]([[one, unsure], []]) == (pytest.approx(0.75), pytest.approx(2 / 49))


def test_detections_are_told_apart_and_missed_digits_named(boxes):
    left, right, off = ([0.25, 0.5, 0.4, 0.4], [0.75, 0.5, 0.4, 0.4], [0.3, 0.5, 0.4, 0.4])

    def found(score, kind, box):
        return boxes["Found"](score, kind, np.array(box, np.float32), None)

    sure = [found(0.9, 3, right), found(0.8, 1, left), found(0.7, 1, off), found(0.6, 2, left), found(0.4, 5, right)]
    kept, again = boxes["distinct"](sure)
    assert [(one.kind, one.score) for one in kept] == [(1, 0.8), (2, 0.6), (3, 0.9)] and again == 1
    labels, truth = np.array([1, 3, 5, -1]), np.array([off, left, right, [0] * 4], np.float32)
    assert boxes["missed"](sure, labels, truth) == [1, 2]  # the 3 is elsewhere, and the 5 not sure


def test_detections_figure_has_a_panel_for_each_digit_found(boxes, canvases):
    digits = data.load_digits()
    made = canvases["make"](digits.train_images, digits.train_labels, 30, np.random.default_rng(0))
    made = boxes["Canvases"](*made)
    figure = boxes["detections_figure"](
        made, boxes["ink_baseline"](made.images, digits.train_images, digits.train_labels), "name", rows=2
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 12 and titles[0].startswith("found ") and titles[1].startswith("what told the ")


def test_ink_baseline_finds_separate_digits(boxes, canvases):
    digits = data.load_digits()
    made = canvases["make"](digits.train_images, digits.train_labels, 40, np.random.default_rng(0))
    found = boxes["ink_baseline"](made.images, digits.train_images, digits.train_labels)
    assert boxes["average_precision"](found, made.labels, made.boxes) > 0.8
    assert boxes["ink_baseline"](
        np.zeros((1, 56, 56), np.uint8), digits.train_images[:50], digits.train_labels[:50]
    ) == [[]]

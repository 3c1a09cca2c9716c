"""Boxes: how much they overlap, average precision, a baseline without learning, and the picture of detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from parts.canvases import SIZE, Canvases, covered, draw, scaled
from parts.detector import NOTHING

import numpy as np
from scipy import ndimage

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn.viz.figure import new_figure

SURE = 0.5  # detections with a higher score are drawn


class Found(NamedTuple):
    """A detection: its score and class, its box (4,) and the attention (7, 7) of the query that gave it."""

    score: float
    kind: int
    box: np.ndarray
    looked: np.ndarray


def detect(model: Any, images: np.ndarray) -> list[list[Found]]:
    """Return the detections in each of the images, the surest first; none with a score below 0.05."""
    device, was_training, out, seen = next(model.parameters()).device, model.training, [], []
    model.eval()
    handle = model.looked.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    with ta.no_grad():
        for start in range(0, len(images), 250):
            scores, boxes, _ = model(ta.from_numpy(images[start : start + 250]).to(device))
            chances = F.softmax(scores, -1)[..., :NOTHING]
            maps = seen.pop().reshape(*scores.shape[:2], 7, 7)
            for parts in zip(*(x.cpu().numpy() for x in (chances, boxes, maps)), strict=True):
                queries = [
                    Found(float(c.max()), int(c.argmax()), box, look) for c, box, look in zip(*parts, strict=True)
                ]
                out.append(sorted((one for one in queries if one.score > 0.05), key=lambda one: -one.score))
    handle.remove()
    model.train(was_training)
    return out


def iou_and_giou(a: ta.Tensor, b: ta.Tensor) -> tuple[ta.Tensor, ta.Tensor]:
    """Return the intersection over union of boxes (..., 4), and the generalised one (Rezatofighi et al. 2019).

    A box is its centre, width and height, x before y. The generalised one is lower by the share of the smallest box
    around both that neither covers; it also has a gradient where the boxes do not touch.
    """
    (a0, a1), (b0, b1) = ((box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2) for box in (a, b))
    shared = (ta.minimum(a1, b1) - ta.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    around = (ta.maximum(a1, b1) - ta.minimum(a0, b0)).prod(-1)
    iou = shared / union.clamp(min=1e-9)
    return iou, iou - 1 + union / around.clamp(min=1e-9)


def average_precision(
    found: Sequence[Sequence[Found]], labels: np.ndarray, boxes: np.ndarray, least: float = 0.5
) -> float:
    """Return the mean of the classes' average precision, the area under precision over recall.

    found: the detections of each image. labels (images, most), -1 for none; boxes (images, most, 4). A detection is
    right if its IoU with a digit of its class is `least` or more, and no surer one has taken the digit. Precision at a
    recall is the best one at that recall or a higher one. Classes without a digit are left out; NaN if all are.
    """
    results = []
    for kind in range(10):
        ranked = sorted(((one.score, i, one.box) for i, some in enumerate(found) for one in some if one.kind == kind),
                        key=lambda one: -one[0])  # fmt: skip
        free, total = labels == kind, int((labels == kind).sum())
        right = np.zeros(len(ranked), bool)
        for rank, (_, i, box) in enumerate(ranked):
            overlap = iou_and_giou(ta.tensor(box), ta.tensor(boxes[i]))[0].numpy() * free[i]
            right[rank] = overlap.max() >= least
            free[i, overlap.argmax()] &= not right[rank]
        precision = np.cumsum(right) / np.arange(1, len(ranked) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        if total:
            results.append(float(best[right].sum()) / total)  # each right one adds 1 / total to the recall
    return float(np.mean(results)) if results else float("nan")


def ink_baseline(images: np.ndarray, digits: np.ndarray, labels: np.ndarray) -> list[list[Found]]:
    """Call each connected piece of ink a digit, and name it by its five nearest neighbours among digits (n, 28, 28)."""
    from sklearn.neighbors import KNeighborsClassifier

    def standard(ink: np.ndarray) -> np.ndarray:
        small = scaled(ink, 20)
        return np.pad(small, ((0, 0), (0, SIZE // 2 - small.shape[1]))).ravel()

    known = KNeighborsClassifier(5).fit(np.array([standard(digit) for digit in digits]), labels)
    out: list[list[Found]] = []
    for image in images:
        places = ndimage.find_objects(ndimage.label(image > 50, np.ones((3, 3)))[0])
        places = [(y, x) for y, x in places if y.stop - y.start > 5]
        found: list[Found] = []
        if places:
            chances = known.predict_proba(np.array([standard(image[place]) for place in places]))
            for chance, (y, x) in zip(chances, places, strict=True):
                box = np.array([x.start + x.stop, y.start + y.stop, 2 * (x.stop - x.start), 2 * (y.stop - y.start)])
                box = (box / 2 / SIZE).astype(np.float32)
                found.append(Found(float(chance.max()), int(chance.argmax()), box, np.zeros((7, 7))))
        out.append(found)
    return out


def attention_share(found: Sequence[Sequence[Found]]) -> tuple[float, float]:
    """Return the share of attention that sure detections pay to their own box, and the area of that box."""
    inside, even = [], []
    for one in (one for some in found for one in some if one.score > SURE):
        area = covered(one.box)
        inside.append((one.looked * area).sum())
        even.append(area.sum() / 49)
    return float(np.mean(inside)), float(np.mean(even))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return iou_and_giou(ta.tensor(a), ta.tensor(b))[0].item()


def distinct(found: Sequence[Found]) -> tuple[list[Found], int]:
    """Return the sure detections from the left without those that repeat a surer one, and how many repeat one."""
    sure, kept = [one for one in found if one.score > SURE], []
    for one in sure:
        if not any(one.kind == other.kind and overlap(one.box, other.box) >= 0.5 for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.box[0]), len(sure) - len(kept)


def missed(found: Sequence[Found], labels: np.ndarray, boxes: np.ndarray) -> list[int]:
    """Return the digits of a canvas, labels (most,) and boxes (most, 4), that no sure detection of their class has."""
    sure = [one for one in found if one.score > SURE]
    hit = {j for one in sure for j in np.flatnonzero(labels == one.kind)
           if overlap(one.box, boxes[j]) >= 0.5}  # fmt: skip
    return [j for j in np.flatnonzero(labels >= 0).tolist() if j not in hit]


def detections_figure(canvases: Canvases, found: Sequence[Sequence[Found]], title: str, rows: int = 4) -> Any:
    """Draw the first canvases of three digits or more: what was found and missed, and where each query looked."""
    from matplotlib.patches import Rectangle

    def frame(axes: Any, box: np.ndarray, name: str, **style: Any) -> None:
        corner = box[:2] - box[2:] / 2
        axes.add_patch(Rectangle(corner, *box[2:], fill=False, **style))
        axes.text(*corner, name, color=style["color"], fontsize=8, va="bottom")

    shown = np.flatnonzero((canvases.labels >= 0).sum(1) > 2)[:rows]
    figure = new_figure(9, 1.8 * rows + 0.5)
    for row, i in zip(figure.subplots(rows, 6), shown, strict=False):
        sure, again = distinct(found[i])
        lost = missed(found[i], canvases.labels[i], canvases.boxes[i])
        heading = f"found {len(sure)}" + f", {again} twice" * (again > 0) + f", missed {len(lost)}" * bool(lost)
        draw(row[0], canvases.images[i], title=heading)
        for j in lost:
            frame(row[0], canvases.boxes[i, j], f"{canvases.labels[i, j]}?", color="tab:orange", linestyle="--")
        for axes, one in zip(row[1:], sure, strict=False):
            frame(row[0], one.box, str(one.kind), color="tab:blue")
            draw(axes, canvases.images[i], one.looked, f"what told the {one.kind}")
            frame(axes, one.box, "", color="tab:blue")
        for axes in row[1 + len(sure) :]:
            axes.axis("off")
    figure.suptitle(f"{title}: the digits found, and in red the attention of the query that found each", fontsize=10)
    return figure

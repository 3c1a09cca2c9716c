"""Find all handwritten digits on a canvas, with their boxes, by a small DETR (Carion et al. 2020).

    python examples/detection.py          # one to five digits on each canvas; MNIST's if they are available
    python examples/detection.py --quick  # under a minute, on scikit-learn's digits

Convolutions and an encoder make 49 tokens of a canvas. The places likeliest to have the centre of a digit are queries:
in the decoder they attend to each other and to the tokens, and give a box and a class, or "nothing". The loss matches
queries and digits one to one, by the cheapest assignment. The baseline takes connected pieces of ink for digits, and
names them by their nearest neighbours. The run ends with a picture of what each query looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from parts import canvases, run_script
from parts.detector import NOTHING, QUERIES, Detector
from parts.found_boxes import attention_share, average_precision, detect, detections_figure, ink_baseline, iou_and_giou
from parts.image_options import load_data, open_run, parse_arguments, table

import numpy as np
from scipy.optimize import linear_sum_assignment

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train


def match(scores: ta.Tensor, boxes: ta.Tensor, labels: ta.Tensor, truth: ta.Tensor) -> tuple[np.ndarray, ...]:
    """Return three arrays: images, their queries and their digits that the cheapest assignment puts together."""
    with ta.no_grad():
        which = labels.clamp(min=0).unsqueeze(1).expand(-1, QUERIES, -1)
        likely = F.softmax(scores, -1).gather(2, which)  # (batch, QUERIES, MOST): of each digit's class
        apart = (boxes.unsqueeze(2) - truth.unsqueeze(1)).abs().sum(-1)
        overlap = iou_and_giou(boxes.unsqueeze(2), truth.unsqueeze(1))[1]
        cost, counts = (5 * apart - 2 * overlap - likely).cpu().numpy(), (labels >= 0).sum(1).tolist()
    pairs = [linear_sum_assignment(costs[:, :count]) for costs, count in zip(cost, counts, strict=True)]
    rows = np.repeat(np.arange(len(pairs)), counts)
    return rows, *(np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))


def criterion(scores: ta.Tensor, boxes: ta.Tensor, labels: ta.Tensor, truth: ta.Tensor) -> tuple[ta.Tensor, ta.Tensor]:
    """Return the loss, and the share of digits whose query names them."""
    rows, queries, digits = (ta.from_numpy(a).to(labels.device) for a in match(scores, boxes, labels, truth))
    target, named = ta.full(scores.shape[:2], NOTHING, dtype=ta.int64, device=labels.device), labels[rows, digits]
    target[rows, queries] = named
    weight = ta.ones(NOTHING + 1, device=labels.device)
    weight[NOTHING] = 0.2  # most queries find nothing
    loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), weight)
    ours, theirs, count = boxes[rows, queries], truth[rows, digits], max(len(rows), 1)
    loss = loss + (5 * (ours - theirs).abs().sum() + 2 * (1 - iou_and_giou(ours, theirs)[1]).sum()) / count
    return loss, (scores[rows, queries].argmax(-1) == named).sum() / count


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments("detection.py", __doc__.split("\n")[0], arguments)
    digits = load_data(args)
    epochs, count = args.epochs or (12 if args.quick else 6), 1_500 if args.quick else 30_000

    # --- data: canvases (count, 56, 56), the labels (count, 5), boxes (count, 5, 4) and patches of their digits
    generator = np.random.default_rng(args.seed)
    known = canvases.make(digits.train_images, digits.train_labels, count, generator)
    unseen = canvases.make(digits.test_images, digits.test_labels, 500, generator)
    loader = data.DataLoader(
        tuple(ta.from_numpy(a).to(args.device) for a in (*known, canvases.centres(known)[0])), 32, shuffle=True
    )

    # --- model, loop
    ta.manual_seed(args.seed)
    model = Detector().to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(loader))
    run = open_run(args, f"detection-{digits.name.split()[0].lower()}")
    session = train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader,
                            epochs=epochs, data=f"{digits.name} mAP as", progress=args.progress)  # fmt: skip
    with session:
        for _ in session.epochs():
            for images, labels, boxes, centres in session.batches():
                scores, found, patches = network(images)
                loss, named = criterion(scores, found, labels, boxes)
                loss = loss + 20 * F.cross_entropy(patches.flatten(0, 1), centres.flatten())
                optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(optimizer, loss)
                session.count(ta.stack([loss.detach(), named * len(images), largest]))
                schedule.step()
            if session.stopped:
                break
            session.end_epoch(average_precision(detect(model, unseen.images), unseen.labels, unseen.boxes))
    if session.stopped:
        print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
        return session.signals.exit_code

    # --- results: mean average precision, beside the baseline; where the queries looked
    found = detect(model, unseen.images)
    baseline = ink_baseline(unseen.images, digits.train_images[:5000], digits.train_labels[:5000])
    results = {"transformer": average_precision(found, unseen.labels, unseen.boxes),
               "connected ink": average_precision(baseline, unseen.labels, unseen.boxes)}  # fmt: skip
    print(f"mean average precision at IoU 0.5 on {len(found)} unseen canvases:")
    table(results)
    inside, even = attention_share(found)
    print(f"queries that found a digit have {inside:.1%} of their attention in its box; evenly it were {even:.1%}")
    detections_figure(unseen, found, run.folder.name).savefig(run.folder / "attention.png")
    session.finish(mean_average_precision=results, attention_in_box=inside, even=even, dataset=digits.name)
    print(f"the picture is {run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)

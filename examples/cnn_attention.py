"""Classify digits by a small residual network with attention between its convolutions.

    python examples/cnn_attention.py                    # CBAM: which channels, then which places (Woo et al. 2018)
    python examples/cnn_attention.py --attention se     # squeeze and excitation: channels only (Hu et al. 2018)
    python examples/cnn_attention.py --attention self   # every place attends to every other
    python examples/cnn_attention.py --quick            # under a minute, on scikit-learn's digits

The same run trains the network without attention first, widened to about as many parameters: the baseline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from parts import run_script
from parts.image_options import load_data, open_run, parse_arguments, table
from parts.resnet import KINDS, ResNet

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train, viz


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    return float((train.predict(model, images).argmax(1) == labels).mean())


def fit(args: argparse.Namespace, kind: str, width: int, digits: data.ImageDataset) -> train.Session:
    ta.manual_seed(args.seed)
    model = ResNet(kind, width).to(args.device)
    network = nn.DataParallel(model, args.workers)
    arrays = (ta.from_numpy(a).to(args.device) for a in (digits.train_images, digits.train_labels))
    loader = data.DataLoader(tuple(arrays), 32 if len(digits.train_images) < 10_000 else 64, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), 6e-3, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, 6e-3, total_steps=args.epochs * len(loader))
    run = open_run(args, f"cnn-{kind}-{digits.name.split()[0].lower()}", kind=kind, width=width)
    print(f"{kind}: width {width}, {size(model)} parameters, {args.epochs} epochs, into {run.folder}")
    session = train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader,
                            epochs=args.epochs, data=digits.name, progress=args.progress)  # fmt: skip

    @ta.compile
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        scores = network(data.random_shift(images, 2))  # (batch, 10)
        loss = F.cross_entropy(scores, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        largest = train.step_if_finite(optimizer, loss)
        return ta.stack([loss.detach(), (scores.argmax(1) == labels).sum(), largest])

    with session:
        for _ in session.epochs():
            for images, labels in session.batches():
                session.count(step(images, labels))
                schedule.step()
            if session.stopped:
                break
            session.end_epoch(accuracy(model, digits.test_images, digits.test_labels))
    session.finish(attention=kind, width=width, parameters=size(model), dataset=digits.name)
    return session


def looked_at(args: argparse.Namespace, session: train.Session, digits: data.ImageDataset) -> dict[str, float]:
    """Draw the maps of ten test digits; return the accuracy with five telling cells of each erased."""
    model = session.model.cpu().eval()
    images = ta.from_numpy(digits.test_images[:1000])
    with ta.no_grad():
        maps = {"what spoke for it": F.relu(model.evidence(images))}
    if (where := model.blocks[0].attention.where) is not None:
        where = where - where.amin((1, 2), keepdim=True)  # a gate: only its differences show places
        print(f"spatial attention within an image: {(most := where.amax((1, 2)).mean().item()):.3f} at most")
        maps |= {"spatial attention": where} if most > 0.3 else {}  # an even one shows no place
    rows = [int(np.flatnonzero(digits.test_labels == digit)[0]) for digit in range(10)]
    ten = [i for i in rows if i < len(images)]
    drawn = {name: values.numpy()[ten] for name, values in maps.items()}
    captions = [f"a {digits.test_labels[i]}" for i in ten]
    figure = viz.attention_figure(digits.test_images[ten], drawn, captions, f"{session.run.folder.name}: the evidence")
    figure.savefig(session.run.folder / "attention.png")
    ink = images.numpy().reshape(-1, 7, 4, 7, 4).any((2, 4))
    chance = ink * np.random.default_rng(args.seed).random(ink.shape)
    erased = {"nothing erased": images.numpy()}
    orders = {"what spoke for it erased": maps["what spoke for it"].numpy(), "as many cells with ink": chance}
    for name, order in orders.items():
        cells = np.argsort(np.argsort(-order.reshape(len(order), -1), 1), 1) >= 5  # the first 5 of 49 cells go
        erased[name] = images.numpy() * cells.reshape(ink.shape).repeat(4, 1).repeat(4, 2)
    return {name: accuracy(model, some, digits.test_labels[:1000]) for name, some in erased.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    about, more = __doc__.split("\n")[0], lambda option: option("--attention", choices=KINDS, help="its kind (cbam)")
    args = parse_arguments("cnn_attention.py", about, arguments, more=more, attention="cbam")
    digits = load_data(args)
    args.epochs = args.epochs or (6 if args.quick else 10)
    parameters = size(ResNet(args.attention))
    wide = min(range(16, 33), key=lambda width: abs(size(ResNet("none", width)) - parameters))
    plan = {"none": wide} | {args.attention: 16}  # a baseline of as many parameters
    if args.run:
        plan = {args.run.config["kind"]: args.run.config["width"]}
    results = {}
    for kind, width in plan.items():
        session = fit(args, kind, width, digits)
        if session.stopped:
            print(f"stopped; --resume {session.run.folder} continues the run", file=sys.stderr)
            return session.signals.exit_code
        results[f"{kind}, {size(session.model)} parameters"] = session.tally.test_accuracy
    table(results)
    table(looked_at(args, session, digits))
    print(f"the picture is {session.run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)

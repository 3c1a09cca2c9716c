"""Train an attention classifier on MNIST, from first principles.

    python examples/mnist.py                      # the small vision transformer, some 99 % in 10 epochs
    python examples/mnist.py --model article      # the article's model: every pixel a token
    python examples/mnist.py --resume runs/NAME   # continue a run that was stopped or killed
    python examples/mnist.py --help

All that is learned is in `main`, from top to bottom: data, model, optimizer, schedule, step, loop. The command line and
the files of a run are in mnist_options.py. Without MNIST and without a network, it trains on scikit-learn's handwritten
digits instead, and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, train

sys.path.insert(0, str(Path(__file__).parent))  # so that `import examples.mnist` finds the options too
from mnist_options import ADVICE, load_data, open_run, parse_arguments, report

RECIPES = {
    # The classifier: overlapping 7x7 patches with a two-layer stem, two blocks, attention pooling.
    "classifier": {
        "model": {"patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128, "mlp_dim": 128,
                  "pooling": "attention"},
        "batch_size": 128, "lr": 2e-3, "weight_decay": 0.01, "warmup": 200, "shift": 2,
    },
    # The article: ten levels of grey embedded in 64 dimensions, batches of 64, Adam at 1e-3.
    "article": {
        "model": {"input_dim": 10, "embed_dim": 64},
        "batch_size": 64, "lr": 1e-3, "weight_decay": 0.0, "warmup": 0, "shift": 0,
    },
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    ta.manual_seed(args.seed)
    # A second BLAS thread gains little on matrices this small, and costs much on a busy machine.
    threadpoolctl.threadpool_limits(args.threads)

    # --- data: uint8 images (count, 28, 28), labels (count,) of 0 to 9
    digits = load_data(args)
    arrays = (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    train_images, train_labels, test_images, test_labels = (ta.from_numpy(a).to(args.device) for a in arrays)
    recipe = RECIPES[args.model]
    small = len(train_images) < 10_000  # then smaller batches, more epochs and larger steps make up for few images
    args.epochs = args.epochs or (20 if small else 10)
    args.batch_size = args.batch_size or (32 if small else recipe["batch_size"])
    args.lr = args.lr or (5e-3 if small and args.model == "article" else recipe["lr"])
    loader = data.DataLoader((train_images, train_labels), args.batch_size, shuffle=True)

    # --- model, optimizer, schedule
    if args.model == "article":
        model = models.AttentionModel(**recipe["model"], num_classes=10).to(args.device)
        optimizer = optim.Adam(model.parameters(), args.lr)
        schedule = None
    else:
        model = models.AttentionClassifier(**recipe["model"], dropout=args.dropout).to(args.device)
        optimizer = optim.AdamW(model.parameters(), args.lr, weight_decay=recipe["weight_decay"])
        steps = args.epochs * len(loader)
        warmup = min(recipe["warmup"], steps // 5 + 1)
        rise = optim.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        fall = optim.CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1))
        schedule = optim.SequentialLR(optimizer, [rise, fall], milestones=[warmup])
    network = ta.nn.DataParallel(model, args.workers)  # the model, on a share of the batch in each thread

    # --- a step; it is recorded once and replayed, so nothing in it may read a number (on a GPU: synchronise)
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        if recipe["shift"]:
            images = data.random_shift(images, recipe["shift"])
        scores = network(images)  # (batch, 10)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        largest = train.step_if_finite(optimizer, loss)  # optimizer.step(), unless there is a NaN or an infinity
        hits = (scores.argmax(1) == labels).sum()
        return ta.stack([loss.detach(), hits, largest])  # (3,)

    step = ta.compile(step) if args.compile else step

    def test_accuracy() -> float:
        network.eval()
        with ta.no_grad():
            batches = [slice(i, i + 500) for i in range(0, len(test_images), 500)]
            hits = ta.stack([(network(test_images[b]).argmax(1) == test_labels[b]).sum() for b in batches])
        network.train()
        return hits.sum().item() / len(test_labels)

    # --- the loop; the session counts, saves checkpoints, resumes, and handles Ctrl-C and SIGTERM
    session = train.Session(
        open_run(args, recipe, digits, optimizer), model=model, optimizer=optimizer, schedule=schedule, loader=loader,
        epochs=args.epochs, data=digits.name, checkpoint_every=args.checkpoint_every, keep=args.keep,
        read_every=1 if args.device == "cpu" else 20,  # steps, because reading from a GPU synchronises
        skip_nonfinite=args.skip_nonfinite, progress=args.progress,
    )  # fmt: skip
    with session:
        for _ in session.epochs():
            for images, labels in session.batches():
                session.count(step(images, labels))
                if schedule is not None:
                    schedule.step()
            if session.stopped:
                break
            session.end_epoch(test_accuracy())
    report(session, args, recipe, digits)
    return session.signals.exit_code


if __name__ == "__main__":
    sys.exit(train.exit_code(main, "mnist.py", ADVICE))

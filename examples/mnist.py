"""Train an attention classifier on MNIST, from first principles.

    python examples/mnist.py                      # the small vision transformer, some 99 % in 10 epochs
    python examples/mnist.py --model article      # the article's model: every pixel a token
    python examples/mnist.py --resume runs/NAME   # continue a run that was stopped or killed
    mpirun -n 2 python examples/mnist.py --distributed

All that is learned is in `main`, from top to bottom: data, model, optimizer, schedule, step, loop. The command line
(--help) and the files of a run are in parts/mnist_options.py. Without MNIST and without a network, it trains on
scikit-learn's handwritten digits instead, and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `import examples.mnist`
from parts import run_script
from parts.mnist_options import ADVICE, load_data, open_run, parse_arguments, report, with_options

import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, train

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
    ranks = args.ranks  # the processes of mpirun; one, unless --distributed
    ta.manual_seed(args.seed)
    threadpoolctl.threadpool_limits(args.threads)  # a second BLAS thread gains little on matrices this small

    # --- data: uint8 images (count, 28, 28), labels (count,) of 0 to 9
    digits = load_data(args)
    arrays = (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    train_images, train_labels, test_images, test_labels = (ta.from_numpy(a).to(args.device) for a in arrays)
    recipe = with_options(RECIPES[args.model], args)
    small = len(train_images) < 10_000  # then smaller batches, more epochs and larger steps make up for few images
    args.epochs = args.epochs or (20 if small else 10)
    args.batch_size = args.batch_size or (32 if small else recipe["batch_size"])
    args.lr = args.lr or (5e-3 if small and args.model == "article" else recipe["lr"])
    loader = data.DataLoader((train_images, train_labels), args.batch_size, shuffle=True, drop_last=args.distributed)

    # --- model, optimizer, schedule
    if args.model == "article":
        model = models.AttentionModel(**recipe["model"], num_classes=10).to(args.device)
        optimizer, schedule = optim.Adam(model.parameters(), args.lr), None
    else:
        model = models.AttentionClassifier(**recipe["model"], dropout=args.dropout).to(args.device)
        optimizer = optim.AdamW(model.parameters(), args.lr, weight_decay=recipe["weight_decay"])
        steps = args.epochs * len(loader)
        warmup = min(recipe["warmup"], steps // 5 + 1)
        rise = optim.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        fall = optim.CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1))
        schedule = optim.SequentialLR(optimizer, [rise, fall], milestones=[warmup])
    network = ranks.network(model, args)  # the model, on a share of the batch in each thread or process

    # --- a step; it is recorded once and replayed, so nothing in it may read a number (on a GPU: synchronise)
    @ta.compile(disable=not args.compile)
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        images, labels = ranks.share(images, labels)
        if recipe["shift"]:
            images = data.random_shift(images, recipe["shift"])
        scores = network(images)  # (batch, 10)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        largest = train.step_if_finite(optimizer, loss)  # optimizer.step(), unless there is a NaN or an infinity
        hits = (scores.argmax(1) == labels).sum()
        return ranks.sum(ta.stack([ranks.part(loss.detach()), hits, ranks.part(largest)]))  # (3,)

    def test() -> list[float]:  # accuracy, mean loss
        network.eval()
        images, labels = ranks.share(test_images, test_labels)
        with ta.no_grad():
            scores = ta.cat([network(images[i : i + 500]) for i in range(0, len(images), 500)])
            hits, loss = (scores.argmax(1) == labels).sum(), F.cross_entropy(scores, labels) * len(labels)
        network.train()
        return (ranks.sum(ta.stack([hits.double(), loss.double()])) / len(test_labels)).tolist()

    # --- the loop; the session counts, saves checkpoints, resumes, and handles Ctrl-C and SIGTERM
    session = ranks.open(lambda: train.Session(
        open_run(args, recipe, digits, optimizer), model=model, optimizer=optimizer, schedule=schedule, loader=loader,
        epochs=args.epochs, data=digits.name, checkpoint_every=args.checkpoint_every, keep=args.keep,
        read_every=1 if args.device == "cpu" else 20,  # steps, because reading from a GPU synchronises
        skip_nonfinite=args.skip_nonfinite, progress=args.progress, agree=ranks.any,
    ))  # fmt: skip
    with session:
        for _ in session.epochs():
            for images, labels in session.batches():
                session.count(step(images, labels))
                if schedule is not None:
                    schedule.step()
            if session.stopped:
                break
            session.end_epoch(*test())
    report(session, args, recipe, digits)
    return session.signals.exit_code


if __name__ == "__main__":
    run_script(main, ADVICE)

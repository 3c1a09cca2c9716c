"""Answer questions about canvases of digits: "which digit is left of the 7 ?", "how many digits are there ?".

    python examples/ask_the_image.py          # one to five digits on each canvas; MNIST's if they are available
    python examples/ask_the_image.py --quick  # under a minute, on scikit-learn's digits

Words attend to each other and to the patches of the canvas; then the whole question points at patches, and what they
see counts for the answer. Each patch also learns to name the digit whose centre it has, and its height; in the first
quarter of the epochs, that alone. Beside it stand the best that the words alone can do, the most frequent answer to a
question, and the best that the canvas alone can do, the most frequent answer about it. The run ends with where each
word looked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from parts import canvases, run_script
from parts.image_options import load_data, open_run, parse_arguments, table
from parts.image_reader import Reader
from parts.questions import KINDS, answered_alone, ask, encode, looks_figure, share_on_answer

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, nn, optim, train


def look(model: nn.Module, images: np.ndarray, words: np.ndarray) -> list[np.ndarray]:
    """Return the answers (count, 6) and where each word and the whole question looked (count, 6, 8 + 1, 49)."""
    device, was_training, found, seen = next(model.parameters()).device, model.training, [], []
    first = model.transformer.decoder.layers[0].multihead_attn
    hooks = [first.register_forward_pre_hook(lambda module, args: (*args[:4], True, *args[5:])),  # need_weights
             first.register_forward_hook(lambda module, args, out: seen.append(out[1]))]  # fmt: skip
    model.eval()
    with ta.no_grad():
        for start in range(0, len(images), 250):
            batch = [ta.from_numpy(part[start : start + 250]).to(device) for part in (images, words)]
            scores, _, _, whole = model(*batch)
            maps = ta.cat([seen.pop().reshape(*batch[1].shape, 49), whole.unsqueeze(2)], 2)
            found.append((scores.argmax(-1).cpu().numpy(), maps.cpu().numpy()))
    for hook in hooks:
        hook.remove()
    model.train(was_training)
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments("ask_the_image.py", __doc__.split("\n")[0], arguments)
    digits = load_data(args)
    epochs, count = args.epochs or (10 if args.quick else 8), 2_000 if args.quick else 40_000

    # --- data: canvases (count, 56, 56), six questions about each (count, 6, 8), their answers (count, 6)
    generator = np.random.default_rng(args.seed)
    known = canvases.make(digits.train_images, digits.train_labels, count, generator)
    unseen = canvases.make(digits.test_images, digits.test_labels, 500, generator)
    asked, tests = ask(known, generator), ask(unseen, generator)
    words, truth = encode(tests)
    arrays = (known.images, *encode(asked), *canvases.centres(known))
    loader = data.DataLoader(tuple(ta.from_numpy(a).to(args.device) for a in arrays), 16, shuffle=True)

    # --- model, loop
    ta.manual_seed(args.seed)
    model = Reader().to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(loader))
    run = open_run(args, f"ask-{digits.name.split()[0].lower()}")
    session = train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader,
                            epochs=epochs, data=digits.name, progress=args.progress)  # fmt: skip

    @ta.compile
    def step(
        images: ta.Tensor, questions: ta.Tensor, answers: ta.Tensor, centres: ta.Tensor, tall: ta.Tensor, asked: bool
    ) -> ta.Tensor:
        scores, patches, heights, _ = network(images, questions)
        loss = 20 * F.cross_entropy(patches.flatten(0, 1), centres.flatten())
        loss = loss + 50 * ((heights - tall) ** 2 * (centres < 10)).mean()
        if asked:
            loss = loss + F.cross_entropy(scores.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        largest = train.step_if_finite(optimizer, loss)
        right = (scores.argmax(-1) == answers).float().mean() * len(images)
        return ta.stack([loss.detach(), right, largest])

    with session:
        for _ in session.epochs():
            for batch in session.batches():  # before, the patches have not learned what to answer with
                session.count(step(*batch, session.tally.epoch > epochs // 4))
                schedule.step()
            if session.stopped:
                break
            session.end_epoch(float((look(model, unseen.images, words)[0] == truth).mean()))
    if session.stopped:
        print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
        return session.signals.exit_code

    # --- results: beside what one half of the input tells; where the questions looked
    answered, maps = look(model, unseen.images, words)
    right = answered == truth
    results = {"words and canvas": float(right.mean()), **answered_alone(asked, unseen, tests, generator)}
    table(results)
    kinds = np.array([[next(k for k in KINDS if question.startswith(k.split("{}")[0])) for question, _ in some]
                      for some in tests])  # fmt: skip
    table(results_of_kinds := {kind.format("N"): float(right[kinds == kind].mean()) for kind in KINDS})
    share, even = share_on_answer(maps[:, :, -1], unseen, tests)
    print(f'"which" questions look at the digit of the answer with {share:.1%} of their attention; evenly {even:.1%}')
    looks_figure(unseen, tests, answered, maps, run.folder.name).savefig(run.folder / "attention.png")
    session.finish(
        accuracy=results, by_kind=results_of_kinds, attention_on_answer=share, even=even, dataset=digits.name
    )
    print(f"the picture is {run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)

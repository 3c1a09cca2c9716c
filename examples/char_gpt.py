"""Train a causal transformer to continue a text, character by character.

    python examples/char_gpt.py                       # Python's language reference, from the standard library
    python examples/char_gpt.py --text FILE --quick   # any UTF-8 text; under a minute
    python examples/char_gpt.py --attention entmax    # or sparsemax: weights that can be exactly 0
    python examples/char_gpt.py --resume runs/NAME --prompt "The " --temperature 0.5 --top-k 10

The last tenth is held out. The run ends with the bits per held-out character, beside a 5-gram model with back-off and
xz, given the same training text; a sample; and a picture of what each head looks at. More is in parts/text_options.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from parts import run_script
from parts.image_options import open_run
from parts.text_options import encode, evaluate, load_text, parse_arguments, show

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, nn, optim, train


class Block(nn.Module):
    """Attention to the token itself and those before it, then an MLP, each added to its normalised input."""

    def __init__(self, dim: int, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm1, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), models.MLP(dim, 4 * dim)
        self.shape = nn.Parameter(ta.zeros(heads, 1, 1)) if kind == "entmax" else None  # alpha = 1 + sigmoid(shape)

    def forward(self, x: ta.Tensor, past: Sequence[ta.Tensor] = ()) -> tuple:
        """x: (batch, new, dim); past: keys and values of the tokens before. Returns x, all keys and values, weights."""
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, -1))
        if past:
            k, v = ta.cat([past[0], k], 2), ta.cat([past[1], v], 2)  # (batch, heads, all, head_dim)
        later = ta.ones(q.shape[2], k.shape[2], dtype=bool, device=x.device).triu(1 + k.shape[2] - q.shape[2])
        scores = (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(later, -math.inf)  # (batch, heads, new, all)
        if self.kind == "softmax":
            weights = F.softmax(scores, -1)
        else:  # of entmax, each head learns its alpha (Correia, Niculae and Martins 2019)
            weights = F.sparsemax(scores) if self.shape is None else F.entmax(scores, 1 + F.sigmoid(self.shape))
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), (k, v), weights


class CharGPT(nn.Module):
    """Score the next character after each: integers (batch, tokens) -> (batch, tokens, characters)."""

    def __init__(self, characters: int, context: int, layers: int, heads: int, dim: int, kind: str) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(characters, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, kind) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # of size 1, the tied scores would begin too sure
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, tokens: ta.Tensor, cache: list | None = None, maps: list | None = None) -> ta.Tensor:
        """cache: a list of the (keys, values) of each block, empty at first, to extend; maps: gets the weights."""
        before, found = cache[0][0].shape[2] if cache else 0, []
        x = self.embedding(tokens) + self.position.weight[before : before + tokens.shape[1]]
        for block, past in zip(self.blocks, cache or [()] * len(self.blocks), strict=True):
            x, *more = block(x, past)
            found.append(more)
        for kept, values in zip((cache, maps), zip(*found, strict=True), strict=True):
            if kept is not None:
                kept[:] = values
        return F.linear(self.norm(x), self.embedding.weight)  # tied weights


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    sizes, epochs, lr = ((32, 2, 4, 64), 4, 6e-3) if args.quick else ((128, 4, 4, 128), 12, 3e-3)
    context, batch = sizes[0], 16
    epochs = args.epochs or (epochs if args.attention == "softmax" else epochs // 2)  # the others take longer

    # --- data: windows (count, 2 context) of the training text; a step takes context + 1 characters of each
    text, start, alphabet = load_text(args, context, batch)
    tokens = np.array(encode(text, alphabet, "the text"))
    windows = np.lib.stride_tricks.sliding_window_view(tokens[:start], 2 * context)[::context]
    loader = data.DataLoader((ta.tensor(windows, device=args.device),), batch, shuffle=True)

    # --- model, loop
    model = CharGPT(len(alphabet), *sizes, args.attention).to(args.device)
    network = nn.DataParallel(model, args.workers)
    optimizer = optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    schedule = optim.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    run = open_run(args, f"char-gpt-{args.attention}", text=train.fingerprint(tokens), sizes=sizes)
    with train.Session(run, model=model, optimizer=optimizer, schedule=schedule, loader=loader, epochs=epochs,
                       data="held-out", progress=args.progress) as session:  # fmt: skip
        for _ in session.epochs():
            for (windows,) in session.batches():
                at = int(ta.randint(0, context, (1,)).item())  # so that a character is met at every position
                given, wanted = windows[:, at : at + context], windows[:, at + 1 : at + context + 1]
                scores = network(given)  # (batch, context, characters)
                loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten())
                optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(optimizer, loss)
                hits = (scores.argmax(-1) == wanted)[:, -1].sum()  # of the last character of each window
                session.count(ta.stack([loss.detach(), hits, largest]))
                schedule.step()
            if session.stopped:
                print(f"stopped; --resume {run.folder} continues the run", file=sys.stderr)
                return session.signals.exit_code
            session.end_epoch(*evaluate(model, tokens, start, context))
    show(args, session, text, tokens, start, alphabet)
    return 0


if __name__ == "__main__":
    run_script(main)

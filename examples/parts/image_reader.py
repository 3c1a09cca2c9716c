"""Words that attend to each other and to the patches of an image, and answer a question about it."""

from __future__ import annotations

from parts.detector import NOTHING, Patches, begin_alike
from parts.questions import ANSWERS, EACH, VOCABULARY, WORDS

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn


class Reader(nn.Module):
    """Return of canvases (batch, 56, 56) and words (batch, EACH, WORDS) the scores of the answers (batch, EACH, 12).

    A patch carries the word of the digit that it sees, its height and its place. The mean of a question's words points
    at patches, and what they see is added to its own scores of the answers. Then come the patches' scores of the
    digits (batch, 49, 11), their heights (batch, 49), and where the whole question looked (batch, EACH, 49).
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.patches, self.words = Patches(dim), nn.Embedding(len(VOCABULARY), dim)
        self.order, self.tall = nn.Parameter(0.3 * ta.randn(WORDS, dim)), nn.Parameter(ta.randn(dim))
        sizes = {"num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 2 * dim, "dropout": 0.0}
        self.transformer = nn.Transformer(dim, 4, **sizes, batch_first=True, norm_first=True)
        self.digit, self.height = nn.Linear(dim, NOTHING + 1), nn.Linear(dim, 1)
        self.pointer, self.answer = nn.MultiheadAttention(dim, 1, batch_first=True), nn.Linear(dim, len(ANSWERS))
        question = np.arange(EACH * WORDS) // WORDS
        self.register_buffer("others", ta.tensor(question[:, None] != question))  # words of other questions
        for layer in self.transformer.decoder.layers:
            begin_alike(layer.multihead_attn)

    def forward(self, images: ta.Tensor, words: ta.Tensor) -> tuple[ta.Tensor, ...]:
        seen = self.transformer.encoder(self.patches(images))  # (batch, 49, dim)
        digits, heights = self.digit(seen), self.height(seen)
        named = F.softmax(digits, -1)[..., :NOTHING] @ self.words.weight[-NOTHING:]  # digits are the last words
        seen = seen + named + heights * self.tall + self.patches.places()
        read = (self.words(words) + self.order).flatten(1, 2)  # (batch, EACH * WORDS, dim)
        read = self.transformer.decoder(read, seen, tgt_mask=self.others)
        question = read.unflatten(1, (EACH, WORDS)).mean(2)
        looked = self.pointer(question, seen, seen)[1]  # (batch, EACH, 49)
        answers = self.answer(question) + F.pad(looked @ digits[..., :NOTHING], (0, len(ANSWERS) - NOTHING))
        return answers, digits, heights.squeeze(-1), looked

"""Two readers and writers of dates, with attention from each written character to the text: a transformer and a GRU."""

from __future__ import annotations

from parts.written_dates import DIGITS, LENGTH

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn

START = len(DIGITS)  # what the decoder is given before the first character


class Transformer(nn.Module):
    """Texts (batch, LENGTH) and the characters written so far (batch, n) -> scores (batch, n, digits)."""

    def __init__(self, characters: int, dim: int = 64) -> None:
        super().__init__()
        self.read, self.write = nn.Embedding(characters, dim), nn.Embedding(len(DIGITS) + 1, dim)
        self.places = nn.Parameter(ta.randn(LENGTH, dim))
        sizes = {"num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 2 * dim, "dropout": 0.0}
        self.transformer = nn.Transformer(dim, 2, **sizes, batch_first=True, norm_first=True)
        self.scores = nn.Linear(dim, len(DIGITS))
        self.looked = self.transformer.decoder.layers[-1].multihead_attn  # each output character at the text
        self.looked.register_forward_pre_hook(lambda module, args: (*args[:4], True, *args[5:]))  # need_weights

    def encode(self, texts: ta.Tensor) -> ta.Tensor:
        tokens = self.read(texts) + self.places[: texts.shape[1]]
        return self.transformer.encoder(tokens, src_key_padding_mask=texts == 0)  # (batch, LENGTH, dim)

    def decode(self, memory: ta.Tensor, texts: ta.Tensor, written: ta.Tensor) -> ta.Tensor:
        tokens = self.write(written) + self.places[: written.shape[1]]
        causal = nn.Transformer.generate_square_subsequent_mask(written.shape[1], device=texts.device)
        masks = {"tgt_mask": causal, "memory_key_padding_mask": texts == 0}
        return self.scores(self.transformer.decoder(tokens, memory, **masks))

    def forward(self, texts: ta.Tensor, written: ta.Tensor) -> ta.Tensor:
        return self.decode(self.encode(texts), texts, written)


class Gru(nn.Module):
    """The same by recurrence: the state before a character scores the places of the text, tanh(W s + U h) v."""

    def __init__(self, characters: int, dim: int = 64) -> None:
        super().__init__()
        self.read, self.write = nn.Embedding(characters, dim), nn.Embedding(len(DIGITS) + 1, dim)
        self.gru = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)
        self.step = nn.GRUCell(2 * dim, dim)
        self.state, self.place, self.looked = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Softmax(-1)
        self.v, self.scores = nn.Linear(dim, 1, bias=False), nn.Linear(2 * dim, len(DIGITS))

    def encode(self, texts: ta.Tensor) -> ta.Tensor:
        return self.gru(self.read(texts))[0]  # (batch, LENGTH, dim)

    def decode(self, memory: ta.Tensor, texts: ta.Tensor, written: ta.Tensor) -> ta.Tensor:
        places, state, scores = self.place(memory), memory.mean(1), []
        for token in self.write(written).unbind(1):  # (batch, dim)
            hidden = F.tanh(places + self.state(state).unsqueeze(1))
            weights = self.looked(self.v(hidden).squeeze(-1).masked_fill(texts == 0, -1e9))  # (batch, LENGTH)
            context = (weights.unsqueeze(1) @ memory).squeeze(1)
            state = self.step(ta.cat([token, context], 1), state)
            scores.append(self.scores(ta.cat([state, context], 1)))
        return ta.stack(scores, 1)

    forward = Transformer.forward

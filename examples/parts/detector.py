"""A small detection transformer: convolutions, an encoder, and a decoder of queries (Carion et al. 2020)."""

from __future__ import annotations

import tinyattn as ta
from tinyattn import nn

NOTHING, QUERIES = 10, 10  # the class of a query that found nothing; the most digits that can be found


def begin_alike(attention: nn.MultiheadAttention) -> None:
    """Let queries and keys begin with one projection, so that a query first looks at what is like it."""
    dim, weight = attention.embed_dim, attention.in_proj_weight
    with ta.no_grad():
        weight[:dim] *= 1.5
        weight[dim : 2 * dim] = weight[:dim]


class Patches(nn.Module):
    """Canvases uint8 (batch, 56, 56) -> a token of each of 7 x 7 patches (batch, 49, dim), by convolutions."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, dim, 3, 2, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(),
        )  # fmt: skip
        self.rows, self.columns = nn.Parameter(ta.randn(7, 1, dim)), nn.Parameter(ta.randn(7, dim))

    def places(self) -> ta.Tensor:
        """Return what the tokens have of their places, (49, dim)."""
        return (self.rows + self.columns).flatten(0, 1)

    def forward(self, images: ta.Tensor) -> ta.Tensor:
        maps = self.stem(images.unsqueeze(1).float() / 255)  # (batch, dim, 7, 7)
        return maps.flatten(2).transpose(1, 2) + self.places()


class Detector(nn.Module):
    """Return of canvases (batch, 56, 56) the class scores (batch, QUERIES, 11) and boxes (batch, QUERIES, 4).

    The queries are the places of the patches that are likeliest to have the centre of a digit (the two stages of Zhu et
    al. 2021); each gives its class and box as a difference to the patch's. The scores of the patches come third.
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.patches = Patches(dim)
        sizes = {"num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 2 * dim, "dropout": 0.0}
        self.transformer = nn.Transformer(dim, 4, **sizes, batch_first=True, norm_first=True)
        self.classes, self.centres = nn.Linear(dim, NOTHING + 1), nn.Linear(dim, NOTHING + 1)
        self.boxes = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
        at = (ta.arange(7) + 0.5) / 7
        boxes = ta.stack([at.repeat(7), at.repeat_interleave(7), *ta.full((2, 49), 0.3)], 1)
        self.register_buffer("begin", ta.log(boxes / (1 - boxes)))  # (49, 4)
        for layer in self.transformer.decoder.layers:
            begin_alike(layer.multihead_attn)
        self.looked = self.transformer.decoder.layers[-1].multihead_attn
        self.looked.register_forward_pre_hook(lambda module, args: (*args[:4], True, *args[5:]))  # need_weights

    def forward(self, images: ta.Tensor) -> tuple[ta.Tensor, ta.Tensor, ta.Tensor]:
        memory = self.transformer.encoder(self.patches(images))
        centres = self.centres(memory)
        best = centres.detach()[..., NOTHING].argsort(1)[:, :QUERIES]  # the least likely to have nothing
        row = ta.arange(len(images), device=images.device).unsqueeze(1)
        found = self.transformer.decoder(self.patches.places()[best], memory)  # (batch, QUERIES, dim)
        return self.classes(found) + centres[row, best], ta.sigmoid(self.boxes(found) + self.begin[best]), centres

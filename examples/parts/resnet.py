"""A small residual network with attention over its feature maps: of channels, places, or place to place."""

from __future__ import annotations

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn

KINDS = ("none", "se", "cbam", "self")


class Attention(nn.Module):
    """Attention over maps (batch, channels, height, width); `where`, (batch, height, width), is its last weights."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind, self.where = kind, None
        if kind in ("se", "cbam"):
            self.channel = nn.Sequential(
                nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels)
            )
            nn.init.zeros_(self.channel[2].weight)  # gates begin even, not as noise in the first epochs
        if kind == "cbam":
            self.spatial = nn.Conv2d(2, 1, 7, padding=3)
            nn.init.zeros_(self.spatial.weight)
        if kind == "self":
            self.attend = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: ta.Tensor) -> ta.Tensor:
        if self.kind == "self":
            tokens = x.flatten(2).transpose(1, 2)  # (batch, places, channels)
            seen, weights = self.attend(tokens, tokens, tokens)
            self.where = weights.detach().mean(1).reshape(len(x), *x.shape[2:])  # the attention that a place receives
            return x + seen.transpose(1, 2).reshape(x.shape)
        if self.kind in ("se", "cbam"):
            scores = self.channel(x.mean((2, 3)))
            if self.kind == "cbam":
                scores = scores + self.channel(x.amax((2, 3)))
            x = x * ta.sigmoid(scores)[:, :, None, None]
        if self.kind == "cbam":
            gate = ta.sigmoid(self.spatial(ta.stack([x.mean(1), x.amax(1)], 1)))  # (batch, 1, height, width)
            self.where = gate.detach().squeeze(1)
            x = x * gate
        return x


class Block(nn.Module):
    """Two convolutions and attention, added to the input (He et al. 2016)."""

    def __init__(self, inputs: int, channels: int, stride: int, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.attention = Attention(kind, channels)
        same = inputs == channels and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x: ta.Tensor) -> ta.Tensor:
        return F.relu(self.attention(self.body(x)) + self.skip(x))


class ResNet(nn.Module):
    """Images uint8 (batch, 28, 28) to scores (batch, 10)."""

    def __init__(self, kind: str, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 5, 2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1, kind), Block(width, 2 * width, 2, kind))
        self.head = nn.Linear(2 * width, 10)

    def features(self, images: ta.Tensor) -> ta.Tensor:
        return self.blocks(self.stem(images.unsqueeze(1).float() / 255))  # (batch, channels, 7, 7)

    def forward(self, images: ta.Tensor) -> ta.Tensor:
        return self.head(self.features(images).mean((2, 3)))

    def evidence(self, images: ta.Tensor) -> ta.Tensor:
        """What each place adds to the winning score, (batch, 7, 7): a class activation map (Zhou et al. 2016)."""
        places = self.features(images).permute(0, 2, 3, 1) @ self.head.weight.T  # (batch, 7, 7, 10)
        winner = places.mean((1, 2)) + self.head.bias
        return (places * F.one_hot(winner.argmax(1), 10)[:, None, None]).sum(3)

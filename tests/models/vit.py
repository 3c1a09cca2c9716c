"""A vision transformer, as its users write it: patches by unfold, a class token, nn.TransformerEncoder, a cosine loss."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class ViT(nn.Module):
    def __init__(self, size=8, patch=4, dim=12, depth=2, heads=3, classes=5):
        super().__init__()
        self.patch = patch
        count = (size // patch) ** 2
        self.embed = nn.Linear(patch * patch * 3, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, count + 1, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            d_model=dim, nhead=heads, dim_feedforward=2 * dim, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=depth, norm=nn.LayerNorm(dim))
        self.mixer = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.head = nn.Linear(dim, classes)

    def forward(self, images, labels):
        b = images.shape[0]
        patches = F.unfold(images, kernel_size=self.patch, stride=self.patch).transpose(1, 2)
        x = torch.cat([self.cls_token.repeat(b, 1, 1), self.embed(patches)], dim=1)
        x = self.encoder(x + self.pos_embed[:, : x.size(1)])
        mixed, weights = self.mixer(x[:, :1], x, x, need_weights=True, average_attn_weights=False)
        x = torch.where(weights.mean(1).transpose(1, 2) > 2, x, x + mixed)
        scores = F.normalize(self.head(x[:, 0]), dim=-1)
        target = F.one_hot(labels, scores.size(-1)).float().type_as(scores)
        return scores, ((scores - target) ** 2).sum(-1).mean() + torch.norm(self.pos_embed) * 1e-2


def make():
    return ViT()


def inputs():
    images = torch.cos(torch.arange(2 * 3 * 64, dtype=torch.get_default_dtype()) * 0.3).view(2, 3, 8, 8)
    return images, torch.tensor([1, 4])

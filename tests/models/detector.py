"""A detector with a transformer, as its users write it: backbone, position tables, queries, box losses, mask head."""

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_buffer("weight", torch.ones(n))
        self.register_buffer("bias", torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))
        self._register_load_state_dict_pre_hook(self._without_count)

    def _without_count(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "num_batches_tracked", None)

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale


class MLP(nn.Module):
    def __init__(self, inside, hidden, outside, layers):
        super().__init__()
        sizes = [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.Linear(n, k) for n, k in zip([inside, *sizes], [*sizes, outside], strict=True))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x), inplace=True) if i < len(self.layers) - 1 else layer(x)
        return x


class PositionEmbedding(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.empty(8, features)) for _ in range(2)])
        for table in self.tables:
            nn.init.uniform_(table)

    def forward(self, x):
        h, w = x.shape[-2:]
        rows, columns = self.tables[0][:h], self.tables[1][:w]
        pos = torch.cat([columns.unsqueeze(0).repeat(h, 1, 1), rows.unsqueeze(1).repeat(1, w, 1)], dim=-1)
        return pos.permute(2, 0, 1).unsqueeze(0).repeat(x.shape[0], 1, 1, 1)


class DecoderLayer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, 2)
        self.cross_attn = nn.MultiheadAttention(d, 2)
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(3)])
        self.mlp = MLP(d, 16, d, 2)

    def forward(self, tgt, memory, mask, pos, query_pos):
        q = k = tgt + query_pos
        tgt = self.norms[0](tgt + self.self_attn(q, k, value=tgt)[0])
        found = self.cross_attn(tgt + query_pos, memory + pos, memory, key_padding_mask=mask)[0]
        tgt = self.norms[1](tgt + found)
        return self.norms[2](tgt + self.mlp(tgt))


class Net(nn.Module):
    def __init__(self, d=8, queries=3, classes=4):
        super().__init__()
        self.backbone = nn.Sequential()
        for i, (n, k) in enumerate([(3, 6), (6, 8)]):
            self.backbone.add_module(f"conv{i}", nn.Conv2d(n, k, 3, stride=2, padding=1, bias=False))
            self.backbone.add_module(f"bn{i}", FrozenBatchNorm2d(k))
            self.backbone.add_module(f"act{i}", nn.LeakyReLU(0.1, inplace=True))
        self.input_proj = nn.Conv2d(8, d, kernel_size=1)
        self.position = PositionEmbedding(d // 2)
        self.query_embed = nn.Embedding(queries, d)
        layer = DecoderLayer(d)
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(2)])
        self.heads = nn.ModuleDict({"class": nn.Linear(d, classes + 1), "box": MLP(d, d, 4, 3)})
        self.lateral = nn.Sequential(nn.GroupNorm(2, d), nn.PReLU(d), nn.Conv2d(d, 4, 1), nn.PixelShuffle(2))
        self.loss_weight = nn.ParameterDict({"mask": nn.Parameter(torch.tensor(0.3))})
        self.empty_weight: torch.Tensor
        weight = torch.ones(classes + 1)
        weight[-1] = 0.1
        self.register_buffer("empty_weight", weight)

    def forward(self, images, hidden, classes, boxes):
        features = self.input_proj(self.backbone(images))
        mask = F.interpolate(hidden[None].float(), size=features.shape[-2:]).to(torch.bool)[0]
        pos = self.position(features).flatten(2).permute(2, 0, 1)
        memory = features.flatten(2).permute(2, 0, 1)
        query_pos = self.query_embed.weight.unsqueeze(1).repeat(1, images.shape[0], 1)
        tgt, outputs = query_pos * 0.5, []  # of zeros, LayerNorm's gradients would be hundreds
        for layer in self.layers:
            tgt = layer(tgt, memory, mask.flatten(1), pos, query_pos)
            outputs.append(tgt)
        hs = torch.stack(outputs).transpose(1, 2)  # (layers, batch, queries, d)
        logits, found = self.heads["class"](hs), self.heads["box"](hs).sigmoid()
        low = self.lateral(features)
        masks = F.interpolate(low, size=images.shape[-2:], mode="bilinear", align_corners=False)
        masks = masks + F.interpolate(F.pad(low, (1, 0, 0, 1)), scale_factor=2, mode="nearest")[..., :9, :9]
        loss = sum(
            F.cross_entropy(scores.transpose(1, 2), classes, self.empty_weight) + F.smooth_l1_loss(b, boxes, beta=0.1)
            for scores, b in zip(logits, found, strict=True)
        )
        loss = loss + F.l1_loss(found[-1], boxes, reduction="none").sum() / 3
        loss = loss + self.loss_weight["mask"] * F.binary_cross_entropy_with_logits(
            masks[:, 0], images[:, 0].clamp(0, 1)
        )
        loss = loss + F.huber_loss(F.cosine_similarity(hs[0], hs[1], dim=-1), found[-1, ..., 0], delta=0.2)
        return logits[-1], loss


def make():
    return Net()


def inputs():
    dtype = torch.get_default_dtype()
    images = torch.sin(torch.arange(2 * 3 * 81, dtype=dtype) * 0.37).reshape(2, 3, 9, 9)
    hidden = torch.zeros(2, 9, 9, dtype=torch.bool)
    hidden[1, :, 5:] = True
    boxes = torch.cos(torch.arange(24, dtype=dtype)).reshape(2, 3, 4) * 0.4 + 0.5
    return images, hidden, torch.tensor([[0, 4, 2], [1, 3, 4]]), boxes

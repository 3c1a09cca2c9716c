"""A forecaster of series, as its users write it: Conv1d embeddings, distilling, gated convolutions, a KL loss."""

import math
from math import sqrt

import torch
import torch.nn as nn
import torch.nn.functional as F


class PositionalEmbedding(nn.Module):
    def __init__(self, d_model, max_len=50):
        super().__init__()
        pe = torch.zeros(max_len, d_model).to(torch.get_default_dtype())
        pe.requires_grad = False
        position = torch.arange(0, max_len).to(pe.dtype).unsqueeze(1)
        div_term = (torch.arange(0, d_model, 2).to(pe.dtype) * -(math.log(10000.0) / d_model)).exp()
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe.unsqueeze(0))

    def forward(self, x):
        return self.pe[:, : x.size(1)]


class DataEmbedding(nn.Module):
    def __init__(self, c_in, d_model):
        super().__init__()
        self.tokenConv = nn.Conv1d(c_in, d_model, kernel_size=3, padding=1, padding_mode="circular", bias=False)
        self.position, self.hour = PositionalEmbedding(d_model), nn.Embedding(4, d_model)
        for m in self.modules():
            if isinstance(m, nn.Conv1d):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, x, mark):
        return self.tokenConv(x.permute(0, 2, 1)).transpose(1, 2) + self.position(x) + self.hour(mark)


class TriangularCausalMask:
    def __init__(self, B, L, device="cpu"):
        with torch.no_grad():
            self._mask = torch.triu(torch.ones([B, 1, L, L], dtype=torch.bool), diagonal=1).to(device)

    @property
    def mask(self):
        return self._mask


class AttentionLayer(nn.Module):
    def __init__(self, d_model, n_heads, masked=False):
        super().__init__()
        self.query_projection, self.key_projection = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value_projection, self.out_projection = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.n_heads, self.masked = n_heads, masked

    def forward(self, queries, keys, values):
        (B, L, _), S, H = queries.shape, keys.shape[1], self.n_heads
        queries = self.query_projection(queries).view(B, L, H, -1)
        keys, values = self.key_projection(keys).view(B, S, H, -1), self.value_projection(values).view(B, S, H, -1)
        scale = 1.0 / sqrt(queries.shape[-1])
        scores = torch.einsum("blhe,bshe->bhls", queries, keys)
        if self.masked:
            scores.masked_fill_(TriangularCausalMask(B, L, device=queries.device).mask, -math.inf)
        A = torch.softmax(scale * scores, dim=-1)
        return self.out_projection(torch.einsum("bhls,bshd->blhd", A, values).contiguous().view(B, L, -1)), A


class ConvModule(nn.Module):
    """Pointwise, gated, depthwise."""

    def __init__(self, d_model, kernel=3):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(d_model, 2 * d_model, 1), nn.GLU(dim=1),
            nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, groups=d_model), nn.BatchNorm1d(d_model),
            nn.SiLU(), nn.Conv1d(d_model, d_model, 1),
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        return self.net(self.norm(x).transpose(1, 2)).transpose(1, 2)


class ConvLayer(nn.Module):
    """Distilling: half as many steps."""

    def __init__(self, c_in):
        super().__init__()
        self.downConv = nn.Conv1d(c_in, c_in, kernel_size=3, padding=2, padding_mode="circular")
        self.norm, self.activation = nn.BatchNorm1d(c_in), nn.ELU()
        self.maxPool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)

    def forward(self, x):
        return self.maxPool(self.activation(self.norm(self.downConv(x.permute(0, 2, 1))))).transpose(1, 2)


class EncoderLayer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.attention, self.conv = AttentionLayer(d_model, n_heads), ConvModule(d_model)
        self.conv1, self.conv2 = nn.Conv1d(d_model, 2 * d_model, 1), nn.Conv1d(2 * d_model, d_model, 1)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.activation = nn.Dropout(0.0), F.gelu

    def forward(self, x):
        new_x, attn = self.attention(x, x, x)
        x = x + self.dropout(new_x)
        y = x = self.norm1(x + self.conv(x))
        y = self.dropout(self.activation(self.conv1(y.transpose(-1, 1))))
        y = self.dropout(self.conv2(y).transpose(-1, 1))
        return self.norm2(x + 0.5 * y), attn


class Forecaster(nn.Module):
    def __init__(self, c_in=3, d_model=8, n_heads=2, label_len=4, out_len=3):
        super().__init__()
        self.label_len, self.pred_len = label_len, out_len
        self.enc_embedding, self.dec_embedding = DataEmbedding(c_in, d_model), DataEmbedding(c_in, d_model)
        self.attn_layers = nn.ModuleList([EncoderLayer(d_model, n_heads) for _ in range(2)])
        self.conv_layers = nn.ModuleList([ConvLayer(d_model)])
        self.self_attention = AttentionLayer(d_model, n_heads, masked=True)
        self.cross_attention = AttentionLayer(d_model, n_heads)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(d_model) for name in ("encoder", "self", "cross")})
        self.projection = nn.Linear(d_model, 2 * c_in, bias=True)

    def forward(self, x, mark, y):
        enc_out, attns = self.enc_embedding(x, mark), []
        for attn_layer, conv_layer in zip(self.attn_layers, self.conv_layers, strict=False):
            enc_out, attn = attn_layer(enc_out)
            enc_out = conv_layer(enc_out)
            attns.append(attn)
        enc_out, attn = self.attn_layers[-1](enc_out)
        enc_out = self.norms["encoder"](enc_out)
        dec = torch.zeros([y.shape[0], self.pred_len, y.shape[-1]]).to(y.dtype)
        dec = torch.cat([y[:, : self.label_len, :], dec], dim=1)
        dec_mark = torch.arange(dec.shape[1]).remainder(4).unsqueeze(0).expand(dec.size(0), -1)
        dec = self.dec_embedding(dec, dec_mark)
        dec = self.norms["self"](dec + self.self_attention(dec, dec, dec)[0])
        dec = self.norms["cross"](dec + self.cross_attention(dec, enc_out, enc_out)[0])
        mean, log_var = self.projection(dec)[:, -self.pred_len :, :].chunk(2, dim=-1)
        target = y[:, -self.pred_len :, :]
        loss = F.gaussian_nll_loss(mean, target, F.softplus(log_var), eps=1e-3)
        divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), dim=-1).mean()
        uniform = torch.full_like(attn, 1.0 / attn.size(-1))
        spread = F.kl_div(torch.log(attn + 1e-9), uniform, reduction="batchmean") / attn.size(1)
        return mean, loss + 1e-2 * divergence + 1e-2 * spread + attns[0].std() * 1e-2


def make():
    return Forecaster()


def inputs():
    t = torch.arange(2 * 12 * 3).to(torch.get_default_dtype()).reshape(2, 12, 3)
    x = torch.sin(t * 0.31) + 0.2 * torch.cos(t)
    mark = torch.arange(12).remainder(4).repeat(2, 1)
    return x, mark, torch.cos(t[:, :7] * 0.17)

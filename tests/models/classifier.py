"""A text classifier as its users write it: pretrained embeddings, spatial dropout, a bidirectional LSTM and attention."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class SpatialDropout(nn.Dropout2d):
    def forward(self, x):
        x = x.unsqueeze(2).permute(0, 3, 2, 1)  # (batch, features, 1, tokens)
        return super().forward(x).permute(0, 3, 2, 1).squeeze(2)


class Attention(nn.Module):
    def __init__(self, features, steps):
        super().__init__()
        weight = torch.zeros(features, 1)
        nn.init.kaiming_uniform_(weight)
        self.weight = nn.Parameter(weight)
        self.b = nn.Parameter(torch.zeros(steps))

    def forward(self, x, mask):
        scores = torch.mm(x.contiguous().view(-1, x.size(-1)), self.weight).view(-1, x.size(1))
        weights = torch.exp(torch.tanh(scores + self.b)) * mask
        weights = weights / (torch.sum(weights, 1, keepdim=True) + 1e-10)
        return torch.sum(x * torch.unsqueeze(weights, -1), 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        table = torch.sin(torch.arange(12 * 6, dtype=torch.get_default_dtype())).view(12, 6)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=0)
        self.frozen = nn.Embedding.from_pretrained(table * 0.5)
        self.dropout = SpatialDropout(0.0)
        self.lstm = nn.LSTM(12, 5, bidirectional=True, batch_first=True)
        self.attention = Attention(10, 7)
        self.linear = nn.Linear(30, 8)
        self.activation, self.drop = nn.ELU(inplace=True), nn.AlphaDropout(p=0.0)
        self.out = nn.ModuleDict({"main": nn.Linear(8, 1), "aux": nn.Linear(8, 3)})
        for name, parameter in self.lstm.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)
        self.apply(self._init)

    @staticmethod
    def _init(module):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, gain=nn.init.calculate_gain("leaky_relu", 0.1))
            module.bias.data.zero_()

    def forward(self, tokens, labels, kinds):
        x = torch.cat((self.embedding(tokens), self.frozen(tokens)), -1)
        h, _ = self.lstm(self.dropout(x))
        pooled = torch.cat((self.attention(h, (tokens != 0).to(h.dtype)), h.mean(1), h.max(1)[0]), 1)
        hidden = self.drop(self.activation(self.linear(pooled)))
        scores = self.out["main"](hidden).squeeze(-1)
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))(scores, labels)
        soft = F.log_softmax(self.out["aux"](hidden), dim=-1)
        target = F.softmax(torch.cos(kinds.unsqueeze(-1) + torch.arange(3.0).to(scores.dtype)), -1)
        return scores, loss + F.kl_div(soft, target, reduction="batchmean") + F.binary_cross_entropy(
            scores.sigmoid(), labels
        )


def make():
    return Net()


def inputs():
    tokens = torch.tensor([[1, 5, 3, 11, 2, 0, 0], [4, 4, 9, 1, 0, 0, 0], [7, 2, 8, 6, 10, 3, 1]])
    dtype = torch.get_default_dtype()
    return tokens, torch.tensor([1.0, 0.0, 1.0], dtype=dtype), torch.tensor([0.0, 1.0, 2.0], dtype=dtype)

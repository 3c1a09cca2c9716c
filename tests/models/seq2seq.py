"""An encoder-decoder with additive attention (Bahdanau), as its users write it: GRUs, packed sequences, masks in place."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def masked_softmax(scores, lengths):
    shape = scores.shape
    lengths = torch.repeat_interleave(lengths, shape[1])
    scores = scores.reshape(-1, shape[-1])
    mask = torch.arange(shape[-1], device=scores.device)[None, :] < lengths[:, None]
    scores[~mask] = -1e6
    return nn.functional.softmax(scores.reshape(shape), dim=-1)


class AdditiveAttention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.W_k = nn.Linear(size, size, bias=False)
        self.W_q = nn.Linear(size, size, bias=False)
        self.w_v = nn.Linear(size, 1, bias=False)

    def forward(self, queries, keys, values, lengths):
        queries, keys = self.W_q(queries), self.W_k(keys)
        features = torch.tanh(queries.unsqueeze(2) + keys.unsqueeze(1))
        self.attention_weights = masked_softmax(self.w_v(features).squeeze(-1), lengths)
        return torch.bmm(self.attention_weights, values)


class Seq2Seq(nn.Module):
    def __init__(self, vocabulary=11, size=6):
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, size), nn.Embedding(vocabulary, size)
        self.encoder = nn.GRU(size, size, num_layers=1, batch_first=True)
        self.attention = AdditiveAttention(size)
        self.decoder = nn.GRUCell(2 * size, size)
        self.out = nn.Linear(size, vocabulary)

    def forward(self, source, lengths, target):
        packed = pack_padded_sequence(self.source(source), lengths, batch_first=True, enforce_sorted=False)
        outputs, hidden = self.encoder(packed)
        keys, _ = pad_packed_sequence(outputs, batch_first=True)
        state = hidden[-1]
        scores = Variable(torch.zeros(target.size(0), target.size(1), 11).type_as(keys))
        for t in range(target.size(1)):
            context = self.attention(state.unsqueeze(1), keys, keys, lengths)
            state = self.decoder(torch.cat((context.squeeze(1), self.target(target[:, t])), dim=1), state)
            scores[:, t] = self.out(state)
        return scores, F.nll_loss(F.log_softmax(scores, dim=2).permute(0, 2, 1), target)


def make():
    return Seq2Seq()


def inputs():
    source = torch.arange(15).view(3, 5) * 3 % 11
    return source, torch.tensor([3, 5, 4]), torch.arange(12).view(3, 4) * 5 % 11

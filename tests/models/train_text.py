"""A training script: texts of different lengths, packed for an LSTM, and a function with a gradient of its own.

train_text.py WEIGHTS OUT: as train_gpt.py.
"""

import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Function
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler


class GradReverse(Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.neg() * ctx.alpha, None


class SoftClamp(Function):
    @staticmethod
    def forward(ctx, x, limit):
        y = limit * torch.tanh(x / limit)
        ctx.save_for_backward(y)
        ctx.limit = limit
        return y

    @staticmethod
    def backward(ctx, grad_output):
        (y,) = ctx.saved_tensors
        return (grad_output * (1 - (y / ctx.limit) ** 2) if ctx.needs_input_grad[0] else None), None


class Texts(Dataset):
    def __init__(self, n=24):
        self.texts = [[(i * j + j) % 11 + 1 for j in range(3 + i % 5)] for i in range(n)]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        return {"text": self.texts[i], "label": sum(self.texts[i]) % 3, "domain": i % 2}


def collate_fn(batch):
    batch = sorted(batch, key=lambda item: len(item["text"]), reverse=True)
    lengths = torch.tensor([len(item["text"]) for item in batch])
    tokens = pad_sequence([torch.tensor(item["text"]) for item in batch], batch_first=True, padding_value=0)
    labels, domains = (torch.tensor([item[key] for item in batch]) for key in ("label", "domain"))
    return tokens, lengths, labels, domains


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.fc, self.domain = nn.Linear(20, 3), nn.Linear(20, 2)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True)
        out, (hidden, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        mask = (torch.arange(out.size(1))[None, :] < lengths[:, None]).unsqueeze(-1)
        mean = (out * mask).sum(1) / lengths.unsqueeze(1)
        features = torch.cat([hidden[-2], hidden[-1], mean], dim=1)
        return SoftClamp.apply(self.fc(features), 2.0), self.domain(GradReverse.apply(features, 0.3))


torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
weights, out = sys.argv[1:]
model = Classifier()
if os.path.exists(weights):
    model.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(weights).items()})
else:
    np.savez(weights, **{k: v.numpy() for k, v in model.state_dict().items()})
dataset = Texts()
sampler = BatchSampler(SequentialSampler(dataset), batch_size=5, drop_last=False)
loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_fn)
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.02, alpha=0.9, eps=1e-3, momentum=0.5, centered=True)
scheduler = ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=0, threshold=0.05)
losses, rates = [], []
for epoch in range(6):
    total = 0.0
    for tokens, lengths, labels, domains in loader:
        optimizer.zero_grad()
        scores, domain_scores = model(tokens, lengths)
        loss = F.cross_entropy(scores, labels) + F.cross_entropy(domain_scores, domains)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    scheduler.step(total / len(dataset))
    losses.append(total / len(dataset))
    rates.append(optimizer.param_groups[0]["lr"])
    print(f"epoch {epoch}: {losses[-1]:.4f}")
trained = {f"trained {k}": v.detach().numpy() for k, v in model.state_dict().items()}
np.savez(out, losses=np.array(losses), rates=np.array(rates), **trained)

"""A training script: a data set with a window, groups of parameters, warm-up and cosine, a checkpoint and its loading.

train_gpt.py WEIGHTS OUT: WEIGHTS are the initial ones, made if they are missing; OUT gets losses, rates and weights.
"""

import argparse
import io
import math
import os

import numpy as np
import torch
import torch.nn as nn
from gpt import GPT, Config
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset


class TextDataset(Dataset):
    def __init__(self, data, block_size):
        self.data, self.block_size = data, block_size

    def __len__(self):
        return len(self.data) - self.block_size

    def __getitem__(self, idx):
        chunk = self.data[idx : idx + self.block_size + 1]
        return torch.tensor(chunk[:-1], dtype=torch.long), torch.tensor(chunk[1:], dtype=torch.long)


def configure_optimizers(model, weight_decay, lr):
    decay = [p for n, p in model.named_parameters() if p.dim() >= 2]
    nodecay = [p for n, p in model.named_parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": nodecay, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-3, fused=False)


@torch.no_grad()
def estimate_loss(model, loader):
    model.eval()
    losses = torch.zeros(len(loader))
    for k, (X, Y) in enumerate(loader):
        _, loss = model(X, Y)
        losses[k] = loss.item()
    model.train()
    return losses.mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.add_argument("out")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1337)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = Config()
    model = GPT(config).to(device)
    if os.path.exists(args.weights):
        model.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(args.weights).items()})
    else:
        np.savez(args.weights, **{k: v.numpy() for k, v in model.state_dict().items()})
    data = [(i * i + 3 * i) % config.vocab_size for i in range(60)]
    whole = TextDataset(data, config.block_size)
    train, val = Subset(whole, range(40)), Subset(whole, range(40, len(whole)))
    loader = DataLoader(train, batch_size=8, sampler=list(range(39, -1, -1)), num_workers=2, drop_last=True)
    val_loader = DataLoader(val, batch_size=4, shuffle=False, pin_memory=True)
    optimizer = configure_optimizers(model, 0.1, 1e-2)
    steps = args.epochs * len(loader)
    schedule = LambdaLR(
        optimizer, lambda it: (it + 1) / 4 if it < 3 else 0.5 * (1 + math.cos(math.pi * (it - 3) / (steps - 3)))
    )
    found = {"losses": [], "rates": [], "norms": [], "val": []}
    for epoch in range(args.epochs):
        for X, Y in loader:
            X, Y = X.to(device, non_blocking=True), Y.to(device, non_blocking=True)
            _, loss = model(X, Y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            found["losses"].append(loss.item())
            found["norms"].append(norm.item())
            found["rates"].append(schedule.get_last_lr()[0])
        found["val"].append(estimate_loss(model, val_loader))
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "model_args": vars(config),
            "iter_num": epoch,
            "best_val_loss": min(found["val"]),
        }
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location=device, weights_only=True)
        model = GPT(Config(**checkpoint["model_args"]))
        model.load_state_dict(checkpoint["model"])
        optimizer = configure_optimizers(model, 0.0, 1.0)
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule = LambdaLR(optimizer, schedule.lr_lambdas)
        schedule.load_state_dict(checkpoint["schedule"])
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate
    weights = {f"trained {k}": v.detach().numpy() for k, v in model.state_dict().items()}
    np.savez(args.out, **{k: np.array(v) for k, v in found.items()}, **weights)
    print(f"val loss {found['val'][-1]:.4f}")


if __name__ == "__main__":
    main()

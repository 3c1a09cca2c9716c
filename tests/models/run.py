"""Train a model of this folder for three steps and save what it gave: run.py NAME DTYPE torch|tinyattn WEIGHTS OUT.

`torch` makes WEIGHTS, which `tinyattn` loads; OUT holds the outputs, the first gradients and the trained weights.
"""

import importlib
import sys

import numpy as np

name, dtype, library, weights, out = sys.argv[1:]
if library == "tinyattn":
    importlib.import_module("tinyattn.as_torch")
torch = importlib.import_module("torch")

torch.set_default_dtype(getattr(torch, dtype))
torch.manual_seed(0)
module = importlib.import_module(name)
model = module.make()
if library == "torch":
    np.savez(weights, **{key: value.numpy() for key, value in model.state_dict().items()})
else:
    model.load_state_dict({key: torch.from_numpy(value) for key, value in np.load(weights).items()})
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-3)  # or it steps by the sign of rounding errors
found = {}
for step in range(3):
    scores, loss = model(*module.inputs())
    optimizer.zero_grad()
    loss.backward()
    found |= {f"{step} scores": scores.detach().numpy(), f"{step} loss": loss.item()}
    if step == 0:
        found |= {f"gradient {key}": p.grad.numpy() for key, p in model.named_parameters() if p.requires_grad}
    optimizer.step()
np.savez(out, **found, **{f"trained {key}": value.numpy() for key, value in model.state_dict().items()})

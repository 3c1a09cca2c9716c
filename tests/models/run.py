"""Train models of this folder for three steps each and save what they give: run.py FOLDER DTYPE torch|tinyattn NAME ...

`torch` goes first: it makes FOLDER/NAME.weights.npz, which `tinyattn` loads. FOLDER/NAME.LIBRARY.npz gets the outputs,
the first gradients and the trained weights, or what a script NAME (train_...) writes. FOLDER/NAME.LIBRARY.txt gets what
is printed; FOLDER/NAME.LIBRARY.error the traceback of a model that fails, which does not stop the others.
"""

import contextlib
import importlib
import runpy
import sys
import traceback
from pathlib import Path

import numpy as np

folder, dtype, library, *names = sys.argv[1:]
if library == "tinyattn":
    importlib.import_module("tinyattn.as_torch")
torch = importlib.import_module("torch")


def train(name):
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(0)
    module = importlib.import_module(name)
    model = module.make()
    weights = Path(folder, f"{name}.weights.npz")
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
    found |= {f"trained {key}": value.numpy() for key, value in model.state_dict().items()}
    if hasattr(module, "predict"):
        found["predicted"] = np.array(module.predict(model, *module.inputs()))
    np.savez(Path(folder, f"{name}.{library}.npz"), **found)


def run(name):
    sys.argv = [name, str(Path(folder, f"{name}.weights.npz")), str(Path(folder, f"{name}.{library}.npz"))]
    runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")


for name in names:
    try:
        with Path(folder, f"{name}.{library}.txt").open("w") as file, contextlib.redirect_stdout(file):
            run(name) if name.startswith("train_") else train(name)
    except Exception:
        Path(folder, f"{name}.{library}.error").write_text(traceback.format_exc())

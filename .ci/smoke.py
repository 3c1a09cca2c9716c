"""What the wheel must do with nothing but NumPy installed. Run by .ci/run, outside the checkout."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, optim, viz

IMPORT = "import time, numpy; start = time.perf_counter(); import tinyattn; print(time.perf_counter() - start)"


def main() -> None:
    package = importlib.resources.files("tinyattn")
    assert Path(sys.prefix) in Path(str(package)).parents, f"not the installed package: {package}"
    assert package.joinpath("py.typed").is_file(), "py.typed is missing"
    assert importlib.metadata.version("tinyattn") == ta.__version__
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert installed <= {"tinyattn", "numpy", "pip", "setuptools"}, f"more than NumPy was installed: {installed}"

    seconds = min(float(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(5))
    assert seconds < 0.3, f"import tinyattn takes {seconds:.3f} s"

    losses = train()
    assert losses[-1] < 0.5 * losses[0], losses

    for function in (data.load_digits, lambda: viz.figure.new_figure(1, 1)):
        names_its_extra(function)
    print(f"tinyattn {ta.__version__} alone with NumPy {np.__version__}: imported in {seconds:.3f} s,", end=" ")
    print(f"30 steps took the loss from {losses[0]:.2f} to {losses[-1]:.2f}")


def names_its_extra(function: Callable[[], object]) -> None:
    """A function that needs another package raises an error of one line with the command that installs it."""
    try:
        function()
    except ImportError as error:
        if 'pip install "tinyattn[' in str(error):
            return
        raise
    raise AssertionError(f"{function} worked without its package")


def train() -> list[float]:
    """Return the loss of each of 30 steps on 32 random images, which can only be memorised."""
    ta.manual_seed(0)
    images, labels = ta.rand(32, 28, 28), ta.randint(0, 10, (32,))
    model = models.AttentionClassifier(num_layers=1, hidden_dim=32, mlp_dim=64)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main()

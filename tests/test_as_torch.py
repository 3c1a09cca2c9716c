"""tinyattn.as_torch: models written for PyTorch run unchanged, and give PyTorch's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MODELS = sorted(path.stem for path in (ROOT / "tests/models").glob("*.py") if path.stem != "run")
TOLERANCE = {"float64": 1e-11, "float32": 1e-5}


def python(*arguments: str, inside: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A new process, in which the other library has not been imported."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=inside, env=environment)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("model", MODELS)
def test_foreign_model_trains_as_in_pytorch(model, dtype, tmp_path):
    found = []
    for library in ("torch", "tinyattn"):
        out = str(tmp_path / f"{library}.npz")
        ran = python(str(ROOT / "tests/models/run.py"), model, dtype, library, str(tmp_path / "weights.npz"), out)
        assert ran.returncode == 0, ran.stderr[-2000:]
        found.append(np.load(out))
    theirs, ours = found
    assert sorted(ours) == sorted(theirs)
    for key in theirs:
        scale = TOLERANCE[dtype] * (
            50 if "trained" in key and dtype == "float32" else 1
        )  # Adam divides by small numbers
        np.testing.assert_allclose(ours[key], theirs[key], rtol=scale, atol=scale, err_msg=key)
        assert ours[key].dtype == theirs[key].dtype, key


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import torch; torch.fft", "torch.fft is not part of tinyattn"),
        ("import torch.fft", "torch.fft is not part of tinyattn"),
        ("from torch.nn import Conv3d", "cannot import name 'Conv3d'"),
        ("import torch; torch.bfloat16()", "torch.bfloat16 is not part of tinyattn"),
    ],
)
def test_as_torch_names_what_is_missing(program, message):
    ran = python("-c", f"import tinyattn.as_torch\n{program}")
    assert ran.returncode == 1 and message in ran.stderr.splitlines()[-1]


def test_as_torch_refuses_to_mix_with_pytorch():
    ran = python("-c", "import torch, tinyattn.as_torch")
    assert "PyTorch is already imported in this process" in ran.stderr.splitlines()[-1]


def test_as_torch_settings_without_effect():
    program = """
import tinyattn.as_torch
import torch
import torch.backends.cudnn as cudnn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.checkpoint import checkpoint
from torch.cuda.amp import GradScaler, autocast
cudnn.benchmark = True
scaler = GradScaler(enabled=False)
model = torch.compile(torch.nn.Linear(2, 1).to(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = model.weight.tolist()
with torch.amp.autocast(device_type="cpu", dtype=torch.bfloat16), torch.no_grad():
    assert not model(torch.ones(3, 2)).requires_grad
for (x,) in DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2):
    scaler.scale(model(x).sum()).backward()
scaler.unscale_(optimizer)
scaler.step(optimizer)
scaler.update()
assert model.weight.tolist() != before and torch.__version__ and not torch.jit.is_scripting()
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr

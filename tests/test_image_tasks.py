"""The example scripts of the image tasks, run as a user runs them."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

from parts import resnet

import ablation
import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F

ROOT = Path(__file__).parents[1]


def script(name, *arguments):
    quiet = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "TINYATTN_DATA": ""}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=quiet)


def shares(text):
    """The named percentages that a script prints last."""
    rows = [line.split("  ") for line in text.splitlines() if line.startswith("  ") and "%" in line]
    return {row[1].strip(): float(next(w for w in row[2:] if "%" in w).strip().rstrip("%")) / 100 for row in rows}


@pytest.mark.slow
def test_cnn_attention_learns_and_looks_at_the_digit(tmp_path):
    done = script("cnn_attention.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = shares(done.stdout)
    plain, cbam = (value for name, value in found.items() if "parameters" in name)
    assert plain > 0.93 and cbam > 0.93
    assert found["what spoke for it erased"] < found["as many cells with ink"] - 0.1
    folder = tmp_path / "cnn-cbam-digits-seed0"
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "summary.json").read_text())["attention"] == "cbam"


def test_gates_of_cbam_begin_even_and_learn():
    ta.manual_seed(0)
    attention = resnet.Attention("cbam", 8)
    x = ta.randn(2, 8, 5, 5)
    out = attention(x)
    share = (out / x).detach().numpy()
    np.testing.assert_allclose(share, np.broadcast_to(share[:1, :, :1, :1], share.shape), rtol=1e-5)
    (out**2).sum().backward()
    assert attention.channel[2].weight.grad.abs().amax().item() > 0
    assert attention.spatial.weight.grad.abs().amax().item() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_attention.py", "long_attention.py", "ablation.py"])
def test_image_tasks_refuse_unknown_options(name):
    done = script(name, "--quik")
    assert done.returncode == 2
    assert "there is no option --quik (is --quick meant?)" in done.stderr


@pytest.mark.parametrize("tokens", [1, 5, 12, 13])
def test_window_attention_is_the_banded_exact_one(tokens):
    window = runpy.run_path(str(ROOT / "examples" / "long_attention.py"))["window"]
    ta.manual_seed(0)
    query, key, value = (ta.randn(tokens, 3, dtype=ta.float64) for _ in range(3))
    place = np.arange(tokens)
    band = ta.tensor(abs(place[:, None] - place) <= 4)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=band)
    np.testing.assert_allclose(window(query, key, value, reach=4).numpy(), expected.numpy(), rtol=1e-12)


def test_linear_attention_is_its_definition_by_pairs():
    linear = runpy.run_path(str(ROOT / "examples" / "long_attention.py"))["linear"]
    ta.manual_seed(0)
    query, key, value = (ta.randn(7, 3, dtype=ta.float64) for _ in range(3))
    weights = (F.elu(query) + 1) @ (F.elu(key) + 1).T
    weights = weights / weights.sum(1, keepdim=True)
    np.testing.assert_allclose(linear(query, key, value).numpy(), (weights @ value).numpy(), rtol=1e-12)


@pytest.mark.slow
def test_long_attention_shows_the_square(tmp_path):
    done = script("long_attention.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "summary.json").read_text())["seconds_and_mib"]
    growth = {name: rows[-1][1] / rows[-2][1] for name, rows in found.items()}  # of memory, for twice the tokens
    assert growth["exact"] > 3.5
    assert growth["window of 64"] < 2.5 and growth["linear"] < 2.5


@pytest.mark.slow
def test_ablation_compares_each_trick_with_none(tmp_path):
    done = script("ablation.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    rows = [line.split(" | ") for line in (folder / "ablation.md").read_text().splitlines()[6:]]
    assert len(rows) == 8
    assert all(float(row[1].rstrip("%")) > 80 for row in rows)
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_ablation_resumes_with_the_networks_not_trained_yet(tmp_path, monkeypatch, capsys):
    trained = []

    def stopped(args, digits, seed, **settings):
        trained.append((seed, *settings))
        if len(trained) == 5:
            raise KeyboardInterrupt
        return 0.9 + 0.01 * seed * ("l1" in settings)

    monkeypatch.setitem(ablation.main.__globals__, "accuracy_with", stopped)
    with pytest.raises(KeyboardInterrupt):
        ablation.main(["--quick", "--out", str(tmp_path)])
    (folder,) = tmp_path.iterdir()
    assert ablation.main(["--resume", str(folder), "--page", str(tmp_path / "page.md")]) == 0
    assert len(trained) == 17 and trained[4] == trained[5]  # 16 networks, one of them begun twice
    page = (tmp_path / "page.md").read_text()
    assert page == (folder / "ablation.md").read_text() and "--data digits --epochs 3 --quick`" in page
    assert "| L1 | 90.50% | +0.50 | -5.85 to +6.85 |" in page  # t = 12.706 with one degree of freedom, deviation 0.707
    assert "| none | 90.00% | | |" in page

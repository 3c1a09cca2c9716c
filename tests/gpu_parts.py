"""The parts of gpu_check.py: what each does on a GPU, and what it must find there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 570  # seconds a part may take
_TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_*.py"))}
_MARKS = "\nON_EVERY_DEVICE", 'usefixtures("gpu")', "pytest.mark.gpu"
FILES = [name for name, text in _TEXTS.items() if any(mark in text for mark in _MARKS)]  # with tests that need a GPU
KEPT = "GPU_CHECK_KEEPS"  # in the environment: the folder that keeps what examples/benchmark.py writes
MODEL = {"patch_size": 4, "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 256}  # 49 tokens
REHEARSAL = {"patch_size": 14, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}

Found = dict[str, Any]  # what a part found; "ok" says whether it is as it must be, "skipped" why it did not run


def suite(name: str, rehearse: bool) -> Found:
    """One test file on the GPU."""
    command = [sys.executable, "-m", "pytest", "-q", f"tests/{name}.py", "-m", "gpu", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TINYATTN_GPU": "fake" if rehearse else "1"}
    command += ["--maxfail=1", "-x", "--co"] if rehearse else []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    lines = done.stdout.strip().splitlines()
    return {
        "ok": done.returncode == 0,
        "said": lines[-1] if lines else done.stderr[-500:],
        "failed": [x for x in lines if x.startswith("FAILED")],
    }


def gradients(rehearse: bool) -> Found:
    """Loss and all gradients of the classifier beside PyTorch's on the same GPU, in float32 and float64."""
    import torch

    import tinyattn as ta

    where = _torch_device(rehearse)
    if where is None:
        return {"skipped": "this PyTorch sees no GPU"}
    worst = {}
    for dtype, allowed in (("float32", 2e-3), ("float64", 1e-9)):
        model, step, batch = _ours(rehearse, dtype=dtype, batch=8)
        theirs, their_step, their_batch = _theirs(model, where, batch, dtype)
        step(*batch, update=False)
        their_step(*their_batch, update=False)
        grads = {name: p.grad.detach().cpu().numpy() for name, p in theirs.items()}
        off = [
            float(np.abs(p.grad.cpu().numpy() - grads[name]).max() / (np.abs(grads[name]).max() + 1e-12))
            for name, p in model.named_parameters()
        ]
        worst[dtype] = {"relative": max(off), "allowed": allowed}
    assert ta.get_default_device() == "cpu" and torch.is_grad_enabled()
    return {"ok": all(w["relative"] <= w["allowed"] for w in worst.values()), "worst": worst}


def deterministic(rehearse: bool) -> Found:
    """Five training runs from one seed: the same bits."""
    hashes = []
    for _ in range(5):
        model, step, batch = _ours(rehearse, dropout=0.1)
        for _ in range(3 if rehearse else 200):
            step(*batch)
        hashes.append(_hash(model))
    return {"ok": len(set(hashes)) == 1, "hashes": hashes}


def replay(rehearse: bool) -> Found:
    """A replayed graph and the same launches one by one: the same bits; and whether a graph was captured at all."""
    import tinyattn as ta

    hashes = []
    for how in (lambda f: f, ta.compile):
        model, step, batch = _ours(rehearse, dropout=0.1)
        step = how(step)
        for _ in range(5 if rehearse else 200):
            step(*batch)
        hashes.append(_hash(model))
    return {"ok": hashes[0] == hashes[1] and not step._failed, "hashes": hashes, "captured": not step._failed}


def sanitizer(rehearse: bool) -> Found:
    """A training step under compute-sanitizer's tools."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer (of the CUDA toolkit) is not on the PATH"}
    said = {}
    for name in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [
            tool,
            "--tool",
            name,
            "--error-exitcode",
            "9",
            sys.executable,
            str(ROOT / "tests/gpu_check.py"),
            "--inside",
            "one_step",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT / 4 - 5)
        except subprocess.TimeoutExpired as late:  # the other tools' findings stay
            said[name] = {"status": -1, "said": [f"took more than {late.timeout:.0f} seconds"]}
            continue
        said[name] = {"status": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}
    return {"ok": all(s["status"] == 0 for s in said.values()), "tools": said}


def one_step(rehearse: bool) -> Found:
    """What the sanitizer watches: steps one by one, and replayed; and look-ups that meet in one row."""
    import tinyattn as ta

    table = ta.nn.Embedding(50, 16).to("cuda")
    table(ta.arange(600, device="cuda") % 7).sum().backward()
    _, step, batch = _ours(rehearse, dropout=0.1)
    compiled = ta.compile(step)
    for _ in range(4):
        step(*batch)
        compiled(*batch)
    return {"ok": True}


def step_time(batch: int, tf32: bool, rehearse: bool) -> Found:
    """Seconds of a training step, in turns with PyTorch's: as it is, and compiled with mode="reduce-overhead"."""
    if _torch_device(rehearse) is None:
        return {"skipped": "this PyTorch sees no GPU"}
    (found,) = _benchmark(f"step-{batch}", rehearse, *(["--tf32"] if tf32 else []))["comparisons"]
    ratios = {r["to"]: [r["ratio"], r["low"], r["high"]] for r in found["ratios"]}
    wanted = {"PyTorch eager": 0.35 if batch == 64 else 0.8, "PyTorch compiled, reduce-overhead, Adam fused=True": 1.0}
    ok = rehearse or all(name in ratios and ratios[name][0] <= most for name, most in wanted.items())
    seconds = {side["name"]: side["seconds"] for side in found["sides"]}
    return {"ok": ok, "seconds": seconds, "ratios": ratios, "wanted": wanted, "left_out": found["left_out"]}


def bandwidth(rehearse: bool) -> Found:
    """Kernels that only move bytes, as a share of what a copy on the device moves."""
    raw = _benchmark("bandwidth", rehearse)["raw"]
    shares = {found["kernel"]: found["share"]["ratio"] for found in raw}
    rates = {found["kernel"]: statistics.median(found["rates"]) for found in raw}
    return {"ok": rehearse or min(shares.values()) >= 0.8, "bytes_per_second": rates, "shares": shares}


def _benchmark(part: str, rehearse: bool, *options: str) -> Any:
    """What a part of examples/benchmark.py finds."""
    places = [ROOT / "tests/fakecuda/path"] * rehearse + [ROOT, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(os.environ.get(KEPT, folder)) / f"benchmark-{part}{''.join(options)}.json"  # for its --write-docs
        command = [sys.executable, str(ROOT / "examples/benchmark.py"), "--device", "cuda", "--parts", part]
        command += ["--json", str(kept), *options, *(["--quick", "--seconds", "0.01"] if rehearse else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(kept.read_text(encoding="utf-8"))["parts"][part]


def mnist(rehearse: bool) -> Found:
    """Seconds of training to 99 % on MNIST's test images: one upload, one graph, three seeds."""
    import tinyattn as ta
    import tinyattn.nn.functional as F
    from tinyattn import data, models, optim, train

    digits = data.load_digits() if rehearse else data.load_mnist(download=False)
    recipe = (
        {"patch_size": 14} if rehearse else {"patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128}
    )
    epochs, runs = (1, 1) if rehearse else (10, 3)
    size, seconds, best = 128, [], []
    images, labels = (
        ta.tensor(a[:256] if rehearse else a, device="cuda") for a in (digits.train_images, digits.train_labels)
    )
    for seed in range(runs):
        ta.manual_seed(seed)
        model = models.AttentionClassifier(**recipe, mlp_dim=128, pooling="attention").to("cuda")
        optimizer = optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
        loader = data.DataLoader((images, labels), size, shuffle=True, drop_last=True)
        schedule = optim.CosineAnnealingLR(optimizer, epochs * len(loader))

        @ta.compile
        def step(x: Any, y: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            loss = F.cross_entropy(model(data.random_shift(x, 2)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        spent, reached, top = 0.0, None, 0.0
        for _ in range(epochs):
            start = time.perf_counter()
            for x, y in loader:
                step(x, y)
                schedule.step()
            ta.cuda.synchronize()
            spent += time.perf_counter() - start
            accuracy = float((train.predict(model, digits.test_images).argmax(1) == digits.test_labels).mean())
            top = max(top, accuracy)
            reached = spent if reached is None and accuracy >= 0.99 else reached
        seconds.append(reached)
        best.append(top)
    return {"ok": rehearse or None not in seconds, "seconds_to_99": seconds, "best": best, "captured": not step._failed}


PARTS: dict[str, Callable[[bool], Found]] = {
    **{f"suite-{name}": lambda rehearse, name=name: suite(name, rehearse) for name in FILES},
    "gradients": gradients, "deterministic": deterministic, "replay": replay, "sanitizer": sanitizer,
    **{f"step-{batch}{'-tf32' * tf32}": lambda rehearse, b=batch, t=tf32: step_time(b, t, rehearse)
       for batch in (64, 1024) for tf32 in (False, True)},
    "bandwidth": bandwidth, "mnist": mnist,
}  # fmt: skip


# --- one model, twice ---


def _ours(rehearse: bool, batch: int = 64, dropout: float = 0.0, dtype: str = "float32") -> Any:
    """The classifier on the GPU, what one step of it does, and a batch."""
    import tinyattn as ta
    import tinyattn.nn.functional as F
    from tinyattn import models, optim

    ta.manual_seed(0)
    model = models.AttentionClassifier(**(REHEARSAL if rehearse else MODEL), dropout=dropout).to(
        "cuda", dtype=np.dtype(dtype)
    )
    optimizer = optim.AdamW(model.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    images = ta.tensor(rng.random((batch, 28, 28)).astype(dtype), device="cuda")
    labels = ta.tensor(rng.integers(0, 10, batch), device="cuda")

    def step(images: Any, labels: Any, update: bool = True) -> Any:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if update:
            optimizer.step()
        return loss

    return model, step, (images, labels)


def _theirs(model: Any, where: str, batch: Any, dtype: str = "float32") -> Any:
    """The same in PyTorch, with the same weights: its parameters by name, its step, and its batch."""
    import torch
    import torch.nn.functional as F

    p = {n: torch.tensor(t.cpu().numpy(), device=where).requires_grad_() for n, t in model.state_dict().items()}
    index = torch.tensor(model.patch_index.cpu().numpy(), device=where)
    layers, heads = len(model.blocks), model.blocks[0].attention.num_heads
    optimizer = torch.optim.AdamW(p.values(), 1e-3, fused=where == "cuda")

    def linear(x: Any, prefix: str) -> Any:
        return F.linear(x, p[f"{prefix}weight"], p[f"{prefix}bias"])

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    def step(images: Any, labels: Any, update: bool = True) -> Any:
        x = linear(images.flatten(1)[:, index], "embed.") + p["position"]
        for i in range(layers):
            q, k, v = (
                linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attention.in_proj_")
                .unflatten(-1, (3, heads, -1))
                .permute(2, 0, 3, 1, 4)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + linear(mixed, f"blocks.{i}.attention.out_proj.")
            hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1."), approximate="tanh")
            x = x + linear(hidden, f"blocks.{i}.mlp.fc2.")
        loss = F.cross_entropy(linear(norm(x, "norm").mean(1), "head."), labels)
        optimizer.zero_grad()
        loss.backward()
        if update:
            optimizer.step()
        return loss

    return p, step, tuple(torch.tensor(t.cpu().numpy(), device=where) for t in batch)


def _torch_device(rehearse: bool) -> str | None:
    import torch

    return "cpu" if rehearse else "cuda" if torch.cuda.is_available() else None


def _hash(model: Any) -> str:
    bits = b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values())
    return hashlib.sha256(bits).hexdigest()[:16]

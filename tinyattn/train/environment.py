"""What a run was made with: versions, the machine's kind, the state of the source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def versions() -> dict[str, str]:
    """Python, this package, and the packages whose versions can change a result."""
    import tinyattn

    found = {"python": platform.python_version(), "platform": platform.platform(), "tinyattn": tinyattn.__version__}
    for package in ("numpy", "scikit-learn", "safetensors", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(before: Mapping[str, str]) -> str:
    """What is of another version now than `versions` said before, in words."""
    now = versions()
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {now.get(name, 'missing')} instead of {before.get(name, 'none')}" for name in names)


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that a folder is at and whether files differ from it; None where there is no git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def fingerprint(*arrays: Any) -> str:
    """SHA-256 of arrays with their shapes and dtypes: the same data have the same one."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

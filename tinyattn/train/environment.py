"""What a run was made with: versions, platform, state of the source, checksum of the data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def versions() -> dict[str, str]:
    """The versions of Python, of this package, and of the packages that can change a result."""
    own = sys.modules["tinyattn"].__version__  # an import of the package by its own module would be a circle
    found = {"python": platform.python_version(), "platform": platform.platform(), "tinyattn": own}
    for package in ("numpy", "scikit-learn", "safetensors", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(before: Mapping[str, str]) -> str:
    """The differences between the versions recorded before and those of today, in words."""
    now = versions()
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {now.get(name, 'missing')} instead of {before.get(name, 'none')}" for name in names)


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of a folder and whether its files have changes; None without git."""
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
    """SHA-256 of arrays with their shapes and dtypes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

"""What was compiled is kept in the user's cache folder, up to a bound: 800 kernels take g++ two minutes.

The folder's name depends on everything that what is in it depends on. Processes that run at the same time (pytest -n)
share it: the first one builds a library, the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import cuda_shim

from fakecuda import WHEELS, version_of

HERE = Path(__file__).parent
MOST = 300 << 20  # bytes of kernels
_SOURCES = {".py", ".c", ".cpp", ".h", ".hpp"}
_DAY = 24 * 60 * 60


@functools.cache
def folder() -> Path:
    """Where this version of the sources, with this compiler and this CuPy, keeps what it made."""
    sources = [path for place in (HERE, cuda_shim.HERE) for path in sorted(place.rglob("*")) if path.suffix in _SOURCES]
    compiler = subprocess.check_output(["g++", "--version"])
    digest = hashlib.sha256(b"\0".join([compiler, version("numpy").encode(), *(path.read_bytes() for path in sources)]))
    digest.update("".join(map(version_of, WHEELS)).encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tinyattn-fakecuda"
    ours = root / digest.hexdigest()[:16]
    ours.mkdir(parents=True, exist_ok=True)
    with alone(root):
        os.utime(ours)
        _remove_old(root, ours)
    return ours


def kernels() -> Path:
    """Where CuPy keeps compiled kernels."""
    place = folder() / "kernels"
    place.mkdir(exist_ok=True)
    return place


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """One process at a time in the block."""
    with open(place / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def build(name: str, command: Sequence[str]) -> Path:
    """Return the file `name` of the folder, which `command` makes if it is not there; "-o" and a path are appended."""
    made = folder() / name
    with alone(folder()):
        if not made.exists():
            fresh = made.with_name(f"{name}.{os.getpid()}")
            done = subprocess.run([*command, "-o", str(fresh)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{command[0]} could not build {name} of tests/fakecuda: {done.stderr[:4000]}")
            fresh.rename(made)
    return made


def _remove_old(root: Path, ours: Path) -> None:
    """Remove folders of other versions that nobody has used for a day, and our oldest kernels above the bound."""
    for other in root.iterdir():
        if other.is_dir() and other != ours and time.time() - other.stat().st_mtime > _DAY:
            shutil.rmtree(other, ignore_errors=True)
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in ours.glob("kernels/*"))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MOST:
            break
        path.unlink(missing_ok=True)
        total -= size

"""Optional packages: imported on first use; if one is missing, the error names the extra that installs it."""

from __future__ import annotations

import importlib
from typing import Any

EXTRAS = {  # what installs an optional package, by the name that is imported
    "babel": "tasks", "graphviz": "viz", "mpi4py": "mpi", "torch": "bench", "jax": "bench", "tinygrad": "bench",
    **dict.fromkeys(("matplotlib", "pooch", "safetensors", "scipy", "sklearn", "threadpoolctl", "tqdm"), "train"),
}  # fmt: skip


def require(module: str, purpose: str, extra: str = "train") -> Any:
    """Import a module of an optional package.

    purpose: what needs it, the beginning of the error message. extra: what installs it.

    Raises ImportError with the command that installs the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{purpose} needs {package} ({error}): pip install "tinyattn[{extra}]".') from error


def missing(error: ModuleNotFoundError) -> str:
    """Return the sentence for a known package that is not installed, with the command that installs it, or ""."""
    package = (error.name or "").partition(".")[0]
    if package in ("numpy", "tinyattn"):
        return f'{package} is not installed: pip install "tinyattn[train]" (in a clone: pip install -e ".[train]").'
    extra = EXTRAS.get(package)
    return f'{package} is not installed: pip install "tinyattn[{extra}]".' if extra else ""

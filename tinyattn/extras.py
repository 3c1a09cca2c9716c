"""Optional packages: imported on first use; if one is missing, the error names the extra that installs it."""

from __future__ import annotations

import importlib
from typing import Any


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

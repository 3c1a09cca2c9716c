"""A matplotlib figure without pyplot's global state, so that it works without a screen and in threads."""

from __future__ import annotations

from typing import Any


def new_figure(width: float, height: float) -> Any:
    """An empty figure of `width` x `height` inches; `.savefig(path)` writes it.

    Raises ImportError, naming the extra to install, where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('pictures need matplotlib: pip install "tinyattn[viz]"') from None
    return Figure(figsize=(width, height), dpi=150, layout="constrained")

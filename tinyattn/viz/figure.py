"""Matplotlib figures without pyplot's global state, which need no screen and work in threads."""

from __future__ import annotations

from typing import Any

from tinyattn.extras import require
from tinyattn.files.texts import printable


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of `width` x `height` inches; `.savefig(path)` writes it.

    Raises ImportError, with the extra to install, if matplotlib is missing.
    """
    return require("matplotlib.figure", "a picture", "viz").Figure(
        figsize=(width, height), dpi=150, layout="constrained"
    )


def shown(text: str, most: int = 60) -> str:
    """Return `printable` text, shortened in the middle to `most` characters."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 + 1 :]}"


def headed(figure: Any, *parts: str) -> Any:
    """Return `figure` with the parts of its heading that are not empty."""
    figure.suptitle(": ".join(filter(None, parts)), fontsize=10)
    return figure

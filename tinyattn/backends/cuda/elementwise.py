"""Elementwise functions that CuPy keeps elsewhere."""

from __future__ import annotations

from typing import Any

__all__ = ["erf"]


def erf(x: Any) -> Any:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, elementwise."""
    from cupyx.scipy import special  # which takes a while to import

    return special.erf(x).astype(x.dtype, copy=False)

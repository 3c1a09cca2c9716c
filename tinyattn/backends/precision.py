"""How exact products of float32 matrices are on a GPU."""

from __future__ import annotations

_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """The word "highest" means float32 throughout; "high" and "medium" let the tensor cores of a GPU round each factor
    to 10 bits first (TF32), several times faster. The CPU computes in float32 whatever is said. As
    torch.set_float32_matmul_precision.

    Raises ValueError for another word.
    """
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision={precision!r}; expected 'highest', 'high' or 'medium'")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` has set; "highest" at first."""
    return _precision

"""What "cuda" is in the tests, by TINYATTN_GPU: unset or "0" the stand-in (tests/standin), "1" a real GPU, "fake" CuPy
itself on the processor (tests/fakecuda)."""

from __future__ import annotations

import os

CHOICE = os.environ.get("TINYATTN_GPU") or "0"
if CHOICE not in ("0", "1", "fake"):
    raise ValueError(f"TINYATTN_GPU={CHOICE!r}; expected 0 (the stand-in), fake (CuPy without a GPU) or 1 (a GPU)")
STAND_IN = CHOICE == "0"


def install() -> None:
    """Have `import cupy` find it."""
    if STAND_IN:
        import standin

        standin.install()
    elif CHOICE == "fake":
        import fakecuda

        fakecuda.install()

"""Names of devices: "cpu", "cuda" and "cuda:1"."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"(cpu|cuda)(?::(\d+))?")


class device(str):  # noqa: N801 - torch's name
    """A device by name: device("cpu"), device("cuda"), device("cuda", 1), device("cuda:1"). As torch.device.

    A string with two attributes more (`index` is no longer str's method), so a name will do wherever a device is
    expected, and the other way round.
    type: "cpu" or "cuda". index: which GPU; None for the processor and for the GPU that is current.
    """

    type: str
    index: int | None  # type: ignore[assignment]

    def __new__(cls, type: Any, index: int | None = None) -> device:
        """Raises ValueError for a name that is none of these."""
        if isinstance(type, int) and not isinstance(type, bool):
            type, index = "cuda", type  # torch counts GPUs so
        name = str(type) if index is None else f"{type}:{index}"
        found = _NAME.fullmatch(name)
        if found is None or (name.startswith("cpu:") and name != "cpu:0"):
            raise ValueError(f"device={name!r} is no device; expected 'cpu', 'cuda' or 'cuda:1' (the number of a GPU)")
        kind = found[1]
        self = super().__new__(cls, "cpu" if kind == "cpu" else name)
        self.type, self.index = kind, int(found[2]) if found[2] and kind == "cuda" else None
        return self

    def __repr__(self) -> str:
        return f"device(type={self.type!r}{'' if self.index is None else f', index={self.index}'})"

    def __reduce__(self) -> Any:
        return device, (str(self),)


def is_device(x: Any) -> bool:
    """Whether `x` names a device: what `to()` takes beside dtypes."""
    return isinstance(x, str) and (x == "cpu" or x == "cuda" or x.startswith(("cpu:", "cuda:")))


CPU = device("cpu")

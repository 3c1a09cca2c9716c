"""torch.save and torch.load: states as ta.save writes them, any other object as a pickle behind a line of its own."""

from __future__ import annotations

import os
import pickle
from typing import Any

import tinyattn as ta
from tinyattn.files.whole import write_whole

START = b"tinyattn.as_torch, pickle\n"


def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """Write `obj` to a file as `ta.save`, or, if it holds other objects (a module, a Namespace), as a pickle.

    PyTorch's other options are without effect.
    """
    try:
        ta.save(f, obj)
    except TypeError:
        content = START + pickle.dumps(obj)
        if hasattr(f, "write"):
            f.write(content)
        else:
            write_whole(f, content)


def load(f: Any, map_location: Any = None, *args: Any, weights_only: bool | None = None, **options: Any) -> Any:
    """Read what `save` wrote, as `ta.load`. A pickle, which can run any code, is read only with weights_only=False."""
    if not hasattr(f, "read"):
        if os.path.exists(f):
            with open(f, "rb") as file:
                if file.read(len(START)) == START:
                    return _unpickled(file, weights_only)
        return ta.load(f, map_location)
    place = f.tell()
    if f.read(len(START)) == START:
        return _unpickled(f, weights_only)
    f.seek(place)
    return ta.load(f, map_location)


def _unpickled(file: Any, weights_only: bool | None) -> Any:
    if weights_only is not False:
        raise pickle.UnpicklingError(
            "torch.load: the file holds other objects than tensors, numbers and their containers, and reading it can "
            "run any code; pass weights_only=False if you trust its source"
        )
    return pickle.load(file)

"""torch.save and torch.load, by tinyattn's files."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import tinyattn as ta


def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """Write `obj` to a file as `ta.save`; PyTorch's other options are without effect."""
    ta.save(f, obj)


def load(f: Any, *args: Any, **kwargs: Any) -> Any:
    """Read a file as `ta.load`. A dict from names to tensors is an OrderedDict, as a `state_dict()` was."""

    def ordered(tree: Any) -> Any:
        if type(tree) is not dict:
            return tree
        made = {key: ordered(value) for key, value in tree.items()}
        named = all(isinstance(key, str) and isinstance(value, ta.Tensor) for key, value in made.items())
        return OrderedDict(made) if made and named else made

    return ordered(ta.load(f, *args, **kwargs))

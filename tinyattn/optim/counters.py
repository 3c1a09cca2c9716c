"""How many steps parameters on a GPU have seen: counted there, so that a replayed graph goes on counting.

The counts of a group lie side by side, and `state[param]["step"]` holds views of them: one launch counts for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.dtypes import float32
from tinyattn.tensors import Tensor


class Counters:
    """The counts of `params`, which lie on one GPU; those that are in `state` already are taken over."""

    def __init__(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        self.library = backends.get(params[0].device)
        self.steps = self.library.zeros((len(params),), float32)
        self.views = [Tensor._from(self.steps[i, ...]) for i in range(len(params))]
        self.present: tuple[bool, ...] = ()
        self.mask: Any = None
        for param, view in zip(params, self.views, strict=True):
            if param in state and "step" in state[param]:
                view.array[...] = state[param]["step"].to(param.device).array
                state[param]["step"] = view

    def fit(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether these counts are still the ones that stand in `state`."""
        if len(params) != len(self.views):
            return False
        places = zip(params, self.views, strict=True)
        return all(param not in state or state[param].get("step", view) is view for param, view in places)

    def count(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """One more step for those of `params` that have a gradient."""
        present = tuple(param.grad is not None for param in params)
        if present != self.present:
            self.present, self.mask = present, self.library.asarray(np.array(present, np.float32))
        for param, view, there in zip(params, self.views, present, strict=True):
            if there:
                state[param]["step"] = view
        self.library.count(self.steps, self.mask)

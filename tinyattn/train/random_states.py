"""The process-wide streams of random numbers, as a part of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyattn import cuda
from tinyattn.random import generator_for, process_wide_generators


class RandomStates:
    """Where the streams stand that everything random draws from: of the CPU, and of each GPU that was asked for any."""

    def state_dict(self) -> dict[str, Any]:
        """A state for each device, by its name."""
        return {str(generator.device): generator.get_state() for generator in process_wide_generators()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; what it says of a GPU is left out where there is none."""
        for device, saved in state.items():
            if device == "cpu" or cuda.is_available():
                generator_for(device).set_state(saved)

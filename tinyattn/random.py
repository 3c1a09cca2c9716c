"""Random numbers: streams that can be seeded, saved and restored."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


class Generator:
    """A stream of random numbers of its own. As torch.Generator.

    Its numbers are NumPy's (PCG64), not torch's: the same seed gives another stream than there.
    `random` is the underlying numpy.random.Generator.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.seed()

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream that belongs to `seed`; returns the generator."""
        self._seed = int(seed)
        # any integer is a seed, as in torch; NumPy wants none below zero
        self.random = np.random.Generator(np.random.PCG64(self._seed % 2**64))
        return self

    def seed(self) -> int:
        """Start a stream from the operating system's entropy; returns the seed."""
        self.manual_seed(int(np.random.SeedSequence().entropy) % 2**63)  # type: ignore[arg-type]
        return self._seed

    def initial_seed(self) -> int:
        """The seed the current stream began with."""
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, as plain numbers and strings."""
        return {"seed": self._seed, **copy.deepcopy(self.random.bit_generator.state)}

    def set_state(self, state: dict[str, Any]) -> Generator:
        """Go on from a state that `get_state` gave."""
        state = dict(state)
        self._seed = state.pop("seed")
        self.random = np.random.Generator(np.random.PCG64())
        self.random.bit_generator.state = state
        return self

    def spawn(self, n: int) -> list[Generator]:
        """n independent streams, derived from this one: one for each worker."""
        seeds = self.random.integers(2**63, size=n)
        return [Generator().manual_seed(int(seed)) for seed in seeds]

    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Uniform numbers in [0, 1)."""
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        return np.asarray(self.random.random(shape, dtype=wide)).astype(dtype, copy=False)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Numbers from the normal distribution with mean 0 and variance 1."""
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        return np.asarray(self.random.standard_normal(shape, dtype=wide)).astype(dtype, copy=False)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the process-wide generator that everything random uses unless given another."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the process-wide generator."""
    return default_generator.initial_seed()

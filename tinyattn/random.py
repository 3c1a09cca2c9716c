"""Random numbers: streams that can be seeded, saved and restored."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextvars import ContextVar
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
        return [Generator.__new__(Generator).manual_seed(int(seed)) for seed in seeds]

    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Uniform numbers in [0, 1)."""
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        return np.asarray(self.random.random(shape, dtype=wide)).astype(dtype, copy=False)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Numbers from the normal distribution with mean 0 and variance 1."""
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        return np.asarray(self.random.standard_normal(shape, dtype=wide)).astype(dtype, copy=False)


# Where a worker of nn.DataParallel finds the stream that is its own; None anywhere else.
_own_stream: ContextVar[Callable[[], Generator] | None] = ContextVar("own_stream", default=None)


class Streams:
    """A stream for each of n workers, so that what each draws does not depend on who comes first.

    They are derived from the caller's stream when the first number is drawn: workers that draw none
    leave it where it was.
    """

    def __init__(self, n: int) -> None:
        self._n, self._lock = n, threading.Lock()
        self._caller = _own_stream.get() or default_generator.process_wide
        self._streams: list[Generator] = []

    def take(self, i: int) -> None:
        """From here on, in this context, the default generator draws from stream i."""
        _own_stream.set(lambda: self[i])

    def __getitem__(self, i: int) -> Generator:
        with self._lock:
            self._streams = self._streams or self._caller().spawn(self._n)
        return self._streams[i]


class DefaultGenerator(Generator):
    """The process-wide stream; inside a worker of nn.DataParallel, the stream of that worker."""

    def __init__(self) -> None:
        self._process_wide = Generator()

    def process_wide(self) -> Generator:
        """The stream outside of all workers."""
        return self._process_wide

    def _stream(self) -> Generator:
        return (_own_stream.get() or self.process_wide)()

    @property
    def random(self) -> np.random.Generator:
        """The underlying numpy.random.Generator."""
        return self._stream().random

    @random.setter
    def random(self, value: np.random.Generator) -> None:
        self._stream().random = value

    @property
    def _seed(self) -> int:
        return self._stream()._seed

    @_seed.setter
    def _seed(self, value: int) -> None:
        self._stream()._seed = value


default_generator = DefaultGenerator()


def manual_seed(seed: int) -> Generator:
    """Seed the process-wide generator that everything random uses unless given another."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the process-wide generator."""
    return default_generator.initial_seed()

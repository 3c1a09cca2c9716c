"""Random numbers: streams that can be seeded, saved and restored."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinyattn import backends


class Generator:
    """A stream of random numbers of its own, on one device. As torch.Generator.

    Its numbers are NumPy's (PCG64) on the CPU and a counter's (Philox) on a GPU, neither torch's: the same seed gives
    another stream than there. `random` is the underlying numpy.random.Generator, or what does the same on a GPU.
    """

    device = backends.CPU

    def __init__(self, device: Any = "cpu") -> None:
        self.device = backends.full_name(device)
        self.seed()

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream that belongs to `seed`; returns the generator."""
        self._seed = int(seed)
        self.random = backends.get(self.device).stream(self._seed % 2**64)  # any integer is a seed, as in torch
        return self

    def seed(self) -> int:
        """Start a stream from the operating system's entropy; returns the seed."""
        self.manual_seed(int(np.random.SeedSequence().entropy) % 2**63)  # type: ignore[arg-type]
        return self._seed

    def initial_seed(self) -> int:
        """The seed the current stream began with."""
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, as plain numbers and strings. On a GPU, waits for it."""
        return {"seed": self._seed, **copy.deepcopy(self.random.bit_generator.state)}

    def set_state(self, state: dict[str, Any]) -> Generator:
        """Go on from a state that `get_state` gave."""
        state = dict(state)
        self._seed = state.pop("seed")
        self.random = backends.get(self.device).stream(0)
        self.random.bit_generator.state = state
        return self

    def bookmark(self) -> Any:
        """Where the stream stands, for `go_to` in this process; unlike `get_state`, never waits for a GPU."""
        return self._seed, copy.deepcopy(self.random.bit_generator.state)

    def go_to(self, bookmark: Any) -> None:
        """Go on from a place that `bookmark` gave."""
        self._seed, state = bookmark
        self.random.bit_generator.state = state

    def spawn(self, n: int) -> list[Generator]:
        """n independent streams, derived from this one: one for each worker."""
        seeds = self.random.integers(2**63, size=n).tolist()
        return [Generator(self.device).manual_seed(seed) for seed in seeds]

    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Uniform numbers in [0, 1)."""
        return self._drawn(self.random.random, shape, dtype)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Numbers from the normal distribution with mean 0 and variance 1."""
        return self._drawn(self.random.standard_normal, shape, dtype)

    def keep(self, shape: tuple[int, ...], p: float) -> Any:
        """Booleans, each False with probability p: what dropout keeps."""
        if self.device.type == "cuda":
            return self.random.keep(shape, p)
        return self.uniform(shape) >= p

    def _drawn(self, draw: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Any:
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        array = backends.get(self.device).asarray(draw(shape, dtype=wide))
        return array.astype(dtype, copy=False)


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
_of_gpus: dict[str, Generator] = {}  # the process-wide generator of each GPU that has been asked for one


def manual_seed(seed: int) -> Generator:
    """Seed the process-wide generators, one for each device, that everything random uses unless given another."""
    for generator in _of_gpus.values():
        generator.manual_seed(seed)
    return default_generator.manual_seed(seed)


def generator_for(device: Any, given: Generator | None = None) -> Generator:
    """`given`, or the process-wide generator of `device` (None: the default device).

    Raises RuntimeError for one of another device.
    """
    if given is None:
        where = backends.CPU if device == "cpu" else backends.full_name(device)
        if where == "cpu":
            return default_generator
        if where not in _of_gpus:
            _of_gpus[where] = Generator(where).manual_seed(default_generator.process_wide().initial_seed())
        return _of_gpus[where]
    where = backends.full_name(device)
    if given.device != where:
        raise RuntimeError(f"Expected a {str(where)!r} device type for generator but found {str(given.device)!r}")
    return given


def process_wide_generators() -> list[Generator]:
    """All that there are: of the CPU, and of the GPUs that have been asked for random numbers."""
    return [default_generator, *_of_gpus.values()]


def initial_seed() -> int:
    """The seed of the process-wide generator."""
    return default_generator.initial_seed()

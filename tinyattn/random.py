"""Random numbers: seeded streams whose state can be saved and restored."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinyattn import backends


class Generator:
    """An independent stream of random numbers on one device. As torch.Generator.

    device: "cpu" or a GPU; raises ImportError or RuntimeError if that GPU cannot be used.
    `random` is the underlying numpy.random.Generator (PCG64), or its counterpart on a GPU (Philox). The algorithms
    differ from torch's, so the same seed gives other numbers.

    Example:
        >>> g = ta.Generator().manual_seed(0)
        >>> state = g.get_state()
        >>> first = ta.rand(3, generator=g)
        >>> bool((ta.rand(3, generator=g.set_state(state)) == first).all())
        True
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = backends.full_name(device)
        self.seed()

    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream from `seed`, any integer; returns the generator."""
        self._seed = int(seed)
        self.random = backends.get(self.device).stream(self._seed % 2**64)  # torch allows negative seeds too
        return self

    def seed(self) -> int:
        """Restart the stream from a seed of the operating system; returns that seed."""
        self.manual_seed(int(np.random.SeedSequence().entropy) % 2**63)  # type: ignore[arg-type]
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed from which the stream started."""
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """Return the state of the stream, as plain numbers and strings. Synchronises a GPU."""
        return {"seed": self._seed, **copy.deepcopy(self.random.bit_generator.state)}

    def set_state(self, state: dict[str, Any]) -> Generator:
        """Restore a state returned by `get_state`; returns the generator."""
        state = dict(state)
        self._seed = state.pop("seed")
        self.random = backends.get(self.device).stream(0)
        self.random.bit_generator.state = state
        return self

    def bookmark(self) -> Any:
        """Return the state for `go_to` in this process; unlike `get_state`, it never synchronises a GPU."""
        return self._seed, copy.deepcopy(self.random.bit_generator.state)

    def go_to(self, bookmark: Any) -> None:
        """Restore a state returned by `bookmark`."""
        self._seed, state = bookmark
        self.random.bit_generator.state = state

    def spawn(self, n: int) -> list[Generator]:
        """Return n independent streams, seeded from this one."""
        seeds = self.random.integers(2**63, size=n).tolist()
        return [Generator(self.device).manual_seed(seed) for seed in seeds]

    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Draw an array (shape) of uniform numbers in [0, 1)."""
        return self._drawn(self.random.random, shape, dtype)

    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Draw an array (shape) from the normal distribution with mean 0 and variance 1."""
        return self._drawn(self.random.standard_normal, shape, dtype)

    def keep(self, shape: tuple[int, ...], p: float) -> Any:
        """Draw a dropout mask, booleans (shape), each False with probability p."""
        if self.device.type == "cuda":
            return self.random.keep(shape, p)
        return self.uniform(shape) >= p

    def _drawn(self, draw: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Any:
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        array = backends.get(self.device).asarray(draw(shape, dtype=wide))
        return array.astype(dtype, copy=False)


default_generator = Generator()  # the process-wide stream of the CPU
_of_gpus: dict[str, Generator] = {}  # the process-wide stream of each GPU that has drawn random numbers
# Inside a worker of nn.DataParallel: a function that returns the stream of that worker.
_worker_stream: ContextVar[Callable[[], Generator] | None] = ContextVar("worker_stream", default=None)


def current_generator() -> Generator:
    """The stream of the CPU that functions without a `generator` draw from.

    It is `default_generator`; inside a worker of nn.DataParallel, the stream of that worker.
    """
    stream = _worker_stream.get()
    return default_generator if stream is None else stream()


class Streams:
    """One stream for each of n workers, so that their numbers do not depend on which worker draws first.

    The streams are spawned from the caller's stream at the first draw. Workers that draw nothing leave it unchanged.
    """

    def __init__(self, n: int) -> None:
        self._n, self._lock = n, threading.Lock()
        self._caller = _worker_stream.get()
        self._streams: list[Generator] = []

    def take(self, i: int) -> None:
        """Make stream i the current one in this context."""
        _worker_stream.set(lambda: self[i])

    def __getitem__(self, i: int) -> Generator:
        with self._lock:
            if not self._streams:
                caller = default_generator if self._caller is None else self._caller()
                self._streams = caller.spawn(self._n)
        return self._streams[i]


def manual_seed(seed: int) -> Generator:
    """Seed the process-wide generators of all devices; returns that of the CPU. As torch.manual_seed.

    Inside a worker of nn.DataParallel, only the streams of the worker and of the GPUs.

    Example:
        >>> _ = ta.manual_seed(7)
        >>> ta.initial_seed()
        7
    """
    for generator in _of_gpus.values():
        generator.manual_seed(seed)
    return current_generator().manual_seed(seed)


def generator_for(device: Any, given: Generator | None = None) -> Generator:
    """Return `given`, or the current generator of `device` (None: the default device).

    Raises RuntimeError if `given` belongs to another device.
    """
    where = backends.CPU if device == "cpu" else backends.full_name(device)  # the look-up of a name takes a microsecond
    if given is None or (given is default_generator and where == "cpu"):
        if where == "cpu":
            return current_generator()
        if where not in _of_gpus:
            _of_gpus[where] = Generator(where).manual_seed(default_generator.initial_seed())
        return _of_gpus[where]
    if given.device != where:
        raise RuntimeError(f"Expected a {str(where)!r} device type for generator but found {str(given.device)!r}")
    return given


def process_wide_generators() -> list[Generator]:
    """Return the current generator of the CPU and those of the GPUs that have drawn random numbers."""
    return [current_generator(), *_of_gpus.values()]


def initial_seed() -> int:
    """Return the seed of the process-wide generator. As torch.initial_seed.

    >>> _ = ta.manual_seed(3)
    >>> ta.initial_seed()
    3
    """
    return current_generator().initial_seed()

"""Random numbers: seeded streams whose state can be saved and restored."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Self

import numpy as np

from tinyattn import backends
from tinyattn.locks import fork_safe


class Generator:
    """An independent stream of random numbers on one device. As torch.Generator.

    device: "cpu" or a GPU; raises ImportError or RuntimeError if that GPU cannot be used.
    `random` has the methods of the underlying numpy.random.Generator (PCG64), or its counterpart on a GPU (Philox). The
    algorithms differ from torch's, so the same seed gives other numbers.

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

    @property
    def random(self) -> Any:
        """The stream to draw from, on its device; while a `Tape` is active, one that obeys it."""
        backends.get(self.device)  # which makes its GPU the current one
        if (watched := watching_draws.get()) is not None:
            return watched(self)
        tapes = _tapes.get()
        return _Taped(self._stream, tapes) if tapes and self.device == "cpu" else self._stream

    @backends.keeps_gpu
    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream from `seed`, any integer; returns the generator."""
        self._seed = int(seed)
        self._stream = backends.get(self.device).stream(self._seed % 2**64)  # torch allows negative seeds too
        return self

    def seed(self) -> int:
        """Restart the stream from a seed of the operating system; returns that seed."""
        self.manual_seed(int(np.random.SeedSequence().entropy) % 2**63)  # type: ignore[arg-type]
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed from which the stream started."""
        return self._seed

    @backends.keeps_gpu
    def get_state(self) -> dict[str, Any]:
        """Return the state of the stream, as plain numbers and strings. Synchronises a GPU."""
        return {"seed": self._seed, **copy.deepcopy(self.random.bit_generator.state)}

    @backends.keeps_gpu
    def set_state(self, state: dict[str, Any]) -> Generator:
        """Restore a state returned by `get_state`; returns the generator."""
        state = dict(state)
        self._seed = state.pop("seed")
        self._stream = backends.get(self.device).stream(0)
        self._stream.bit_generator.state = state
        return self

    @backends.keeps_gpu
    def bookmark(self) -> Any:
        """Return the state for `go_to` in this process; unlike `get_state`, it never synchronises a GPU."""
        backends.get(self.device)  # which makes its GPU the current one
        source = self._stream.bit_generator
        return self._seed, source.state if self.device == "cpu" else source.bookmark()

    @backends.keeps_gpu
    def go_to(self, bookmark: Any) -> None:
        """Restore a state returned by `bookmark`."""
        self._seed, state = bookmark
        self.random.bit_generator.state = state

    @backends.keeps_gpu
    def spawn(self, n: int) -> list[Generator]:
        """Return n independent streams, seeded from this one."""
        if (watched := watching_draws.get()) is not None and not taped():
            return watched(self).spawn(n)
        seeds = self.random.integers(2**63, size=n).tolist()
        return [Generator(self.device).manual_seed(seed) for seed in seeds]

    @backends.keeps_gpu
    def uniform(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Draw an array (shape) of uniform numbers in [0, 1)."""
        return self._drawn(self.random.random, shape, dtype)

    @backends.keeps_gpu
    def normal(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
        """Draw an array (shape) from the normal distribution with mean 0 and variance 1."""
        return self._drawn(self.random.standard_normal, shape, dtype)

    @backends.keeps_gpu
    def keep(self, shape: tuple[int, ...], p: float) -> Any:
        """Draw a dropout mask, booleans (shape), each False with probability p."""
        if self.device.type == "cuda":
            return self.random.keep(shape, p)
        return self.uniform(shape) >= p

    def _drawn(self, draw: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Any:
        wide = dtype if dtype in (np.float32, np.float64) else np.float32
        array = backends.get(self.device).asarray(draw(shape, dtype=wide))
        return array.astype(dtype, copy=False)


class Tape:
    """What a computation draws from CPU streams, for `checkpoint`: the state before each draw.

    A second run of the computation draws the same numbers from copies of the streams. The streams themselves stay
    untouched, so other threads can draw from them during both runs.
    """

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.left: Iterator[Any] | None = None  # those that a second run has not used yet

    def __enter__(self) -> Self:
        self._token = _tapes.set((*_tapes.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        _tapes.reset(self._token)


def replay(tape: Tape | None) -> None:
    """Repeat the draws of a tape from here on, in this context; None: draw from the streams, and record nothing."""
    again = Tape()
    again.left = None if tape is None else iter(tape.states)
    _tapes.set(() if tape is None else (again,))


class _Taped:
    """The methods of a NumPy stream, recorded on tapes, or repeated from the first of them."""

    def __init__(self, stream: Any, tapes: tuple[Tape, ...]) -> None:
        self.bit_generator, self._tapes = stream.bit_generator, tapes

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return partial(self._draw, method)

    def _draw(self, method: str, *args: Any, **options: Any) -> Any:
        left, copied = self._tapes[0].left, backends.get("cpu").stream(0)
        with self.bit_generator.lock:  # NumPy's own: between state and draw, no other thread can draw
            state = self.bit_generator.state if left is None else next(left, None)
            if state is None:
                raise RuntimeError(
                    "checkpoint: the function draws more random numbers when it runs a second time, for the "
                    "gradients; it must do the same twice."
                )
            copied.bit_generator.state = state
            drawn = getattr(copied, method)(*args, **options)
            if left is None:
                self.bit_generator.state = copied.bit_generator.state
        for tape in self._tapes[left is not None :]:
            tape.states.append(state)
        return drawn


_tapes: ContextVar[tuple[Tape, ...]] = ContextVar("tapes", default=())
default_generator = Generator()  # the process-wide stream of the CPU
_of_gpus: dict[str, Generator] = {}  # the process-wide stream of each GPU that has drawn random numbers
# While a step is recorded (tinyattn/program/): a function from a generator to what records its draws.
watching_draws: ContextVar[Callable[[Generator], Any] | None] = ContextVar("watching_draws", default=None)
# Inside a worker of nn.DataParallel: a function that returns the stream of that worker.
_worker_stream: ContextVar[Callable[[], Generator] | None] = ContextVar("worker_stream", default=None)


def current_generator() -> Generator:
    """The stream of the CPU that functions without a `generator` draw from.

    It is `default_generator`; inside a worker of nn.DataParallel, the stream of that worker.
    """
    stream = _worker_stream.get()
    return default_generator if stream is None else stream()


def redirected() -> bool:
    """Whether draws go elsewhere here: to the stream of a worker of nn.DataParallel, or to a `Tape`."""
    return _worker_stream.get() is not None or taped()


def taped() -> bool:
    """Whether a `Tape` is active here."""
    return bool(_tapes.get())


_spawning = fork_safe(threading.RLock())  # reentrant: the caller's stream may be one of other Streams


class Streams:
    """One stream for each of n workers, so that their numbers do not depend on which worker draws first.

    The streams are spawned from the caller's stream at the first draw. Workers that draw nothing leave it unchanged.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._caller, self._tapes = _worker_stream.get(), _tapes.get()
        self._streams: list[Generator] = []

    def take(self, i: int) -> None:
        """Make stream i the current one in this context, without tapes: its seed was drawn, and is on them."""
        _tapes.set(())
        _worker_stream.set(lambda: self[i])

    def __getitem__(self, i: int) -> Generator:
        with _spawning:
            if not self._streams:
                caller = default_generator if self._caller is None else self._caller()
                token = _tapes.set(self._tapes)
                self._streams = caller.spawn(self._n)
                _tapes.reset(token)
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

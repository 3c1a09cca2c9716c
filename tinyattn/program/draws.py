"""The random numbers of a step while it is recorded: from which stream, and in which share of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyattn import random
from tinyattn.program.recorder import Call, Recorder

_FOR_ALL = (-1, -1)  # no share: a stream from which those of all shares are spawned


class Draws:
    """Records what is drawn: from `generators`, which the step finds, and from those that it spawns of them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.generators: list[Any] = []
        self._streams: dict[int, Any] = {}  # of each generator, by id
        self._spawned: dict[int, tuple[int, int] | None] = {}  # by id: the share that did it
        self._users: dict[tuple[int, int], tuple[int, int]] = {}  # by split and id: the share that draws

    def __call__(self, generator: Any) -> Any:
        if not random.taped():
            return _Stream(generator, self)
        self.recorder.refuse("checkpoint()")
        with _unwatched():
            return generator.random

    def use(self, generator: Any, spawns: bool = False) -> bool:
        """Note that a generator is drawn from here; returns whether this is done before the shares begin."""
        key, share, refuse = id(generator), self.recorder.share, self.recorder.refuse
        if self._streams.setdefault(key, generator._stream) is not generator._stream:
            refuse("a random generator that the step seeds or restores")
        if key in self._spawned and self._spawned[key] not in (None, share):
            refuse("a random generator that leaves the worker that made it")
        if key not in self._spawned and not any(generator is each for each in self.generators):
            self.generators.append(generator)
        if share is None:
            return False
        early = spawns and key not in self._spawned
        known = self._users.get((share[0], key))
        if known is not None and (early or known != share):
            refuse("a random generator that several workers of DataParallel draw from")
        self._users[share[0], key] = _FOR_ALL if early else share
        return early

    def spawned(self, parent: Any, children: list[Any]) -> None:
        """Record that `children` were spawned; DataParallel does it at the first draw of a share, for all of them."""
        early, recorder = self.use(parent, True), self.recorder
        share = None if early else recorder.share
        label = "streams of random numbers" if early else recorder.label
        call = Call("spawn", "spawn", (len(children),), {}, (), label, share, (parent, children))
        recorder.calls.insert(recorder.splits[-1] if early else len(recorder.calls), call)
        for child in children:
            self._spawned[id(child)], self._streams[id(child)] = share, child._stream


@contextmanager
def _unwatched() -> Iterator[None]:
    token = random.watching_draws.set(None)
    try:
        yield
    finally:
        random.watching_draws.reset(token)


class _Stream:
    """The stream of a generator, whose draws are recorded."""

    def __init__(self, generator: Any, draws: Draws) -> None:
        self._generator, self._draws = generator, draws

    def __getattr__(self, method: str) -> Any:
        recorder, stream = self._draws.recorder, self._generator._stream
        if method not in ("random", "standard_normal", "integers"):
            recorder.refuse(f"random numbers by {method}")
            return getattr(stream, method)

        def draw(*args: Any, **options: Any) -> Any:
            self._draws.use(self._generator)
            drawn = getattr(stream, method)(*args, **options)
            if not isinstance(drawn, np.ndarray):
                recorder.refuse("a single random number")
                return drawn
            return recorder.made("draw", method, args, options, drawn, self._generator)

        return draw

    def spawn(self, n: int) -> list[Any]:
        """As Generator.spawn."""
        with _unwatched():
            children = self._generator.spawn(n)
        self._draws.spawned(self._generator, children)
        return children

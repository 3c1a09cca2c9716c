"""A progress bar that shows how training goes, and is silent where nobody watches."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Progress:
    """Iterate over the batches of an epoch with a bar: loss, accuracy, images per second, time left.

    batches: has a length; items: how many images it holds, of which `done` were seen before;
    show=False for no bar. There is none either where standard error is no terminal.
    Raises ImportError, naming the extra to install, where a bar is wanted and tqdm is missing.
    """

    def __init__(self, batches: Iterable[Any], items: int, title: str, show: bool = True, *, done: int = 0) -> None:
        self.batches, self.items = batches, items
        self.bar = _bar(items, title, done) if show and sys.stderr.isatty() else None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.batches
        finally:
            if self.bar is not None:
                self.bar.close()

    def update(self, images: int, **shown: float) -> None:
        """Advance by `images` and show the named numbers, but for those that nobody knows yet (NaN)."""
        if self.bar is not None:
            self.bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items() if not math.isnan(v)}, refresh=False)
            self.bar.update(images)


def _bar(items: int, title: str, done: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError('a progress bar needs tqdm: pip install "tinyattn[train]", or --no-progress') from None
    return tqdm(total=items, initial=done, desc=title, unit=" images", leave=False, dynamic_ncols=True)

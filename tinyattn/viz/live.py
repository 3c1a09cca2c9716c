"""A picture that is drawn again and again while a run goes on."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Live:
    """Draws `draw()` again when `update()` is called, at most every `seconds`: into a file, and in a notebook in place.

        live = viz.Live(lambda: viz.curves_figure(rows), "curves.png")
        for epoch in ...:
            live.update()
        live.update(now=True)

    draw: gives a matplotlib Figure, from rows in memory or from a metrics.csv that another process writes. While
    there is nothing to draw (it raises ValueError), nothing is drawn. path: a picture that is replaced as a whole,
    so that a viewer never sees half of it; None: in a notebook only. As any figure here it needs no screen.
    """

    def __init__(self, draw: Callable[[], Any], path: str | os.PathLike[str] | None = None, seconds: float = 5) -> None:
        self.draw, self.path, self.seconds = draw, None if path is None else Path(path), seconds
        self._next = float("-inf")
        self._handle: Any = None

    def update(self, now: bool = False) -> bool:
        """Draw if `seconds` have passed since the last time, or in any case; whether it was drawn."""
        if not now and time.monotonic() < self._next:
            return False
        try:
            figure = self.draw()
        except ValueError:
            if now:
                raise
            return False
        if self.path is not None:
            temporary = self.path.with_name(f".{self.path.name}.part")
            figure.savefig(temporary, format=self.path.suffix.lstrip(".") or "png")
            os.replace(temporary, self.path)
        self._show(figure)
        self._next = time.monotonic() + self.seconds
        return True

    def _show(self, figure: Any) -> None:
        """In a notebook, in place of the one before."""
        ipython = sys.modules.get("IPython")
        if ipython is None or ipython.get_ipython() is None:
            return
        from IPython.display import Image, display

        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        image = Image(data=picture.getvalue())
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)

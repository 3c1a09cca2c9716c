"""HTML pages in one file, which need no network and no other file."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any


def html_page(name: str, parts: Sequence[str], title: str, data: Any) -> str:
    """Return pages/`name`.html with `parts`, its style sheets and scripts in pages/, and `data` as JSON inside."""
    folder = resources.files("tinyattn.viz") / "pages"

    def text(*names: str) -> str:
        return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)

    page = Template(text("page.html")).substitute(
        title=html.escape(title),
        style=text("common.css", *(part for part in parts if part.endswith(".css"))),
        body=text(f"{name}.html"),
        script=text("common.js", *(part for part in parts if part.endswith(".js"))),
        data=json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),  # no </script>
    )
    return page.encode("utf-8", "backslashreplace").decode()  # lone surrogates, as JSON's escapes


def framed(page: str, height: int) -> str:
    """Return `page` as an iframe of `height` pixels, for notebooks."""
    style = f"width: 100%; height: {height}px; border: 1px solid #ccc"
    return f'<iframe srcdoc="{html.escape(page)}" style="{style}"></iframe>'


class Page:
    """A finished page: `.html`, `.save(path)`, and itself in a notebook.

    >>> ta.viz.by_hand().save("attention.html").suffix
    '.html'
    """

    def __init__(self, html: str, height: int) -> None:
        self.html, self._height = html, height

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, which must end in .html, else ValueError; return the path."""
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"save: {path.name!r} does not end in .html, the only format of this page")
        path.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return framed(self.html, self._height)

"""HTML pages in one file, which need no network and no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any


def html_page(name: str, scripts: Sequence[str], title: str, data: Any) -> str:
    """Return pages/`name`.html with its style sheets, `scripts` of pages/ and `data` as JSON inside."""
    folder = resources.files("tinyattn.viz") / "pages"
    files = [f"{name}.html", "common.css", f"{name}.css", "common.js", *scripts]
    template, *parts = ((folder / file).read_text(encoding="utf-8") for file in files)
    return Template(template).substitute(
        title=html.escape(title),
        style="\n".join(parts[:2]),
        script="\n".join(parts[2:]),
        data=json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),  # no </script>
    )


def framed(page: str, height: int) -> str:
    """Return `page` as an iframe of `height` pixels, for notebooks."""
    style = f"width: 100%; height: {height}px; border: 1px solid #ccc"
    return f'<iframe srcdoc="{html.escape(page)}" style="{style}"></iframe>'

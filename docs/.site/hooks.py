"""What MkDocs adds to docs/: the README as the first page, the source, the reference, and links between them.

Links in the pages are written for people who read them as files (`../tinyattn/engine/node.py`); in the site they lead
to the page of that file. Formulas become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import inspect
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SHOWN = ("tinyattn", "examples", "tests")
LANGUAGE = {".py": "python", ".cu": "cuda", ".cuh": "cuda", ".js": "javascript", ".css": "css", ".html": "html"}
BESIDE = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")  # pages that lie in the root
LINK = re.compile(r"(\]\(|<(?:img|a)\b[^>]*?\b(?:src|href)=\")([^)\"\s#]*)(#[^)\"\s]*)?")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^\s$](?:[^$\n]*[^\s$])?)\$", re.DOTALL)
HELP = re.compile(r'<script src="https://unpkg.com/[^"]*"></script>')
SPACES = (  # pages of the reference: title, module
    ("Functions", "tinyattn"), ("Layers", "tinyattn.nn"), ("Functions of layers", "tinyattn.nn.functional"),
    ("Initial values", "tinyattn.nn.init"), ("Gradients and copies of parameters", "tinyattn.nn.utils"),
    ("Optimizers and schedules", "tinyattn.optim"), ("Gradients", "tinyattn.autograd"), ("Norms", "tinyattn.linalg"),
    ("Data", "tinyattn.data"), ("Models", "tinyattn.models"), ("Training runs", "tinyattn.train"),
    ("Pictures", "tinyattn.viz"), ("GPU", "tinyattn.cuda"),
    ("Processes", "tinyattn.distributed"),
)  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of docs/."""
    worker = (Path(__file__).parent / "worker.js").read_text(encoding="utf-8")
    for path, text in [*_beside(), *_source(), *_reference(), ("assets/worker.js", worker)]:
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to the pages of the site, and turn formulas into MathML, except in code."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    folder = posixpath.dirname(_origin(page.file.src_uri))
    parts = CODE.split(markdown)
    for i in range(0, len(parts), 2):
        text = LINK.sub(lambda m: m[1] + _target(m[2], folder, page.file.src_uri) + (m[3] or ""), parts[i])
        parts[i] = FORMULA.sub(_mathml, text)
    return "".join(parts)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the search's help in folders from the site itself."""
    here = posixpath.relpath("assets/worker.js", posixpath.dirname(page.url) or ".")
    return HELP.sub(f'<script src="{here}"></script>', output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of links that lead nowhere, which is opened on servers only."""
    return HELP.sub("", output_content)


def _beside() -> Iterator[tuple[str, str]]:
    for name in BESIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        yield _page(name), text if name.endswith(".md") else f"# {name}\n\n```text\n{text}\n```\n"


def _source() -> Iterator[tuple[str, str]]:
    """A page for each file of source, and one that lists them."""
    index = ["# Source", ""]
    for folder in SHOWN:
        for path in sorted(
            p for p in (ROOT / folder).rglob("*") if p.suffix in LANGUAGE and "__pycache__" not in p.parts
        ):
            name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            index.append(f"- [{name}]({name}.md)")
            yield f"source/{name}.md", f'# {name}\n\n````{LANGUAGE[path.suffix]} linenums="1"\n{text}\n````\n'
    yield "source/index.md", "\n".join(index) + "\n"


def _reference() -> Iterator[tuple[str, str]]:
    """A page for each module, with all its public names."""
    for title, module in SPACES:
        lines = [f"# {title}", "", f"`{module}`", ""]
        for name in _public(module):
            lines += [_entry(module, name), ""]
        yield f"reference/{module}.md", "\n".join(lines)
    yield "reference/tensor.md", "# Tensor\n\n::: tinyattn.Tensor\n    options: {members: true}\n"


def _entry(module: str, name: str) -> str:
    """What mkdocstrings writes of a name; of one that its own module does not have, a second name, the docstring."""
    value = getattr(sys.modules[module], name)
    if getattr(sys.modules.get(value.__module__), name, None) is value:
        return f"::: {module}.{name}"
    text = inspect.getdoc(value) or ""
    words, mark, example = text.partition(">>>")
    return f"## {name}\n\n{words}" + (f"\n```pycon\n{mark}{example}\n```\n" if mark else "")


def _public(module: str) -> list[str]:
    __import__(module)
    space = sys.modules[module]
    names = getattr(space, "__all__", None) or [name for name in vars(space) if not name.startswith("_")]
    return sorted(n for n in names if n != "Tensor" and _documented(getattr(space, n)))


def _documented(value: Any) -> bool:
    ours = getattr(value, "__module__", None) or ""
    return callable(value) and ours.startswith("tinyattn") and bool(inspect.getdoc(value))


# --- links ---


def _page(name: str) -> str:
    """Where the site has a file of the repository."""
    if name in BESIDE:
        return {"README.md": "index.md", "README.zh-CN.md": "index.zh-CN.md"}.get(
            name, name.removesuffix(".md") + ".md"
        )
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if Path(name).suffix in LANGUAGE:
        return f"source/{name}.md"
    return "source/index.md"


def _origin(page: str) -> str:
    """The file of the repository that a page comes from."""
    return next((name for name in BESIDE if _page(name) == page), f"docs/{page}")


def _target(link: str, folder: str, page: str) -> str:
    if not link or "://" in link or link.startswith("mailto:"):
        return link
    name = posixpath.normpath(posixpath.join(folder, link))
    return posixpath.relpath(_page(name), posixpath.dirname(page) or ".")


def _mathml(match: re.Match[str]) -> str:
    if match[1]:  # on a phone, a long one is moved sideways
        return f'<div style="overflow: auto hidden; padding: 0.3em 0">{convert(match[1], display="block")}</div>'
    # In a span, since Markdown takes a line that begins with <math> for the end of the paragraph.
    return f"<span>{convert(match[2], display='inline')}</span>"

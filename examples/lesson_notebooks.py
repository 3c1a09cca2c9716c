"""Turn the lessons of docs/learn into notebooks.

    python examples/lesson_notebooks.py              # docs/learn/*.ipynb, beside the pictures that they show
    python examples/lesson_notebooks.py --lang zh    # the Chinese lessons
    jupyter lab docs/learn                           # after pip install jupyterlab

Text becomes cells of Markdown, a python block one or more cells of code. Of a block with prompts (>>>), each cell ends
where the lesson shows an output, and has that output until the cell is run. Quotations of the source stay text.
"""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from typing import Any

from parts import run_script

from tinyattn import train

LEARN = Path(__file__).parents[1] / "docs/learn"
BLOCK = re.compile(r"^```python\n(?!# \S+\.py: )(.*?)^```\n?", re.MULTILINE | re.DOTALL)


def notebook(lesson: str) -> dict[str, Any]:
    """Return the notebook of a lesson in Markdown, as the content of an .ipynb file (nbformat 4.4)."""
    cells: list[dict[str, Any]] = []
    for i, part in enumerate(BLOCK.split(lesson)):  # text and code in turn
        if i % 2:
            cells += [_code(*cell) for cell in code_cells(part)]
        elif part.strip():
            cells.append({"cell_type": "markdown", "metadata": {}, "source": part.strip()})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}


def code_cells(block: str) -> list[tuple[str, str]]:
    """Split a python block into (source, output); without prompts it is one cell without a known output."""
    examples = doctest.DocTestParser().get_examples(block)
    if not examples:
        return [(block, "")]
    cells, source = [], ""
    for example in examples:
        source += example.source
        if example.want:
            cells.append((source, example.want))
            source = ""
    return [*cells, (source, "")] if source else cells


def _code(source: str, output: str) -> dict[str, Any]:
    shown = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "source": source.rstrip(), "outputs": shown}


def main() -> None:
    parser = train.Parser(description="Turn the lessons of docs/learn into notebooks.")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the lessons (en)")
    parser.add_argument("--out", type=Path, default=LEARN, help="folder to write into (docs/learn)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(LEARN.glob("[0-9]*.md")):
        if (args.lang == "zh") == path.name.endswith(".zh-CN.md"):
            lesson = path.read_text(encoding="utf-8")
            (args.out / path.name).with_suffix(".ipynb").write_text(json.dumps(notebook(lesson), indent=1))


if __name__ == "__main__":
    run_script(main)

"""The program of a compiled step beside its graph: which lines come from which operation."""

from __future__ import annotations

import textwrap
from typing import Any

from tinyattn.viz.graphs.fold import chain
from tinyattn.viz.graphs.model import Trace, Vertex


def blocks_of(step: Any) -> list[tuple[str, str]]:
    """Return (origin, lines) for the program of `step`, a function of `ta.compile`.

    The origin is that of the comment above the lines: "module: operation", after "d " for the backward pass; "" for
    lines of no operation. Raises TypeError for another function, and ValueError if no program was recorded.
    """
    if not hasattr(step, "program"):
        raise TypeError(f"graph: program= is a {type(step).__name__}; expected a function compiled by ta.compile")
    program = step.program
    if program is None:
        why = f"it runs without one ({step.why_not})" if step.why_not else "call it twice first, on the CPU"
        raise ValueError(f"graph: program= has no program; {why}")
    found: list[tuple[str, list[str]]] = []
    for line in program.text.splitlines():
        text = line.strip()
        if text.startswith("# "):
            found.append((text[2:], []))
        elif not found or not text or text.startswith(("def ", "side_by_side(")):
            found.append(("", [line] * bool(text)))
        else:
            found[-1][1].append(line)
    found.append(("", str(program)[len(program.text) :].splitlines()))  # the steps of optimizers
    return [(origin, textwrap.dedent("\n".join(lines)).strip()) for origin, lines in found if any(lines)]


def origin_of(trace: Trace, vertex: Vertex) -> str:
    """Return the origin of the lines that compute an operation: "blocks.0.norm1: layer_norm"."""
    around = [trace.boxes[box] for box in chain(trace.boxes, vertex.box)]
    modules = [box.path or box.type for box in around if box.kind == "module"]
    defined = next((box.name for box in around if box.kind == "definition"), "")
    name = f"{defined} ({vertex.op})" if defined else vertex.op
    return f"{modules[-1]}: {name}" if modules else name

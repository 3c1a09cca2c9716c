"""docs/design.md does not rot: floors import only from below, and the tests it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")
FLOORS = [  # from the ground up
    {"backends"}, set(), {"debug"}, {"nn", "optim"}, {"train", "data", "viz"}, {"models"}, {"__main__"},
]  # fmt: skip
CORE = 1  # whatever has no floor of its own: tensors.py, engine/, autograd/, ops/ ...
PARTS = {p.stem for p in (ROOT / "tinyattn").iterdir() if p.suffix == ".py" or any(p.glob("*.py"))}


def floor_of(part: str) -> int:
    return next((i for i, floor in enumerate(FLOORS) if part in floor), CORE)


def imported_parts(path: Path) -> set[str]:
    """Which parts of the package a file imports, at whatever depth: {"ops", "tensor"}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinyattn":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("tinyattn.")]
        else:
            continue
        found |= {name.split(".")[1] for name in names}
    return found


def test_the_floors_are_there():
    rooms = set().union(*FLOORS, {"tensors", "engine", "autograd", "ops"})
    assert not rooms - PARTS


@pytest.mark.parametrize("part", sorted(PARTS - {"__init__"}))
def test_a_floor_imports_only_from_below(part):
    folder = ROOT / "tinyattn" / part
    for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        above = {other for other in imported_parts(path) & PARTS if floor_of(other) > floor_of(part)}
        assert not above, f"{path.relative_to(ROOT)} imports {above}, which stand above it"


def test_the_tests_that_the_design_names_exist():
    named = set(re.findall(r"`(test_\w+)`", DESIGN))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in sources} == set()

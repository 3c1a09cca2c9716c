"""docs/design.md does not rot: imports go downwards and never in a circle, and the tests it names exist.

The lines of the house are counted by .ci/rooms.py.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")
FLOORS = [  # from the ground up; a module may import from its own floor and from those below
    "locks", "cores", "backends", "dtypes random extras",
    "engine.modes engine.hooks", "engine.threads", "engine.variable", "engine.opmath", "engine.node", "engine.operation", "engine.fork",
    "engine.observer engine.walk engine", "grad_mode",
    "ops.dims ops.copies ops.synonyms", "ops.creation", "ops.promotion", "ops", "autograd", "tensors", "files", "program", "cuda", "distributed", "debug",
    "nn optim linalg", "tinyattn", "models", "train data viz distributions", "compat", "as_torch", "__main__",
]  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_of(path): path for path in sorted((ROOT / "tinyattn").rglob("*.py"))}


def imports(source: str) -> set[str]:
    """The package's modules that a source imports: at the top, in functions, and for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in PATHS else node.module or "" for full in names.values()}
    return found & PATHS.keys()


GRAPH = {module: imports(path.read_text(encoding="utf-8")) - {module} for module, path in PATHS.items()}


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The strongly connected components of more than one module."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in found:
                found.add(module)
                todo += graph[module]
        return found

    reach = {module: reached(module) for module in graph}
    return sorted({tuple(sorted(o for o in reach[m] if m in reach[o])) for m in graph if m in reach[m]})


def floor_of(module: str) -> int:
    """The floor that names a module, or else the nearest package around it."""
    name = module.removeprefix("tinyattn.")
    while True:
        for floor, names in enumerate(FLOORS):
            if name in names.split():
                return floor
        assert "." in name, f"{module} needs a floor in FLOORS"
        name = name.rpartition(".")[0]


def test_imports_form_no_circle():
    said = [f"{m} imports {', '.join(sorted(GRAPH[m] & {*each}))}" for each in circles(GRAPH) for m in each]
    assert not said, "modules that import one another:\n" + "\n".join(said)


def test_the_search_for_circles_sees_every_import():
    hidden = "def f():\n  from tinyattn import ops\nif TYPE_CHECKING:\n  from tinyattn.tensors import Tensor\n"
    assert imports(hidden + "import tinyattn.nn.module, os\nfrom tinyattn import __version__") == {
        "tinyattn", "tinyattn.nn.module", "tinyattn.ops", "tinyattn.tensors",
    }  # fmt: skip
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": {"e"}, "e": set()}) == [("b", "c")]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_from_below(floor):
    for name in floor.split():
        assert name == "tinyattn" or f"tinyattn.{name}" in PATHS
    for module in (module for module in GRAPH if FLOORS[floor_of(module)] == floor):
        above = {other for other in GRAPH[module] if floor_of(other) > floor_of(module)}
        assert not above, f"{module} imports {above}, which stand above it"


HIDDEN = """
import importlib, pkgutil, sys
from unittest.mock import MagicMock
sys.modules["cupy"] = MagicMock()  # CUDA's modules can be imported without it
import tinyattn
for found in pkgutil.walk_packages(tinyattn.__path__, "tinyattn."):
    module = importlib.import_module(found.name)
    package, _, name = found.name.rpartition(".")
    if getattr(sys.modules[package], name) is not module:
        print(found.name)
"""


def test_no_module_is_hidden_by_an_object_of_its_name():
    done = subprocess.run([sys.executable, "-c", HIDDEN], cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == []


def test_nothing_is_exempt_from_the_order_of_imports():
    for path in PATHS.values():
        assert "E402" not in path.read_text(encoding="utf-8"), path
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert "E402" not in str(settings["ruff"])
    for exempt in settings["mypy"]["overrides"]:
        assert not {"disable_error_code", "ignore_errors"} & exempt.keys(), exempt["module"]


def test_rooms_reports_what_is_over_its_ceiling(tmp_path, monkeypatch):
    rooms = load_rooms()
    (tmp_path / "nn").mkdir()
    (tmp_path / "nn/long.py").write_text("def f():\n" + "    pass\n" * 50 + "\n" * 350)
    (tmp_path / "random.py").write_text("x = 1\n" * 3)
    monkeypatch.setattr(rooms, "CEILINGS", {"nn/": 400, rooms.TOP: 3})
    assert rooms.report(tmp_path)[1] == [
        "nn/ has 401 lines, but at most 400 are allowed",
        "nn/long.py has 401 lines, but at most 400 are allowed",
        "long.py:1 f has 51 lines, but at most 50 are allowed",
    ]


def load_rooms():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / ".ci/rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tests_that_the_design_names_exist():
    named = set(re.findall(r"`(test_\w+)`", DESIGN))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in sources} == set()

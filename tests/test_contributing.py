"""CONTRIBUTING.md: its steps to add an operation are applied to a copy of the package, and the operation works there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n# (\S+\.py), (before|after) (.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = BLOCK.findall(PAGE)
LOOK = """
import tinyattn as ta
x = ta.tensor([[0.5, 1.0], [-1.0, 0.0]], dtype=ta.float64, requires_grad=True)
assert ta.gradcheck(ta.erfc, (x,)) and ta.gradgradcheck(ta.erfc, (x,))
assert "erfc" in ta.viz.graph(ta.erfc(x).sum()).dot
print(ta.__file__, x.erfc().tolist())
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package and its tests with the steps of CONTRIBUTING.md applied."""
    folder = tmp_path_factory.mktemp("contributing")
    for name in ("tinyattn", "tests", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for path, where, mark, block in STEPS:
        lines = (folder / path).read_text(encoding="utf-8").splitlines(keepends=True)
        (at,) = [i for i, line in enumerate(lines) if line.startswith(mark)]
        lines.insert(at + (where == "after"), block)
        (folder / path).write_text("".join(lines), encoding="utf-8")
    return folder


def run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_operation_is_added_in_four_places():
    assert [path for path, *_ in STEPS] == [
        "tinyattn/ops/elementwise.py", "tinyattn/ops/__init__.py", "tinyattn/tensors.py", "tests/samples.py"
    ]  # fmt: skip
    assert not any("erfc" in (ROOT / path).read_text(encoding="utf-8") for path, *_ in STEPS)


def test_the_added_operation_differentiates_and_draws(extended):
    out = run(extended, "-c", LOOK)
    assert str(extended) in out
    assert "0.157299207" in out


@pytest.mark.slow
def test_the_tests_cover_the_added_operation(extended):
    files = [
        f"tests/test_{name}.py"
        for name in ("ops", "properties", "inplace", "ownership", "traits", "viz_graph", "profile")
    ]
    chosen = "erfc or is_in_the or table_of_formulas or is_counted"  # and that no table lacks an operation
    out = run(extended, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", chosen, *files)
    for test in (
        "shared_table_equal_torch[cpu-erfc]",
        "is_the_adjoint_of_the_derivative[erfc]",
        "[erfc-0",
        "fresh_rules_return_arrays_of_their_own[erfc]",
    ):
        assert test in out, out


def test_pre_commit_hooks_run_the_commands_of_ci():
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").replace(" --check", "")
    assert len(hooks) == 3
    for command in hooks:
        assert f"within test {command}\n" in ci


def test_the_hosted_workflow_runs_ci_and_the_tests_of_the_readme():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = re.findall(r"- run: (.+)", workflow)
    assert "bash .ci/run" in commands
    assert commands[-1] in readme
    assert re.findall(r'"(3\.\d+)"', workflow) == ["3.11", "3.12", "3.13", "3.14"]

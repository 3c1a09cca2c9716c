"""The oldest versions that pyproject.toml allows, as arguments of pip: numpy==2.0 pooch==1.8 ... Run by .ci/run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"([\w.-]+)>=([\w.]+)")


def oldest() -> list[str]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = {}
    for requirement in (*project["dependencies"], *extras["train"], *extras["viz"]):
        match = REQUIREMENT.fullmatch(requirement)
        if not match:
            raise SystemExit(f"{requirement!r} in pyproject.toml must have the form NAME>=VERSION")
        name, version = match.groups()
        if pins.setdefault(name, version) != version:
            raise SystemExit(f"pyproject.toml asks for {name} {pins[name]} in one place and {version} in another")
    return [f"{name}=={version}" for name, version in pins.items()]


if __name__ == "__main__":
    print(*oldest())

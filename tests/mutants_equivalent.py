"""Mutants that change no result, by the reason why: what `mutation.py` does not count as holes in the tests."""

from __future__ import annotations

EQUIVALENT: dict[str, list[str]] = {}

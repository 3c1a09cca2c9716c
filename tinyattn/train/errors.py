"""What ends a run, each with one sentence for the user."""

from __future__ import annotations


class RefusedError(Exception):
    """What was asked for cannot be done, and nothing has been done. Exit code 2."""


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity; the message says where, and what to do. Exit code 1.

    Attributes:
        step: the batch, counted over all epochs from 1. indices: of the items in it.
    """

    def __init__(self, message: str, step: int, indices: list[int]) -> None:
        super().__init__(message)
        self.step, self.indices = step, indices

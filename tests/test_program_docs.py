"""docs/step.py and docs/step_by_definition.py are programs of the article's model.

`python tests/test_program_docs.py` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, optim

DOCS = Path(__file__).parents[1] / "docs"
FILES = {"kernels": DOCS / "step.py", "definitions": DOCS / "step_by_definition.py"}


def text(style: str) -> str:
    """The file of a step of the article's recipe: batches of 64, Adam at 1e-3."""
    ta.manual_seed(0)
    model = models.AttentionModel(10, 64, 10)
    optimizer = optim.Adam(model.parameters(), 1e-3)

    @ta.compile
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step.__wrapped__.__qualname__ = "A training step of the article's model"
    rng = np.random.default_rng(0)
    for _ in range(3):
        step(ta.tensor(rng.random((64, 28, 28), dtype=np.float32)), ta.tensor(rng.integers(0, 10, 64)))
    assert step.program is not None, step.why_not
    return step.program.source(style)


@pytest.mark.parametrize("style", FILES)
def test_program_in_docs_is_current(style):
    assert FILES[style].read_text(encoding="utf-8") == text(style), "python tests/test_program_docs.py writes it anew"


if __name__ == "__main__":
    for style, path in FILES.items():
        path.write_text(text(style), encoding="utf-8")

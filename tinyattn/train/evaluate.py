"""Running a trained model over a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.creation import from_numpy
from tinyattn.modes import no_grad
from tinyattn.nn import Module


def predict(model: Module, images: Any, batch_size: int = 500) -> Any:
    """Scores of the classes for every image: a NumPy array (images, classes).

    Runs in evaluation mode without recording, and leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            parts = [
                model(from_numpy(images[start : start + batch_size])).numpy()
                for start in range(0, len(images), batch_size)
            ]
    finally:
        model.train(was_training)
    return np.concatenate(parts)

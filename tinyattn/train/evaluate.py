"""Running a trained model over a data set."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.modes import no_grad
from tinyattn.nn import Module
from tinyattn.ops.creation import as_tensor
from tinyattn.ops.shape import cat


def predict(model: Module, images: Any, batch_size: int = 500) -> Any:
    """Scores of the classes for every image: a NumPy array (images, classes).

    images: an array or a Tensor; each batch goes to the device that the model's parameters are on. Runs in evaluation
    mode without recording, and leaves the model in the mode it was in.
    """
    was_training = model.training
    device = next((parameter.device for parameter in model.parameters()), None)
    model.eval()
    try:
        with no_grad():
            starts = range(0, len(images), batch_size)
            scores = cat([model(as_tensor(images[i : i + batch_size], device=device)) for i in starts])
    finally:
        model.train(was_training)
    return scores.cpu().numpy()

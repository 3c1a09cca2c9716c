"""A trained classifier in a page: draw a digit and watch every head attend to it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from tinyattn.models import AttentionClassifier
from tinyattn.viz.page import Page, html_page

LARGEST = 2_000_000  # bytes


def playground(
    model: AttentionClassifier, samples: Any = None, *, title: str = "Attention playground", names: Any = None
) -> Page:
    """Return a page, in one file and without a network, in which one draws a digit and sees what the model does.

    Every head's weights for the patch under the pointer, on one scale; class probabilities; gradient x attention;
    temperature; heads and patches switched off.

    model: an AttentionClassifier of any size; its weights are stored in the page as float32, and computed with there.
    samples: images (count, size, size) to start from, uint8 0..255 or float 0..1; ten are shown best.
    names: of the classes; by default their numbers.
    Raises TypeError for other models, and ValueError for one whose page would exceed 2 MB.

    Example:
        >>> page = ta.viz.playground(ta.models.AttentionClassifier(num_layers=1), np.zeros((1, 28, 28), np.uint8))
        >>> page.save("playground.html")
        PosixPath('playground.html')
    """
    if not isinstance(model, AttentionClassifier):
        raise TypeError(f"playground: got {type(model).__name__}; expected an AttentionClassifier")
    data = _content(model, samples, title, names)
    page = html_page("playground", ["playground-model.js", "playground-draw.js", "playground-main.js"], title, data)
    if len(page.encode()) > LARGEST:
        parameters = sum(p.numel() for p in model.parameters())
        raise ValueError(
            f"playground: {parameters:,} parameters make a page of {len(page) / 1e6:.1f} MB; "
            f"at most {LARGEST / 1e6:.0f} MB are allowed. Take a smaller model"
        )
    return Page(page, 800)


def _content(model: AttentionClassifier, samples: Any, title: str, names: Any) -> dict[str, Any]:
    size, classes = model.image_size, model.head.out_features
    images = np.zeros((0, size, size)) if samples is None else np.asarray(samples).reshape(-1, size, size)
    if images.dtype.kind == "f":
        images = np.round(images * 255)
    names = [str(name) for name in (range(classes) if names is None else names)]
    if len(names) != classes:
        raise ValueError(f"playground: {len(names)} names for {classes} classes; give one for each")
    weights = {name: p.detach().cpu().numpy().astype("<f4") for name, p in model.named_parameters()}
    return {
        "title": title, "names": names, "size": size, "padding": model.patch_padding,
        "heads": model.blocks[0].attention.num_heads if len(model.blocks) else 1, "layers": len(model.blocks),
        "eps": model.norm.eps, "patches": model.patch_index.tolist(),
        "weights": {name: base64.b64encode(w.tobytes()).decode() for name, w in weights.items()},
        "samples": [base64.b64encode(image.astype(np.uint8).tobytes()).decode() for image in images],
    }  # fmt: skip

"""Trained models in a page: draw a digit or type a word, and watch every head attend to it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyattn.models import AttentionClassifier, AttentionModel
from tinyattn.nn import Module
from tinyattn.viz.maps.record import softmax_only
from tinyattn.viz.page import Page, html_page

LARGEST = 2_000_000  # bytes
WORD_PARTS = ("alphabet", "embedding", "position", "blocks", "norm", "head")


def playground(
    model: AttentionClassifier | None = None,
    samples: Any = None,
    *,
    compare: Mapping[str, AttentionModel] | None = None,
    words: Any = None,
    title: str = "Attention playground",
    names: Any = None,
) -> Page:
    """Return a page, in one file and without a network, in which one tries trained models out; a tab for each kind.

    Digit: every head's weights for the patch under the pointer, on one scale; class probabilities; gradient x
    attention; temperature; heads and patches switched off. Score functions: `compare`, on the same drawing. Words: what
    each written character attends to.

    model: an AttentionClassifier of any size; its weights are stored in the page as float32, and computed with there.
    samples: images (count, size, size) to start from, uint8 0..255 or float 0..1; ten are shown best.
    compare: AttentionModels by name, for the model's images and classes.
    words: a CharacterModel of examples/reverse_words.py, or one built like it; needs no other model.
    names: of the classes; by default their numbers.
    Raises TypeError for other models, and ValueError for a page above 2 MB or models that do not fit each other.

    Example:
        >>> page = ta.viz.playground(ta.models.AttentionClassifier(num_layers=1), np.zeros((1, 28, 28), np.uint8))
        >>> page.save("playground.html")
        PosixPath('playground.html')
    """
    tabs: dict[str, tuple[list[str], dict[str, Any]]] = {}  # name: scripts, content
    if model is not None or words is None or compare:
        if not isinstance(model, AttentionClassifier):
            raise TypeError(f"playground: got {type(model).__name__}; expected an AttentionClassifier")
        softmax_only(model, "playground")
        tabs["digit"] = ["draw", "main"], _digit(model, samples, names)
        if compare:
            tabs["scores"] = ["scores"], {"compare": [_compared(name, each, model) for name, each in compare.items()]}
    if words is not None:
        tabs["words"] = ["words"], {"words": _words(words)}
    data, scripts = {"title": title, "tabs": list(tabs)}, ["tabs", "model"]
    for more, content in tabs.values():
        scripts += more
        data |= content
    parts = ["maps.css", "playground.css", "maps.js", *(f"playground-{name}.js" for name in scripts)]
    page = html_page("playground", parts, title, data)
    if len(page.encode()) > LARGEST:
        raise ValueError(
            f"playground: these models make a page of {len(page) / 1e6:.1f} MB; "
            f"at most {LARGEST / 1e6:.0f} MB are allowed. Take smaller or fewer models"
        )
    return Page(page, 800)


def _digit(model: AttentionClassifier, samples: Any, names: Any) -> dict[str, Any]:
    size, classes = model.image_size, model.head.out_features
    images = np.zeros((0, size, size)) if samples is None else np.asarray(samples).reshape(-1, size, size)
    if images.dtype.kind == "f":
        images = np.round(images * 255)
    names = [str(name) for name in (range(classes) if names is None else names)]
    if len(names) != classes:
        raise ValueError(f"playground: {len(names)} names for {classes} classes; give one for each")
    return {
        "names": names, "size": size, "padding": model.patch_padding, "patches": model.patch_index.tolist(),
        "samples": [base64.b64encode(image.astype(np.uint8).tobytes()).decode() for image in images],
        **_transformer(model),
    }  # fmt: skip


def _compared(name: str, model: AttentionModel, beside: AttentionClassifier) -> dict[str, Any]:
    if not isinstance(model, AttentionModel):
        raise TypeError(f"playground: compare[{name!r}] is a {type(model).__name__}; expected an AttentionModel")
    found = (model.image_size, model.fc.out_features)
    if found != (wanted := (beside.image_size, beside.head.out_features)):
        raise ValueError(
            f"playground: compare[{name!r}] has image_size, classes = {found}; expected the classifier's {wanted}"
        )
    query = getattr(model.attention, "query", None)
    return {
        "name": name, "levels": model.input_dim, "eps": model.norm.eps, "weights": _weights(model),
        "heads": 1 if query is None else len(query), "scale": getattr(model.attention, "scale", 1.0),
    }  # fmt: skip


def _words(model: Any) -> dict[str, Any]:
    if missing := [part for part in WORD_PARTS if not hasattr(model, part)]:
        raise TypeError(
            f"playground: words={type(model).__name__} has no {', '.join(missing)}; "
            "expected a model like CharacterModel of examples/reverse_words.py"
        )
    return {"alphabet": model.alphabet, **_transformer(model)}


def _transformer(model: Any) -> dict[str, Any]:
    return {
        "heads": model.blocks[0].attention.num_heads if len(model.blocks) else 1, "layers": len(model.blocks),
        "eps": model.norm.eps, "weights": _weights(model),
    }  # fmt: skip


def _weights(model: Module) -> dict[str, str]:
    weights = {name: p.detach().cpu().numpy().astype("<f4") for name, p in model.named_parameters()}
    return {name: base64.b64encode(w.tobytes()).decode() for name, w in weights.items()}

"""Attention as one HTML file that needs nothing else: click a token to see what it looks at."""

from __future__ import annotations

import base64
import html
import json
import struct
import zlib
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyattn.viz.attention_figures import caption

if TYPE_CHECKING:
    from tinyattn.viz.attention_maps import AttentionMaps

MOST = 30_000_000  # bytes of a page: more is slow to open


def page(maps: AttentionMaps) -> str:
    """The page as text. Raises ValueError if it would be larger than 30 MB."""
    numbers = sum(layer.weights.size * (1 + maps.has_gradients) for layer in maps.every_layer)
    if numbers * 2 * 4 / 3 > MOST:
        raise ValueError(
            f"attention: a page with {numbers:,} weights of {len(maps)} inputs would have {numbers * 8 / 3e6:.1f} MB, "
            f"and no more than {MOST / 1e6:.1f} MB open well; record fewer inputs, or with gradients=False"
        )
    folder = resources.files("tinyattn.viz") / "pages"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("attention.html", "attention.css", "attention.js")
    )
    content = json.dumps(_content(maps), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    title = maps.title or "Where the model looks"
    return Template(template).substitute(title=html.escape(title), style=style, script=script, data=content)


def framed(text: str) -> str:
    """The page inside of another one, for notebooks."""
    return (
        f'<iframe srcdoc="{html.escape(text)}" style="width: 100%; height: 760px; border: 0" '
        'title="attention"></iframe>'
    )


def _content(maps: AttentionMaps) -> dict[str, Any]:
    gradients, follow = maps.has_gradients, maps.can_follow
    grid = maps.grid
    return {
        "title": maps.title or "Where the model looks",
        "tokens": maps.tokens,
        "gradients": gradients,
        "colours": maps.images is not None and maps.images.ndim == 4,
        "note": "" if gradients else "Recorded without gradients.",
        "grid": None if grid is None else {
            "rows": grid.rows, "columns": grid.columns, "extra": grid.extra,
            "width": maps.images.shape[2], "height": maps.images.shape[1],
            "boxes": grid.boxes.tolist(), "cells": grid.cells.tolist(),
        },
        "items": [_item(maps, i) for i in range(len(maps))],
        "layers": [
            {
                "name": layer.name, "pooling": layer is maps.pooling,
                "heads": layer.weights.shape[1], "queries": layer.weights.shape[2], "keys": layer.weights.shape[3],
                "attention": _packed(layer.weights),
                "gradient": _packed(layer.gradient_x_attention) if gradients else None,
            }
            for layer in maps.every_layer if layer.weights.shape[3] == maps.tokens
        ],
        "rollout": _packed(maps.rollout()) if follow and maps.layers else None,
        "answer": _packed(maps.where_it_looked()) if follow and maps.layers else None,
        "relevance": _packed(maps.relevance()) if follow and gradients else None,
    }  # fmt: skip


def _item(maps: AttentionMaps, i: int) -> dict[str, Any]:
    target = None if maps.target is None else int(maps.target[i])
    item: dict[str, Any] = {"caption": caption(maps, i), "target": target, "wrong": False}
    if maps.scores is not None:  # the likeliest first
        order = np.argsort(-maps.probabilities[i], kind="stable")[:5]
        item["probabilities"] = [[int(k), round(float(maps.probabilities[i, k]), 5)] for k in order]
    if maps.scores is not None and maps.labels is not None and maps.labels.dtype.kind in "iu":
        item["wrong"] = bool(maps.scores[i].argmax() != maps.labels[i])
    if maps.words is not None:
        item["words"] = maps.words[i]
    else:
        image = maps.images[i]
        item["image"] = png(image if image.ndim == 3 else 1 - 0.55 * image)
    return item


def _packed(values: Any) -> dict[str, Any]:
    """Numbers as 16-bit integers in base64, and the number that stands for 32767."""
    values = np.asarray(values, dtype=float)
    largest = float(np.abs(values).max()) if values.size else 0.0
    integers = np.round(values * (32767 / (largest or 1.0))).astype("<i2")
    return {"largest": largest, "data": base64.b64encode(integers.tobytes()).decode()}


def png(image: Any) -> str:
    """An image with values from 0 to 1, (height, width) or (height, width, 3), as a data: address of a PNG."""
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each line begins with its filter, 0 for none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b"")]
    return "data:image/png;base64," + base64.b64encode(b"".join(parts)).decode()

"""Attention maps as one HTML page: click a token to see its attention."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

from tinyattn.viz.maps.figures import caption
from tinyattn.viz.maps.record import AttentionFlow
from tinyattn.viz.page import html_page

MOST = 30_000_000  # bytes; larger pages open slowly


def attention_page(flow: AttentionFlow) -> str:
    """Return the page as text. Raises ValueError if it would be larger than 30 MB."""
    numbers = sum(layer.weights.size * (1 + flow.has_gradients) for layer in flow.every_layer)
    if numbers * 2 * 4 / 3 > MOST:
        raise ValueError(
            f"attention: a page with {numbers:,} weights of {len(flow)} inputs would have {numbers * 8 / 3e6:.1f} MB; "
            f"at most {MOST / 1e6:.1f} MB are allowed. Record fewer inputs, or pass gradients=False"
        )
    data = _content(flow)
    return html_page("attention", ["maps.css", "attention.css", "maps.js", "attention.js"], data["title"], data)


def _content(flow: AttentionFlow) -> dict[str, Any]:
    gradients, follow = flow.has_gradients, flow.can_follow
    grid = flow.grid
    return {
        "title": flow.title or "Attention maps",
        "tokens": flow.tokens,
        "gradients": gradients,
        "colours": flow.images is not None and flow.images.ndim == 4,
        "note": "" if gradients else "Recorded without gradients.",
        "grid": None if grid is None else {
            "rows": grid.rows, "columns": grid.columns, "extra": grid.extra,
            "width": flow.images.shape[2], "height": flow.images.shape[1],
            "boxes": grid.boxes.tolist(), "cells": grid.cells.tolist(),
        },
        "items": [_item(flow, i) for i in range(len(flow))],
        "layers": [
            {
                "name": layer.name, "pooling": layer is flow.pooling,
                "heads": layer.weights.shape[1], "queries": layer.weights.shape[2], "keys": layer.weights.shape[3],
                "attention": _packed(layer.weights),
                "gradient": _packed(layer.gradient_x_attention) if gradients else None,
            }
            for layer in flow.every_layer if layer.weights.shape[3] == flow.tokens
        ],
        "rollout": _packed(flow.rollout()) if follow and flow.layers else None,
        "output": _packed(flow.where_it_looked()) if follow and flow.layers else None,
        "relevance": _packed(flow.relevance()) if follow and gradients else None,
    }  # fmt: skip


def _item(flow: AttentionFlow, i: int) -> dict[str, Any]:
    target = None if flow.target is None else int(flow.target[i])
    item: dict[str, Any] = {"caption": caption(flow, i), "target": target, "wrong": False}
    if flow.scores is not None:  # largest first
        order = np.argsort(-flow.probabilities[i], kind="stable")[:5]
        item["probabilities"] = [[int(k), round(float(flow.probabilities[i, k]), 5)] for k in order]
    if flow.scores is not None and flow.labels is not None and flow.labels.dtype.kind in "iu":
        item["wrong"] = bool(flow.scores[i].argmax() != flow.labels[i])
    if flow.words is not None:
        item["words"] = flow.words[i]
    else:
        image = flow.images[i]
        item["image"] = png(image if image.ndim == 3 else 1 - 0.55 * image)
    return item


def _packed(values: Any) -> dict[str, Any]:
    """Encode numbers as 16-bit integers in base64, with the number that 32767 stands for."""
    values = np.asarray(values, dtype=float)
    largest = float(np.abs(values).max()) if values.size else 0.0
    integers = np.round(values * (32767 / (largest or 1.0))).astype("<i2")
    return {"largest": largest, "data": base64.b64encode(integers.tobytes()).decode()}


def png(image: Any) -> str:
    """Encode an image with values from 0 to 1, (height, width) or (height, width, 3), as the data: URL of a PNG."""
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each line starts with its filter; 0: none

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b"")]
    return "data:image/png;base64," + base64.b64encode(b"".join(parts)).decode()

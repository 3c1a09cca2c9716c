"""Where a classifier looked: its attention laid over the image."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.viz.figure import new_figure


def attention_figure(images: Any, maps: dict[str, Any], captions: list[str], title: str = "") -> Any:
    """One row an image: the digit, then each map laid over it, bright where the model looked.

    images (count, height, width); maps: name -> (count, rows, columns), non-negative, on a grid that
    may be coarser than the image; captions: one an image. Returns a matplotlib Figure.
    """
    count = len(images)
    figure = new_figure(1.3 * (1 + len(maps)) + 0.6, 1.32 * count + 0.6)
    axes = figure.subplots(count, 1 + len(maps), squeeze=False)
    height, width = images.shape[1:]
    extent = (0, width, height, 0)  # so that maps of any grid cover the image
    for row, image, caption in zip(axes, images, captions, strict=True):
        for ax in row:
            ax.set(xticks=[], yticks=[])
        row[0].imshow(image, cmap="gray_r", extent=extent)
        row[0].set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=8)
    for column, (name, values) in enumerate(maps.items(), 1):
        axes[0, column].set_title(name, fontsize=8)
        for row, image, weights in zip(axes, images, np.asarray(values), strict=True):
            row[column].imshow(weights, cmap="magma", extent=extent, interpolation="bilinear", vmin=0)
            row[column].contour(
                np.linspace(0.5, width - 0.5, width),
                np.linspace(0.5, height - 0.5, height),
                image.astype(float),
                levels=[float(image.max()) / 2],
                colors="white",
                linewidths=0.6,
            )
    axes[0, 0].set_title("digit", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure

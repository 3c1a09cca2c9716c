"""Where a classifier looked: its attention laid over the image."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.viz.figure import new_figure


def attention_figure(images: Any, maps: dict[str, Any], captions: list[str], title: str = "", columns: int = 5) -> Any:
    """Each image, and under it each map with the image's outline, bright where the model looked.

    images (count, height, width); maps: name -> (count, rows, columns), non-negative, on a grid that
    may be coarser than the image; captions: one an image; columns: images side by side. Returns a
    matplotlib Figure.
    """
    bands = -(-len(images) // columns)
    rows = 1 + len(maps)
    figure = new_figure(1.5 * columns + 0.3, 1.5 * rows * bands + 0.3 * bands + 0.5)
    axes = figure.subplots(rows * bands, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    height, width = images.shape[1:]
    extent = (0, width, height, 0)  # so that maps of any grid cover the image
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, column = i // columns * rows, i % columns
        axes[top, column].imshow(image, cmap="gray_r", extent=extent)
        axes[top, column].set_title(caption, fontsize=9)
        for row, (name, values) in enumerate(maps.items(), top + 1):
            ax = axes[row, column]
            ax.imshow(np.asarray(values)[i], cmap="magma", extent=extent, interpolation="bilinear", vmin=0)
            centres = (np.arange(n) + 0.5 for n in (width, height))
            ax.contour(*centres, image.astype(float), levels=[float(image.max()) / 2], colors="white", linewidths=0.8)
            if column == 0:
                ax.set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure

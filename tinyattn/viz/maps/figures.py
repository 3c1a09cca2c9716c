"""Attention maps drawn by matplotlib."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyattn.viz.figure import headed, new_figure
from tinyattn.viz.maps.record import AttentionFlow

WARM = (0.84, 0.37, 0.0)  # drawn over grey images, more opaque for larger values; the colours of the page
EVEN = 4  # full colour is at least so many times even attention, which would otherwise look strong
COLD = (0.0, 0.45, 0.70)  # negative values
_BARE = {"xticks": [], "yticks": [], "frame_on": False}  # axes that show nothing of their own


class Map(NamedTuple):
    """One small picture: `values` (tokens,).

    share: whether the values are shares of 1, not terms of a score. of_output: whether it describes the model's
    output, not the chosen token.
    """

    title: str
    values: Any
    share: bool
    of_output: bool = False

    @property
    def kind(self) -> str:
        """Which maps have numbers of the same meaning: "share", "gradient", "pooling", "relevance" ..."""
        if self.title.startswith("rollout, this"):  # a token keeps much of itself
            return "rollout"
        if self.share:
            return "share"
        return self.title.split()[0].rstrip(",") if self.of_output else "gradient"


def attention_figure(images: Any, maps: dict[str, Any], captions: list[str], title: str = "", columns: int = 5) -> Any:
    """Draw each image and, below it, each of its maps with the outline of the image.

    Args:
        images: (count, height, width).
        maps: name -> (count, rows, columns), non-negative; the grid may be coarser than the image.
        captions: one for each image.
        title: above the figure.
        columns: images side by side.

    Returns a matplotlib Figure. Raises ImportError without matplotlib.

    Example:
        >>> figure = ta.viz.attention_figure(np.ones((1, 8, 8)), {"mean": np.ones((1, 2, 2))}, ["a square"])
        >>> figure.savefig("maps.png")
    """
    bands = -(-len(images) // columns)
    rows = 1 + len(maps)
    figure = new_figure(1.5 * columns + 0.3, 1.5 * rows * bands + 0.3 * bands + 0.5)
    axes = figure.subplots(rows * bands, columns, squeeze=False, subplot_kw=_BARE)
    height, width = images.shape[1:]
    extent = (0, width, height, 0)  # maps of any grid cover the image
    look = {"cmap": "Oranges", "vmin": 0}
    most = {name: max(np.max(values), EVEN * np.mean(values)) for name, values in maps.items()}  # one for all images
    centres = [np.arange(n) + 0.5 for n in (width, height)]
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, column = i // columns * rows, i % columns
        axes[top, column].imshow(image, cmap="gray_r", extent=extent)
        axes[top, column].set_title(caption, fontsize=9)
        for row, (name, values) in enumerate(maps.items(), top + 1):
            ax = axes[row, column]
            ax.imshow(np.asarray(values)[i], **look, extent=extent, interpolation="bilinear", vmax=most[name])
            ax.contour(*centres, image.astype(float), levels=[float(image.max()) / 2], colors="0.25", linewidths=0.8)
            if column == 0:
                ax.set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def heads_figure(flow: AttentionFlow, item: int, token: int | tuple[int, int] | None, what: str) -> Any:
    """Draw one image or text: a row for each layer with every head and their mean, and a row for all layers."""
    if what not in ("attention", "gradient"):
        raise ValueError(f"what={what!r}; expected 'attention' or 'gradient'")
    if not -len(flow) <= item < len(flow):
        raise IndexError(f"attention: item={item}, but {len(flow)} inputs were recorded")
    number = token_number(flow, token)
    rows = rows_of(flow, item % len(flow), number, what)
    figure = (_over_words if flow.words is not None else _over_image)(flow, item, number, rows)
    kind = "gradient x attention" if what == "gradient" else "attention"
    return headed(figure, flow.title, caption(flow, item), f"{kind} of {_token_name(flow, item, number)}")


def token_number(flow: AttentionFlow, token: int | tuple[int, int] | None) -> int | None:
    """Return the number of a token, which may be given as the (row, column) of its patch."""
    if isinstance(token, tuple):
        grid = flow.grid
        if grid is None or not (0 <= token[0] < grid.rows and 0 <= token[1] < grid.columns):
            known = "words have no patches" if grid is None else f"the grid has {grid.rows} x {grid.columns} patches"
            raise IndexError(f"attention: no patch {token}; {known}")
        return grid.extra + token[0] * grid.columns + token[1]
    if token is not None and not 0 <= token < flow.tokens:
        raise IndexError(f"attention: token={token}; expected 0 to {flow.tokens - 1}")
    return token


def _token_name(flow: AttentionFlow, item: int, token: int | None) -> str:
    if flow.words is not None:
        return "all words, on average" if token is None else repr(flow.words[item][token])
    assert flow.grid is not None
    return "all patches, on average" if token is None else flow.grid.name(token)


def caption(flow: AttentionFlow, item: int) -> str:
    """Return the label and the prediction of an input: "label 5, predicted 3 (99 %)"."""
    parts = [f"label {flow.labels[item]}"] if flow.labels is not None else []
    if flow.scores is not None:
        best = int(flow.scores[item].argmax())
        parts.append(f"predicted {best} ({100 * flow.probabilities[item, best]:.0f} %)")
    return ", ".join(parts)


def rows_of(flow: AttentionFlow, item: int, token: int | None, what: str) -> list[tuple[str, list[Map]]]:
    """Return the maps of one input: (name, maps) for each layer, and for all layers together."""
    share, rows = what == "attention", []
    for layer in flow.layers:
        if layer.weights.shape[3] != flow.tokens:
            continue  # its keys are other tokens
        heads = (layer.weights if share else layer.gradient_x_attention)[item]  # (heads, queries, keys)
        values = heads.mean(1) if token is None or token >= heads.shape[1] else heads[:, token]
        maps = [Map(f"head {h}", v, share) for h, v in enumerate(values)]
        rows.append((layer.name, [*maps, Map("mean", values.mean(0), share)] if len(maps) > 1 else maps))
    summary = []
    if flow.layers and flow.can_follow:
        if token is not None:
            summary.append(Map("rollout, this token", flow.rollout()[item, token], True))
        summary.append(Map("rollout, output", flow.where_it_looked()[item], True, True))
    if flow.pooling is not None:
        heads = (flow.pooling.weights if share else flow.pooling.gradient_x_attention)[item, :, 0]
        name = "pooling" if share else "pooling, by gradient"
        names = [name] if len(heads) == 1 else [f"{name}, head {h}" for h in range(len(heads))]
        summary += [Map(name, v, share, True) for name, v in zip(names, heads, strict=True)]
    if flow.has_gradients and flow.can_follow:
        target = "the target" if flow.target is None else flow.target[item]
        summary.append(Map(f"relevance for {target}", flow.relevance()[item], False, True))
    return [*rows, ("all layers", summary)] if summary else rows


def _over_image(flow: AttentionFlow, item: int, token: int | None, rows: list[tuple[str, list[Map]]]) -> Any:
    grid, image = flow.grid, flow.images[item]
    assert grid is not None
    columns = 1 + max(len(maps) for _, maps in rows)
    most = _most_of([one for _, maps in rows for one in maps])
    figure = new_figure(1.45 * columns, 1.62 * len(rows) + 0.45)
    axes = figure.subplots(len(rows), columns, squeeze=False, subplot_kw=_BARE | {"visible": False})
    for (name, maps), line in zip(rows, axes, strict=True):
        for ax, one in zip(line[1:], maps, strict=False):
            show_map(ax, image, grid, one.values, None if one.of_output else token, most[one.kind])
            ax.set_title(f"{one.title} (\u2264 {_most(one)})", fontsize=7.5)
        line[1].set_ylabel(name, fontsize=8)
    first = axes[0, 0]
    show_map(first, image, grid, None, token)
    first.set_title("the image", fontsize=8)
    if token is not None:
        first.set_xlabel(grid.name(token), fontsize=8)
    return figure


def _most_of(maps: list[Map]) -> dict[str, float]:
    """Return what full colour stands for in the maps of each kind: the largest, of shares at least 4 times even."""
    most = {"share": EVEN * max(1 / len(one.values) for one in maps)}
    for one in maps:
        most[one.kind] = max(most.get(one.kind, 0.0), float(np.abs(one.values).max()))
    return most


def _most(one: Map) -> str:
    """Return the largest value, a share in percent."""
    most = float(one.values[np.abs(one.values).argmax()])
    return f"{100 * most:.0f} %" if one.share else f"{most:.2g}"


def show_map(ax: Any, image: Any, grid: Any, values: Any, token: int | None = None, most: float = 0) -> None:
    """Draw the image in grey with `values` (tokens,) over it, full colour at `most`, and the frame of one patch."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    ax.imshow(image if image.ndim == 3 else 1 - 0.55 * image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    if values is not None:
        values = grid.place(np.asarray(values))
        strength = values / (most or 1.0)
        colours = np.where(strength[..., None] >= 0, WARM, COLD)
        overlay = np.concatenate([colours, 0.85 * np.abs(strength)[..., None]], -1)
        ax.imshow(overlay, extent=grid.extent, interpolation="nearest")
    if values is not None and not values.any():
        ax.text(width / 2, height / 2, "none", ha="center", va="center", fontsize=8, color=WARM)  # all values are 0
    if token is not None and token >= grid.extra:
        left, top, right, bottom = grid.boxes[token - grid.extra]
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="black", linewidth=1.2))
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], visible=True, frame_on=True)
    ax.spines[:].set(color="0.7", linewidth=0.6)


def _over_words(flow: AttentionFlow, item: int, token: int | None, rows: list[tuple[str, list[Map]]]) -> Any:
    """Draw a table: a row for each map, a column for each word."""
    assert flow.words is not None
    words = flow.words[item]
    maps = [one for _, maps in rows for one in maps]
    names = [one.title if name == "all layers" else f"{name}, {one.title}" for name, maps in rows for one in maps]
    table = np.array([np.asarray(one.values, dtype=float) for one in maps])  # (maps, tokens)
    figure = new_figure(max(5.0, 2.2 + 0.55 * len(words)), 1.2 + 0.3 * len(maps))
    ax = figure.subplots()
    most = _most_of(maps)
    ax.imshow(table / [[most[one.kind] or 1.0] for one in maps], cmap="RdBu_r", vmin=-1.4, vmax=1.4, aspect="auto")
    ax.set_xticks(range(len(words)), words, fontsize=8, rotation=0 if max(map(len, words)) < 7 else 40, ha="center")
    ax.set_yticks(range(len(maps)), names, fontsize=8)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for (y, x), value in np.ndenumerate(table) if len(words) <= 24 else ():
        text = f"{value:.2f}".replace("0.", ".", 1) if maps[y].share else f"{value:.1g}"
        ax.text(x, y, text, ha="center", va="center", fontsize=6.5)
    if token is not None:
        ax.get_xticklabels()[token].set_fontweight("bold")
    return figure

"""Attention drawn by matplotlib: many images with one map each, and one image or text with every head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyattn.viz.figure import new_figure

if TYPE_CHECKING:
    from tinyattn.viz.attention_maps import AttentionMaps

WARM = (0.85, 0.25, 0.05)  # laid over grey images, the stronger the more weight
COLD = (0.10, 0.35, 0.80)  # what speaks against a class


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
        _bare(ax)
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


def heads_figure(maps: AttentionMaps, item: int, token: int | tuple[int, int] | None, what: str) -> Any:
    """One image or text: a row for each layer with every head and their mean, and at last what came of it all."""
    if what not in ("attention", "gradient"):
        raise ValueError(f"what={what!r}; expected 'attention' or 'gradient'")
    if not -len(maps) <= item < len(maps):
        raise IndexError(f"attention: there is no item {item}; recorded were {len(maps)}")
    token = token_number(maps, token)
    return (_over_words if maps.words is not None else _over_image)(maps, item % len(maps), token, what)


def token_number(maps: AttentionMaps, token: int | tuple[int, int] | None) -> int | None:
    """The number of a token, which may be given by the row and column of its patch."""
    if isinstance(token, tuple):
        grid = maps.grid
        if grid is None or not (0 <= token[0] < grid.rows and 0 <= token[1] < grid.columns):
            there = "no patches" if grid is None else f"{grid.rows} x {grid.columns} patches"
            raise IndexError(f"attention: there is no patch {token}; there are {there}")
        return grid.extra + token[0] * grid.columns + token[1]
    if token is not None and not 0 <= token < maps.tokens:
        raise IndexError(f"attention: there is no token {token}; there are {maps.tokens}")
    return token


def caption(maps: AttentionMaps, item: int) -> str:
    """What an item is and what the model said: "a 5, said 3 (99 %)"."""
    known = f"a {maps.labels[item]}" if maps.labels is not None else ""
    if maps.scores is None:
        return known
    best = int(maps.scores[item].argmax())
    said = f"said {best} ({100 * maps.probabilities[item, best]:.0f} %)"
    return f"{known}, {said}" if known else said


def rows_of(maps: AttentionMaps, item: int, token: int | None, what: str) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What to draw of one item: for each layer its name and a list of (title, (tokens,) values), and the summary."""
    rows = []
    for layer in maps.layers:
        if layer.weights.shape[3] != maps.tokens:
            continue  # it looks at something else than these tokens
        heads = (layer.gradient_x_attention if what == "gradient" else layer.weights)[item]  # (heads, queries, keys)
        values = heads.mean(1) if token is None or token >= heads.shape[1] else heads[:, token]
        named = [(f"head {h}", v) for h, v in enumerate(values)]
        rows.append((layer.name, [*named, ("mean", values.mean(0))] if len(named) > 1 else named))
    summary = []
    if maps.layers and maps.can_follow:
        rollout = maps.rollout()[item]
        summary = [("rollout, answer", maps.where_it_looked()[item])]
        if token is not None:
            summary = [("rollout, this one", rollout[token]), *summary]
    if maps.pooling is not None:
        heads = (maps.pooling.gradient_x_attention if what == "gradient" else maps.pooling.weights)[item, :, 0]
        first = "pooling" if what == "attention" else "pooling, by gradient"
        names = [first] if len(heads) == 1 else [f"{first}, head {h}" for h in range(len(heads))]
        summary += list(zip(names, heads, strict=True))
    if maps.has_gradients and maps.can_follow:
        spoke = f"spoke for {maps.target[item]}" if maps.target is not None else "spoke for the target"
        summary.append((spoke, maps.relevance()[item]))
    return [*rows, ("in all", summary)] if summary else rows


def _over_image(maps: AttentionMaps, item: int, token: int | None, what: str) -> Any:
    rows, grid = rows_of(maps, item, token, what), maps.grid
    assert grid is not None
    columns = 1 + max(len(row) for _, row in rows)
    figure = new_figure(1.45 * columns, 1.62 * len(rows) + 0.45)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    image = maps.images[item]
    for (name, row), line in zip(rows, axes, strict=True):
        for ax in line:
            _bare(ax)
            ax.set_visible(False)
        for ax, (title, values) in zip(line[1:], row, strict=False):
            ax.set_visible(True)
            show_map(ax, image, grid, values)
            ax.set_title(f"{title} (\u2264 {_most(values, title, what)})", fontsize=7.5)
            if token is not None and "answer" not in title and "pooling" not in title and "spoke" not in title:
                outline(ax, grid, token)
        line[1].set_ylabel(name, fontsize=8)
    first = axes[0, 0]
    first.set_visible(True)
    show_map(first, image, grid, None)
    first.set_title("the image", fontsize=8)
    if token is not None:
        outline(first, grid, token)
        first.set_xlabel(grid.name(token), fontsize=8)
    kind = "gradient x attention" if what == "gradient" else "attention"
    of = "of all patches, on average" if token is None else f"of {grid.name(token)}"
    figure.suptitle(": ".join(filter(None, (maps.title, caption(maps, item), f"{kind} {of}"))), fontsize=10)
    return figure


def _most(values: Any, title: str, what: str) -> str:
    """The largest value: shares in percent, what adds to a score as a number."""
    most = float(values[np.abs(values).argmax()])
    share = "spoke" not in title and ("rollout" in title or what == "attention")
    return f"{100 * most:.0f} %" if share else f"{most:.2g}"


def show_map(ax: Any, image: Any, grid: Any, values: Any) -> None:
    """The image in grey and the values of its tokens over it, each map on its own scale; negative ones are blue."""
    height, width = image.shape[:2]
    ax.imshow(image if image.ndim == 3 else 1 - 0.55 * image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    if values is not None:
        values = grid.place(np.asarray(values))
        strength = values / (np.abs(values).max() or 1.0)
        colours = np.where(strength[..., None] >= 0, WARM, COLD)
        overlay = np.concatenate([colours, 0.85 * np.abs(strength)[..., None]], -1)
        ax.imshow(overlay, extent=grid.extent, interpolation="nearest")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_frame_on(True)
    for spine in ax.spines.values():
        spine.set(color="0.7", linewidth=0.6)


def outline(ax: Any, grid: Any, token: int) -> None:
    """Draw a frame around the patch of a token."""
    from matplotlib.patches import Rectangle

    if token >= grid.extra:
        left, top, right, bottom = grid.boxes[token - grid.extra]
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="black", linewidth=1.2))


def _over_words(maps: AttentionMaps, item: int, token: int | None, what: str) -> Any:
    """A row of words for each head, darker where it looks."""
    assert maps.words is not None
    rows, words = rows_of(maps, item, token, what), maps.words[item]
    lines = [(f"{name}, {title}" if name != "in all" else title, values) for name, row in rows for title, values in row]
    table = np.array([np.asarray(values, dtype=float) for _, values in lines])  # (lines, tokens)
    figure = new_figure(max(5.0, 2.2 + 0.55 * len(words)), 1.2 + 0.3 * len(lines))
    ax = figure.subplots()
    scale = np.abs(table).max(1, keepdims=True)
    ax.imshow(table / np.where(scale == 0, 1, scale), cmap="RdBu_r", vmin=-1.4, vmax=1.4, aspect="auto")
    ax.set_xticks(range(len(words)), words, fontsize=8, rotation=0 if max(map(len, words)) < 7 else 40, ha="center")
    ax.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    if len(words) <= 24:
        for (y, x), value in np.ndenumerate(table):
            share = what == "attention" and "spoke" not in lines[y][0]
            text = f"{value:.2f}".replace("0.", ".", 1) if share else f"{value:.1g}"
            ax.text(x, y, text, ha="center", va="center", fontsize=6.5)
    if token is not None:
        ax.get_xticklabels()[token].set_fontweight("bold")
    kind = "gradient x attention" if what == "gradient" else "attention"
    of = f"of {words[token]!r}" if token is not None else "of all words, on average"
    figure.suptitle(": ".join(filter(None, (maps.title, caption(maps, item), f"{kind} {of}"))), fontsize=10)
    return figure


def _bare(ax: Any) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_frame_on(False)

"""The pictures of a run: its samples as what they are, and the curves of its loss and laws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cbdm_cli.tiles import by_count, map_grid, named, signal_grid, tile_grid
from cbdm_core.data.dataset import to_uint8
from cbdm_core.writing import replacing

__all__ = ["as_image", "law_curves", "loss_curve", "pairs", "sample_grid", "samples", "scatter"]

_COLUMNS = 4  # of a vector that are drawn against one another
_GROUPS: dict[str, tuple[Any, int]] = {"medium": ((0, (8, 4)), 6), "tail": ((0, (4, 8)), 3)}  # line, size of a mark
_LEGEND = 20  # the most classes that there is room to name


def as_image(x: Tensor) -> Any:
    """One (C, H, W) sample in [−1, 1] as a Pillow image; other shapes are refused by the caller."""
    from PIL import Image

    pixels = np.asarray(to_uint8(x).permute(1, 2, 0))
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])


def sample_grid(
    path: Path, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None], columns: int = 16
) -> None:
    """A row per class, the rarest last, each with its name and training count at the left.

    Args:
        path: the PNG to write.
        x: (M, C, H, W) samples in [−1, 1] with C 1 or 3.
        labels: (M,) the label each was asked for.
        names: K class names.
        counts: K training counts, None where a row is no class of the training set.
        columns: at most so many samples a row.
    """
    from PIL import Image

    height, width = x.shape[-2:]
    scale = max(1, round(40 / max(height, width)))
    size = (width * scale, height * scale)

    def tile(sample: int) -> Any:
        return as_image(x[sample]).convert("RGB").resize(size, Image.Resampling.NEAREST)

    tile_grid(path, tile, size, labels, names, counts, columns)


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cbdm"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _axes(width: float, height: float) -> tuple[Any, Any]:
    figure = _figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def scatter(path: Path, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None]) -> None:
    """Vector samples in their first two coordinates, one colour a class, the rarest drawn on top.

    Args:
        path: the PNG to write.
        x: (M, D) samples.
        labels: (M,) the label each was asked for.
        names: K class names.
        counts: K training counts.
    """
    figure, axes = _axes(6, 5)
    for y in by_count(labels, counts):
        points = x[labels == y].cpu().numpy()
        second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
        axes.scatter(points[:, 0], second, s=4, label=named(str(names[y]), counts[y]))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def pairs(path: Path, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None]) -> None:
    """Vector samples in every two of their first four columns, one colour a class, the rarest drawn on top.

    Args:
        path: the PNG to write.
        x: (M, D) samples, D ≥ 3.
        labels: (M,) the label each was asked for.
        names: K class names.
        counts: K training counts.
    """
    count = min(_COLUMNS, x.shape[1]) - 1
    figure = _figure(2.4 * count + (1.4 if count < 3 else 0), 2.0 * count + 0.3)
    panels = figure.subplots(count, count, squeeze=False)
    for row, column in itertools.product(range(count), repeat=2):
        axes = panels[row, column]
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_visible(column <= row)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=3)
        for y in by_count(labels, counts):
            points = x[labels == y].cpu().numpy()
            axes.scatter(points[:, column], points[:, row + 1], s=4, label=named(str(names[y]), counts[y]))
        axes.set(xlabel=f"column {column}" * (row == count - 1), ylabel=f"column {row + 1}" * (column == 0))
    handles, texts = panels[0, 0].get_legend_handles_labels()
    if len(texts) <= _LEGEND:
        figure.legend(handles, texts, loc="upper right", frameon=False, fontsize=8)
    figure.supxlabel(f"columns 0 to {count} of {x.shape[1]}", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def loss_curve(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """The denoising loss by class group and the regulariser, as running means, against the step.

    Args:
        path: the SVG to write; the same records give the same bytes.
        records: the lines of `metrics.jsonl`.
    """
    figure, axes = _axes(7, 3.6)
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        values = {**{k: v for k, v in record["terms"].items() if k != "denoising"}, **record["groups"]}
        for name, value in values.items():
            curves.setdefault(name, []).append((record["step"], value))
    for name, points in sorted(curves.items()):
        steps, values = np.array([p[0] for p in points]), np.array([p[1] for p in points])
        width = max(1, len(values) // 50)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        label = f"denoising term, {name}" if name in ("head", "medium", "tail") else name
        axes.plot(steps[width - 1 :], smooth, label=label, linewidth=1.4, **_apart(name, len(smooth)))
    axes.set(xlabel="step", ylabel="loss (running mean)", yscale="log")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    if curves:
        axes.legend(frameon=False, fontsize=8, handlelength=3.2)
    else:
        axes.set_title("no step was recorded: training.log_every is larger than the run", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _apart(name: str, records: int) -> dict[str, Any]:
    """How a curve is drawn such that equal groups show through one another; of one record, which is no line, a mark."""
    line, size = _GROUPS.get(name, ("-", 9))
    return {"linestyle": line, "marker": "o", "markersize": size} if records == 1 else {"linestyle": line}


def law_curves(folder: Path, records: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """`law-NAME.svg` for each law that was learned: the probability of each class against the step.

    Args:
        folder: to write into; nothing is written where no law learned.
        records: the lines of `metrics.jsonl`.
        names: K class names, the commonest first as the legend should read.
    """
    for name in sorted({law for record in records for law in record.get("laws", {})}):
        snapshots = [(record["step"], record["laws"][name]) for record in records if name in record.get("laws", {})]
        steps, table = np.array([step for step, _ in snapshots]), np.array([probs for _, probs in snapshots])
        figure, axes = _axes(7, 3.6)
        colours = _colours(table.shape[1])
        for y in range(table.shape[1]):
            axes.plot(steps, table[:, y], label=names[y], linewidth=1.4, color=colours[y])
        axes.set(xlabel="step", ylabel=f"law of {name}", ylim=(0, None))
        if table.shape[1] <= 20:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
        with replacing(folder / f"law-{name}.svg") as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _colours(count: int) -> Any:
    """From dark to light in the order of the classes."""
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(count, 1)))


def samples(
    path: Path, images: bool, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None]
) -> None:
    """The samples as what they are: a grid of images, signals as lines, maps of floats, or vectors by their columns.

    Args:
        path: the PNG to write.
        images: whether they are images.
        x: (M, …) samples, images in [−1, 1], floats in units of any kind.
        labels: (M,) the label each was asked for.
        names: K class names.
        counts: K training counts, None where a row is no class of the training set.
    """
    if images and x.ndim == 4 and x.shape[1] in (1, 3):
        sample_grid(path, x, labels, names, counts)
        return
    draw = {2: scatter if x.shape[1] < 3 else pairs, 3: signal_grid}.get(x.ndim, map_grid)
    draw(path, x, labels, names, counts)

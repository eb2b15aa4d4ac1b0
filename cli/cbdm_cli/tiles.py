"""A grid of tiles, a row per class, with a caption: images, and floats drawn as signals or maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cbdm_cli.numerals import true_minus
from cbdm_core.writing import replacing

__all__ = ["by_count", "lettering", "map_grid", "named", "signal_grid", "tile_grid"]

_INK = (20, 20, 20)
_COLOURS = {
    "blue": (31, 119, 180),
    "orange": (230, 120, 10),
    "green": (44, 140, 44),
    "red": (200, 40, 40),
    "purple": (130, 90, 170),
    "brown": (140, 86, 75),
}
_SIGNAL = (120, 48)  # width and height of a signal's tile
_FINER = 3  # a signal is drawn so many times as large, and then reduced


def by_count(labels: Tensor, counts: Sequence[int | None]) -> list[int]:
    """The labels there are, the commonest first."""
    return sorted(set(labels.tolist()), key=lambda y: (-(counts[y] or 0), y))


def named(name: str, count: int | None) -> str:
    """A class in words."""
    return name if count is None else f"{name}  n={count}"


def tile_grid(
    path: Path,
    tile: Callable[[int], Any],
    size: tuple[int, int],
    labels: Tensor,
    names: Sequence[str],
    counts: Sequence[int | None],
    columns: int = 16,
    caption: str = "",
) -> None:
    """A row per class, the rarest last, each with its name and training count at the left.

    Args:
        path: the PNG to write.
        tile: the Pillow image of a sample, by its number.
        size: (width, height) of a tile.
        labels: (M,) the label each sample was asked for.
        names: K class names.
        counts: K training counts, None where a row is no class of the training set.
        columns: at most so many samples a row.
        caption: below the tiles, broken into lines as wide as they are.
    """
    from PIL import Image, ImageDraw

    order, gap, font = by_count(labels, counts), 4, lettering()
    texts = {y: named(str(names[y]), counts[y]) for y in order}
    margin = 16 + int(max(font.getlength(text) for text in texts.values()))
    shown = max(min(columns, int((labels == y).sum())) for y in order)
    width, height = margin + shown * (size[0] + gap) + gap, len(order) * (size[1] + gap) + gap
    lines = _lines(caption, font.getlength, width - 16)
    canvas = Image.new("RGB", (width, height + 17 * len(lines) + (4 if lines else 0)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, y in enumerate(order):
        top = gap + row * (size[1] + gap)
        draw.text((8, top + size[1] / 2), texts[y], fill=_INK, font=font, anchor="lm")
        for column, sample in enumerate((labels == y).nonzero()[:shown, 0].tolist()):
            canvas.paste(tile(sample), (margin + gap + column * (size[0] + gap), top))
    for number, line in enumerate(lines):
        draw.text((8, height + 17 * number), line, fill=_INK, font=font)
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG")


def _lines(text: str, length: Callable[[str], float], width: float) -> list[str]:
    """The text broken between words, each line at most so wide where its words allow it."""
    lines: list[str] = []
    for word in text.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def signal_grid(path: Path, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None]) -> None:
    """Signals as lines, one a channel, all over the same range, which the caption says.

    Args:
        path: as of `tile_grid`.
        x: (M, C, L) finite samples.
        labels: as of `tile_grid`.
        names: as of `tile_grid`.
        counts: as of `tile_grid`.
    """
    values = x[:, : len(_COLOURS)].cpu().numpy().astype(np.float64)
    low, high = np.quantile(values, [0.002, 0.998])
    room = 0.05 * (high - low) or 0.5
    low, high, colours = low - room, high + room, list(_COLOURS)[: values.shape[1]]
    which = f"; channels 0 to {len(colours) - 1} are {', '.join(colours)}" if len(colours) > 1 else ""
    left = f", of {x.shape[1]}" if x.shape[1] > len(colours) else ""
    caption = f"{x.shape[2]} places from left to right, values from {_short(low)} to {_short(high)}{which}{left}"

    def tile(sample: int) -> Any:
        return _curves(values[sample], low, high, [_COLOURS[name] for name in colours])

    tile_grid(path, tile, _SIGNAL, labels, names, counts, 8, caption)


def lettering() -> Any:
    """The font of names and captions: matplotlib's, as Pillow's own has no minus, ×, ω or accent."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 12)


def _short(value: float) -> str:
    return true_minus(f"{value:.3g}")


def _curves(values: Any, low: float, high: float, colours: Sequence[tuple[int, int, int]]) -> Any:
    from PIL import Image, ImageDraw

    width, height = (_FINER * side for side in _SIGNAL)
    canvas = Image.new("RGB", (width, height), (244, 244, 244))
    draw = ImageDraw.Draw(canvas)
    across = np.linspace(0, width - 1, values.shape[1])
    for row, colour in zip(values, colours, strict=True):
        up = (high - row.clip(low, high)) / (high - low) * (height - 1)
        points = list(zip(across.tolist(), up.tolist(), strict=True))
        draw.line(points * (1 if len(points) > 1 else 2), fill=colour, width=_FINER)
    return canvas.resize(_SIGNAL, Image.Resampling.LANCZOS)


def map_grid(path: Path, x: Tensor, labels: Tensor, names: Sequence[str], counts: Sequence[int | None]) -> None:
    """Floats over a plane as three colours, or channel 0 in grey, cut to the mean ± 2 standard deviations.

    Args:
        path: as of `tile_grid`.
        x: (M, C, …, H, W) finite samples; of further axes the middle is shown.
        labels: as of `tile_grid`.
        names: as of `tile_grid`.
        counts: as of `tile_grid`.
    """
    from PIL import Image

    colours, slices = x.shape[1] == 3, x.shape[2:-2]
    while x.ndim > 4:
        x = x.select(2, x.shape[2] // 2)
    values = (x if colours else x[:, :1]).cpu().double()
    mean, spread = values.mean((0, 2, 3), keepdim=True), values.std((0, 2, 3), correction=0, keepdim=True)
    spread = spread.clamp(min=1e-12 * mean.abs().clamp(min=1))
    pixels = (((values - mean) / (4 * spread) + 0.5).clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
    ends = (float((mean + sign * spread)[0, 0].item()) for sign in (-2, 2))
    how = "three channels as red, green and blue" if colours else f"channel 0 of {x.shape[1]}"
    span = "each" if colours else "black {} to white {},".format(*map(_short, ends))
    middle = f"; the middle of {' × '.join(map(str, slices))} slices" if slices else ""
    height, width = x.shape[-2:]
    scale = max(1, round(40 / max(height, width)))

    def tile(sample: int) -> Any:
        image = Image.fromarray(pixels[sample] if colours else pixels[sample, ..., 0]).convert("RGB")
        return image.resize((width * scale, height * scale), Image.Resampling.NEAREST)

    caption = f"{how}, {span} the samples' mean ± 2 standard deviations{middle}"
    tile_grid(path, tile, (width * scale, height * scale), labels, names, counts, caption=caption)

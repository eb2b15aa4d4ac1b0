"""Where a run loses its rare classes: class by noise level, as heat maps on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbdm_cli.study.report.collect import Story
from cbdm_cli.study.report.diagnosis import Diagnosed, Ratios
from cbdm_cli.study.report.drawing import Drawing, canvas, diverging, finished
from cbdm_core.metrics.report import rank_groups
from cbdm_core.reading import clean_text

__all__ = ["MethodDiagnosis", "diagnoses"]

_LIMIT = 8.0  # ratios beyond it, or below its inverse, have the end's colour
_CLASSES, _LEVELS = 20, 12  # at most, for numbers in the cells
_WIDTH = 4.9  # inches: a telephone's, so that the classes stay beside their cells
_LETTERS = 16  # of a class name


@dataclass(frozen=True)
class MethodDiagnosis:
    """The maps of one method.

    Args:
        method: its place in `Story.methods`.
        facts: what they were measured on.
        maps: underfitted, and memorised where images are held out.
        verdict: sentences below them.
    """

    method: int
    facts: str
    maps: tuple[Drawing, ...]
    verdict: tuple[str, ...]


def diagnoses(story: Story) -> list[MethodDiagnosis]:
    """Of each method the first run that was diagnosed; none where no run was."""
    found = []
    for i, method in enumerate(story.methods):
        run = next((run for run in method.runs if run.diagnosis is not None), None)
        if run is None or run.diagnosis is None:
            continue
        of = run.diagnosis
        facts = f"seed {run.seed}, step {of.step:,}, {clean_text(of.file.name)}; held-out images: {of.held_out}"
        found.append(MethodDiagnosis(i, facts, _maps(i, method.name, of), of.verdict))
    return found


def _maps(place: int, name: str, of: Diagnosed) -> tuple[Drawing, ...]:
    images = "training images, by a Gaussian fitted without them" if of.folds else "held-out images"
    under = f"underfitted: error ÷ the pooled Gaussian's, on {images}"
    maps = [_map(f"underfitted-{place}", name, under, of, of.underfitted)]
    if of.memorised is not None:
        memory = "memorised: error on held-out images ÷ on training images"
        maps.append(_map(f"memorised-{place}", name, memory, of, of.memorised))
    return tuple(maps)


def _map(key: str, name: str, what: str, of: Diagnosed, ratios: Ratios) -> Drawing:
    """One map; the cells of a large one have no numbers, and a colour only where they are beyond chance."""
    order = [y for group in rank_groups(of.counts).values() for y in group]
    values, sure = ratios.values[order], ratios.sure[order]
    numbered = len(order) <= _CLASSES and len(of.times) <= _LEVELS
    with canvas(1, 1.55 + 0.27 * min(len(order), _CLASSES), _WIDTH) as (figure, (axes,)):
        image = _cells(axes, values if numbered else np.where(sure, values, np.nan))
        if numbered:
            _numbers(axes, values, sure)
        _frame(axes, of, order)
        axes.set_title(what.partition(":")[0], loc="left", fontsize=10)
        _scale(figure, image)
        alt = f"Heat map of {name}. {what}, by class and noise level t. {_alt(of, order, values, sure)}"
        cells = "bold" if numbered else "coloured"
        caption = (
            f"{what[0].upper()}{what[1:]}. The commonest class is on top; orange is above 1 and blue below; {cells}: "
            "beyond 2 standard errors."
        )
        return finished(figure, f"diagnosis-{key}", alt, caption, legend=False)


def _cells(axes: Any, values: Any) -> Any:
    """Colours of the logarithm of a ratio, none at 1 and where it is not known."""
    from matplotlib.colors import ListedColormap, LogNorm

    shades, norm = ListedColormap(diverging()), LogNorm(1 / _LIMIT, _LIMIT)
    shown = np.ma.masked_invalid(np.clip(values, 1 / _LIMIT, _LIMIT))
    return axes.imshow(shown, aspect="auto", interpolation="none", cmap=shades, norm=norm)


def _numbers(axes: Any, values: Any, sure: Any) -> None:
    for (i, j), value in np.ndenumerate(values):
        weight = "bold" if sure[i, j] else "normal"
        axes.text(j, i, _short(value), ha="center", va="center", fontsize=9, fontweight=weight)


def _short(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}" if value < 999.5 else "≥1k"


def _frame(axes: Any, of: Diagnosed, order: Sequence[int]) -> None:
    """Some of the classes and noise levels by name, where all are too many."""
    rows = range(0, len(order), -(-len(order) // _CLASSES))
    columns = range(0, len(of.times), -(-len(of.times) // _LEVELS))
    axes.set_yticks(rows, [f"{_cut(of.names[order[i]])} ({of.counts[order[i]]})" for i in rows], fontsize=9)
    axes.set_xticks(columns, [f"{of.times[j]:.2f}".removeprefix("0") for j in columns], fontsize=9)
    axes.set_xlabel("noise level t", fontsize=9)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _scale(figure: Any, image: Any) -> None:
    bar = figure.colorbar(
        image, orientation="horizontal", fraction=0.05, pad=0.02, aspect=40, ticks=[1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    )
    bar.ax.set_xticklabels(["≤ ⅛", "¼", "½", "1", "2", "4", "≥ 8"], fontsize=8)
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


def _alt(of: Diagnosed, order: Sequence[int], values: Any, sure: Any) -> str:
    """How many cells are sure, and the highest ratio of each class, or of the three commonest and rarest."""
    known = [i for i in range(len(order)) if np.isfinite(values[i]).any()]
    highest = [
        _highest(of, order[i], values[i], sure[i]) for i in (known if len(known) <= 12 else known[:3] + known[-3:])
    ]
    count = f"{int(sure.sum())} of {sure.size} cells are beyond 2 standard errors."
    return f"{count} Highest of each class: {'; '.join(highest) or 'not known'}."


def _highest(of: Diagnosed, y: int, values: Any, sure: Any) -> str:
    j = int(np.nanargmax(values))
    chance = "" if sure[j] else ", within chance"
    return f"{of.names[y]} ({of.counts[y]} training images) {values[j]:.2f} at t = {of.times[j]:.2f}{chance}"

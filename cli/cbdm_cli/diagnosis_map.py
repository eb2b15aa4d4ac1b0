"""The picture of a diagnosis: class × noise level, underfitted and memorised, and how many images x_t hides among."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cbdm_core.metrics.diagnosis import Contrast, Diagnosis
from cbdm_core.writing import replacing

__all__ = ["draw_diagnosis"]

_LIMIT = 8.0  # ratios beyond it, or below its inverse, have the end's colour
_NUMBERED = 20  # classes at most whose cells are numbered
_SETTINGS = {"svg.hashsalt": "cbdm", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}


def draw_diagnosis(path: Path, found: Diagnosis, names: Sequence[str], title: str) -> None:
    """Heat maps side by side, the commonest class on top; the same diagnosis gives the same bytes.

    Args:
        path: the SVG, PNG or PDF to write, by its suffix.
        found: the diagnosis.
        names: K class names.
        title: above the maps.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    order = found.counts.argsort(descending=True, stable=True)
    panels = 2 if found.folds else 3
    with mpl.rc_context(cast("Any", _SETTINGS)):
        figure = Figure(figsize=(1.4 + 3.9 * panels, 1.9 + 0.27 * min(len(order), 40)), layout="constrained")
        axes = list(figure.subplots(1, panels, sharey=True))
        of = "training images, fitted without their fold" if found.folds else "held-out images"
        image = _ratios(axes[0], found.underfitted, order, "underfitted", f"error ÷ pooled Gaussian's, {of}")
        if not found.folds:
            _ratios(axes[1], found.memorised, order, "memorised", "error on held-out ÷ on training images")
        _bar(figure, image, axes[:-1])
        _effective(axes[-1], found, order)
        for panel in axes:
            _frame(panel, found.times, len(order))
        _classes(axes[0], found, order, names)
        figure.suptitle(title, fontsize=10)
        figure.supxlabel("noise level t; bold: beyond 2 standard errors", fontsize=8.5)
        with replacing(path) as temporary:
            _save(figure, temporary, path.suffix.lstrip(".").lower() or "svg")


def _save(figure: Any, path: Path, kind: str) -> None:
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(path, format=kind, metadata=dates.get(kind), dpi=200)


def _ratios(axes: Any, contrast: Contrast, order: Tensor, word: str, what: str) -> Any:
    """A ratio on a logarithmic scale, white at 1."""
    from matplotlib.colors import LogNorm

    ratio, norm = contrast.ratio[order], LogNorm(1 / _LIMIT, _LIMIT)
    image = axes.imshow(ratio.clamp(1 / _LIMIT, _LIMIT).numpy(), aspect="auto", cmap="RdBu_r", norm=norm)
    _headed(axes, word, what)
    _numbers(axes, ratio, contrast.beyond_chance()[order], (ratio.log2().abs() / np.log2(_LIMIT)) > 0.6)
    return image


def _bar(figure: Any, image: Any, axes: Sequence[Any]) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.04, aspect=25, pad=0.01, ticks=[1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
    bar.ax.set_yticklabels(["≤ ⅛", "¼", "½", "1", "2", "4", "≥ 8"], fontsize=8)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def _headed(axes: Any, word: str, what: str) -> None:
    axes.set_title(what, fontsize=8.5, loc="left")
    axes.annotate(word, (0, 1), (0, 17), "axes fraction", "offset points", fontweight="bold", fontsize=9.5)


def _effective(axes: Any, found: Diagnosis, order: Tensor) -> None:
    """N_eff as a share of the class, from 1/n_c to 1; the number in the cell is N_eff."""
    number = found.effective_number[order]
    share = number / found.counts[order][:, None].clamp(min=1)
    image = axes.imshow(
        torch.where(number > 0, share, torch.nan).numpy(), aspect="auto", cmap="Purples_r", vmin=-0.15, vmax=1
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.06, aspect=25, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_ylim(0, 1)
    bar.ax.set_yticklabels(["0", "½", "all"], fontsize=8)
    bar.outline.set_visible(False)
    _headed(axes, "effective number", "training images of the class that x_t may come from")
    known = (number > 0).expand_as(number)
    _numbers(axes, torch.where(known, number, torch.nan), torch.zeros_like(known), share < 0.5, faint=1.0)


def _numbers(axes: Any, values: Tensor, sure: Tensor, on_dark: Tensor, faint: float = 0.6) -> None:
    if len(values) > _NUMBERED or values.shape[1] > 12:
        return
    for (i, j), value in np.ndenumerate(values.numpy()):
        if np.isnan(value):
            axes.text(j, i, "–", ha="center", va="center", fontsize=7, color="0.5")
            continue
        text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
        colour = "white" if on_dark[i, j] else "black"
        weight, alpha = ("bold", 1.0) if sure[i, j] else ("normal", faint)
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour, fontweight=weight, alpha=alpha)


def _frame(axes: Any, times: Tensor, rows: int) -> None:
    """Times below, and white lines between the cells."""
    every = max(1, round(len(times) / 10))
    places = list(range(0, len(times), every))
    axes.set_xticks(places, [f"{float(times[i]):.2f}".removeprefix("0") for i in places], fontsize=8)
    axes.set_xticks(np.arange(1, len(times)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8 if rows <= _NUMBERED else 0.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _classes(axes: Any, found: Diagnosis, order: Tensor, names: Sequence[str]) -> None:
    every = max(1, len(order) // 40)
    places = list(range(0, len(order), every))
    labels = [f"{names[int(order[i])]}  n={int(found.counts[order[i]])}" for i in places]
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylabel("class, training images n", fontsize=8.5)

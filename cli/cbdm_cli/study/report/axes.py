"""The axes of a figure: plain numbers on a logarithm, and frames of fractions."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["as_fraction", "framed", "plain_numbers"]

_FRACTIONS = ("precision", "recall")


def plain_numbers(axis: Any, every: bool = False) -> None:
    """Plain numbers on a logarithmic axis; `every` also names the steps between powers of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    if every:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def framed(axis: Any, score: str) -> None:
    """Frame a fraction as one; other scores have the frame that matplotlib gives them."""
    ends = axis.get_data_interval()
    if score in _FRACTIONS and all(map(math.isfinite, ends)):  # they are not where nothing is drawn
        as_fraction(axis, *ends, share=0.05)


def as_fraction(axis: Any, low: float, high: float, share: float) -> None:
    """Frame values with some room that ends a marker beyond 0 and 1, where no number stands.

    Args:
        axis: of fractions.
        low: the least of them; what is drawn beyond the frame, such as wide intervals of few seeds, is cut.
        high: the greatest.
        share: of their range that is left on either side.
    """
    room = max(share * (high - low), 0.02)
    low, high = max(low - room, 0.0), min(high + room, 1.0)
    marker = 0.03 * (high - low)
    limit = axis.axes.set_xlim if axis is axis.axes.xaxis else axis.axes.set_ylim
    limit(low - marker, high + marker)
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if low - 1e-9 <= tick <= high + 1e-9])

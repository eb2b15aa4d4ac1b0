"""How words, tables and pictures write a number: with the true minus, and a dash where there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help page must not pay for it
    from cbdm_cli.study.results import Estimate

__all__ = ["difference", "number", "true_minus"]


def true_minus(text: str) -> str:
    """The text of a number with − for its hyphens."""
    return text.replace("-", "−")


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """With a true minus; a dash where there is none."""
    return "–" if value is None else true_minus(f"{value:{'+' if sign else ''}.{digits}f}")


def difference(found: Estimate, digits: int, scale: float = 1) -> str:
    """`+mean ± half width` of a difference, times a scale; without the width where one seed gives none."""
    width = f" ± {scale * found.half_width:.{digits}f}" if math.isfinite(found.half_width) else ""
    return number(scale * found.mean, digits, sign=True) + width

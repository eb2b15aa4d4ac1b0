"""How the page says a number and a score."""

from __future__ import annotations

import math

from cbdm_cli.study.results import Estimate

__all__ = ["estimate_text", "number", "width_text"]


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """With a true minus; a dash where there is none."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def width_text(found: Estimate | None, digits: int) -> str:
    """`± half width`, nothing where one seed gives none."""
    return f"± {found.half_width:.{digits}f}" if found is not None and math.isfinite(found.half_width) else ""


def estimate_text(found: Estimate | None, digits: int) -> str:
    """`mean ± half width`; a dash where there is none."""
    mean = number(None if found is None else found.mean, digits)
    return f"{mean} {width_text(found, digits)}".strip()

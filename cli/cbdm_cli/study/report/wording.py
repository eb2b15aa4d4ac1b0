"""How the page says an estimate."""

from __future__ import annotations

import math

from cbdm_cli.numerals import number
from cbdm_cli.study.results import Estimate

__all__ = ["estimate_text", "width_text"]


def width_text(found: Estimate | None, digits: int) -> str:
    """`± half width`, nothing where one seed gives none."""
    return f"± {found.half_width:.{digits}f}" if found is not None and math.isfinite(found.half_width) else ""


def estimate_text(found: Estimate | None, digits: int) -> str:
    """`mean ± half width`; a dash where there is none."""
    mean = number(None if found is None else found.mean, digits)
    return f"{mean} {width_text(found, digits)}".strip()

"""Hiding the condition from the network during training, so that one network also learns the null branch."""

from __future__ import annotations

from dataclasses import replace

import torch

from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.interfaces import Condition, Draws

__all__ = ["DROPS", "drop_condition"]

DROPS = ("row", "batch")


def drop_condition(c: Condition, draws: Draws, *, probability: float = 0.1, per: str = "row") -> Condition:
    """Show the null condition with some probability; the value itself is kept (classifier-free guidance training).

    Args:
        c: (B,) conditions.
        draws: the rows' random numbers.
        probability: in [0, 1].
        per: "row" tosses one coin for each row, "batch" one for the whole batch, as published CBDM does.

    Raises:
        CbdmError: a probability outside [0, 1] or an unknown `per`.

    Source: Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, algorithm 1.
    """
    if not 0 <= probability <= 1:
        raise CbdmError(f"label drop must be a probability in [0, 1], got {probability}")
    if per not in DROPS:
        raise unknown_name("label drop", per, DROPS)
    if probability == 0:
        return c
    if per == "row":
        kept = draws.uniform("label drop", 1)[:, 0] >= probability
    else:
        kept = torch.full_like(c.present, draws.shared_uniform("label drop") >= probability)
    return replace(c, present=c.present & kept)

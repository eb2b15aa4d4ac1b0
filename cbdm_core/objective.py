"""From a batch to its named losses: the module that the optimiser, the checkpoint and DDP see."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.process import Process

__all__ = ["DROPS", "Objective", "drop_condition"]

DROPS = ("row", "batch")


class Objective(nn.Module):
    """Drop labels, add noise, ask the network, ask the adjustment.

    Args:
        process: the forward process.
        network: the score network; the part that EMA and export take.
        adjustment: what to do about the law of the conditions.
        drop: probability of showing the null condition, in [0, 1].
        drop_per: "row" or "batch" (`drop_condition`).
    """

    def __init__(
        self,
        process: Process,
        network: ScoreNetwork,
        adjustment: PriorAdjustment,
        *,
        drop: float = 0.1,
        drop_per: str = "row",
    ) -> None:
        super().__init__()
        self.process, self.network, self.adjustment = process, network, adjustment
        self.drop, self.drop_per = drop, drop_per

    def forward(self, x_0: Tensor, c: Condition, draws: Draws, t: Tensor | None = None) -> dict[str, Tensor]:
        """Named losses, each (B,), at the times `t` (B,) or, without them, at those that the schedule draws."""
        c = drop_condition(c, draws, probability=self.drop, per=self.drop_per)
        step = self.process.denoise(
            self.network,
            x_0,
            c,
            draws,
            t,
            with_features=self.adjustment.wants_features(),
            keep_dropout=self.adjustment.wants_dropout_state(),
        )
        return self.adjustment(step)


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

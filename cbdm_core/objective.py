"""From a batch to its named losses: the module that the optimiser, the checkpoint and DDP see."""

from __future__ import annotations

from torch import Tensor, nn

from cbdm_core.conditions import drop_condition
from cbdm_core.interfaces import Condition, Draws, PriorAdjustment, ScoreNetwork
from cbdm_core.process import Process

__all__ = ["Objective"]


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

    def forward(self, x_0: Tensor, c: Condition, draws: Draws) -> dict[str, Tensor]:
        """Named losses, each (B,)."""
        c = drop_condition(c, draws, probability=self.drop, per=self.drop_per)
        step = self.process.denoise(
            self.network,
            x_0,
            c,
            draws,
            with_features=self.adjustment.wants_features(),
            keep_dropout=self.adjustment.wants_dropout_state(),
        )
        return self.adjustment(step)

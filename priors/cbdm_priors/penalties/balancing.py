"""Class balancing: pull the network's outputs under different conditions together (CBDM)."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.distributed import anywhere
from cbdm_core.dropout import has_dropout
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep
from cbdm_priors.penalties.other_conditions import checked_draws, checked_together, drawn_conditions, joined
from cbdm_priors.penalties.penalty import Penalty, TimeWeight

__all__ = ["DROPOUTS", "ClassBalancing"]

DROPOUTS = ("independent", "shared")


def _checked_recompute(recompute: bool, gamma: float) -> bool:
    if not isinstance(recompute, bool):
        raise CbdmError(f"recompute must be true or false, got {recompute!r}")
    if recompute and gamma == 0:
        raise CbdmError("recompute = true with gamma = 0, whose further passes keep nothing: leave recompute out")
    return recompute


class ClassBalancing(Penalty):
    """CBDM: add "balancing" = λ E_{c'~π} [‖ε̂(c) − sg ε̂(c')‖² + γ ‖sg ε̂(c) − ε̂(c')‖²] with λ = τ·w(t).

    Norms are means over a row; rows that see the null condition get 0. With γ = 0 the further forwards keep no graph,
    so each costs a third of a step instead of a whole one. Rows whose c' is c have distance 0, and cost no forward,
    where the network has no dropout; with dropout and independent masks their distance is that between two masks,
    a part of the published term.

    Args:
        inner: the adjustment that gives the other terms.
        target: the law π that c' is drawn from.
        tau: τ ≥ 0; 1 is the published strength with t in [0, 1] (1e-3 with t counted in 1000 steps).
        gamma: γ ≥ 0, the share that also moves ε̂(c'); ¼ published. γ = 1 has the gradient of no stop-gradient.
        time_weight: w(t), (B,) → (B,), or its name; t by default.
        draws: how many c' for each row: 1 as published, m (systematic: none twice where m·π ≤ 1; a mean over them),
            or "all" for the exact mean under a law that draws from a list.
        together: how many of these share a pass of as many times the rows: sooner where a batch is too small to keep
            the machine at work. Masks of dropout are other ones, of the same law.
        dropout: "independent" masks as published, or "shared": the masks of ε̂(c) again, another objective whose
            gradient varies less. It needs the whole batch, so no fraction.
        recompute: keep nothing of the further passes that have a graph, and do each again in the backward pass, under
            its masks: the same gradient, with the memory of two passes however many there are, and one pass without a
            graph more for each.
        fraction: f in (0, 1] of the rows, counted 1/f times.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: a negative or non-finite τ or γ, an unknown `dropout`, draws that the law cannot give, a fraction
            or `together` > 1 with shared dropout, or `recompute` with γ = 0, whose passes keep nothing.

    Needs: `draws` more forward passes (for "all" as many as π has conditions), with their gradient unless γ = 0.
    Source: Qin et al., Class-Balancing Diffusion Models, CVPR 2023 (arXiv 2305.00562), the training objective; Chen et
        al., Training Deep Nets with Sublinear Memory Cost, 2016, section 3, for `recompute`.
    """

    term = "balancing"
    needs = ("target",)
    default_law = "null"

    def __init__(
        self,
        inner: PriorAdjustment,
        target: ConditionPrior,
        *,
        tau: float = 1.0,
        gamma: float = 0.25,
        time_weight: TimeWeight | str = "linear",
        draws: int | str = 1,
        together: int = 1,
        dropout: str = "independent",
        recompute: bool = False,
        fraction: float = 1.0,
        every: int = 1,
    ) -> None:
        for name, value in (("tau", tau), ("gamma", gamma)):
            if not 0 <= value < float("inf"):
                raise CbdmError(f"{name} must be a number of 0 or more, got {value}")
        super().__init__(inner, strength=tau, time_weight=time_weight, fraction=fraction, every=every)
        if dropout not in DROPOUTS:
            raise unknown_name("dropout", dropout, DROPOUTS)
        if dropout == "shared" and fraction < 1:
            raise CbdmError(
                f"shared dropout needs the whole batch, got fraction = {fraction}: use every = k, or independent masks"
            )
        self.target, self.gamma, self.dropout = target, float(gamma), dropout
        self.recompute = _checked_recompute(recompute, gamma)
        self.draws = checked_draws(draws, target)
        self.together = checked_together(together, self.draws)
        if dropout == "shared" and self.together > 1:
            raise CbdmError(f"shared dropout asks for one batch at a time, got together = {together}: leave it out")
        self.needs_dropout_state = dropout == "shared" and tau > 0

    @property
    def law(self) -> ConditionPrior:
        return self.target

    @property
    def tau(self) -> float:
        return self.strength

    def penalty(self, step: DenoisingStep) -> Tensor:
        whole = self.dropout == "shared"  # masks belong to the batch
        exact = whole or not has_dropout(step.network)
        total = torch.zeros_like(mean_squared(step.eps_hat, step.eps_hat))
        drawn = drawn_conditions(self.target, step, self.draws, self.term)
        for m, other, weight in joined(drawn, self.together):
            asked = step if m == 1 else step.repeated(m)
            counts = asked.c.present & asked.c.differs_from(other) if exact else asked.c.present
            if anywhere(counts):
                rows = counts.nonzero()[:, 0]
                some = None if whole or len(rows) == len(asked) else rows
                total = total + self._distances(asked, other, weight, some).view(m, len(step)).sum(0)
        return total

    def _distances(self, step: DenoisingStep, other: Condition, weight: Tensor | float, rows: Tensor | None) -> Tensor:
        """(B,) distances by their weights; 0 for rows that are not among these, where any are given."""
        if rows is None:
            distance = self._distance(step, other, same_dropout=self.dropout == "shared")
            return distance * (weight.to(distance) if isinstance(weight, Tensor) else weight)
        distance = self._distance(step[rows], other[rows], same_dropout=False)
        weighted = distance * (weight[rows].to(distance) if isinstance(weight, Tensor) else weight)
        return weighted.new_zeros(len(step)).index_add(0, rows, weighted)

    def _distance(self, step: DenoisingStep, other: Condition, *, same_dropout: bool) -> Tensor:
        """(B,) ‖ε̂(c) − sg ε̂(c')‖² + γ ‖sg ε̂(c) − ε̂(c')‖²."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gamma > 0):
            eps_other = step.predict(other, same_dropout=same_dropout, recompute=self.recompute)
        pulled = mean_squared(step.eps_hat, eps_other.detach())
        if self.gamma == 0:
            return pulled
        return pulled + self.gamma * mean_squared(step.eps_hat.detach(), eps_other)

"""Class balancing: pull the network's outputs under different conditions together (CBDM)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.distributed import anywhere
from cbdm_core.dropout import has_dropout
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep
from cbdm_priors.penalties.penalty import Penalty, TimeWeight

__all__ = ["DROPOUTS", "ClassBalancing", "checked_draws", "drawn_conditions"]

DROPOUTS = ("independent", "shared")


def checked_draws(draws: int | str, law: ConditionPrior) -> int | str:
    """The number of other conditions for each row: 1, 2, … or "all".

    Raises:
        CbdmError: another value, or "all" of a law without a list of conditions.
    """
    if draws == "all":
        if not law.finite:
            raise CbdmError(
                f'draws = "all" needs a law with a list of conditions, and {type(law).__name__} has none: draws = 1'
            )
        return "all"
    if isinstance(draws, str | bool) or int(draws) != draws or draws < 1:
        raise CbdmError(f'draws must be 1, 2, 3, … or "all", got {draws!r}')
    return int(draws)


def drawn_conditions(
    law: ConditionPrior, step: DenoisingStep, draws: int | str, scope: str
) -> Iterator[tuple[Condition, Tensor | float]]:
    """Other conditions c' and their weights: Σ weight·f(c') is Σ_c' π(c'|c) f(c') in expectation, or exactly for "all".

    With m ≥ 2 of a finite law they are drawn systematically: no condition comes twice where m·π ≤ 1.

    Args:
        law: π.
        step: whose rows are drawn for.
        draws: 1, m or "all".
        scope: of the random numbers.
    """
    numbers = step.draws.within(scope)
    if draws == "all":
        values, weights = law.atoms(step.c)
        for s in range(len(values)):
            column = weights[..., s]
            if anywhere(column > 0):
                shown = values[s].expand(len(step), *values.shape[1:])
                yield step.c.with_value(shown.to(step.c.value.dtype)), column.expand(len(step))
    elif draws == 1:
        yield law.sample(step.c, draws=numbers), 1.0
    elif law.finite:
        values, weights = law.atoms(step.c)
        for column in numbers.systematic("law", weights, int(draws)).unbind(1):
            yield step.c.with_value(values[column].to(step.c.value.dtype)), 1 / int(draws)
    else:
        for number in range(int(draws)):
            yield law.sample(step.c, draws=numbers.within(str(number))), 1 / int(draws)


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
        dropout: "independent" masks as published, or "shared": the masks of ε̂(c) again, another objective whose
            gradient varies less. It needs the whole batch, so no fraction.
        recompute: keep nothing of the further passes that have a graph, and do each again in the backward pass, under
            its masks: the same gradient, with the memory of two passes however many there are, and one pass without a
            graph more for each.
        fraction: f in (0, 1] of the rows, counted 1/f times.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: a negative or non-finite τ or γ, an unknown `dropout`, draws that the law cannot give, a fraction
            with shared dropout, or `recompute` with γ = 0, whose passes keep nothing.

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
        for other, weight in drawn_conditions(self.target, step, self.draws, self.term):
            counts = step.c.present & step.c.differs_from(other) if exact else step.c.present
            rows = counts.nonzero()[:, 0]
            if not anywhere(counts):
                continue
            if isinstance(weight, Tensor):
                weight = weight.to(total.dtype)
            if whole or len(rows) == len(step):
                total = total + weight * self._distance(step, other, same_dropout=whole)
                continue
            distance = self._distance(step[rows], other[rows], same_dropout=False)
            total = total.index_add(0, rows, (weight[rows] if isinstance(weight, Tensor) else weight) * distance)
        return total

    def _distance(self, step: DenoisingStep, other: Condition, *, same_dropout: bool) -> Tensor:
        """(B,) ‖ε̂(c) − sg ε̂(c')‖² + γ ‖sg ε̂(c) − ε̂(c')‖²."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gamma > 0):
            eps_other = step.predict(other, same_dropout=same_dropout, recompute=self.recompute)
        pulled = mean_squared(step.eps_hat, eps_other.detach())
        if self.gamma == 0:
            return pulled
        return pulled + self.gamma * mean_squared(step.eps_hat.detach(), eps_other)

"""Class balancing: pull the network's outputs under different conditions together (CBDM)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cbdm_core.denoising import mean_squared
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.interfaces import ConditionPrior, DenoisingStep, PriorAdjustment, add_term

__all__ = ["TIME_WEIGHTS", "ClassBalancing", "constant", "linear", "named_time_weight", "published"]

TimeWeight = Callable[[Tensor], Tensor]


def linear(t: Tensor) -> Tensor:
    """t itself: what the published t/T tends to, independent of the number of steps."""
    return t


def constant(t: Tensor) -> Tensor:
    """1 at every time."""
    return torch.ones_like(t)


def published(steps: int) -> TimeWeight:
    """i/T = t − 1/T for the T-step table, whose index i = 0 … T − 1 stands at t = (i + 1)/T."""
    return lambda t: t - 1 / steps


TIME_WEIGHTS = ("linear", "constant", "published")


def named_time_weight(name: str, steps: int | None = None) -> TimeWeight:
    """The time weight of that name; "published" needs the T of a table schedule."""
    if name == "published":
        if steps is None:
            raise CbdmError("the published time weight needs a table schedule with T steps: use schedule linear")
        return published(steps)
    weights: dict[str, TimeWeight] = {"linear": linear, "constant": constant}
    if name not in weights:
        raise unknown_name("time weight", name, TIME_WEIGHTS)
    return weights[name]


class ClassBalancing(PriorAdjustment):
    """CBDM: add "balancing" = λ (‖ε̂(c) − sg ε̂(c')‖² + γ ‖sg ε̂(c) − ε̂(c')‖²) with c' ~ π and λ = τ·w(t).

    Norms are means over a row; rows that see the null condition get 0. With γ = 0 the second forward keeps no graph,
    so it costs a third of a step instead of a whole one.

    Args:
        inner: the adjustment that gives the other terms.
        target: the law π that c' is drawn from.
        tau: τ ≥ 0; 1 is the published strength with t in [0, 1] (1e-3 with t counted in 1000 steps).
        gamma: γ ≥ 0, the share that also moves ε̂(c'); ¼ published. γ = 1 has the gradient of no stop-gradient.
        time_weight: w(t), (B,) → (B,); t by default.

    Raises:
        CbdmError: a negative or non-finite τ or γ.

    Needs: one more forward pass for each row, with its gradient unless γ = 0.
    Source: Qin et al., Class-Balancing Diffusion Models, CVPR 2023 (arXiv 2305.00562), the training objective.
    """

    def __init__(
        self,
        inner: PriorAdjustment,
        target: ConditionPrior,
        *,
        tau: float = 1.0,
        gamma: float = 0.25,
        time_weight: TimeWeight = linear,
    ) -> None:
        super().__init__()
        for name, value in (("tau", tau), ("gamma", gamma)):
            if not 0 <= value < float("inf"):
                raise CbdmError(f"{name} must be a number of 0 or more, got {value}")
        self.inner, self.target = inner, target
        self.tau, self.gamma, self.time_weight = float(tau), float(gamma), time_weight

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        assert self.inner is not None
        terms = self.inner(step)
        if self.training:
            self.target.observe(step.c, terms["denoising"].detach())
        if self.tau == 0:
            return terms
        return add_term(terms, "balancing", self._strength(step) * self._distance(step))

    def _strength(self, step: DenoisingStep) -> Tensor:
        """(B,) τ·w(t)·(loss weight), 0 on rows that see the null condition."""
        weight = self.time_weight(step.t).to(step.x_0.dtype) * self.loss_weight(step)
        return self.tau * weight * step.c.present.to(weight.dtype)

    def _distance(self, step: DenoisingStep) -> Tensor:
        if not step.c.present.any():  # a batch dropped whole is not worth a forward pass
            return torch.zeros_like(mean_squared(step.eps_hat, step.eps_hat))
        other = self.target.sample(step.c, draws=step.draws.within("balancing"))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gamma > 0):
            eps_other = step.predict(other)
        pulled = mean_squared(step.eps_hat, eps_other.detach())
        if self.gamma == 0:
            return pulled
        return pulled + self.gamma * mean_squared(step.eps_hat.detach(), eps_other)

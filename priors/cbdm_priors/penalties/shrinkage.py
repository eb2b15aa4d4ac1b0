"""Shrinkage with a strength for each class and time: what CBDM is at γ = 0, with λ chosen from its risk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.distributed import sum_over_ranks
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep
from cbdm_priors.penalties.other_conditions import checked_draws, drawn_conditions
from cbdm_priors.penalties.penalty import Penalty, TimeWeight, class_labels

__all__ = ["RULES", "Shrinkage"]

RULES = ("adaptive", "counts")


class Shrinkage(Penalty):
    """Add "shrinkage" = s·λ(c, t)·w(t)·‖ε̂(c) − sg m‖² with m the law's mean Σ π_y ε̂(y), or the null prediction.

    adaptive: λ(c, t) = min(cap, V/B) with V = a·v(t)/n_c and B = max(0, D(c, t) − V), where v(t) is the running
    denoising residual and D(c, t) the running mean of ‖ε̂(c) − m‖², both in bins of t; 0 until a bin was seen.
    counts: λ(c) = min(cap, (n_c/n̄)^(−b)), n̄ the mean count of the classes that have images.

    At fixed m the optimum is ε_c = (ε*_c + λ m)/(1 + λ), whose risk (λ/(1+λ))² B + (1/(1+λ))² V is least at λ = V/B.
    The running means are taken over all ranks and are in the checkpoint.

    Args:
        inner: the adjustment that gives the other terms.
        target: the law π whose mean is the target; `Null` for the null prediction, which costs nothing at low noise,
            where q(y|x_t) → 1.
        counts: (K,) training images of each class.
        strength: s ≥ 0.
        rule: "adaptive" or "counts".
        variance: a > 0, stated by the user: V in units of the residual over n_c.
        exponent: b of the rule "counts".
        cap: largest λ, > 0.
        draws: conditions for m: None is all of a finite law, 1 of another; or 1, m, "all" as in `ClassBalancing`.
            Fewer than all leave the gradient unbiased but count the spread of π in D.
        bins: of t, ≥ 1.
        memory: of the running means, in [0, 1).
        time_weight: w(t); 1 by default.
        fraction: f in (0, 1] of the rows, counted 1/f times.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: any of these out of range.

    Needs: counts; `draws` more forward passes without a gradient (a third of a step each), 1 for the null.
    Source: docs/theory, Statement 25 (the risk of shrinkage); James & Stein 1961 for the idea.
    """

    term = "shrinkage"
    needs = ("target", "counts")
    default_law = "null"
    counts: Tensor
    residual: Tensor
    distance: Tensor
    seen: Tensor

    def __init__(
        self,
        inner: PriorAdjustment,
        target: ConditionPrior,
        counts: Tensor | Sequence[int],
        *,
        strength: float = 1.0,
        rule: str = "adaptive",
        variance: float = 1.0,
        exponent: float = 1.0,
        cap: float = 1.0,
        draws: int | str | None = None,
        bins: int = 10,
        memory: float = 0.99,
        time_weight: TimeWeight | str = "constant",
        fraction: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(inner, strength=strength, time_weight=time_weight, fraction=fraction, every=every)
        if rule not in RULES:
            raise unknown_name("rule", rule, RULES)
        if not (variance > 0 and cap > 0 and bins >= 1 and 0 <= memory < 1 and math.isfinite(exponent)):
            raise CbdmError(
                "shrinkage needs variance > 0, cap > 0, bins ≥ 1, memory in [0, 1) and a finite exponent, got "
                f"{variance}, {cap}, {bins}, {memory} and {exponent}"
            )
        self.target, self.rule = target, rule
        self.variance, self.exponent, self.cap, self.memory = float(variance), float(exponent), float(cap), memory
        self.draws = checked_draws(("all" if target.finite else 1) if draws is None else draws, target)
        self.bins = int(bins)
        counts = torch.as_tensor(counts).long()
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("residual", torch.zeros(self.bins, dtype=torch.float64))
        self.register_buffer("distance", torch.zeros(len(counts), self.bins, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(len(counts), self.bins, dtype=torch.float64))
        self._news: Tensor | None = None

    @property
    def learns(self) -> bool:
        return super().learns or (self.rule == "adaptive" and self.strength > 0)

    @property
    def law(self) -> ConditionPrior:
        return self.target

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        self._news = None
        terms = super().forward(step)
        if self.training and self.strength > 0 and self.rule == "adaptive":
            self._learn()
        return terms

    def penalty(self, step: DenoisingStep) -> Tensor:
        with torch.no_grad():
            mean = torch.zeros_like(step.eps_hat)
            for other, weight in drawn_conditions(self.target, step, self.draws, self.term):
                share = weight.reshape(-1, *[1] * (mean.ndim - 1)) if isinstance(weight, Tensor) else weight
                mean = mean + (share * step.predict(other)).to(mean.dtype)
        distance = mean_squared(step.eps_hat, mean)
        value = self.amount(step).to(distance.dtype) * distance
        if self.training and self.rule == "adaptive":
            self._note(step, distance.detach())
        return value

    @torch.no_grad()
    def amount(self, step: DenoisingStep) -> Tensor:
        """(B,) λ(c, t)."""
        label = class_labels(step.c, self.term)
        n = self.counts[label].to(self.residual.dtype).clamp(min=1)
        if self.rule == "counts":
            alive = self.counts[self.counts > 0]
            return ((n / alive.double().mean().to(n.dtype)) ** -self.exponent).clamp(max=self.cap)
        bin_ = self._bin(step)
        V = self.variance * self.residual[bin_] / n
        B = (self.distance[label, bin_] - V).clamp(min=0)
        # V ≥ cap·B rather than a quotient with B below, which may be 0.
        amount = torch.where(self.cap * B <= V, self.cap, V / B.clamp(min=1e-300))
        return torch.where(self.seen[label, bin_] > 0, amount, torch.zeros_like(amount))

    def _bin(self, step: DenoisingStep) -> Tensor:
        return (step.t * self.bins).long().clamp(0, self.bins - 1)

    @torch.no_grad()
    def _note(self, step: DenoisingStep, distance: Tensor) -> None:
        """Sums over this rank's shown rows, by class and bin: of the residual, of the distance, and their number."""
        dtype = self.distance.dtype
        residual, distance = mean_squared(step.eps_hat, step.eps).to(dtype), distance.to(dtype)
        good = step.c.present & torch.isfinite(residual) & torch.isfinite(distance)
        place = class_labels(step.c, self.term) * self.bins + self._bin(step)
        # A product: the order in which index_add_ sums is not fixed on a GPU, and resume promises the same bits.
        member = torch.nn.functional.one_hot(place, self.distance.numel()).to(dtype)
        values = torch.stack([residual, distance, torch.ones_like(residual)])
        values = torch.where(good, values, torch.zeros_like(values))
        self._news = (values @ member).reshape(3, *self.distance.shape)

    @torch.no_grad()
    def _learn(self) -> None:
        """Take the batch into the running means; every rank calls this at every step."""
        empty = torch.zeros(3, *self.distance.shape, dtype=self.distance.dtype, device=self.distance.device)
        news = sum_over_ranks(empty if self._news is None else self._news)
        count = news[2]
        self._mix(self.residual, news[0].sum(0), count.sum(0), self.seen.sum(0))
        self._mix(self.distance, news[1], count, self.seen)
        self.seen.add_(count)

    def _mix(self, running: Tensor, total: Tensor, count: Tensor, seen: Tensor) -> None:
        """A plain mean while few were seen, then an exponential one."""
        share = torch.maximum(count / (seen + count).clamp(min=1), torch.full_like(count, 1 - self.memory))
        mixed = running + share * (total / count.clamp(min=1) - running)
        running.copy_(torch.where(count > 0, mixed, running))

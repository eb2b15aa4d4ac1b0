"""The candidates for the tail beside batch laws: at sampling time around a trained network, and in training.

Of all of them n_c is the number of training images of class c, and ε_L,c the denoiser of N(x̄_c, vΣ_w), a Gaussian with
the class's mean and the pooled covariance within classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batch, Batches
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.metrics.pooled_gaussian import PooledGaussian
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.process import DenoisingStep
from cbdm_core.schedules import NoiseSchedule, per_row
from cbdm_priors.penalties.penalty import Penalty

__all__ = [
    "AnalyticGuidance",
    "AutoGuidance",
    "RareAugmented",
    "RarityGuidance",
    "Shrinkage",
    "class_guidance",
    "narrowed",
]


def narrowed(pooled: PooledGaussian, spread: float) -> PooledGaussian:
    """N(x̄_c, vΣ_w) from N(x̄_c, Σ_w).

    Args:
        pooled: N(x̄_c, Σ_w).
        spread: v > 0.
    """
    return replace(pooled, variances=spread * pooled.variances, rest=spread * pooled.rest)


def class_guidance(pooled: PooledGaussian, law: Tensor, x_t: Tensor, y: Tensor, at_t: tuple[Tensor, Tensor]) -> Tensor:
    """(B, …) ε_L,y − Σ_j r_j ε_L,j = −σ_t ∇ log r_y, with r_j ∝ q_j N(x_t; α_t x̄_j, α_t² vΣ_w + σ_t² I).

    Args:
        pooled: N(x̄_c, vΣ_w).
        law: (K,) q; a class of probability 0 has no part in it.
        x_t: (B, …) noised images.
        y: (B,) long, classes of probability above 0.
        at_t: α_t and σ_t, each (B,).
    """
    classes = (law > 0).nonzero()[:, 0]
    alpha_t, sigma_t = at_t
    x = x_t.flatten(1).to(pooled.means.dtype)
    eps = torch.stack([pooled.eps(x, torch.full_like(y, int(j)), alpha_t, sigma_t) for j in classes], dim=1)
    away = x[:, None] - per_row(alpha_t, eps) * pooled.means[classes]
    # ε_L,j = σ C^{-1} (x_t − α x̄_j) for one C, so that its product with what it denoises is σ times the distance.
    distance = (away * eps).sum(2) / sigma_t.to(x.dtype)[:, None]
    share = (law[classes].to(x.dtype).log() - distance / 2).softmax(1)
    own = eps[torch.arange(len(y)), torch.searchsorted(classes, y)]
    return (own - (share[:, :, None] * eps).sum(1)).reshape(x_t.shape).to(x_t.dtype)


class AnalyticGuidance(ScoreNetwork):
    """ε̂ + w(ε_L,c − Σ_j r_j ε_L,j) on rows of a rare class at t ≥ t_0, ε̂ elsewhere.

    Args:
        network: says ε̂, guided or not.
        pooled: N(x̄_c, vΣ_w).
        counts: (K,) n_c; the law of the classes is n_c/N.
        schedule: of the network.
        weight: w.
        t0: t_0 in [0, 1].
        below: classes with fewer images are rare.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        pooled: PooledGaussian,
        counts: Tensor,
        schedule: NoiseSchedule,
        *,
        weight: float,
        t0: float,
        below: int,
    ) -> None:
        super().__init__()
        self.network, self.pooled, self.schedule = network, pooled, schedule
        self.law, self.rare = counts.double() / counts.sum(), (counts > 0) & (counts < below)
        self.weight, self.t0 = weight, t0

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        eps_hat = self.network(x_t, t, c)
        rows = (self.rare[c.value] & (t >= self.t0)).nonzero()[:, 0]
        if self.weight == 0 or not len(rows):
            return eps_hat
        guidance = class_guidance(self.pooled, self.law, x_t[rows], c.value[rows], self.schedule(t[rows]))
        return eps_hat.index_add(0, rows, self.weight * guidance)


class RarityGuidance(ClassifierFreeGuidance):
    """ε_c + ω_c(t)(ε_c − ε_∅) with ω_c(t) = ω (n_c/max n)^p at t < t_1, and ω above.

    Args:
        network: the score network.
        omega: ω.
        counts: (K,) n_c.
        power: p; 0 is plain guidance.
        t1: t_1 in [0, 1]; above 1 it falls at all noise levels.
    """

    def __init__(self, network: ScoreNetwork, omega: float, counts: Tensor, *, power: float, t1: float) -> None:
        super().__init__(network, omega)
        self.share, self.t1 = (counts.double() / counts.max()).pow(power), t1

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        share = torch.where(t < self.t1, self.share[c.value].to(t.dtype), torch.ones_like(t))
        eps_c, eps_null = self._pair(x_t, t, c)
        return eps_c + per_row(self.strength(t) * share, x_t) * (eps_c - eps_null)


class AutoGuidance(ClassifierFreeGuidance):
    """ε_c + ω(ε_c − ε_∅) + w(ε_c − ε_early), away from an earlier average of the same training.

    Args:
        network: the score network.
        omega: ω.
        early: says ε_early, under the same condition.
        weight: w.

    Source: Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, 2024, section 4.
    """

    def __init__(self, network: ScoreNetwork, omega: float, early: ScoreNetwork, *, weight: float) -> None:
        super().__init__(network, omega)
        self.early, self.weight = early, weight

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        if self.weight == 0:
            return super().forward(x_t, t, c)
        eps_c, eps_null = self._pair(x_t, t, c)
        guided = eps_c + per_row(self.strength(t), x_t) * (eps_c - eps_null)
        return guided + self.weight * (eps_c - self.early(x_t, t, c))


class Shrinkage(Penalty):
    """Add "shrinkage" = λ_c ‖ε̂(c) − ε_L,c‖² at t ≥ t_0, with λ_c = cap · min(1, a/n_c); no extra pass.

    With the denoising loss the optimum is (E[ε | x_t, c] + λ_c ε_L,c)/(1 + λ_c).

    Args:
        inner: the adjustment that gives the other terms.
        pooled: N(x̄_c, vΣ_w).
        counts: (K,) n_c.
        cap: λ of the rarest classes, ≥ 0.
        a: images up to which a class has all of it.
        t0: t_0 in [0, 1].
    """

    term = "shrinkage"

    def __init__(
        self,
        inner: PriorAdjustment,
        pooled: PooledGaussian,
        counts: Tensor,
        *,
        cap: float,
        a: float,
        t0: float,
    ) -> None:
        super().__init__(inner, strength=cap, time_weight=f"window:{t0},1")
        self.pooled, self.rarity = pooled, (a / counts.clamp(min=1)).clamp(max=1)

    def penalty(self, step: DenoisingStep) -> Tensor:
        target = self.pooled.eps(step.x_t, step.c.value, step.alpha_t.flatten(), step.sigma_t.flatten())
        distance = mean_squared(step.eps_hat, target)
        return self.rarity[step.c.value].to(distance.dtype) * distance


@dataclass(frozen=True, eq=False)
class RareAugmented(Batches):
    """Batches whose rows are augmented with probability min(1, a/n_c), and else stay as they are, told as such.

    Args:
        counts: (K,) n_c.
        a: images up to which a class's rows are all augmented.
    """

    counts: Tensor = field(kw_only=True)
    a: float = field(kw_only=True)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        batch = super().at(step, rank, world)
        assert batch.augment is not None, "data.augment is 0"
        share = (self.a / self.counts.clamp(min=1)).clamp(max=1)[batch.y]
        coin = Draws(self.seed, step, batch.rows).uniform("augment the rare", 1)[:, 0]
        stays = coin >= share
        untouched = Batches.at(replace(self, augment=None), step, rank, world).x_0
        x_0 = batch.x_0.clone()
        x_0[stays] = untouched[stays]
        return batch._replace(x_0=x_0, augment=batch.augment.masked_fill(stays[:, None], 0))

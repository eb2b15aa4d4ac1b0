"""Capacity manipulation: low-rank experts that rare classes may use more than common ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.experts import add_experts, experts_off, has_experts
from cbdm_core.process import DenoisingStep
from cbdm_priors.penalties.penalty import Penalty, class_labels

__all__ = ["CapacityManipulation"]


class CapacityManipulation(Penalty):
    """Add "capacity" = s·K·(a·p_y − b·u_y)·‖f_{g+e} − f_g‖², f_g the network with its low-rank experts off.

    p_y = n_y/N and u_y ∝ 1/n_y over the classes that have images, Σ u = 1. Common classes are told to do without the
    experts, rare ones to use them. The norm is a mean over a row; both outputs have their gradient. Where the factor is
    negative the term would be unbounded below, so there the distance counts up to `bound` only: it never falls below
    −s·K·b·max u·bound (times w and 1/fraction), and a rare class beyond the bound is not pushed.

    The experts are put on the network here, unless the strength is 0, and change nothing until trained; a network that
    has experts keeps them, at their rank. `merge_experts` or `merged_state` of `cbdm_core.networks.experts` makes the
    trained network a plain one. This adjustment keeps no reference to the network: it asks the step's.

    Args:
        inner: the adjustment that gives the other terms.
        counts: (K,) training images of each class, ≥ 0, one above 0.
        network: the network that is trained, before its optimiser is made; it is changed in place.
        strength: s ≥ 0.
        rank_ratio: ρ in (0, 1]: an expert has rank max(1, round(ρ·min(out, in·kernel))).
        common: a ≥ 0.
        rare: b ≥ 0.
        bound: > 0, on the distance where the factor is negative.
        fraction: f in (0, 1] of the rows, counted 1/f times.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: any of these out of range, conditions that are no labels, or a step of a network without experts.

    Needs: counts; 1 more forward pass with its gradient, under the dropout masks of the first unless fraction < 1.
    Source: Capacity Manipulation, ICLR 2026, second-hand: written from its formulas as reported, not held against the
        paper; the bound is ours.
    """

    term = "capacity"
    needs = ("counts", "network")
    counts: Tensor

    def __init__(
        self,
        inner: PriorAdjustment,
        counts: Tensor | Sequence[int],
        network: ScoreNetwork,
        *,
        strength: float = 1.0,
        rank_ratio: float = 0.1,
        common: float = 1.0,
        rare: float = 0.2,
        bound: float = 1.0,
        fraction: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(inner, strength=strength, fraction=fraction, every=every)
        if not (0 <= common < math.inf and 0 <= rare < math.inf and 0 < bound < math.inf):
            raise CbdmError(f"capacity needs common ≥ 0, rare ≥ 0 and bound > 0, got {common}, {rare} and {bound}")
        n = torch.as_tensor(counts).double()
        if n.ndim != 1 or not (n >= 0).all() or not (n > 0).any():
            raise CbdmError(
                f"capacity needs class counts of 0 or more, one above 0, got {torch.as_tensor(counts).tolist()}"
            )
        self.common, self.rare, self.bound = float(common), float(rare), float(bound)
        # Made anew from the data on every start, so no checkpoint carries it.
        self.register_buffer("counts", torch.as_tensor(counts).long(), persistent=False)
        # Masks belong to the batch; without the same ones the distance would be theirs.
        self.needs_dropout_state = self.fraction == 1 and self.strength > 0
        if self.strength > 0 and not has_experts(network):
            add_experts(network, rank_ratio)

    def factor(self) -> Tensor:
        """(K,) K·(a·p_y − b·u_y); 0 for a class without images."""
        n = self.counts.to(real_dtype(self.counts.device))
        u = torch.where(n > 0, 1 / n.clamp(min=1), torch.zeros_like(n))
        return len(n) * (self.common * n / n.sum() - self.rare * u / u.sum())

    def penalty(self, step: DenoisingStep) -> Tensor:
        if not has_experts(step.network):
            raise CbdmError(
                "capacity was built with another network: the one that is trained has no experts; give it that"
            )
        with experts_off(step.network):
            general = step.predict(step.c, same_dropout=step.dropout_state is not None)
        distance = mean_squared(step.eps_hat, general)
        factor = self.factor()[class_labels(step.c, self.term)].to(distance.dtype)
        return factor * torch.where(factor < 0, distance.clamp(max=self.bound), distance)

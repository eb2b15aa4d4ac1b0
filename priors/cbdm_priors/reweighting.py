"""Weigh every example's loss by its class, so that the expected loss is that of another label law."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.errors import CbdmError
from cbdm_core.priors import LabelPrior
from cbdm_core.process import DenoisingStep

__all__ = ["ClassReweighting", "class_weights"]


def class_weights(target: LabelPrior, training: LabelPrior, cap: float | None = None) -> Tensor:
    """(K,) float64 w_y = min(cap, π(y)/q(y)), 0 where q is.

    Args:
        target: π.
        training: q.
        cap: > 0, or None for no bound.

    Raises:
        CbdmError: π draws a class that q never shows, laws over another number of classes, or a cap ≤ 0.
    """
    if cap is not None and not cap > 0:
        raise CbdmError(f"the cap on class weights must be above 0, got {cap}")
    pi, q = target.probs, training.probs
    if pi.shape != q.shape:
        raise CbdmError(f"the target law has {len(pi)} classes and the training law {len(q)}: give the same")
    missing = [y for y in range(len(q)) if q[y] == 0 and pi[y] > 0]
    if missing:
        raise CbdmError(f"the target law asks for classes with no training image: {missing}; give them probability 0")
    weights = torch.where(q > 0, pi / q.clamp(min=1e-300), torch.zeros_like(q))
    return weights if cap is None else weights.clamp(max=cap)


class ClassReweighting(PriorAdjustment):
    """Scale all inner terms of a row by w_y = π(y)/q(y); E_q[w] = 1, so the loss is unbiased for the law π.

    The true label decides, on rows that see the null condition too.

    Args:
        inner: the adjustment whose terms are scaled.
        target: the law π to weigh to.
        training: the law q the examples are drawn from.
        cap: largest weight allowed, > 0, or None. A cap is biased: the capped classes count less than π asks.

    Raises:
        CbdmError: π draws a class that q never shows, laws over another number of classes, or a cap ≤ 0.

    Needs: no further forward pass.
    """

    needs = ("target", "training")
    default_law = "uniform"
    reads_law = True
    weights: Tensor

    def __init__(
        self, inner: PriorAdjustment, target: LabelPrior, training: LabelPrior, *, cap: float | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        # Made anew from the counts on every start, so no checkpoint carries it.
        self.register_buffer("weights", class_weights(target, training, cap).float(), persistent=False)

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        assert self.inner is not None
        weight = self.weights[step.c.value]
        return {name: weight.to(term.dtype) * term for name, term in self.inner(step).items()}

"""A law that learns: labels whose denoising loss stays high are drawn more often, held back by a reference law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.distributed import sum_over_ranks
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.priors import LabelPrior
from cbdm_priors.laws.counts import Power, normalised
from cbdm_priors.penalties.penalty import class_labels

__all__ = ["Learned"]


class Learned(LabelPrior):
    """The maximiser's side of min_θ max_π Σ_y π_y ℓ_y(θ) − T·KL(π‖ρ), by exponentiated gradient.

    With ℓ_y a running mean of the denoising loss of class y and the reference ρ ∝ n^κ, each observation takes the step
    log π ← (log π + η (ℓ + T log ρ))/(1 + ηT) − log Z: the exponentiated-gradient step with the KL term taken
    implicitly, so that it is stable for every η. It stands still at π ∝ ρ exp(ℓ/T) alone. Where ρ is 0, π stays 0.
    A loss that is not finite is left out. The sums are taken over all ranks, and the state is in the checkpoint.

    Args:
        counts: (K,) images of each class.
        temperature: T > 0 in units of the loss: how much higher a loss pays for leaving ρ.
        step: η ≥ 0; 0 does not learn.
        memory: of the running loss, in [0, 1): the weight of what was before.
        kappa: κ of the reference law; 1 is the training law, 0 uniform.

    Raises:
        CbdmError: any of these out of range.

    Source: Sagawa et al., Group DRO, 2020, algorithm 1, with a KL anchor.
    """

    learns = True
    log_pi: Tensor
    log_reference: Tensor
    loss: Tensor
    seen: Tensor

    def __init__(
        self,
        counts: Tensor | Sequence[int],
        temperature: float = 0.1,
        step: float = 0.1,
        memory: float = 0.99,
        kappa: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf or not 0 <= step < math.inf or not 0 <= memory < 1:
            raise CbdmError(
                "learned needs temperature > 0, step ≥ 0 and memory in [0, 1), got "
                f"{temperature}, {step} and {memory}: write for example learned:0.1,0.1"
            )
        self.temperature, self.step, self.memory = float(temperature), float(step), float(memory)
        reference = Power(counts, kappa).log_prob()
        self.register_buffer("log_reference", reference, persistent=False)
        self.register_buffer("log_pi", reference.clone())
        self.register_buffer("loss", torch.zeros_like(reference))
        self.register_buffer("seen", torch.zeros(len(reference), dtype=torch.bool))

    def log_prob(self) -> Tensor:
        return self.log_pi.to(real_dtype(self.log_pi.device))

    @torch.no_grad()
    def observe(self, c: Condition, loss: Tensor) -> None:
        """Take one step from a batch's (B,) denoising losses; rows that saw the null condition do not count."""
        good = torch.isfinite(loss) & c.present
        value = torch.where(good, loss, torch.zeros_like(loss)).to(self.loss.dtype)
        # A product: the order in which index_add_ sums is not fixed on a GPU, and resume promises the same bits.
        member = torch.nn.functional.one_hot(class_labels(c, "the learned law"), len(self.loss)).to(value.dtype)
        total = sum_over_ranks(torch.stack([value @ member, good.to(value.dtype) @ member]))
        here = total[1] > 0
        mean = total[0] / total[1].clamp(min=1)
        old = self.memory * self.seen.to(mean.dtype)
        kept = old * self.loss + (1 - old) * mean
        self.loss.copy_(torch.where(here, kept, self.loss))
        self.seen.logical_or_(here)
        self._rise()

    def _rise(self) -> None:
        """The exponentiated-gradient step; a class not seen yet counts as an average one."""
        known = self.loss[self.seen]
        average = known.mean() if len(known) else self.loss.new_zeros(())
        loss = torch.where(self.seen, self.loss, average)
        alive = ~self.log_reference.isneginf()
        reference = torch.where(alive, self.log_reference, torch.zeros_like(self.log_reference))
        now = torch.where(alive, self.log_pi, torch.zeros_like(self.log_pi))
        eta, T = self.step, self.temperature
        risen = (now + eta * (loss - average + T * reference)) / (1 + eta * T)
        self.log_pi.copy_(normalised(torch.where(alive, risen, torch.full_like(risen, -math.inf))))

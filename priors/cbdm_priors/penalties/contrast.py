"""Contrastive penalties: of features by class (CORAL), against the null (CCUA), and of outputs apart (DiffROP)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.adjustment import PriorAdjustment, mean_squared
from cbdm_core.distributed import anywhere, own_rows, rows_of_all_ranks
from cbdm_core.errors import CbdmError, check_positive
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep
from cbdm_priors.penalties.penalty import Penalty, TimeWeight, class_labels

__all__ = ["Alignment", "Separation", "SupervisedContrast", "supervised_contrast"]

_TINY_NORM = 1e-6  # a feature vector shorter than this is not stretched to length 1, which bounds its gradient


def _check_above_0(term: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise CbdmError(f"the {name} of {term} must be a number above 0, got {value}")


def _zero_where(hidden: Tensor, features: Tensor | None) -> Tensor | None:
    return None if features is None else features.masked_fill(hidden[:, None], 0.0)


def _unit(z: Tensor) -> Tensor:
    """Rows of length 1, in float32 at least."""
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1, eps=_TINY_NORM)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """(B, N) a·b of unit rows, in their own precision under autocast too."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def supervised_contrast(
    z: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, *, temperature: float
) -> Tensor:
    """(B,) −1/|P(i)| Σ_{p∈P(i)} log [exp(z_i·z_p/τ) / Σ_{a∈A(i)} exp(z_i·z_a/τ)], and 0 where P(i) is empty.

    A(i) is all rows but i and all the others; P(i) is what in A(i) has the label of i.

    Args:
        z: (B, D) unit rows, the anchors.
        labels: (B,).
        others: (M, D) unit rows to compare with that are no anchors; M may be 0.
        other_labels: (M,).
        temperature: τ > 0.

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2 (L_out).
    """
    logits = _cosines(z, torch.cat([z, others.to(z.dtype)])) / temperature
    itself = torch.eye(len(z), logits.shape[1], dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == torch.cat([labels, other_labels])[None, :]) & ~itself
    count = positive.sum(1)
    # A row alone in the world has no A(i), and the gradient of log 0 is not a number: it keeps itself, and counts 0.
    log_total = logits.masked_fill(itself & (count > 0)[:, None], -math.inf).logsumexp(1)
    mean = torch.where(positive, logits, torch.zeros_like(logits)).sum(1) / count.clamp(min=1)
    return torch.where(count > 0, log_total - mean, torch.zeros_like(mean))


class SupervisedContrast(Penalty):
    """CORAL: add "coral" = s·exp((1 − t)/τ_r)·SupCon(z, y), z = Linear(features) of length 1.

    Rows that see the null condition are left out, as anchors and as what anchors are compared with; a row whose class
    is alone gets 0. So that the rarest classes find a positive, a memory keeps the last features of each; the penalty
    sees it as it was before this step. It is in the checkpoint and the same on every rank. The linear map is this
    adjustment's own, so the averaged and the exported network do not have it.

    Args:
        inner: the adjustment that gives the other terms.
        counts: (K,) training images of each class.
        num_features: D of `network.with_features`.
        strength: s ≥ 0.
        temperature: τ > 0 of SupCon.
        decay: τ_r > 0.
        projection: size of z, ≥ 1.
        bank: M ≥ 0, the features remembered of each rare class; 0 remembers nothing.
        rare: a class with this many training images or fewer is rare; ≥ 0.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: any of these out of range, conditions that are no labels, or a network without features.

    Needs: features of the forward pass there is, and counts for the memory; no further forward pass. On several ranks
        anchors are compared with the rows of all of them, and with the memory.
    Source: CORAL, NeurIPS 2025, for the term; Khosla et al. 2020, eq. 2 for SupCon.
    """

    term = "coral"
    needs = ("counts", "num_features")
    couples_rows = True
    in_eps = False
    needs_features = True
    place: Tensor
    memory: Tensor
    filled: Tensor

    def __init__(
        self,
        inner: PriorAdjustment,
        counts: Tensor | Sequence[int],
        num_features: int,
        *,
        strength: float = 0.5,
        temperature: float = 0.1,
        decay: float = 0.3,
        projection: int = 128,
        bank: int = 0,
        rare: int = 20,
        every: int = 1,
    ) -> None:
        _check_above_0(self.term, temperature=temperature, decay=decay)
        super().__init__(inner, strength=strength, time_weight=lambda t: torch.exp((1 - t) / decay), every=every)
        check_positive(num_features=num_features, projection=projection)
        if bank < 0 or bank != int(bank) or rare < 0:
            raise CbdmError(f"the bank and rare of coral must be whole numbers of 0 or more, got {bank} and {rare}")
        self.temperature, self.bank = float(temperature), int(bank)
        self.needs_features = self.strength > 0
        # At strength 0 nothing asks the map, and distributed training would wait for its gradient.
        self.head = nn.Linear(num_features, projection).requires_grad_(self.strength > 0)
        counts = torch.as_tensor(counts).long()
        kept = (counts > 0) & (counts <= rare) & (self.bank > 0)
        rows = int(kept.sum())
        # The row of each class in the memory, −1 for none; made anew from the counts on every start.
        self.register_buffer("place", torch.where(kept, kept.long().cumsum(0) - 1, -1), persistent=False)
        self.register_buffer("memory", torch.zeros(rows, self.bank, projection), persistent=rows > 0)
        self.register_buffer("filled", torch.zeros(rows, dtype=torch.long), persistent=rows > 0)
        self._before: tuple[Tensor, Tensor] | None = None

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        # `observe` comes first, and a row must not be compared with itself.
        self._before = (self.memory.clone(), self.filled.clone())
        return super().forward(step)

    def project(self, step: DenoisingStep) -> Tensor:
        """(B, projection) z of each row.

        Raises:
            CbdmError: the step has no features.
        """
        if step.features is None:
            raise CbdmError("coral needs features, and the step has none: build it with Process.denoise(with_features)")
        with torch.autocast(step.features.device.type, enabled=False):
            return _unit(self.head(step.features.to(self.head.weight.dtype)))

    def penalty(self, step: DenoisingStep) -> Tensor:
        rows = rows_of_all_ranks(step.c.present).nonzero()[:, 0]
        # Of rows that see the null only the place is needed, and nothing of theirs may reach the map's gradient.
        z = self.project(replace(step, features=_zero_where(~step.c.present, step.features)))
        z, labels = rows_of_all_ranks(z), rows_of_all_ranks(class_labels(step.c, self.term))
        value = supervised_contrast(z[rows], labels[rows], *self._remembered(), temperature=self.temperature)
        return value.new_zeros(len(z)).index_add(0, rows, value)[own_rows(len(step))]

    def _remembered(self) -> tuple[Tensor, Tensor]:
        """(M, projection) features in the memory and their (M,) labels; empty slots are left out."""
        memory, filled = self._before or (self.memory, self.filled)
        there = torch.arange(self.bank, device=filled.device)[None, :] < filled[:, None]
        classes = (self.place >= 0).nonzero()[:, 0]
        return memory[there], classes[:, None].expand_as(there)[there]

    @torch.no_grad()
    def observe(self, step: DenoisingStep) -> None:
        """Remember the features of the rows of rare classes, on all ranks those of all ranks; newest first."""
        if self.strength == 0 or not len(self.filled):
            return
        z = self.project(step)
        kept = step.c.present & torch.isfinite(z).all(1)
        place = torch.where(kept, self.place[class_labels(step.c, self.term)], -1)
        z, place = rows_of_all_ranks(z), rows_of_all_ranks(place)
        for row in place[place >= 0].unique().tolist():
            new = z[place == row].flip(0).to(self.memory.dtype)
            self.memory[row] = torch.cat([new, self.memory[row]])[: self.bank]
            self.filled[row] = (self.filled[row] + len(new)).clamp(max=self.bank)


class Alignment(Penalty):
    """CCUA: add "ccua" = s·w(t)·(‖ε̂(c) − ε̂(∅)‖² + ρ·log mean_{j≠i} exp(z_i·z_j/τ)).

    The first part draws each class to the null prediction, without a stop-gradient; its norm is a mean over a row. The
    second drives the null features z of different images apart, z of length 1 from the forward under the null
    condition. Its j are all other rows, those that see the null condition too; a batch of one row has none, and 0.

    Args:
        inner: the adjustment that gives the other terms.
        strength: s ≥ 0.
        repulsion: ρ ≥ 0; with 0 the network needs no features.
        temperature: τ > 0.
        every: at each k-th step, counted k times.
        time_weight: w(t), (B,) → (B,), or its name; t by default.

    Raises:
        CbdmError: any of these out of range, or a network without features.

    Needs: 1 more forward pass with its gradient and dropout masks of its own, of a network that has features. On
        several ranks rows are compared with those of all of them.
    Source: arXiv 2507.09052, second-hand: written from its formulas as reported, not held against the paper.
    """

    term = "ccua"
    in_eps = False  # the distance is, and takes the loss weight itself
    couples_rows = True

    def __init__(
        self,
        inner: PriorAdjustment,
        *,
        strength: float = 1.0,
        repulsion: float = 1.0,
        temperature: float = 0.1,
        every: int = 1,
        time_weight: TimeWeight | str = "linear",
    ) -> None:
        super().__init__(inner, strength=strength, time_weight=time_weight, every=every)
        _check_above_0(self.term, temperature=temperature)
        if not 0 <= repulsion < math.inf:
            raise CbdmError(f"the repulsion of ccua must be a number of 0 or more, got {repulsion}")
        self.repulsion, self.temperature = float(repulsion), float(temperature)

    def penalty(self, step: DenoisingStep) -> Tensor:
        null, features = step.c.null(), None
        if self.repulsion == 0:
            eps_null = step.predict(null)
        else:
            eps_null, features = step.network.with_features(step.x_t, step.t, null)
        distance = mean_squared(step.eps_hat, eps_null)
        distance = self.loss_weight(step).to(distance.dtype) * distance
        if features is None:
            return distance
        z = rows_of_all_ranks(_unit(features))
        if len(z) == 1:
            return distance
        return distance + self.repulsion * self._crowding(z)[own_rows(len(step))].to(distance.dtype)

    def _crowding(self, z: Tensor) -> Tensor:
        """(N,) log mean_{j≠i} exp(z_i·z_j/τ)."""
        logits = _cosines(z, z) / self.temperature
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        return logits.masked_fill(itself, -math.inf).logsumexp(1) - math.log(len(z) - 1)


class Separation(Penalty):
    """DiffROP: add "diffrop" = s·w(t)·max(0, m − ‖ε̂(c) − ε̂(c')‖²) with c' ~ π: CBDM with the opposite sign.

    The norm is a mean over a row, and both outputs have their gradient. A row whose c' is c gets 0: there is nothing to
    push apart, its distance is 0 or that between two dropout masks, and m would be a constant in the loss. Under the
    null law each class is pushed away from the unconditional prediction.

    Args:
        inner: the adjustment that gives the other terms.
        target: the law π that c' is drawn from.
        strength: s ≥ 0.
        margin: m > 0, the distance beyond which nothing pushes.
        time_weight: w(t), (B,) → (B,), or its name; t by default.
        fraction: f in (0, 1] of the rows, counted 1/f times.
        every: at each k-th step, counted k times.

    Raises:
        CbdmError: any of these out of range.

    Needs: 1 more forward pass with its gradient, of the rows whose c' is not c.
    Source: arXiv 2402.10821.
    """

    term = "diffrop"
    needs = ("target",)
    default_law = "uniform"

    def __init__(
        self,
        inner: PriorAdjustment,
        target: ConditionPrior,
        *,
        strength: float = 1e-2,
        margin: float = 0.1,
        time_weight: TimeWeight | str = "linear",
        fraction: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__(inner, strength=strength, time_weight=time_weight, fraction=fraction, every=every)
        _check_above_0(self.term, margin=margin)
        self.target, self.margin = target, float(margin)

    @property
    def law(self) -> ConditionPrior:
        return self.target

    def penalty(self, step: DenoisingStep) -> Tensor:
        other = self.target.sample(step.c, draws=step.draws.within(self.term))
        counts = step.c.present & step.c.differs_from(other)
        rows = counts.nonzero()[:, 0]
        total = torch.zeros_like(mean_squared(step.eps_hat, step.eps_hat))
        if not anywhere(counts):
            return total
        some = step[rows]
        distance = mean_squared(some.eps_hat, some.predict(other[rows]))
        return total.index_add(0, rows, (self.margin - distance).clamp(min=0))

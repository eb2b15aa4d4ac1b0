"""The law that prefers labels which resemble the row's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.priors import ConditionPrior
from cbdm_priors.laws.counts import normalised

__all__ = ["Affinity", "feature_similarity"]


class Affinity(ConditionPrior):
    """π(y' | y) ∝ exp(S_{yy'} / T): likely labels are those that resemble the row's own.

    Args:
        similarity: (K, K) S, finite or −inf, which is never drawn; every row must have one entry that is finite.
        temperature: T > 0; large is uniform over what may be drawn, small the most similar label.

    Raises:
        CbdmError: a table that is not square, has NaN or +inf, or a row of −inf; a temperature that is not above 0.
    """

    made_from = "similarity"
    finite = True
    log_table: Tensor

    def __init__(self, similarity: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        similarity = torch.as_tensor(similarity, dtype=torch.float64)
        if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
            raise CbdmError(f"an affinity needs a K × K table, got the shape {tuple(similarity.shape)}")
        if similarity.isnan().any() or similarity.isposinf().any() or similarity.isneginf().all(1).any():
            raise CbdmError("an affinity's table is finite or −inf, and each of its rows has a label it can draw")
        if not 0 < temperature < math.inf:
            raise CbdmError(f"an affinity needs a temperature above 0, got {temperature}: write for example affinity:1")
        table = normalised(similarity / temperature)
        self.register_buffer("log_table", table.to(real_dtype(table.device)), persistent=False)

    @classmethod
    def of_table(cls, probs: Tensor) -> Affinity:
        """The law with the rows of `probs` (K, K), numbers ≥ 0 that are normalised row by row.

        Raises:
            CbdmError: a number below 0 or not finite, or a row of zeros.
        """
        probs = torch.as_tensor(probs, dtype=torch.float64)
        if not torch.isfinite(probs).all() or (probs < 0).any():
            raise CbdmError("an affinity's probabilities are finite numbers of 0 or more")
        return cls(probs.log())

    @property
    def table(self) -> Tensor:
        """(K, K) rows π(·|y), each with sum 1."""
        return self.log_table.exp()

    def atoms(self, c: Condition) -> tuple[Tensor, Tensor]:
        classes = torch.arange(len(self.log_table), device=self.log_table.device)
        return classes, self.table[c.value]

    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        return c.with_value(draws.categorical("law", self.table[c.value]))


def feature_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K, K) S_{yy'} = −‖μ_y − μ_y'‖²/(2 s²) of the classes' mean features, s² its mean over pairs y ≠ y'.

    A class without an example has S = −inf as y', and as y a row of zeros over those that have one.

    Args:
        features: (N, D) of the training set, in any feature space.
        labels: (N,) labels in [0, K).
        num_classes: K.

    Raises:
        CbdmError: features and labels of different numbers, features that are not finite, or no class at all.
    """
    if features.ndim != 2 or len(features) != len(labels) or len(labels) == 0:
        raise CbdmError(f"{len(labels)} labels need as many rows of features (N, D), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise CbdmError("features have NaN or infinite values: mend those examples")
    counts = torch.bincount(labels, minlength=num_classes)
    total = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    means = total.index_add(0, labels, features.double()) / counts.clamp(min=1)[:, None]
    square = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    alive = counts > 0
    between = square[alive][:, alive]
    pairs = max(len(between) * (len(between) - 1), 1)
    scale = (between.sum() / pairs).clamp(min=1e-300)
    similarity = torch.where(alive[:, None], -square / (2 * scale), torch.zeros_like(square))
    return similarity.masked_fill(~alive[None, :], -math.inf)

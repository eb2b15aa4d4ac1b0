"""Laws over labels π(y'), made from the training counts n_y.

All laws made from counts, uniform too, live on the classes with n_y > 0: elsewhere the probability is 0, the
log-probability −inf and 0·log 0 = 0. `Fixed` alone may name an empty class, and warns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import Condition, ConditionPrior, Draws, LabelPrior

__all__ = [
    "Affinity",
    "Balanced",
    "CountLaw",
    "Fixed",
    "Null",
    "Power",
    "Training",
    "Uniform",
    "feature_similarity",
    "normalised",
]


def normalised(log_weights: Tensor) -> Tensor:
    """log w − log Σ w, with w = 0 written as −inf."""
    return torch.log_softmax(log_weights, dim=-1)


class CountLaw(LabelPrior):
    """A law made from the counts: π(y) ∝ w(n_y) where n_y > 0; `log_weights` is the one method to write.

    Args:
        counts: (K,) images of each class, ≥ 0, at least one > 0.

    Raises:
        CbdmError: counts that are not a vector of non-negative whole numbers with one above 0.
    """

    counts: Tensor

    def __init__(self, counts: Tensor | Sequence[int]) -> None:
        super().__init__()
        counts = torch.as_tensor(counts)
        if counts.ndim != 1 or counts.is_floating_point() or (counts < 0).any() or not (counts > 0).any():
            raise CbdmError(
                f"a law needs a vector of whole class counts, each 0 or more and one above 0, got {counts.tolist()}"
            )
        # Made anew from the data on every start, so no checkpoint carries it.
        self.register_buffer("counts", counts.long(), persistent=False)

    def log_weights(self, counts: Tensor) -> Tensor:
        """(K,) log w(n_y) for counts that are all > 0."""
        raise CbdmError(f"{type(self).__name__} must override log_weights or log_prob")

    def log_prob(self) -> Tensor:
        n = self.counts.to(real_dtype(self.counts.device))
        weights = self.log_weights(n.clamp(min=1))
        return normalised(torch.where(n > 0, weights, torch.full_like(weights, -math.inf)))


class Power(CountLaw):
    """π(y) ∝ n_y^κ: κ = 1 is the training law, 0 uniform, −1 inverse frequency.

    Args:
        counts: (K,) images of each class.
        kappa: κ, any finite number.
    """

    def __init__(self, counts: Tensor | Sequence[int], kappa: float = 0.5) -> None:
        super().__init__(counts)
        if not math.isfinite(kappa):
            raise CbdmError(f"power needs a finite exponent, got {kappa}: write for example power:0.5")
        self.kappa = float(kappa)

    def log_weights(self, counts: Tensor) -> Tensor:
        # Relative to the largest, so that no exponent overflows to inf − inf.
        most = counts.max() if self.kappa > 0 else counts.min()
        return self.kappa * (counts / most).log()


class Training(CountLaw):
    """π(y) = q(y) = n_y / N, the training frequencies: the law of published CBDM."""

    def log_weights(self, counts: Tensor) -> Tensor:
        return counts.log()


class Uniform(CountLaw):
    """π(y) = 1 / #{n_y > 0}."""

    def log_weights(self, counts: Tensor) -> Tensor:
        return torch.zeros_like(counts)


class Balanced(CountLaw):
    """π(y) ∝ (1 − β)/(1 − β^{n_y}), one over the effective number of images (Cui et al., CVPR 2019, proposition 1).

    Args:
        counts: (K,) images of each class.
        beta: β in [0, 1); 0 is uniform, β → 1 inverse frequency.
    """

    def __init__(self, counts: Tensor | Sequence[int], beta: float = 0.999) -> None:
        super().__init__(counts)
        if not 0 <= beta < 1:
            raise CbdmError(f"balanced needs beta in [0, 1), got {beta}: write for example balanced:0.999")
        self.beta = float(beta)

    def log_weights(self, counts: Tensor) -> Tensor:
        if self.beta == 0:
            return torch.zeros_like(counts)
        # 1 − β^n by expm1, which keeps its digits when β is close to 1.
        return -torch.log(-torch.expm1(counts * math.log(self.beta)))


class Fixed(LabelPrior):
    """A table of probabilities, in the order of the classes.

    Args:
        counts: (K,) images of each class; they only decide whether a named class is empty.
        probs: K numbers ≥ 0 with a positive sum; they are normalised.

    Raises:
        CbdmError: another number of entries than classes, a negative or non-finite entry, or all zero.
    """

    def __init__(self, counts: Tensor | Sequence[int], *probs: float) -> None:
        super().__init__()
        counts = torch.as_tensor(counts)
        table = torch.tensor(probs, dtype=torch.float64)
        if len(table) != len(counts):
            raise CbdmError(f"fixed needs one number per class, {len(counts)}, got {len(table)}: write fixed:p0,p1,…")
        if not torch.isfinite(table).all() or (table < 0).any() or table.sum() <= 0:
            raise CbdmError(f"fixed needs numbers of 0 or more with a positive sum, got {list(probs)}")
        empty = [y for y in range(len(counts)) if counts[y] == 0 and table[y] > 0]
        if empty:
            warnings.warn(f"the fixed law draws classes that have no training image: {empty}", stacklevel=2)
        self.table = tuple(float(p) for p in table)
        # The table is kept as Python floats; this empty buffer only follows the module to its device.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def log_prob(self) -> Tensor:
        device = self.get_buffer("anchor").device
        return normalised(torch.tensor(self.table, dtype=real_dtype(device), device=device).log())


class Null(ConditionPrior):
    """y' := ∅, the null condition: the model's own unconditional prediction is the other output.

    Args:
        counts: (K,) images of each class; not used, taken so that every law is made alike.
    """

    def __init__(self, counts: Tensor | Sequence[int]) -> None:
        super().__init__()

    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        return c.null()


class Affinity(ConditionPrior):
    """π(y' | y) ∝ exp(S_{yy'} / T): likely labels are those that resemble the row's own.

    Args:
        similarity: (K, K) S, finite or −inf, which is never drawn; every row must have one entry that is finite.
        temperature: T > 0; large is uniform over what may be drawn, small the most similar label.

    Raises:
        CbdmError: a table that is not square, has NaN or +inf, or a row of −inf; a temperature that is not above 0.
    """

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
        """The law with the rows of `probs` (K, K), numbers ≥ 0 that are normalised row by row."""
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

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

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError, CbdmWarning
from cbdm_core.priors import ConditionPrior, LabelPrior

__all__ = [
    "Balanced",
    "CountLaw",
    "Fixed",
    "Null",
    "Power",
    "Training",
    "Uniform",
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

    Raises:
        CbdmError: counts as of `CountLaw`, or κ that is not finite.
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

    Raises:
        CbdmError: counts as of `CountLaw`, or β outside [0, 1).
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
            warnings.warn(
                f"the fixed law draws classes that have no training image: {empty}", CbdmWarning, stacklevel=2
            )
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

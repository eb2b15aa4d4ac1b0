"""Laws over conditions that are no classes: observed vectors with weights, a Gaussian, observed combinations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.priors import ConditionPrior
from cbdm_priors.laws.counts import normalised

__all__ = ["Bank", "Combinations", "Gaussian", "KernelBank", "NeighbourBank", "kernel_log_density", "knn_log_density"]

_CHUNK = 1024


def _checked(conditions: Tensor) -> Tensor:
    """(N, D) float64, N ≥ 1, finite."""
    if conditions.ndim != 2 or len(conditions) == 0:
        raise CbdmError(
            f"a law over vectors needs observed conditions (N, D), got {tuple(conditions.shape)}: class labels have "
            "laws of their own, such as uniform"
        )
    table = conditions.double()
    if not torch.isfinite(table).all():
        raise CbdmError("observed conditions have NaN or infinite values: mend those examples")
    return table


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def knn_log_density(conditions: Tensor, k: int = 10) -> Tensor:
    """(N,) log p̂_i = −D log r_k(i) + const, r_k the distance to the k-th nearest other condition.

    Args:
        conditions: (N, D).
        k: in [1, N − 1]; a distance of 0 counts as 1e-6 of the root mean square distance.

    Raises:
        CbdmError: k out of range.

    Source: Loftsgaarden & Quesenberry 1965.
    """
    table = _checked(conditions)
    if not 1 <= k < len(table):
        raise CbdmError(f"k = {k} neighbours of {len(table)} conditions: choose 1 … {len(table) - 1}")
    # The nearest of all is the condition itself.
    radius = torch.cat([_distances(part, table).kthvalue(k + 1, dim=1).values for part in table.split(_CHUNK)])
    floor = 1e-6 * (table - table.mean(0)).square().sum(1).mean().sqrt().clamp(min=1e-300)
    return -table.shape[1] * torch.maximum(radius, floor).log()


def kernel_log_density(conditions: Tensor, bandwidth: float = 0.0) -> Tensor:
    """(N,) log p̂_i = log Σ_j exp(−‖c_i − c_j‖²/2h²) + const on standardised coordinates.

    Args:
        conditions: (N, D).
        bandwidth: h > 0 in standard deviations; 0 is Scott's rule N^(−1/(D+4)).

    Raises:
        CbdmError: h < 0.

    Source: Parzen 1962; Scott 1992, section 6.3.
    """
    table = _checked(conditions)
    if not 0 <= bandwidth < math.inf:
        raise CbdmError(f"a kernel's bandwidth must be 0 (Scott's rule) or above, got {bandwidth}")
    spread = table.std(0, unbiased=False)
    scaled = (table - table.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
    h = bandwidth or len(table) ** (-1 / (table.shape[1] + 4))
    return torch.cat(
        [torch.logsumexp(-_distances(part, scaled).square() / (2 * h**2), dim=1) for part in scaled.split(_CHUNK)]
    )


class Bank(ConditionPrior):
    """The observed conditions c_1 … c_N, each with probability 1/N: the training law over vectors.

    Args:
        conditions: (N, D) finite numbers, those of the training set.

    Raises:
        CbdmError: conditions that are not (N, D) or not finite.
    """

    made_from = "conditions"
    finite = True
    values: Tensor
    log_probs: Tensor

    def __init__(self, conditions: Tensor) -> None:
        super().__init__()
        table = _checked(conditions)
        self._keep(conditions, torch.zeros(len(table), dtype=torch.float64))

    def _keep(self, values: Tensor, log_weights: Tensor) -> None:
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("log_probs", normalised(log_weights), persistent=False)

    @property
    def probs(self) -> Tensor:
        """(N,) probabilities in the order of `values`."""
        return self.log_probs.to(real_dtype(self.log_probs.device)).exp()

    def atoms(self, c: Condition) -> tuple[Tensor, Tensor]:
        return self.values, self.probs

    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        return c.with_value(self.values[draws.categorical("law", self.probs)].to(c.value.dtype))


class NeighbourBank(Bank):
    """The observed conditions, weighted by p̂^(−a) with a k-nearest-neighbour density: a = 0 training, 1 flattened.

    Args:
        conditions: (N, D).
        exponent: a, any finite number.
        k: of the density estimate, in [1, N − 1].

    Raises:
        CbdmError: conditions as of `Bank`, an exponent that is not finite, or k out of range.
    """

    def __init__(self, conditions: Tensor, exponent: float = 1.0, k: int = 10) -> None:
        super().__init__(conditions)
        if not math.isfinite(k) or int(k) != k:
            raise CbdmError(f"k of the nearest neighbours must be a whole number, got {k}: write for example knn:1,10")
        self._keep(conditions, -_finite(exponent) * knn_log_density(conditions, int(k)))


class KernelBank(Bank):
    """The observed conditions, weighted by p̂^(−a) with a Gaussian kernel density: a = 0 training, 1 flattened.

    Args:
        conditions: (N, D).
        exponent: a, any finite number.
        bandwidth: h in standard deviations, 0 for Scott's rule.

    Raises:
        CbdmError: conditions as of `Bank`, an exponent that is not finite, or h < 0.
    """

    def __init__(self, conditions: Tensor, exponent: float = 1.0, bandwidth: float = 0.0) -> None:
        super().__init__(conditions)
        self._keep(conditions, -_finite(exponent) * kernel_log_density(conditions, bandwidth))


class Combinations(Bank):
    """The observed combinations of a multi-label condition, π ∝ n^κ: κ = 1 training, 0 each combination alike.

    Args:
        conditions: (N, K) multi-hot rows.
        kappa: κ, any finite number.

    Raises:
        CbdmError: conditions as of `Bank`, or κ that is not finite.
    """

    def __init__(self, conditions: Tensor, kappa: float = 0.0) -> None:
        super().__init__(conditions)
        values, counts = torch.unique(conditions, dim=0, return_counts=True)
        self._keep(values, _finite(kappa) * counts.double().log())


class Gaussian(ConditionPrior):
    """N(μ, w² Σ) with the mean and covariance of the observed conditions.

    Args:
        conditions: (N, D), N ≥ 2.
        widening: w > 0; 1 is the fitted Gaussian, above 1 it reaches out to rarer conditions.

    Raises:
        CbdmError: fewer than two conditions, or a widening that is not above 0.
    """

    made_from = "conditions"
    mean: Tensor
    root: Tensor

    def __init__(self, conditions: Tensor, widening: float = 1.0) -> None:
        super().__init__()
        table = _checked(conditions)
        if len(table) < 2:
            raise CbdmError("a Gaussian law needs 2 observed conditions or more, got 1")
        if not 0 < widening < math.inf:
            raise CbdmError(f"a Gaussian law needs a widening above 0, got {widening}")
        centred = table - table.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / (len(table) - 1))
        self.register_buffer("mean", table.mean(0), persistent=False)
        # Eigenvectors rather than Cholesky: a covariance without full rank is a law too.
        self.register_buffer("root", widening * vectors * values.clamp(min=0).sqrt(), persistent=False)

    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        z = draws.normal("law", len(self.mean), dtype=self.mean.dtype)
        return c.with_value((self.mean + z @ self.root.T).to(c.value.dtype))


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise CbdmError(f"the exponent of a law must be a finite number, got {number}")
    return float(number)

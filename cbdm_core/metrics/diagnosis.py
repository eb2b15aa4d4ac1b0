"""Where in the noise a network loses a class: what it has underfitted there, and what it has memorised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.denoising import Denoiser, DenoisingErrors, denoising_errors
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.metrics.pooled_gaussian import PooledGaussian
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.schedules import NoiseSchedule

__all__ = ["Contrast", "Diagnosis", "diagnose", "noise_levels"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """One denoising error against another, at T times.

    Args:
        error: (…, T) the one, of ε̂.
        against: (…, T) the other.
        standard_error: (…, T) of their difference; NaN where a class has one image.
    """

    error: Tensor
    against: Tensor
    standard_error: Tensor

    @property
    def difference(self) -> Tensor:
        """(…, T) the one less the other, in units of ‖ε̂ − ε‖²."""
        return self.error - self.against

    @property
    def ratio(self) -> Tensor:
        """(…, T) the one over the other, the same in ε, x_0 and v; 1 where they agree."""
        return self.error / self.against

    def beyond_chance(self, errors: float = 2.0) -> Tensor:
        """(…, T) bool: a difference of more than so many standard errors; False where that is not known."""
        return self.difference.abs() > errors * self.standard_error

    def over(self, labels: Sequence[int]) -> Contrast:
        """(T,) of a group: the means over those of its classes that are known."""
        rows = torch.tensor([y for y in labels if not self.difference[y].isnan().any()], dtype=torch.long)
        error = self.standard_error[rows].square().sum(0).sqrt() / max(1, len(rows))
        return Contrast(self.error[rows].mean(0), self.against[rows].mean(0), error)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The denoising errors of a network for each class and noise level, and what they are to be held against.

    Args:
        times: (T,) noise levels.
        x_0_factor: (T,) σ_t²/α_t², which makes ‖x̂_0 − x_0‖² of an error of ε̂.
        counts: (K,) training images.
        held_out_counts: (K,) held-out images; all 0 where `folds` is not.
        underfitted: (K, T) the network against the denoiser of the pooled Gaussian, on held-out images.
        memorised: (K, T) the network on held-out against training images; NaN throughout without held-out images.
        effective_number: (K, T) of images that a noised training image could come from.
        folds: 0, or the folds of training images by which the Gaussian was fitted on the others; `underfitted` is then
            of training images.
    """

    times: Tensor
    x_0_factor: Tensor
    counts: Tensor
    held_out_counts: Tensor
    underfitted: Contrast
    memorised: Contrast
    effective_number: Tensor
    folds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in ε and in x_0; what is not known is None."""
        sizes = {"training_counts": self.counts.tolist(), "held_out_counts": self.held_out_counts.tolist()}
        tables = {
            "training": self.underfitted.error if self.folds else self.memorised.against,
            "held_out": self.memorised.error,
            "gaussian": self.underfitted.against,
            "underfitted": self.underfitted.difference,
            "underfitted_standard_error": self.underfitted.standard_error,
            "memorised": self.memorised.difference,
            "memorised_standard_error": self.memorised.standard_error,
        }
        return {
            "times": self.times.tolist(),
            **sizes,
            "folds": self.folds,
            "eps_error": {name: _plain(table) for name, table in tables.items()},
            "x_0_error": {name: _plain(table * self.x_0_factor) for name, table in tables.items()},
            "underfitted_ratio": _plain(self.underfitted.ratio),
            "memorised_ratio": _plain(self.memorised.ratio),
            "effective_number": _plain(self.effective_number),
        }


def noise_levels(schedule: NoiseSchedule, levels: int) -> Tensor:
    """(T,) float64, the middles of so many equal parts of the schedule's domain, at points of its table if it has one.

    Raises:
        CbdmError: levels < 1, or more than the table has.
    """
    (low, high), table = schedule.domain, getattr(schedule, "steps", None)
    if levels < 1 or (table is not None and levels > table):
        most = "" if table is None else f" to {table}, the schedule's steps"
        raise CbdmError(f"{levels} noise levels: give 1 or more{most}")
    if table is None:
        return low + (high - low) * (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    middles = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels * table
    return (middles - 1e-9).ceil() / table  # 0.15 · 1000 is a bit above 150


def diagnose(
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    training: Dataset,
    held_out: Dataset | None,
    times: Tensor,
    *,
    queries: int = 64,
    folds: int = 0,
    seed: int = 0,
    batch_size: int = 256,
) -> Diagnosis:
    """The errors of a network on training and held-out images, against the denoiser of the pooled Gaussian.

    Held-out images tell both: memorised is the error on them less that on training images, underfitted is the error on
    them less that of `PooledGaussian`, fitted to the training images. Without them a trained network's memory cannot be
    measured: it has seen every image there is. What can be is the Gaussian's error on images that it has not seen, by
    fitting it anew without each fold. The network's error on the same images, which it has seen, less that is at most
    what it has underfitted, as far as training errors are below those on new images.

    Args:
        network: in eval mode.
        schedule: the one it was trained under.
        training: what it was trained on.
        held_out: examples of the same law that it never saw; None with `folds`.
        times: (T,) within the schedule's domain.
        queries: noised images for each class and set, ≥ 1.
        folds: 0 with held-out images, else 2 or more.
        seed: of the choice of images, the noise and the folds.
        batch_size: rows of one call of the network, ≥ 1.

    Raises:
        CbdmError: held-out images and folds, neither, one fold, or another set of classes; and as `denoising_errors`.
    """
    _check(training, held_out, folds)
    where = next(iter(network.parameters()), times).device
    how: dict[str, Any] = {"queries": queries, "seed": seed, "batch_size": batch_size}
    device: dict[str, Any] = {**how, "device": where}
    seen = denoising_errors(_of_network(network, training, where), training, schedule, times, **device)
    if held_out is None:
        gaussian = denoising_errors(_by_folds(training, schedule, folds, seed), training, schedule, times, **how)
        underfitted, memorised = _paired(seen, gaussian), _unknown(seen)
    else:
        new = denoising_errors(_of_network(network, held_out, where), held_out, schedule, times, **device)
        gaussian = denoising_errors(_of_gaussian(training, held_out, schedule), held_out, schedule, times, **how)
        underfitted, memorised = _paired(new, gaussian), _apart(new, seen)
    return Diagnosis(
        times=times,
        x_0_factor=seen.x_0_factor,
        counts=training.counts(),
        held_out_counts=torch.zeros_like(training.counts()) if held_out is None else held_out.counts(),
        underfitted=underfitted,
        memorised=memorised,
        effective_number=effective_number(
            training.model_input(), training.y, training.num_classes, schedule, times, queries=queries, seed=seed
        ),
        folds=folds,
    )


def _check(training: Dataset, held_out: Dataset | None, folds: int) -> None:
    if held_out is None and folds < 2:
        raise CbdmError(f"folds = {folds} without held-out images: give 2 folds or more")
    if held_out is not None and folds:
        raise CbdmError(f"folds = {folds} with held-out images, which tell more: give one of the two")
    if held_out is not None and (held_out.shape, held_out.class_names) != (training.shape, training.class_names):
        raise CbdmError(
            f"held-out examples are {held_out.shape} in {held_out.num_classes} classes, the training set's "
            f"{training.shape} in {training.num_classes}: give examples of the same law"
        )


def _of_network(network: ScoreNetwork, data: Dataset, device: torch.device) -> Denoiser:
    values = data.condition_values().to(device)
    return lambda x_t, t, rows: network(x_t, t, Condition.of(values[rows]))


def _of_gaussian(training: Dataset, data: Dataset, schedule: NoiseSchedule) -> Denoiser:
    gaussian = PooledGaussian.of(training.model_input(), training.y, training.num_classes)
    return lambda x_t, t, rows: gaussian.eps(x_t, data.y[rows], *schedule(t))


def _by_folds(data: Dataset, schedule: NoiseSchedule, folds: int, seed: int) -> Denoiser:
    """Each row by the Gaussian of the other folds; NaN where its class has no other image."""
    fold, x = _folds(data.y, folds, seed), data.model_input()
    fitted = [PooledGaussian.of(x[fold != f], data.y[fold != f], data.num_classes) for f in range(folds)]

    def denoise(x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        eps_hat, (alpha_t, sigma_t) = torch.empty_like(x_t), schedule(t)
        for f in fold[rows].unique().tolist():
            of = fold[rows] == f
            eps_hat[of] = fitted[f].eps(x_t[of], data.y[rows[of]], alpha_t[of], sigma_t[of])
        return eps_hat

    return denoise


def _folds(y: Tensor, folds: int, seed: int) -> Tensor:
    """(N,) long, the fold of each row: a class's rows, shuffled, in turn."""
    order = torch.argsort(Draws(seed, 0, torch.arange(len(y))).bits("folds", 1)[:, 0])
    fold = torch.zeros_like(y)
    for label in y.unique().tolist():
        rows = order[y[order] == label]
        fold[rows] = torch.arange(len(rows)) % folds
    return fold


def _paired(one: DenoisingErrors, other: DenoisingErrors) -> Contrast:
    """Two denoisers on the same noised images."""
    return Contrast(one.by_class()[0], other.by_class()[0], one.minus(other).by_class()[1])


def _apart(one: DenoisingErrors, other: DenoisingErrors) -> Contrast:
    """One denoiser on different images."""
    (mean, error), (mean_other, error_other) = one.by_class(), other.by_class()
    return Contrast(mean, mean_other, (error.square() + error_other.square()).sqrt())


def _unknown(seen: DenoisingErrors) -> Contrast:
    mean, _ = seen.by_class()
    nothing = torch.full_like(mean, torch.nan)
    return Contrast(nothing, mean, nothing)


def _plain(table: Tensor) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in table.tolist()]

"""Are samples copies of training examples, and how much do the samples of a class differ from one another?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.bounds import CHUNK, distances
from cbdm_core.metrics.checks import checked_features, checked_pair

__all__ = ["Memorisation", "diversity", "memorisation", "relative_diversity"]


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How near each of M samples is to the training set and to a held-out set of the same law.

    Args:
        nearest_training: (M,) long, the row number of the nearest training example, to show beside the sample.
        nearest_held_out: (M,) long, the same among the held-out examples.
        ratio: (M,) float64, distance to the first over distance to the second; 0 for a copy of a training example, 1
            where both are 0.
        nearer: (M,) float64, 1 where the training example is the nearer of the two, ½ at a tie, 0 elsewhere.
        expected: what the mean of `nearer` is for a fair sampler: N_train/(N_train + N_held). For a sample independent
            of both sets all their rows are exchangeable, and any of them is as likely to be the nearest.
    """

    nearest_training: Tensor
    nearest_held_out: Tensor
    ratio: Tensor
    nearer: Tensor
    expected: float

    @property
    def fraction(self) -> float:
        """The fraction of samples nearer to training than to held-out examples, in [0, 1]."""
        return float(self.nearer.mean())

    @property
    def copied(self) -> float:
        """(fraction − expected)/(1 − expected): the share of copies among otherwise fair samples that explains it.

        0 on average for a fair sampler (below 0 half the time), 1 if every sample is nearer to training.
        """
        return (self.fraction - self.expected) / (1 - self.expected)


def memorisation(fake: Tensor, training: Tensor, held_out: Tensor) -> Memorisation:
    """The nearest training and held-out neighbours of each sample.

    Both sets have to come from one law: of a long-tailed training set and its remainder call it class by class, for the
    two differ in their classes.

    Args:
        fake: (M, D) features of samples, M ≥ 1.
        training: (N, D) features of what the model was trained on, N ≥ 1.
        held_out: (H, D) features of examples of the same law that it never saw, H ≥ 1; sizes may differ.

    Returns:
        See `Memorisation`; memory is O(N + H) times a chunk of 512 samples.

    Raises:
        CbdmError: no row, NaN or infinite values, or different D.
    """
    training, fake = checked_pair(training, fake)
    held_out, fake = checked_pair(held_out, fake)
    to_training, nearest_training = _nearest(fake, training)
    to_held_out, nearest_held_out = _nearest(fake, held_out)
    ratio = torch.where((to_training == 0) & (to_held_out == 0), 1.0, to_training / to_held_out)
    nearer = (to_training < to_held_out).double() + 0.5 * (to_training == to_held_out)
    expected = len(training) / (len(training) + len(held_out))
    return Memorisation(nearest_training, nearest_held_out, ratio, nearer, expected)


def diversity(features: Tensor, labels: Tensor) -> dict[int, float]:
    """The mean distance between two different rows of one class, for each class of 2 rows or more.

    Args:
        features: (N, D).
        labels: (N,) long.

    Returns:
        Label → mean_{i≠j} ‖x_i − x_j‖ in units of the features; without bias at any number of rows.

    Raises:
        CbdmError: NaN or infinite values, or lengths that disagree.
    """
    features = checked_features(features, "given", least=0)
    if labels.shape != (len(features),):
        raise CbdmError(f"{len(features)} feature rows need {len(features)} labels, got {tuple(labels.shape)}")
    found = {}
    for label in labels.unique().tolist():
        rows = features[labels == label]
        if len(rows) > 1:
            total = sum(float(distances(part, rows).sum()) for part in rows.split(CHUNK))
            found[label] = total / (len(rows) * (len(rows) - 1))
    return found


def relative_diversity(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> dict[int, float]:
    """The `diversity` of samples over that of the data: 1 as varied as they are, 0 all alike.

    Args:
        real: (N, D) features.
        real_labels: (N,) long.
        fake: (M, D) features.
        fake_labels: (M,) long, the class each sample was asked for; a sample of another class raises the figure.

    Returns:
        Label → ratio ≥ 0, of the classes with 2 rows on either side whose data are not all alike.

    Raises:
        CbdmError: as `diversity`.
    """
    data, samples = diversity(real, real_labels), diversity(fake, fake_labels)
    return {label: samples[label] / data[label] for label in data if data[label] > 0 and label in samples}


def _nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """(distance, row number) of the point nearest to each query."""
    found = [distances(rows, points).min(1) for rows in queries.split(CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])

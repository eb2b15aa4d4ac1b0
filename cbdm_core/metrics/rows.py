"""The rows of an evaluation as an extractor sees them: what every score is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.classifier import FeatureExtractor

__all__ = ["EvaluatedRows", "rows_of"]


@dataclass(frozen=True, eq=False)
class EvaluatedRows:
    """Rows as the extractor sees them.

    Args:
        features: (N, D) float64.
        labels: (N,) long, the class each row is of or was asked for.
        log_probs: (N, K) float64.
        nearer: (N,) float64 of `Memorisation`, NaN where nothing is known.
        expected: (N,) float64, what `nearer` is on average without copies.
        nearer_pixels: (N,) float64, as `nearer`, in pixels instead of features.
        authentic: (N,) float64 of `authentic`, NaN where nothing is known.
    """

    features: Tensor
    labels: Tensor
    log_probs: Tensor
    nearer: Tensor
    expected: Tensor
    nearer_pixels: Tensor
    authentic: Tensor

    @classmethod
    def by(cls, classifier: FeatureExtractor, x: Tensor, labels: Tensor) -> EvaluatedRows:
        return cls.of_output(classifier(x), labels)

    @classmethod
    def of_output(cls, outputs: tuple[Tensor, Tensor], labels: Tensor) -> EvaluatedRows:
        """Of what an extractor has said: features and log-probabilities."""
        features, log_probs = rows_of(outputs, len(labels))
        unknown = torch.full((len(labels),), torch.nan, dtype=torch.float64)
        return cls(features, labels, log_probs, unknown, unknown, unknown, unknown)

    def of(self, chosen: Sequence[int]) -> EvaluatedRows:
        """The rows of these labels."""
        rows = torch.isin(self.labels, torch.tensor(chosen))
        return EvaluatedRows(*(getattr(self, column.name)[rows] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.features)


def rows_of(outputs: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """On the CPU what an extractor has said, of so many rows.

    Raises:
        CbdmError: outputs of another number of rows.
    """
    features, log_probs = (part.cpu() for part in outputs)
    if not len(features) == len(log_probs) == count:
        raise CbdmError(
            f"{len(features)} feature rows and {len(log_probs)} of probabilities are known of {count} examples: give "
            "those of this very set"
        )
    return features, log_probs

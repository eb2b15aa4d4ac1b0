"""Features as every metric takes them: matrices of finite numbers, with rows enough, or refused in one line."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["checked_features", "checked_pair"]


def checked_features(features: Tensor, what: str, least: int, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """(N, D) in float64, or in their own precision where `dtype` is None; finite, with at least `least` rows.

    Args:
        features: (N, D).
        what: the rows are, for messages: "real", "generated".
        least: rows, ≥ 0.
        dtype: to convert to.

    Raises:
        CbdmError: another number of axes, too few rows, or rows with NaN or infinite values.
    """
    if features.ndim != 2:
        raise CbdmError(f"{what} features must be (N, D), got {tuple(features.shape)}: flatten each row")
    if features.shape[1] == 0:
        raise CbdmError(f"{what} features of shape {tuple(features.shape)} hold no number: give one or more a row")
    if len(features) < least:
        raise CbdmError(f"{len(features)} {what} feature rows are too few: give {least} or more")
    # A sum is finite only if all numbers are, and costs a twentieth of looking at each.
    bad = 0 if bool(features.sum().isfinite()) else int((~torch.isfinite(features).all(1)).sum())
    if bad:
        raise CbdmError(
            f"{bad} of {len(features)} {what} feature rows hold NaN or infinite values: remove or mend them"
        )
    return features.detach().to(dtype or features.dtype)


def checked_pair(
    real: Tensor, fake: Tensor, least: int = 1, dtype: torch.dtype | None = torch.float64
) -> tuple[Tensor, Tensor]:
    """Both sets as `checked_features` gives them, and of the same D.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        least: rows of each, ≥ 0.
        dtype: to convert to; None keeps their own.

    Raises:
        CbdmError: what `checked_features` refuses, or different D.
    """
    real, fake = checked_features(real, "real", least, dtype), checked_features(fake, "generated", least, dtype)
    if real.shape[1] != fake.shape[1]:
        raise CbdmError(
            f"real features have {real.shape[1]} numbers, generated ones {fake.shape[1]}: use one extractor"
        )
    return real, fake

"""The units that floats are written in, and those a network sees: standardised, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError

__all__ = ["Units"]

_ROWS = 1024  # at a time in float64
_DIGITS = 6  # of the scale: what the order of a sum changes is far below


@dataclass(frozen=True)
class Units:
    """x = mean + scale · z, a number each for every channel (column) of x; a network sees z.

    Args:
        mean: C finite numbers, for channels of (N, C, *spatial) or columns of (N, C).
        scale: C finite numbers > 0.

    Raises:
        CbdmError: of other lengths, or a number that is not allowed.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.scale) or not self.mean:
            raise CbdmError(f"{len(self.mean)} means and {len(self.scale)} scales: give one of each for every channel")
        if not np.isfinite(self.mean).all() or not (np.isfinite(self.scale) & (np.array(self.scale) > 0)).all():
            raise CbdmError("the means of units are finite and their scales finite and above 0: standardise anew")

    @classmethod
    def identity(cls, channels: int) -> Units:
        """z = x."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def standardising(cls, x: Tensor | MappedRows) -> Units:
        """Those in which each channel, or column, has mean 0 and variance 1 over the examples and places.

        A channel of one value throughout keeps its scale, 1. Mean and scale are rounded to a millionth of the scale,
        so that neither the number of threads nor the machine changes them.

        Args:
            x: (N, C, …) finite floats, N ≥ 1.
        """
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        count = x.numel() // x.shape[1]
        mean = sum((part.double().sum(axes) for part in x.split(_ROWS)), torch.zeros(())) / count
        shaped = mean.reshape(_against(x))
        square = sum(((part.double() - shaped).square().sum(axes) for part in x.split(_ROWS)), torch.zeros(()))
        ends = [(part.amin(axes), part.amax(axes)) for part in x.split(_ROWS)]
        varies = torch.stack([low for low, _ in ends]).amin(0) < torch.stack([high for _, high in ends]).amax(0)
        scale = torch.where(varies, (square / count).sqrt(), 1.0).tolist()
        places = [_DIGITS - int(np.floor(np.log10(s))) for s in scale]
        rounded = zip(mean.tolist(), scale, places, strict=True)
        means, scales = zip(*[(float(np.round(m, p)), float(np.round(s, p))) for m, s, p in rounded], strict=True)
        return cls(means, scales)

    @classmethod
    def of_dict(cls, values: Mapping[str, Sequence[float]]) -> Units:
        """The inverse of `to_dict`.

        Raises:
            CbdmError: what is none.
        """
        try:
            return cls(tuple(map(float, values["mean"])), tuple(map(float, values["scale"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CbdmError(f"units are tables of mean and scale, numbers each: {error}; restore them") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for configurations."""
        return {"mean": list(self.mean), "scale": list(self.scale)}

    def to_model(self, x: Tensor) -> Tensor:
        """(B, C, …) float32 z = (x − mean)/scale, computed in `real_dtype`."""
        mean, scale = self._of(x)
        return ((x.to(mean.dtype) - mean) / scale).float()

    def from_model(self, z: Tensor) -> Tensor:
        """(B, C, …) float32 x = mean + scale · z; `to_model` and back is x to 2⁻²³(|x| + |x − mean|) in float64."""
        mean, scale = self._of(z)
        return (mean + scale * z.to(mean.dtype)).float()

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] != len(self.mean):
            raise CbdmError(f"examples of shape {tuple(x.shape[1:])} have no {len(self.mean)} channels, as their units")
        dtype = real_dtype(x.device)
        pair = (torch.tensor(values, dtype=dtype, device=x.device) for values in (self.mean, self.scale))
        mean, scale = (values.reshape(_against(x)) for values in pair)
        return mean, scale


def _against(x: Tensor | MappedRows) -> tuple[int, ...]:
    """The shape of a value for each channel of (B, C, …)."""
    return (1, x.shape[1], *[1] * (x.ndim - 2))

"""The embedded digits told by what can be measured on them: slant and thickness, or attributes that go together."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.regions import REGIONS, by_combination, by_density
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError

__all__ = ["ATTRIBUTES", "attributes", "digits_attributes", "digits_pose", "pose"]

ATTRIBUTES = ("hole", "slanted", "bold", "wide")


def _ink(images: Tensor) -> Tensor:
    """(N, H, W) float64 in [0, 1] from (N, 1, H, W) bytes."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1:
        raise CbdmError(f"a digit is measured on uint8 (N, 1, H, W), got {images.dtype} {tuple(images.shape)}")
    return images[:, 0].double() / 255


def pose(images: Tensor) -> Tensor:
    """(N, 2) float64: the slant in radians and the stroke thickness in pixels.

    Slant: arctan(μ_xy/μ_yy), the shear of the ink's second central moments, positive to the right. Thickness: twice the
    ink over the length of its edge, Σ I / Σ |∇I|, which for a long bar of width w is w.

    Args:
        images: (N, 1, H, W) uint8, bright ink; an empty image has slant and thickness 0.
    """
    ink = _ink(images)
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in ink.shape[1:])
    total = ink.sum((1, 2)).clamp(min=1e-12)
    y = rows[None, :, None] - (ink * rows[:, None]).sum((1, 2))[:, None, None] / total[:, None, None]
    x = columns[None, None, :] - (ink * columns).sum((1, 2))[:, None, None] / total[:, None, None]
    shear = (ink * x * y).sum((1, 2)) / (ink * y * y).sum((1, 2)).clamp(min=1e-12)
    padded = torch.nn.functional.pad(ink, (1, 1, 1, 1))
    down = (padded[:, 1:] - padded[:, :-1])[:, :, :-1]
    right = (padded[:, :, 1:] - padded[:, :, :-1])[:, :-1]
    edge = (down.square() + right.square()).sqrt().sum((1, 2)).clamp(min=1e-12)
    # Rows count downwards, so that a slant to the right has a negative shear.
    return torch.stack([torch.atan(-shear), 2 * ink.sum((1, 2)) / edge], dim=1)


def attributes(images: Tensor) -> Tensor:
    """(N, 4) int64 of 0 and 1, in the order of `ATTRIBUTES`.

    hole: background that the border does not reach, ink being ≥ ½ of the brightest pixel. slanted, bold: slant and
    thickness (`pose`) among the largest fifth of these images. wide: so is the horizontal spread of the ink.

    Args:
        images: (N, 1, H, W) uint8, bright ink.
    """
    ink = _ink(images)
    measured = pose(images)
    columns = torch.arange(ink.shape[2], dtype=torch.float64)
    total = ink.sum((1, 2)).clamp(min=1e-12)
    mean = (ink * columns).sum((1, 2)) / total
    spread = (ink * (columns - mean[:, None, None]).square()).sum((1, 2)) / total
    large = [v > v.quantile(0.8) for v in (measured[:, 0], measured[:, 1], spread)]
    return torch.stack([_holes(ink), *large], dim=1).long()


def _holes(ink: Tensor) -> Tensor:
    found = []
    for image in ink.numpy():
        regions = np.zeros((image.shape[0] + 2, image.shape[1] + 2), dtype=np.int32)
        label(np.pad(image < 0.5 * image.max(), 1, constant_values=True), output=regions)
        found.append(bool(regions.max() > 1))  # 4-connected; the border is one of them
    return torch.tensor(found)


def digits_pose(*, neighbours: int = 10) -> Dataset:
    """The digits told by (slant, thickness), standardised; labels are regions of high, medium and low density.

    Density is that of the `neighbours`-th nearest other condition; each region holds a third of the images.

    Args:
        neighbours: k ≥ 1 of the density.
    """
    data = digits()
    measured = pose(data.x[:])
    condition = (measured - measured.mean(0)) / measured.std(0)
    labels = by_density(condition, neighbours)
    return Dataset(data.x, labels, REGIONS, condition.float(), condition_names=("slant", "thickness"))


def digits_attributes() -> Dataset:
    """The digits told by four attributes (`attributes`); labels are regions of common and rare combinations."""
    data = digits()
    condition = attributes(data.x[:])
    return Dataset(data.x, by_combination(condition), REGIONS, condition, condition_names=ATTRIBUTES)

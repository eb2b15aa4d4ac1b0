"""MedMNIST, from the npz file of one of its sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.labelling import Labelling, from_attributes, from_classes
from cbdm_core.data.npz import read_arrays
from cbdm_core.data.places import place_of
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["medmnist"]

_PARTS = ("train", "val", "test")


def medmnist(*, root: str | Path | None = None, name: str | None = None, part: str = "train") -> Dataset:
    """One of the sets of MedMNIST: medical pictures, or volumes, with a class or several labels each.

    Sets of several labels, (N, A) of 0 and 1 as `chestmnist` has them, have them as their condition; their classes are
    then regions of common and rare combinations, counted over all parts. Classes are called by their numbers, and are
    those of all parts.

    Args:
        root: an npz file, such as `pathmnist.npz` or `pathmnist_64.npz`, or a folder of such; default
            $CBDM_DATA/medmnist.
        name: of the file in the folder, without `.npz`; None takes the only one.
        part: "train", "val" or "test".

    Raises:
        CbdmError: no such file, a damaged one, one without arrays such as `train_images`, or another part.

    Source: Yang et al., MedMNIST v2, Scientific Data 10, 2023.
    """
    if part not in _PARTS:
        raise unknown_name("part of MedMNIST", part, _PARTS)
    path = _file(place_of("medmnist", root), name)
    wanted = [f"{part}_images", *(f"{p}_labels" for p in _PARTS)]
    arrays = read_arrays(path, lambda there: [_one_of(path, array, there) for array in wanted])
    x, labels = arrays[wanted[0]], [arrays[array] for array in wanted[1:]]
    start = sum(len(y) for y in labels[: _PARTS.index(part)])
    labelling = _labelling(path, labels)
    rows = slice(start, start + len(labels[_PARTS.index(part)]))
    condition = None if labelling.condition is None else labelling.condition[rows]
    return Dataset(torch.from_numpy(_channels_first(path, x)), labelling.labels[rows], labelling.class_names, condition)


def _file(place: Path, name: str | None) -> Path:
    if place.is_file():
        if name is not None:
            raise CbdmError(f"{place} is a file, and name = {name!r} is of one in a folder: leave it out")
        return place
    there = {file.stem: file for file in sorted(place.glob("*.npz"))}
    if name is not None and name not in there:
        raise unknown_name(f"npz file of {place}", name, there)
    if name is None and len(there) != 1:
        raise CbdmError(f"{place} holds {len(there)} npz files ({', '.join(there) or 'none'}): give name=ONE_OF_THEM")
    return next(iter(there.values())) if name is None else there[name]


def _one_of(path: Path, name: str, there: list[str]) -> str:
    if name not in there:
        raise unknown_name(f"array of {path}", name, there)
    return name


def _labelling(path: Path, labels: list[np.ndarray]) -> Labelling:
    """The labels of all parts, one part after another."""
    for y in labels:
        if y.dtype.kind not in "iu" or y.ndim != 2 or y.shape[1:] != labels[0].shape[1:] or y.shape[1] == 0:
            raise CbdmError(f"{path} has labels {y.dtype} {y.shape}: MedMNIST has whole numbers (N, 1) or (N, A)")
    y = np.concatenate(labels)
    if y.shape[1] == 1:
        if (y < 0).any():
            raise CbdmError(f"{path} has the label {int(y.min())}: labels are numbered from 0")
        return from_classes(y[:, 0].tolist())
    if not np.isin(y, (0, 1)).all():
        raise CbdmError(f"{path} has several labels an image, one of them {int(y.max())}: they must be 0 or 1")
    return from_attributes(y)


def _channels_first(path: Path, x: np.ndarray) -> np.ndarray:
    """(N, C, …) of (N, H, W), (N, H, W, 3) or volumes (N, D, H, W)."""
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise CbdmError(f"{path} has images {x.dtype} {x.shape}: MedMNIST has uint8 (N, H, W), (N, H, W, 3) or volumes")
    return np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 and x.shape[-1] == 3 else x[:, None])

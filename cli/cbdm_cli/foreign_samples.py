"""Samples that any program drew: an npz file of images and labels, or a folder of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from cbdm_core.data.dataset import Dataset, from_uint8
from cbdm_core.data.folders import folder
from cbdm_core.data.npz import read_arrays, whole
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["Samples", "read_samples"]

_EXAMPLES = ("x", "samples", "images", "arr_0")
_LABELS = ("y", "labels", "arr_1")
_NAMES = "class_names"
_LARGEST = float(np.finfo(np.float32).max) ** 0.5  # its square is finite in float32


@dataclass(frozen=True, eq=False)
class Samples:
    """What is to be judged.

    Args:
        x: (N, *shape) float32 in the model's range: images in [−1, 1], floats in the model's units.
        labels: (N,) long, the class each was asked for.
        num_classes: K.
    """

    x: Tensor
    labels: Tensor
    num_classes: int

    @property
    def counts(self) -> list[int]:
        """Samples of each class that has any."""
        return [n for n in torch.bincount(self.labels, minlength=self.num_classes).tolist() if n]

    @property
    def balanced(self) -> bool:
        """Whether every class has as many samples."""
        return len(set(self.counts)) == 1

    @property
    def labels_text(self) -> str:
        """How balanced the labels are."""
        least, most = min(self.counts), max(self.counts)
        return f"exactly balanced: {least} a class" if self.balanced else f"not balanced: {least} to {most} a class"


def read_samples(path: Path, data: Dataset) -> Samples:
    """The samples of a file or folder, of the shape and classes of the data set.

    An npz file holds images under x, samples, images or arr_0, and labels under y, labels or arr_1: numbers 0 … K − 1
    in the order of the data's classes, or, with an array `class_names`, in the order of these names. Images are uint8
    from 0 to 255 or floats in [−1, 1], with channels first or last, and one channel may go without an axis; vectors and
    other floats have the shape and the units of the data. In a folder each class has a folder of its name with images,
    as the data source `folder` reads them.

    Args:
        path: of the file or folder.
        data: the full data set, for the shape of an example and the names of classes.

    Raises:
        CbdmError: a file that is missing, damaged, pickled or without labels, examples of another shape, kind or range,
            classes that the data do not have, or a class of the data without a sample.
    """
    samples = _of_folder(path, data) if path.is_dir() else _of_npz(path, data)
    there = torch.bincount(samples.labels, minlength=data.num_classes)
    without = [data.class_names[c] for c in ((there == 0) & (data.counts() > 0)).nonzero()[:, 0].tolist()]
    if without:
        raise CbdmError(
            f"{path} has no sample of class {', '.join(without)}: draw some of each of the {data.num_classes} classes"
        )
    return samples


def _of_folder(path: Path, data: Dataset) -> Samples:
    if not data.is_images:
        raise CbdmError(f"{path} is a folder, and the data are no images: save the samples as npz")
    found = folder(path=path)
    x = found.x[:]
    if x.shape[1] == 1 and data.shape[0] == 3:  # files of a colour model that all came out gray
        x = repeat(x, "n 1 h w -> n c h w", c=3)
    if tuple(x.shape[1:]) != data.shape:
        raise CbdmError(f"{path} has images of shape {tuple(x.shape[1:])}, the data {data.shape}: match them")
    labels = _renamed(path, found.class_names, data)[found.y]
    return Samples(from_uint8(x), labels, data.num_classes)


def _renamed(path: Path, names: Sequence[str], data: Dataset) -> Tensor:
    """(len(names),) long, the data's label of each name."""
    unknown = [name for name in names if name not in data.class_names]
    if unknown:
        raise CbdmError(
            f"{path} has the class {unknown[0]!r}, which the data do not have: their classes are "
            f"{', '.join(data.class_names)}"
        )
    return torch.tensor([data.class_names.index(name) for name in names])


def _of_npz(path: Path, data: Dataset) -> Samples:
    arrays = _arrays(path)
    examples, labels = _one_of(path, arrays, _EXAMPLES), _one_of(path, arrays, _LABELS)
    if examples is None:
        raise CbdmError(
            f"{path} has no samples: save them as one of {', '.join(_EXAMPLES)}; it holds {_listed(arrays)}"
        )
    if labels is None:
        raise CbdmError(
            f"{path} has no labels, and figures are by class: add the class each sample was asked for, as in "
            "numpy.savez(file, images=x, labels=y)"
        )
    x = _examples(path, examples, data)
    y = _labels(path, labels, len(x))
    names = arrays.get(_NAMES)
    known = data.class_names if names is None else _class_names(path, names)
    wrong = y[(y < 0) | (y >= len(known))]
    if len(wrong):
        raise CbdmError(
            f"{path}: label {int(wrong[0])} is out of range: {len(known)} classes have labels 0 … {len(known) - 1}"
        )
    return Samples(x, _renamed(path, known, data)[y], data.num_classes)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file that have a role."""
    if not path.exists():
        raise CbdmError(f"{path} is not there: give an npz file, a folder of class folders, or a run folder")
    return read_arrays(path, lambda there: [name for name in there if name in (*_EXAMPLES, *_LABELS, _NAMES)])


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(arrays) or "none of the arrays that are read"


def _one_of(path: Path, arrays: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    found = [name for name in names if name in arrays]
    if len(found) > 1:
        raise CbdmError(f"{path} holds {found[0]} and {found[1]}, which mean the same here: keep the one to be judged")
    return arrays[found[0]] if found else None


def _labels(path: Path, y: np.ndarray, count: int) -> Tensor:
    if y.dtype.kind not in "iu":
        raise CbdmError(f"{path}: labels are {y.dtype}, they must be whole numbers: convert them with astype(int)")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (count,):
        raise CbdmError(f"{path}: {count} samples need {count} labels, got labels of shape {y.shape}")
    return torch.from_numpy(whole(y))


def _class_names(path: Path, names: np.ndarray) -> list[str]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise CbdmError(
            f"{path}: class_names are {names.dtype} of shape {names.shape}: save a one-dimensional array of text"
        )
    return [clean_text(name) for name in names.tolist()]


def _examples(path: Path, x: np.ndarray, data: Dataset) -> Tensor:
    """(N, *shape) float32 in the model's range."""
    if x.ndim == 0:
        raise CbdmError(f"{path} has 0 samples: give one or more of each class")
    if x.size == 0:
        raise CbdmError(f"{path} has samples of shape {x.shape}, which hold nothing: give one or more of each class")
    if not data.is_images:
        return _values(path, x, data)
    if x.dtype == np.uint8:
        return from_uint8(_channels_first(path, torch.from_numpy(x), data))
    if x.dtype.kind != "f":
        raise CbdmError(f"{path}: images are {x.dtype}: save uint8 from 0 to 255, or floats in [-1, 1]")
    _refuse_unfinite(path, x)
    low, high = float(x.min()), float(x.max())
    if low < -1 or high > 1:
        raise CbdmError(
            f"{path}: float images go from {low:g} to {high:g}, and are read in [-1, 1]: clip or rescale them, or save "
            "uint8"
        )
    if low >= 0:
        raise CbdmError(
            f"{path}: no float is below 0, so the images seem to be in [0, 1], and are read in [-1, 1]: save 2x - 1, "
            "or uint8"
        )
    return _channels_first(path, torch.from_numpy(x.astype(np.float32)), data)


def _values(path: Path, x: np.ndarray, data: Dataset) -> Tensor:
    if x.dtype.kind != "f" or x.shape[1:] != data.shape:
        what = "vectors" if len(data.shape) == 1 else "values"
        raise CbdmError(f"{path}: samples are {x.dtype} of shape {x.shape}: the data are float {what} {data.shape}")
    _refuse_unfinite(path, x)
    with np.errstate(over="ignore"):
        found = torch.from_numpy(x.astype(np.float32))
    if data.units is not None:
        found = data.units.to_model(found)
    size = found.abs().flatten().numpy()
    if size.max() > _LARGEST:
        raise CbdmError(
            f"{path}: a sample holds {x.reshape(-1)[size.argmax()]:g}, whose square overflows float32: numbers must be "
            f"within ±{_LARGEST:.1e}; draw them again"
        )
    return found


def _refuse_unfinite(path: Path, x: np.ndarray) -> None:
    rows = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
    if len(rows):
        raise CbdmError(
            f"{path}: {len(rows)} of {len(x)} samples hold NaN or infinite values, the first is row {rows[0]}: draw "
            "them again"
        )


def _channels_first(path: Path, x: Tensor, data: Dataset) -> Tensor:
    channels, *size = data.shape
    shape = tuple(x.shape[1:])
    if shape == data.shape:
        return x
    if shape == (*size, channels):
        return x.movedim(-1, 1)
    if channels == 1 and shape == tuple(size):
        return x.unsqueeze(1)
    raise CbdmError(f"{path} has images of shape {shape}, the data {data.shape}: match them (channels first or last)")

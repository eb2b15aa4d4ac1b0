"""Data from arrays in an npz file; nothing in the file is unpickled."""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.labelling import MOST_UNNAMED, Labelling, conditions_of, in_regions
from cbdm_core.data.mapped_rows import Layout
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError, CbdmWarning, closest, unknown_name
from cbdm_core.memory import check_memory
from cbdm_core.reading import clean_text

__all__ = ["DAMAGE", "implied_layout", "labels_of", "names_of_labels", "npz", "read_arrays", "whole"]

Kind = Literal["images", "values"]

_DEFAULT, _CONDITIONS = ("images", "labels"), "conditions"
_ROLES = (*_DEFAULT, _CONDITIONS)
_NAMES = {"labels": "class_names", _CONDITIONS: "condition_names"}
_OTHER_DEFAULTS = (("x", "y"), ("train_images", "train_labels"))
_CHANNELS = (1, 3)
_AS_VALUES = "kind=values (--set data.options.kind=values)"
_MOST_WORDS = 200  # characters of what numpy says, which may quote a damaged header whole
_INT64 = np.iinfo(np.int64).max
DAMAGE = (
    *(OSError, EOFError, ValueError, RuntimeError, KeyError, SyntaxError, MemoryError, OverflowError),
    *(IndexError, TypeError, AttributeError, AssertionError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)


def npz(
    *,
    path: str | Path,
    images: str = "images",
    labels: str = "labels",
    conditions: str = "conditions",
    split: str | None = None,
    layout: Layout | None = None,
    value_range: tuple[float, float] | None = None,
    kind: Kind | None = None,
    standardise: bool | None = None,
) -> Dataset:
    """A data set from arrays of an npz file: examples and their labels, and `class_names`, where there are some.

    Which arrays: `images` and `labels`; with a split, `{split}_images` and `{split}_labels` (as MedMNIST has them).
    Where neither the names nor a split are given, x and y or train_images and train_labels do as well, in this order.

    Where there are `conditions` (`{split}_conditions`), the network is told them and not the label: whole numbers or
    truth values that are all 0 or 1 are attributes, other numbers a vector, (N, D) or (N,). Examples that have
    conditions need no labels: regions of common and rare conditions stand for classes then. An array
    `condition_names` may name their numbers.

    Images are uint8, or floats that become bytes. Without `layout`, (N, H, W) has one channel, and of (N, H, W, C) and
    (N, C, H, W), or the same with a depth, that one is meant whose C is 1 or 3; if both or neither, say it. Without
    `value_range`, floats of which none is below 0 or above 1 are in [0, 1], and floats in [−1, 1] of which some are
    ≤ −1/2 are in [−1, 1]; anything else, say it, or say that they are values.

    Values are floats that are kept: (N, D) vectors, and with kind "values" (N, C, *spatial), such as signals (N, 1, L)
    and latents (N, 4, 8, 8); a layout, if said, puts their channels first. A network sees them standardised, each
    channel or column to mean 0 and variance 1, and what it draws is written in their own units.

    An array that is not used, and is not of another split, warns.

    Args:
        path: of the file.
        images: the array of examples.
        labels: the array of labels, whole numbers (N,) or (N, 1).
        conditions: the array of what the network is told instead.
        split: a prefix such as "train", "val" or "test".
        layout: where the channels of images stand: "first", "last", or "none" for one channel without an axis.
        value_range: (low, high), the float values that become 0 and 255, rounding what lies between.
        kind: what floats are, "images" or "values".
        standardise: values; None and True do, False shows them as they are.

    Raises:
        CbdmError: the file is missing, damaged or holds pickled objects, an array is missing or of another kind, or
            what it means is ambiguous.
    """
    if layout not in (None, "first", "last", "none"):
        raise unknown_name("layout", str(layout), ("first", "last", "none"))
    arrays = _read(Path(path), images, labels, conditions, split)
    if kind not in (None, "images", "values"):
        raise unknown_name("kind", str(kind), ("images", "values"))
    labelling = _labelling(arrays)
    if _are_values(arrays["images"], layout, value_range, kind):
        return _of_values(arrays["images"], layout, labelling, standardise)
    if standardise is not None:
        raise CbdmError(
            f"standardise is for values, and these are images: leave it out, or give {_AS_VALUES} for floats"
        )
    return labelling.of(torch.from_numpy(_examples(arrays["images"], layout, value_range)))


def _labelling(arrays: dict[str, np.ndarray]) -> Labelling:
    """Labels and their names, and conditions where there are some, of which the regions do for labels."""
    condition = conditions_of(arrays[_CONDITIONS]) if _CONDITIONS in arrays else None
    examples = arrays["images"].shape
    if condition is not None and examples[:1] != condition.shape[:1]:
        raise CbdmError(f"{len(condition)} conditions for examples of shape {examples}: save a row for each")
    named = _names("condition_names", arrays["condition_names"]) if "condition_names" in arrays else None
    if "labels" not in arrays:
        assert condition is not None
        return in_regions(condition, named)
    y = labels_of(arrays["labels"])
    names = _names("class_names", arrays["class_names"]) if "class_names" in arrays else names_of_labels(y)
    return Labelling(torch.from_numpy(y), names, condition, named)


def _are_values(
    x: np.ndarray, layout: Layout | None, value_range: tuple[float, float] | None, kind: Kind | None
) -> bool:
    """Whether these are floats to keep, and not images."""
    floats = x.dtype.kind == "f"
    if kind == "values" and not floats:
        raise CbdmError(f"kind=values is for floats, and these are {x.dtype}: convert them with astype('float32')")
    unsaid = floats and kind is None and layout is None
    values = kind == "values" or (unsaid and x.ndim == 2)
    if values and value_range is not None:
        what = "vectors" if x.ndim == 2 else "values"
        raise CbdmError(f"value_range is for images, and examples of shape {x.shape} are {what}: leave it out")
    if unsaid and value_range is None and x.ndim == 3 and x.shape[1] == 1:
        raise CbdmError(
            f"floats of shape {x.shape} may be signals or images of height 1: give {_AS_VALUES} or kind=images "
            "(--set data.options.kind=images)"
        )
    return values


def _of_values(x: np.ndarray, layout: Layout | None, labelling: Labelling, standardise: bool | None) -> Dataset:
    if x.ndim < 2:
        raise CbdmError(f"values of shape {x.shape}: save one row for each example, (N, D) or (N, C, …)")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        x = np.ascontiguousarray(x if layout is None else _channels_first(x, layout)).astype(np.float32)
    values = torch.from_numpy(x)
    data = labelling.of(values)  # before its units: it refuses what is not finite
    return data if standardise is False else replace(data, units=Units.standardising(values))


def _read(path: Path, images: str, labels: str, conditions: str, split: str | None) -> dict[str, np.ndarray]:
    """The arrays under "images", and those that the file has of "labels", "conditions" and the names of either."""
    roles: dict[str, str] = {}

    def wanted(there: list[str]) -> Iterable[str]:
        roles.update(_pair(path, there, images, labels, conditions, split))
        roles.update({name: name for role, name in _NAMES.items() if role in roles and name in there})
        _warn_of_unused(path, there, roles)
        return roles.values()

    arrays = read_arrays(path, wanted)
    return {role: arrays[name] for role, name in roles.items()}


def _warn_of_unused(path: Path, there: list[str], roles: dict[str, str]) -> None:
    """Warn of arrays that say nothing; those of another split, `val_images` beside `train_images`, are meant so."""
    ends = tuple(f"_{name.partition('_')[2]}" for role, name in roles.items() if role in _ROLES and "_" in name)
    unused = [name for name in there if name not in roles.values() and not (ends and name.endswith(ends))]
    if unused:
        used = ", ".join(map(clean_text, roles.values()))
        warnings.warn(f"{path}: not used: {clean_text(', '.join(unused))}; used: {used}", CbdmWarning, stacklevel=2)


def read_arrays(path: Path, wanted: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name; nothing is unpickled.

    Args:
        path: of the file.
        wanted: from the names of all arrays to those that are read.

    Raises:
        CbdmError: the file is missing, damaged or holds one array without a name, or an array is damaged or pickled.
    """
    if not path.is_file():  # nor a pipe or device, which would be read without end
        raise CbdmError(f"{path} is not a file: give the path of an npz file")
    try:
        file = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise CbdmError(
            f"{path} is no npz file, or is damaged ({_line(error)}): write it again with numpy.savez"
        ) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise CbdmError(f"{path} holds one array without a name: save examples and labels with numpy.savez")
    with file:
        names = list(wanted(file.files))
        check_memory(f"{path}", sum(_size(file, name) for name in names), "split the file, or take a larger machine")
        return {name: _member(path, file, name) for name in names}


def _size(file: np.lib.npyio.NpzFile, name: str) -> int:
    """Bytes that an array takes when it is unpacked: a small file may hold a large one of zeros."""
    assert file.zip is not None
    there = file.zip.namelist()
    return file.zip.getinfo(f"{name}.npy" if f"{name}.npy" in there else name).file_size


def _pair(path: Path, there: list[str], images: str, labels: str, conditions: str, split: str | None) -> dict[str, str]:
    """Role → array, of examples and what is said of them; conditions do without labels, by the default name or not."""
    *pair, condition = (name if split is None else f"{split}_{name}" for name in (images, labels, conditions))
    of_condition = {_CONDITIONS: condition} if condition in there else {}
    others = _OTHER_DEFAULTS if tuple(pair) == _DEFAULT else ()
    for candidate in (pair, *others):
        if set(candidate) <= set(there) and (of_condition or conditions == _CONDITIONS):
            return {**dict(zip(_DEFAULT, candidate, strict=True)), **of_condition}
    if of_condition and pair[0] in there and labels == _DEFAULT[1]:
        return {_DEFAULT[0]: pair[0], **of_condition}
    missing = next((name for name in pair if name not in there), condition)
    near = closest(missing, there)
    hint = f" did you mean {near!r}?" if near else ""
    but = "" if split is None else f" without its {split}_ of split="
    raise CbdmError(
        f"{path} has no array {missing!r}:{hint} it holds {clean_text(', '.join(there)) or 'none'}; examples and "
        f"labels are images= and labels= of the source, each the name of an array{but} (--set "
        "data.options.images=NAME --set data.options.labels=NAME), and conditions= is what is told in place of labels"
    )


def _member(path: Path, file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = file[name]
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise CbdmError(
                f"array {name!r} of {path} holds pickled objects, and loading them could execute code, so it was not "
                "loaded: save it as numbers, or class_names as text"
            ) from error
        raise CbdmError(f"array {name!r} of {path} is damaged ({_line(error)}): write the file again") from error
    if not isinstance(array, np.ndarray):
        raise CbdmError(f"member {name!r} of {path} is no array: write the file again with numpy.savez")
    return array


def _line(error: BaseException) -> str:
    """What is wrong; never numpy's advice to load what could run code."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "no array in it" if "pickle" in line else line[:_MOST_WORDS]


def labels_of(y: np.ndarray) -> np.ndarray:
    """(N,) int64 of whole numbers, (N,) or (N, 1).

    Raises:
        CbdmError: other numbers or another shape.
    """
    if y.dtype.kind not in "iu":
        raise CbdmError(f"labels are {y.dtype}, they must be whole numbers: convert them with astype(int)")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise CbdmError(f"labels have shape {y.shape}, they must be (N,) or (N, 1): give each example one label")
    return whole(y)


def whole(y: np.ndarray) -> np.ndarray:
    """Whole numbers as int64.

    Raises:
        CbdmError: one above 2⁶³ − 1, which would become a negative one.
    """
    if y.size and int(y.max()) > _INT64:
        raise CbdmError(f"label {int(y.max())} is out of range: number the classes from 0")
    return y.astype(np.int64)


def _names(what: str, names: np.ndarray) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise CbdmError(f"{what} are {names.dtype} of shape {names.shape}: save a one-dimensional array of text")
    return tuple(names.tolist())


def names_of_labels(y: np.ndarray) -> tuple[str, ...]:
    """The numbers 0 … K − 1 as names, with K − 1 the largest label.

    Raises:
        CbdmError: so many that they are identity numbers.
    """
    most = int(y.max(initial=0))
    if most >= MOST_UNNAMED:
        raise CbdmError(
            f"label {most} makes {most + 1} classes: number the classes from 0, or save class_names with them"
        )
    return tuple(str(c) for c in range(most + 1))


def _examples(x: np.ndarray, layout: Layout | None, value_range: tuple[float, float] | None) -> np.ndarray:
    if x.ndim == 0:
        raise CbdmError("examples are a single number: save an array with one row for each")
    if x.dtype.kind == "f":
        return _channels_first(_to_bytes(x, value_range), layout, floats=True)
    if x.dtype != np.uint8:
        raise CbdmError(f"examples are {x.dtype}: save images as uint8 or float, vectors as float")
    if value_range is not None:
        raise CbdmError("value_range is for float images, and these are uint8: leave it out")
    return _channels_first(x, layout)


def _to_bytes(x: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    unfinite = ~np.isfinite(x.reshape(len(x), math.prod(x.shape[1:])))
    if unfinite.any():
        rows = np.flatnonzero(unfinite.any(1))
        raise CbdmError(
            f"{int(unfinite.sum())} pixels in {len(rows)} images are NaN or infinite, the first in row {rows[0]}: "
            "remove or mend those images"
        )
    least, most = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    low, high = _implied_range(least, most) if value_range is None else _checked(value_range)
    if least < low or most > high:
        raise CbdmError(f"pixels go from {least:g} to {most:g}, beyond value_range [{low:g}, {high:g}]: widen it")
    return np.rint((x.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _checked(value_range: tuple[float, float]) -> tuple[float, float]:
    if len(value_range) != 2 or not -np.inf < value_range[0] < value_range[1] < np.inf:
        raise CbdmError(f"value_range is {value_range}, it must be (low, high) with low < high, for example (0, 1)")
    return value_range


def _implied_range(least: float, most: float) -> tuple[float, float]:
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    if -1 <= least <= -0.5 and most <= 1:
        return -1.0, 1.0
    raise CbdmError(
        f"float pixels go from {least:g} to {most:g}, clearly in neither [0, 1] nor [-1, 1]: give "
        "value_range=(low, high) for images (--set data.options.value_range=[LOW,HIGH]), or "
        f"{_AS_VALUES} for values that are to be kept, such as latents"
    )


def _channels_first(x: np.ndarray, layout: Layout | None, *, floats: bool = False) -> np.ndarray:
    layout = implied_layout(x.shape, floats=floats) if layout is None else layout
    if x.ndim < (2 if layout == "none" else 3):
        raise CbdmError(f"images of shape {x.shape} have no axes left beside channels {layout}: check the array")
    moved = {"first": x, "last": np.moveaxis(x, -1, 1), "none": x[:, None]}[layout]
    return np.ascontiguousarray(moved)


def implied_layout(shape: tuple[int, ...], *, floats: bool = False) -> Layout:
    """Where images of this shape have their channels, by the axis that has 1 or 3.

    Args:
        shape: (N, …).
        floats: whether they could be values as well.

    Raises:
        CbdmError: no axis or two could be it.
    """
    if len(shape) == 3:
        return "none"
    fits = [name for name, axis in (("first", 1), ("last", -1)) if len(shape) > 3 and shape[axis] in _CHANNELS]
    if len(fits) != 1:
        raise CbdmError(
            f"images of shape {shape} do not say where their channels are (an axis of 1 or 3, second or last): give "
            "layout=first, last or none (--set data.options.layout=first)"
            + (f", or {_AS_VALUES} for floats that are to be kept" if floats else "")
        )
    return cast(Layout, fits[0])

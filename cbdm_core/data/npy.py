"""Data larger than memory: arrays that stay on the disk, of which only the rows that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.labelling import Labelling, check_conditions, conditions_of, in_regions
from cbdm_core.data.mapped_rows import Layout, MappedRows
from cbdm_core.data.npz import DAMAGE, implied_layout, labels_of, names_of_labels
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import CONFIG_BYTES, clean_text, regular_file

__all__ = ["CONDITION_NAMES", "NAMES", "npy"]

NAMES, CONDITION_NAMES = "class_names.txt", "condition_names.txt"


def npy(*, path: str | Path, layout: Layout | None = None, standardise: bool | None = None) -> Dataset:
    """A data set from the npy files of a folder, which stay on the disk; what is not asked for is never read.

    `images.npy` and `labels.npy`, or shards: `images-000.npy`, `images-001.npy`, … beside `labels-000.npy`, …, in the
    order of their names. `class_names.txt` may hold a name a line. Where there are `conditions.npy`, or shards of them,
    the network is told these and not the label, as the source npz says, and labels may be left out;
    `condition_names.txt` may name their numbers.

    uint8 are images, (N, H, W), (N, H, W, C) or (N, C, H, W), as the source npz reads them; floats are values, (N, D)
    or (N, C, *spatial), and a network sees them standardised.

    Args:
        path: of the folder.
        layout: where the channels stand: "first" (the default of values), "last", or "none" for one without an axis.
        standardise: values; None and True do, False shows them as they are.

    Raises:
        CbdmError: no such files, examples without labels, files of different kinds, a damaged or pickled one, or what
            npz and `Dataset` refuse.
    """
    if layout not in (None, "first", "last", "none"):
        raise unknown_name("layout", str(layout), ("first", "last", "none"))
    folder = Path(path)
    arrays = list(_opened(folder, "images"))
    labelling = _labelling(folder, [len(a) for a in arrays])
    images = arrays[0].dtype == np.uint8
    if images and standardise is not None:
        raise CbdmError("standardise is for values, and these are images: leave it out")
    x = MappedRows(arrays, _channels(arrays, layout) if images else layout or "first")
    data = labelling.of(x)
    return data if images or standardise is False else replace(data, units=Units.standardising(x))


def _labelling(folder: Path, rows: list[int]) -> Labelling:
    """Labels and their names, and conditions where there are some, of which the regions do for labels."""
    parts = _beside(folder, "conditions", rows) if _files(folder, "conditions") else None
    condition = None if parts is None else conditions_of(_joined(folder, parts))
    named = None if condition is None else _lines(folder / CONDITION_NAMES)
    if condition is not None and not _files(folder, "labels"):
        return in_regions(condition, named)
    y = np.concatenate([labels_of(part) for part in _beside(folder, "labels", rows)])
    names = _lines(folder / NAMES)
    return Labelling(torch.from_numpy(y), names_of_labels(y) if names is None else names, condition, named)


def _beside(folder: Path, stem: str, rows: list[int]) -> list[np.ndarray]:
    """In memory what is said of each images file."""
    parts = [np.asarray(part) for part in _opened(folder, stem)]
    if rows != [len(part) for part in parts]:
        raise CbdmError(
            f"{folder} has images files of {rows[:5]} rows and {stem} files of {[len(part) for part in parts][:5]}: "
            f"give each images file its {stem} file"
        )
    return parts


def _joined(folder: Path, conditions: list[np.ndarray]) -> np.ndarray:
    for part in conditions:  # before they are joined: rows without bytes may be of any length
        check_conditions(part)
    kinds = {part.shape[1:] for part in conditions}
    if len(kinds) > 1:
        raise CbdmError(f"{folder} has conditions files of the shapes {sorted(kinds)} a row: save all of one shape")
    return np.concatenate(conditions)


def _files(folder: Path, stem: str) -> list[Path]:
    one = folder / f"{stem}.npy"
    return [one] if one.exists() else sorted(folder.glob(f"{stem}-*.npy"))


def _opened(folder: Path, stem: str) -> Iterator[np.ndarray]:
    """The arrays `stem.npy` or `stem-*.npy`, mapped."""
    files = _files(folder, stem)
    if not files:
        raise CbdmError(f"{folder} has no {stem}.npy and no {stem}-*.npy: write both images and labels with numpy.save")
    for file in files:
        regular_file(file)
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except DAMAGE as error:
            raise CbdmError(
                f"{clean_text(str(file))} is no npy file of numbers, or is cut off: write it again with numpy.save"
            ) from error
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            raise CbdmError(f"{clean_text(str(file))} holds no rows: write an array with numpy.save")
        yield array


def _channels(arrays: Sequence[np.ndarray], layout: Layout | None) -> Layout:
    return implied_layout(arrays[0].shape) if layout is None else layout


def _lines(file: Path) -> tuple[str, ...] | None:
    """The names in a file, where there is one."""
    if not file.exists():
        return None
    try:
        return tuple(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CbdmError(f"{clean_text(str(file))} is no text in UTF-8: write a name a line") from error

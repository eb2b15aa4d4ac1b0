"""Data larger than memory: arrays that stay on the disk, of which only the rows that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.mapped_rows import Layout, MappedRows
from cbdm_core.data.npz import DAMAGE, implied_layout, labels_of, names_of_labels
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import CONFIG_BYTES, clean_text, regular_file

__all__ = ["npy"]

NAMES = "class_names.txt"


def npy(*, path: str | Path, layout: Layout | None = None, standardise: bool | None = None) -> Dataset:
    """A data set from the npy files of a folder, which stay on the disk; what is not asked for is never read.

    `images.npy` and `labels.npy`, or shards: `images-000.npy`, `images-001.npy`, … beside `labels-000.npy`, …, in the
    order of their names. `class_names.txt` may hold a name a line. uint8 are images, (N, H, W), (N, H, W, C) or
    (N, C, H, W), as the source npz reads them; floats are values, (N, D) or (N, C, *spatial), and a network sees them
    standardised.

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
    arrays, labels = (list(_opened(folder, stem)) for stem in ("images", "labels"))
    if [len(a) for a in arrays] != [len(y) for y in labels]:
        raise CbdmError(
            f"{folder} has images files of {[len(a) for a in arrays][:5]} rows and labels files of "
            f"{[len(y) for y in labels][:5]}: give each images file its labels file"
        )
    y = np.concatenate([labels_of(np.asarray(part)) for part in labels])
    images = arrays[0].dtype == np.uint8
    if images and standardise is not None:
        raise CbdmError("standardise is for values, and these are images: leave it out")
    x = MappedRows(arrays, _channels(arrays, layout) if images else layout or "first")
    names = _names(folder, y)
    data = Dataset(x, torch.from_numpy(y), names)
    return data if images or standardise is False else replace(data, units=Units.standardising(x))


def _opened(folder: Path, stem: str) -> Iterator[np.ndarray]:
    """The arrays `stem.npy` or `stem-*.npy`, mapped."""
    files = [folder / f"{stem}.npy"] if (folder / f"{stem}.npy").exists() else sorted(folder.glob(f"{stem}-*.npy"))
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


def _names(folder: Path, y: np.ndarray) -> tuple[str, ...]:
    file = folder / NAMES
    if not file.exists():
        return names_of_labels(y)
    try:
        return tuple(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CbdmError(f"{clean_text(str(file))} is no text in UTF-8: write a class name a line") from error

"""Data written as the files that the source `npy` maps, a part at a time, so that memory never holds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from cbdm_core.data.labelling import Labelling
from cbdm_core.data.npy import CONDITION_NAMES, NAMES
from cbdm_core.reading import clean_text

__all__ = ["write_npy"]

_PART = 256 << 20  # bytes of a file, and of what is held


def write_npy(folder: Path, rows: Iterable[np.ndarray], labelling: Callable[[], Labelling]) -> int:
    """Write `images-00000.npy`, …, and `labels-00000.npy`, …, `conditions-00000.npy`, … and names.

    Args:
        folder: there already, and empty.
        rows: each example, (C, H, W) uint8 or floats of one shape.
        labelling: of all of them; asked for once all rows have come.

    Returns:
        How many examples there are.

    Raises:
        OSError: a failed write.
    """
    lengths = []
    for number, part in enumerate(_parts(rows)):
        np.save(_file(folder, "images", number), part)
        lengths.append(len(part))
    labels, class_names, condition, condition_names = labelling()
    for file, names in ((NAMES, class_names), (CONDITION_NAMES, condition_names)):
        if names is not None:  # as a data set has them: each is a line then, and can be encoded
            (folder / file).write_text("".join(f"{clean_text(name)}\n" for name in names), encoding="utf-8")
    ends = np.cumsum(lengths)[:-1]
    for stem, values in (("conditions", condition), ("labels", labels)):
        for number, part in enumerate([] if values is None else np.split(values.numpy(), ends)):
            np.save(_file(folder, stem, number), part)
    return sum(lengths)


def _parts(rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Rows in arrays of at most so many bytes; each is written over by the next."""
    part, filled = None, 0
    for row in rows:
        if part is None:
            part = np.empty((max(1, _PART // max(1, row.nbytes)), *row.shape), row.dtype)
        part[filled] = row
        filled += 1
        if filled == len(part):
            yield part
            filled = 0
    if part is not None and filled:
        yield part[:filled]


def _file(folder: Path, stem: str, number: int) -> Path:
    return folder / f"{stem}-{number:05d}.npy"

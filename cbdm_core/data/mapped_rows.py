"""Rows of arrays that lie on the disk, read when they are indexed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.memory import check_memory

__all__ = ["Layout", "MappedRows"]

Layout = Literal["first", "last", "none"]
"""Where the channels of images stand; "none" for one channel without an axis."""

_LARGE = 1 << 28  # bytes, from which it is looked whether they fit


class MappedRows:
    """As much of a tensor as a data set needs: shape, dtype, rows by index, parts in turn; the rest stays on the disk.

    Args:
        arrays: (n_i, …) of one dtype, uint8 or floats, and one shape of a row; one after another they are the rows.
        layout: where the arrays have the channels: "first", "last", or "none" for one channel without an axis.
        rows: (N,) long, which of them in which order; None for all.

    Raises:
        CbdmError: no array, arrays of different kinds, or too few axes.
    """

    def __init__(self, arrays: Sequence[np.ndarray], layout: Layout, rows: Tensor | None = None) -> None:
        kinds = {(str(a.dtype), a.shape[1:]) for a in arrays}
        if len(kinds) != 1:
            some = " and ".join(f"{dtype} {shape}" for dtype, shape in sorted(kinds)[:2])
            raise CbdmError(f"arrays of {len(kinds)} kinds, {some}: give rows of one dtype and shape")
        first = arrays[0]
        if first.dtype != np.uint8 and first.dtype.kind != "f":
            raise CbdmError(f"examples are {first.dtype}: save images as uint8, values as float32")
        if first.ndim < (2 if layout == "none" or first.dtype != np.uint8 else 3):
            raise CbdmError(f"examples of shape {first.shape} have no axes beside channels {layout}: check the array")
        self.arrays, self.rows = tuple(arrays), rows
        self.layout: Layout = layout
        self.finite = False  # whether that is known, so that it is looked at once
        self._ends = np.cumsum([len(a) for a in arrays])

    @property
    def dtype(self) -> torch.dtype:
        """uint8 or float32; wider floats become float32 when they are read."""
        return torch.uint8 if self.arrays[0].dtype == np.uint8 else torch.float32

    @property
    def shape(self) -> torch.Size:
        """(N, C, *spatial), or (N, D)."""
        row = self.arrays[0].shape[1:]
        moved = {"first": row, "last": (*row[-1:], *row[:-1]), "none": (1, *row)}[self.layout]
        return torch.Size((len(self), *moved))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of values in all rows."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    def subset(self, rows: Tensor) -> MappedRows:
        """These rows, none of them read."""
        some = MappedRows(self.arrays, self.layout, self._of_arrays(rows))
        some.finite = self.finite
        return some

    def split(self, size: int) -> Iterator[Tensor]:
        """The rows in their order, so many at a time."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> Tensor:
        """The rows in memory.

        Raises:
            CbdmError: they do not fit.
        """
        chosen = self._of_arrays(torch.arange(len(self))[rows] if isinstance(rows, slice) else torch.as_tensor(rows))
        needed = len(chosen) * math.prod(self.shape[1:]) * self.dtype.itemsize
        if needed > _LARGE:
            check_memory(f"{len(chosen):,} examples at once", needed, "ask for fewer; training alone takes a batch")
        return self._moved(torch.from_numpy(self._read(chosen.numpy())))

    def _of_arrays(self, rows: Tensor) -> Tensor:
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        rows = torch.where(rows < 0, rows + len(self), rows)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {int(rows.min())} … {int(rows.max())} of {len(self)}")
        return rows if self.rows is None else self.rows[rows]

    def _read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.arrays[0].shape[1:]), np.uint8 if self.dtype == torch.uint8 else np.float32)
        of = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(of):
            here = np.flatnonzero(of == number)
            before = self._ends[number - 1] if number else 0
            out[here] = self.arrays[number][rows[here] - before]
        return out

    def _moved(self, x: Tensor) -> Tensor:
        if self.layout == "none":
            return x[:, None]
        return x.movedim(-1, 1).contiguous() if self.layout == "last" else x

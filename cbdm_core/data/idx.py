"""Images and labels in the idx format, that of MNIST and of what took its form."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["SIZES", "IdxSet", "read_idx"]

SIZES = (28, 14, 7)
_PARTS = {"train": "train", "test": "t10k"}
_MOST_AXES = 4
_MOST_BYTES = 1 << 31  # a small gzipped file may hold a large one of zeros
_UNSIGNED_BYTE = 8  # the type code of idx files of bytes


@dataclass(frozen=True)
class IdxSet:
    """Four idx files of 28×28 grey images, `train-images-idx3-ubyte` and so on, gzipped (`.gz`) or plain.

    Args:
        title: what messages call the set.
        class_names: (K,) names.
        mend: where the files come from, for whoever lacks them.
    """

    title: str
    class_names: tuple[str, ...]
    mend: str

    def read(self, folder: Path, part: str, size: int) -> Dataset:
        """One part of the set.

        Args:
            folder: of the four files.
            part: "train" or "test".
            size: pixels of a side: 28 as published, or 14 or 7, the means of 2 × 2 or 4 × 4 pixels, rounded.

        Raises:
            CbdmError: no such files, damaged ones, images of another shape, or another size or part.
        """
        if not isinstance(size, int) or size not in SIZES:
            raise CbdmError(f"size {size!r}: {self.title} comes with 28, 14 or 7 pixels a side")
        if part not in _PARTS:
            raise unknown_name(f"part of {self.title}", part, tuple(_PARTS))
        images = read_idx(self._file(folder, f"{_PARTS[part]}-images-idx3-ubyte"))
        labels = read_idx(self._file(folder, f"{_PARTS[part]}-labels-idx1-ubyte"))
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise CbdmError(
                f"{folder} holds images {images.shape} and labels {labels.shape}: {self.title} has (N, 28, 28) and (N,)"
            )
        step = 28 // size
        small = reduce(images.astype(np.float64), "n (h a) (w b) -> n 1 h w", "mean", a=step, b=step)
        x, y = np.rint(small).astype(np.uint8), labels.astype(np.int64)
        return Dataset(torch.from_numpy(x), torch.from_numpy(y), self.class_names)

    def _file(self, folder: Path, name: str) -> Path:
        for file in (folder / f"{name}.gz", folder / name):
            if file.is_file():
                return file
        raise CbdmError(
            f"{folder} has no {name}.gz: {self.mend}, or name the folder of the four files: "
            "--set data.options.root=FOLDER"
        )


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, gzipped or not.

    Format: two zero bytes, the type code (8), the number of axes, each axis' length as a big-endian 32-bit number, the
    bytes in row-major order.

    Raises:
        CbdmError: a file that cannot be read, is cut short, too long, or of another type.
    """
    raw = _unpacked(path)
    if len(raw) < 4 or raw[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise CbdmError(f"{path} is no idx file of unsigned bytes: it begins with {raw[:4].hex(' ') or 'nothing'}")
    axes, start = raw[3], 4 + 4 * raw[3]
    shape = struct.unpack(f">{axes}I", raw[4:start]) if len(raw) >= start else ()
    expected = start + int(np.prod(shape, dtype=object)) if shape else start
    if not 1 <= axes <= _MOST_AXES or 0 in shape:
        raise CbdmError(f"{path} has the shape {shape}: 1 to {_MOST_AXES} axes, none of them empty; fetch it again")
    if not shape or len(raw) != expected:
        raise CbdmError(f"{path} has {len(raw)} bytes, and its head asks for {expected}: fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _unpacked(path: Path) -> bytes:
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain) if packed else plain as file:
                raw = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CbdmError(f"{path} cannot be read ({error}): fetch it again") from error
    if len(raw) > _MOST_BYTES:
        raise CbdmError(f"{path} holds more than {_MOST_BYTES:,} bytes, which no idx file of this kind does")
    return raw

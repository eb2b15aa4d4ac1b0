"""Fashion-MNIST, from its idx files."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from einops import reduce

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["CLASSES", "SIZES", "fashion", "read_idx"]

CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SIZES = (28, 14, 7)
_PARTS = {"train": "train", "test": "t10k"}
# Where the Debian package dataset-fashion-mnist puts the files.
_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
_MOST_AXES = 4
_UNSIGNED_BYTE = 8  # the type code of idx files of bytes


def fashion(*, size: int = 14, part: str = "train", root: str | None = None) -> Dataset:
    """70,000 grey pictures of clothes in ten balanced classes: 60,000 to train on, 10,000 to hold against.

    Args:
        size: pixels of a side: 28 as published, or 14 or 7, the means of 2 × 2 or 4 × 4 pixels, rounded.
        part: "train" or "test".
        root: folder of the four idx files, `train-images-idx3-ubyte` and so on, gzipped (`.gz`) or plain; default
            $CBDM_DATA/fashion-mnist, else the folder of the Debian package `dataset-fashion-mnist`.

    Raises:
        CbdmError: no such files, damaged ones, or another size or part.

    Source: Xiao, Rasul & Vollgraf 2017 (arXiv 1708.07747); MIT licence.
    """
    if not isinstance(size, int) or size not in SIZES:
        raise CbdmError(f"size {size!r}: Fashion-MNIST comes with 28, 14 or 7 pixels a side")
    if part not in _PARTS:
        raise unknown_name("part of Fashion-MNIST", part, tuple(_PARTS))
    folder, name = _folder(root), _PARTS[part]
    images = read_idx(_file(folder, f"{name}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{name}-labels-idx1-ubyte"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise CbdmError(
            f"{folder} holds images {images.shape} and labels {labels.shape}: Fashion-MNIST has (N, 28, 28) and (N,)"
        )
    step = 28 // size
    small = reduce(images.astype(np.float64), "n (h a) (w b) -> n 1 h w", "mean", a=step, b=step)
    return Dataset(
        torch.from_numpy(np.rint(small).astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)), CLASSES
    )


def _folder(root: str | None) -> Path:
    if root is not None:
        return Path(root).expanduser()
    kept = os.environ.get("CBDM_DATA")
    ours = Path(kept).expanduser() / "fashion-mnist" if kept else None
    return ours if ours is not None and ours.is_dir() else _SYSTEM


def _file(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise CbdmError(
        f"{folder} has no {name}.gz: install the Debian package dataset-fashion-mnist, or name the folder of the four "
        "files: --set data.options.root=FOLDER"
    )


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes, gzipped or not.

    Format: two zero bytes, the type code (8), the number of axes, each axis' length as a big-endian 32-bit number, the
    bytes in row-major order.

    Raises:
        CbdmError: a file that cannot be read, is cut short, too long, or of another type.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise CbdmError(f"{path} cannot be read ({error}): fetch it again") from error
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

"""Samples as files: a grid, arrays, a folder of images, shards; whole, and never over another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cbdm_cli import pictures
from cbdm_core.data.dataset import to_uint8
from cbdm_core.errors import CbdmError
from cbdm_core.writing import WRITING, plain_write_errors, replacing

__all__ = ["STREAMS", "WRITERS", "Drawn", "next_free", "refuse_place", "write_file"]

_SUFFIXES = {"grid": ".png", "npz": ".npz", "folder": "", "shards": ""}  # of each format


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples and what belongs to them.

    Args:
        x: (M, …) images in [−1, 1], or floats in their own units.
        images: which of the two.
        labels: (M,) long.
        conditions: what the network was told.
        names: of the classes.
        counts: training examples of each class.
        condition_names: of the numbers that the network was told, where they have names.
        first: the number of the first sample.
    """

    x: Tensor
    images: bool
    labels: Tensor
    conditions: Tensor
    names: Sequence[str]
    counts: Sequence[int | None]
    condition_names: Sequence[str] | None = None
    first: int = 0


def refuse_place(out: Path | None) -> None:
    """A mistake in --out should show before anything is drawn.

    Raises:
        CbdmError: something is there already, or there is no folder to write into.
    """
    if out is not None and out.exists():
        raise CbdmError(f"--out {out} is there already: choose another name")
    if out is not None and not out.parent.is_dir():
        raise CbdmError(f"--out {out}: {out.parent} is no folder; make it first or choose another place")


def write_file(path: Path, out: Path | None, format_: str, drawn: Drawn) -> Path:
    """Write the one file, which appears whole and never over another, not even one of a process that runs beside."""
    beside = out or next_free(path, format_)
    temporary = beside.with_name(f"{WRITING}{os.getpid()}-new{beside.suffix or _SUFFIXES[format_]}")
    try:
        WRITERS[format_](temporary, drawn)
        with plain_write_errors(beside):
            return _linked(temporary, path, out, format_)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path, out: Path | None, format_: str) -> Path:
    """A link is made where nothing is, or not at all; where the next number went to another, the one after it."""
    while True:
        target = out or next_free(path, format_)
        try:
            os.link(temporary, target)
            return target
        except FileExistsError:
            refuse_place(out)
        except OSError:  # a file system without links
            refuse_place(out)
            return temporary.replace(target)


def next_free(path: Path, format_: str) -> Path:
    """The first `drawn-NNN` of a run folder that is not there, with the ending of the format."""
    taken = {p.stem for p in path.glob("drawn-*")}
    number = next(i for i in range(1, len(taken) + 2) if f"drawn-{i:03d}" not in taken)
    return path / f"drawn-{number:03d}{_SUFFIXES[format_]}"


def _write_grid(target: Path, drawn: Drawn) -> None:
    pictures.samples(target, drawn.images, drawn.x, drawn.labels, drawn.names, drawn.counts)


def _write_npz(target: Path, drawn: Drawn) -> None:
    """Arrays that the npz data source reads back; what was told, where that is no label, as `conditions`."""
    values = to_uint8(drawn.x).movedim(1, -1).numpy() if drawn.images else drawn.x.numpy()
    if drawn.images and values.shape[-1] == 1:
        values = values[..., 0]
    arrays: dict[str, Any] = {"images": values, "labels": drawn.labels.numpy(), "class_names": np.array(drawn.names)}
    if drawn.conditions.ndim > 1:
        arrays["conditions"] = drawn.conditions.numpy()
        if drawn.condition_names is not None:
            arrays["condition_names"] = np.array(drawn.condition_names)
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_folder(target: Path, drawn: Drawn) -> None:
    """A folder per class and a PNG per sample, which the folder data source reads back."""
    for number, (sample, label) in enumerate(zip(drawn.x, drawn.labels.tolist(), strict=True), drawn.first):
        with replacing(target / str(drawn.names[label]) / f"{number:06d}.png") as temporary:
            temporary.parent.mkdir(exist_ok=True)
            pictures.as_image(sample).save(temporary, format="PNG")


def _write_shard(target: Path, drawn: Drawn) -> None:
    """One npz of a shard, named by the number of its first sample."""
    _write_npz(target / f"samples-{drawn.first:09d}.npz", drawn)


WRITERS: dict[str, Callable[[Path, Drawn], None]] = {"grid": _write_grid, "npz": _write_npz}
STREAMS: dict[str, Callable[[Path, Drawn], None]] = {"folder": _write_folder, "shards": _write_shard}

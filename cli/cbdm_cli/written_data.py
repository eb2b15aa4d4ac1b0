"""A source of data written into a folder as npy files that training maps, encoded images one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cbdm_cli import render
from cbdm_cli.config import Data
from cbdm_cli.locking import contents, held
from cbdm_cli.trust import quoted
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.encoded import ENCODED, Encoded
from cbdm_core.data.labelling import Labelling
from cbdm_core.data.npy import npy
from cbdm_core.data.npz import implied_layout
from cbdm_core.data.sources import DATASETS
from cbdm_core.data.units import Units
from cbdm_core.data.writing_npy import write_npy
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text
from cbdm_core.writing import WRITING, plain_write_errors

__all__ = ["write_data"]


def write_data(asked: Data, to: str) -> str:
    """Write all of it, and say how it is trained on.

    Args:
        asked: the source and its options.
        to: a folder that is empty or not there.

    Raises:
        CbdmError: a folder that holds something or lies among class folders, what the source refuses, or a failed
            write.
    """
    if not to.strip():
        raise CbdmError("the folder of --to is empty: name one")
    folder = _expanded(to)
    _check_outside(folder, asked)
    with plain_write_errors(folder, "--to"):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder, "cbdm data", "--to"), plain_write_errors(folder, "--to"):
        if there := sorted(contents(folder)):
            raise CbdmError(f"{folder} holds {clean_text(there[0].name)} already: name an empty folder by --to")
        with TemporaryDirectory(prefix=WRITING, dir=folder) as part:
            count, options = _written(Path(part), asked)
            for file in sorted(Path(part).iterdir(), key=lambda file: (file.name.startswith("images"), file.name)):
                file.replace(folder / file.name)  # images come last: without them nothing is read
    settings = "".join(f" --set data.options.{option}" for option in options)
    return f"{folder}: {count:,} examples, which stay there: cbdm train --data {quoted(str(folder))}{settings}"


def _expanded(to: str) -> Path:
    try:
        return Path(to).expanduser()
    except RuntimeError:
        raise CbdmError(
            f"--to {clean_text(to)} is in the home of nobody here: write ./~… for a name like that"
        ) from None


def _check_outside(folder: Path, asked: Data) -> None:
    """Refuse to write among class folders, of which it would become one."""
    place = asked.options.get("path")
    if asked.source != "folder" or "labels" in asked.options or not isinstance(place, str):
        return
    if Path(place).resolve() in folder.resolve().parents:
        raise CbdmError(f"{folder} lies in {place}, where every folder is a class: name one outside of it by --to")


def _written(folder: Path, asked: Data) -> tuple[int, list[str]]:
    """How many examples, and the options by which they are read as they were.

    Raises:
        CbdmError: what the source refuses, or a data set.
    """
    if asked.source in ENCODED:
        encoded: Encoded = ENCODED.build(asked.source, asked.options)
        count = write_npy(folder, _counted(encoded.rows(), encoded.count), encoded.labelling)
        read = npy(path=folder, layout="first")
        return count, _layout(tuple(read.x.shape))
    data: Dataset = DATASETS.build(asked.source, asked.options)
    rows = (data.x[[i]][0].numpy() for i in range(len(data)))
    labelling = Labelling(data.y, data.class_names, data.condition)
    count = write_npy(folder, _counted(rows, len(data)), lambda: labelling)
    if data.is_images:
        return count, _layout(tuple(data.x.shape))
    return count, ["standardise=false"] * (data.units is None or data.units == Units.identity(data.shape[0]))


def _layout(shape: tuple[int, ...]) -> list[str]:
    """The option that says where written images have their channels, if their shape does not."""
    with suppress(CbdmError):
        if implied_layout(shape) == "first":
            return []
    return ["layout=first"]


def _counted(rows: Iterable[np.ndarray], count: int | None) -> Iterator[np.ndarray]:
    """The rows, and a bar of how many there have been."""
    with render.progress() as bar:
        task = bar.add_task("writing", total=count, facts="")
        for row in rows:
            yield row
            bar.advance(task)

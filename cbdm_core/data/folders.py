"""Data from image files: one subfolder a class, its name the class's name, or a CSV that says what each file is."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.encoded import Encoded
from cbdm_core.data.labelling import Labelling
from cbdm_core.data.pictures import ENDINGS, Framing
from cbdm_core.data.table import read_table, row_in_file
from cbdm_core.errors import CbdmError, CbdmWarning, some_of
from cbdm_core.reading import clean_text

__all__ = ["folder", "folder_images"]


def folder(
    *,
    path: str | Path,
    labels: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    allow_empty: bool = False,
) -> Dataset:
    """Images in class folders, `path/class name/any name.png`, in the order of their names, or those a CSV names.

    A photograph is turned as its EXIF orientation says. In class folders names that begin with a dot are passed over;
    whatever else lies there must be an image (PNG, JPEG, BMP, GIF, TIFF, WebP, PPM). With `labels` only the files that
    the CSV names are read, in its order (`read_table` says what its columns mean); other images beside them warn.

    Args:
        path: of the folder of folders, or of the images.
        labels: a CSV with a column of file names below `path` and a class, attributes or a vector for each; looked for
            in `path`, then as it is given.
        size: pixels of a side, ≥ 1: the shorter side is resized to it (bicubic, antialiased) and the middle square cut
            out; None reads images as they are, all of one size.
        channels: 1 makes every image grey (ITU-R 601 luma), 3 makes it RGB; None has one channel if every file is
            grey, three otherwise.
        allow_empty: keep a class whose folder has no image, with count 0, instead of refusing it.

    Raises:
        CbdmError: no folder, a class without images, a file that is missing or no image, images of different sizes
            without `size`, or pixels that bytes cannot hold (transparent, deeper than 8 bits, several frames).
    """
    return folder_images(path=path, labels=labels, size=size, channels=channels, allow_empty=allow_empty).dataset()


def folder_images(
    *,
    path: str | Path,
    labels: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    allow_empty: bool = False,
) -> Encoded:
    """What `folder` reads, of the same options, not yet decoded.

    Raises:
        CbdmError: as `folder`, without looking into the images.
    """
    if not isinstance(allow_empty, bool):
        raise CbdmError(f"allow_empty is {allow_empty!r}, it must be true or false")
    if labels is not None and allow_empty:
        raise CbdmError("allow_empty is for class folders, and labels names the classes here: leave one of them out")
    framing, place = Framing(size, channels), Path(path)
    files, labelling = _by_folder(place, allow_empty) if labels is None else _by_table(place, Path(labels))
    return Encoded(lambda: ((str(file), file) for file in files), lambda: labelling, framing, len(files))


def _by_table(place: Path, table: Path) -> tuple[list[Path], Labelling]:
    if not place.is_dir():
        raise CbdmError(f"{place} is not a folder: give the path of the folder that the file names start from")
    file = place / table if (place / table).is_file() else table
    names, labelling = read_table(file, place)
    for index, name in enumerate(names, start=1):
        if _is_missing(place / name):
            raise CbdmError(
                f"row {row_in_file(file, index)} of {table} names the file {clean_text(name)}, which is not in "
                f"{place}: bring it, or remove the row"
            )
    _warn_of_unlisted(place, table, names)
    return [place / name for name in names], labelling


def _warn_of_unlisted(place: Path, table: Path, names: Sequence[str]) -> None:
    """Warn of images that lie beside those that the CSV names, and that nothing is said of."""
    named, folders = set(names), sorted({PurePosixPath(name).parent for name in names})
    there = [folder / name for folder in folders for name in _files(place / folder)]
    unlisted = [str(file) for file in there if file.suffix.lower() in ENDINGS and str(file) not in named]
    if unlisted:
        some = clean_text(some_of(unlisted, 3))
        warnings.warn(
            f"not in {table} and not read, of the images beside those that it names: {len(unlisted):,} ({some})",
            CbdmWarning,
            stacklevel=2,
        )


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder, none of one that cannot be read; without those that begin with a dot."""
    _, _, names = next(os.walk(folder), ("", [], []))
    return sorted(name for name in names if not name.startswith("."))


def _is_missing(file: Path) -> bool:
    """Whether there is no such file; whatever else is wrong with it is told where it is read."""
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _by_folder(path: Path, allow_empty: bool) -> tuple[list[Path], Labelling]:
    classes = _class_folders(path)
    files = [(file, label) for label, place in enumerate(classes) for file in _images(place, allow_empty)]
    if not files:
        raise CbdmError(f"no class folder of {path} has an image: put images into the folders")
    y = torch.tensor([label for _, label in files])
    return [file for file, _ in files], Labelling(y, tuple(place.name for place in classes))


def _listed(place: Path) -> list[Path]:
    try:
        return sorted((p for p in place.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise CbdmError(f"{place} cannot be read ({error.strerror}): give yourself the right to") from error


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise CbdmError(f"{path} is not a folder: give the path of a folder that holds one folder per class")
    entries = _listed(path)
    stray = [p for p in entries if not p.is_dir()]
    if stray:
        raise CbdmError(f"{stray[0]} lies beside the class folders: move it into one, or away")
    if not entries:
        raise CbdmError(f"{path} holds no class folder: put the images of each class into a folder of its own")
    return entries


def _images(place: Path, allow_empty: bool) -> list[Path]:
    entries = _listed(place)
    nested = [p for p in entries if p.is_dir()]
    if nested:
        raise CbdmError(f"{nested[0]} is a folder inside a class folder: class folders hold images only")
    if not entries and not allow_empty:
        raise CbdmError(
            f"class {place.name!r} has no image: remove its folder {place}, or give allow_empty=true (--set "
            "data.options.allow_empty=true) to keep it with count 0"
        )
    return entries

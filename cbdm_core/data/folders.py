"""Data from class folders: one subfolder a class, its name the class's name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.reading import regular_file

__all__ = ["folder"]

# A closed list: Pillow hands PostScript, for one, to another program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_GRAY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, zlib.error, struct.error, Image.DecompressionBombError),
)


def folder(*, path: str | Path, allow_empty: bool = False) -> Dataset:
    """Images in class folders, `path/class name/any name.png`; classes and files in the order of their names.

    One channel if every file is gray, three otherwise. A photograph is turned as its EXIF orientation says. Names that
    begin with a dot are passed over; whatever else lies there must be an image (PNG, JPEG, BMP, GIF, TIFF, WebP, PPM).

    Args:
        path: of the folder of folders.
        allow_empty: keep a class whose folder has no image, with count 0, instead of refusing it.

    Raises:
        CbdmError: no folder, a class without images, a file that is no image, images of different sizes, or pixels
            that bytes cannot hold (transparent, deeper than 8 bits, several frames).
    """
    if not isinstance(allow_empty, bool):
        raise CbdmError(f"allow_empty is {allow_empty!r}, it must be true or false")
    classes = _class_folders(Path(path))
    files = [(file, label) for label, place in enumerate(classes) for file in _images(place, allow_empty)]
    if not files:
        raise CbdmError(f"no class folder of {path} has an image: put images into the folders")
    images = list(_one_size([file for file, _ in files]))
    channels = max(image.shape[0] for image in images)
    x = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    y = torch.tensor([label for _, label in files])
    return Dataset(torch.from_numpy(x), y, tuple(place.name for place in classes))


def _listed(place: Path) -> list[Path]:
    return sorted((p for p in place.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


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
            f"class {place.name!r} has no image: remove its folder {place}, or give allow_empty=true to keep it with "
            "count 0"
        )
    return entries


def _one_size(files: list[Path]) -> Iterator[np.ndarray]:
    """(1 or 3, H, W) bytes of each file, all of the first one's size."""
    first = None
    for file in files:
        pixels = _pixels(file)
        size = f"{pixels.shape[2]}×{pixels.shape[1]}"
        first = first or (file, size)
        if size != first[1]:
            raise CbdmError(f"{first[0]} is {first[1]} and {file} is {size}: crop or resize the images to one size")
        yield pixels


def _pixels(file: Path) -> np.ndarray:
    regular_file(file)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return _bytes(file, image)
    except CbdmError:
        raise
    except UnidentifiedImageError as error:
        raise CbdmError(f"{file} is no image, or is damaged: {', '.join(_FORMATS)} are read; remove it") from error
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CbdmError(f"{file} cannot be read as an image ({reason}): mend or remove it") from error


def _bytes(file: Path, image: Image.Image) -> np.ndarray:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's MPO carries only a preview beside the photograph
        raise CbdmError(f"{file} has {frames} frames: save one image per file")
    if image.mode in _DEEP:
        raise CbdmError(f"{file} has pixels deeper than 8 bits (mode {image.mode}): save it with 8 bits per channel")
    turned = ImageOps.exif_transpose(image)
    may_be_clear = turned.mode in ("LA", "PA", "RGBA") or "transparency" in turned.info
    if may_be_clear and turned.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise CbdmError(f"{file} has transparent pixels: put it on a background and save it without transparency")
    pixels = np.asarray(turned.convert("L" if turned.mode in _GRAY else "RGB"))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

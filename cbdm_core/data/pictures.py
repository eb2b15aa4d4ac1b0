"""Encoded images as bytes of one size, whoever's they are: a closed list of formats, and one line for what is wrong."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cbdm_core.errors import CbdmError, CbdmWarning, check_positive
from cbdm_core.memory import check_memory
from cbdm_core.reading import clean_text, regular_file

__all__ = ["ENDINGS", "Framing"]

# A closed list: Pillow hands PostScript, for one, to another program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_GRAY = ("1", "L", "LA")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MOST_BYTES = 1 << 62  # beyond any memory, and still a number that can be written as GB
_MODES = {1: "L", 3: "RGB"}
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, zlib.error, struct.error, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Framing:
    """How images of any shape become one array.

    Args:
        size: pixels of a side, ≥ 1: the shorter side is resized to it (bicubic, antialiased by Pillow; smaller images
            are enlarged) and the middle square is cut out. None leaves images as they are, all of one size.
        channels: 1 makes every image grey (ITU-R 601 luma), 3 makes it RGB; None has one channel if every image is
            grey, and three otherwise, which is warned of where some are grey.

    Raises:
        CbdmError: a size below 1, or channels other than 1 and 3.
    """

    size: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_positive(size=self.size)
        if self.channels not in (None, *_MODES):
            raise CbdmError(f"channels is {self.channels!r}: 1 makes images grey, 3 makes them RGB")

    def each(self, images: Iterable[tuple[str, Path | bytes]]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, (1 or 3, H, W) uint8) of images in their order, all of one size.

        Args:
            images: as of `stack`.

        Raises:
            CbdmError: as `stack`, but for memory.
        """
        first = None
        for name, source in images:
            name = clean_text(name)
            pixels = self._pixels(name, source)
            size = f"{pixels.shape[2]}×{pixels.shape[1]}"
            first = first or (name, size)
            if size != first[1]:
                raise CbdmError(
                    f"{first[0]} is {first[1]} and {name} is {size}: crop or resize the images to one size, or give "
                    "size=N (--set data.options.size=N), which does so while reading"
                )
            yield name, pixels
        if first is None:
            raise CbdmError("the data hold no image: name files that have some")

    def stack(self, images: Iterable[tuple[str, Path | bytes]], count: int | None = None) -> Tensor:
        """(N, C, H, W) uint8 of images in their order.

        Args:
            images: the name of each for messages, and its file or its encoded bytes; one or more.
            count: how many there are, None where that is not known before they are read.

        Raises:
            CbdmError: no image, images of different sizes without `size`, more than the memory holds, or pixels that
                bytes cannot hold (transparent, deeper than 8 bits, several frames).
        """
        found: list[np.ndarray] = []

        def within_memory() -> Iterator[tuple[str, Path | bytes]]:
            for image in images:
                if count is None or len(found) < 2:  # the first tells size and channels, where they are not given
                    self.check_fits(found, count)
                yield image

        for _, pixels in self.each(within_memory()):
            found.append(pixels)
        channels = max(pixels.shape[0] for pixels in found)
        _warn_of_grey(sum(pixels.shape[0] < channels for pixels in found), len(found))
        return torch.from_numpy(np.stack([np.broadcast_to(p, (channels, *p.shape[1:])) for p in found]))

    def check_fits(self, found: list[np.ndarray], count: int | None) -> None:
        """Refuse images that do not fit, before the next is decoded.

        Args:
            found: those that are held.
            count: how many there are, None where that is not known.

        Raises:
            CbdmError: they do not.
        """
        n = max(count or 0, len(found) + 1)
        one = found[0].nbytes if found else (self.channels or 1) * (self.size or 0) ** 2
        # Each is held by itself and once more in the array of all.
        needed = min((2 * n - len(found)) * one, _MOST_BYTES)
        given = "" if self.size is None else f" of size={self.size:,}"
        images = f"{n:,} image{'s' if n > 1 else ''}{'' if count else ' or more'}"
        check_memory(
            f"reading {images}{given}",
            needed,
            f"give {'a' if self.size is None else 'a smaller'} size=N (--set data.options.size=N), or fewer images, or "
            "write them to the disk first: cbdm data PATH --to FOLDER",
        )

    def _pixels(self, name: str, source: Path | bytes) -> np.ndarray:
        """(1 or 3, H, W) bytes."""
        file = io.BytesIO(source) if isinstance(source, bytes) else regular_file(source)
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return self._framed(_upright(name, image))
        except CbdmError:
            raise
        except UnidentifiedImageError as error:
            raise CbdmError(f"{name} is no image, or is damaged: {', '.join(_FORMATS)} are read; remove it") from error
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CbdmError(f"{name} cannot be read as an image ({reason}): mend or remove it") from error

    def _framed(self, image: Image.Image) -> np.ndarray:
        if self.channels is not None:
            image = image.convert(_MODES[self.channels])
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _warn_of_grey(grey: int, count: int) -> None:
    """Tell of grey images among images in colour; where channels are asked for there are none."""
    if grey:
        warnings.warn(
            f"{grey:,} of {count:,} images {'is' if grey == 1 else 'are'} grey and taken as RGB: channels=1 makes all "
            "grey, channels=3 takes all as RGB (--set data.options.channels=3)",
            CbdmWarning,
            stacklevel=3,
        )


def _upright(name: str, image: Image.Image) -> Image.Image:
    """The image as L or RGB, turned as its EXIF orientation says."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's MPO carries only a preview beside the photograph
        raise CbdmError(f"{name} has {frames} frames: save one image per file")
    if image.mode in _DEEP:
        raise CbdmError(f"{name} has pixels deeper than 8 bits (mode {image.mode}): save it with 8 bits per channel")
    turned = ImageOps.exif_transpose(image)
    may_be_clear = turned.mode in ("LA", "PA", "RGBA") or "transparency" in turned.info
    if may_be_clear and turned.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise CbdmError(f"{name} has transparent pixels: put it on a background and save it without transparency")
    return turned.convert("L" if turned.mode in _GRAY else "RGB")

"""Images as files of anybody's hold them, encoded, one after another, and their labels once all have come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.labelling import Labelling
from cbdm_core.data.pictures import Framing
from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry

__all__ = ["ENCODED", "Encoded"]

# Those sources whose images can be decoded one at a time, by the same names and options as in `DATASETS`.
ENCODED = Registry(
    "source of images",
    "cbdm.encoded",
    {
        "folder": "cbdm_core.data.folders:folder_images",
        "parquet": "cbdm_core.data.parquet:parquet_images",
        "webdataset": "cbdm_core.data.webdataset:webdataset_images",
    },
)


@dataclass(frozen=True)
class Encoded:
    """What a source of encoded images reads, of which nothing is decoded yet.

    Args:
        images: the name of each for messages, and its file or its encoded bytes; one or more.
        labelling: of all of them; asked for once all images have come.
        framing: how they become arrays of one shape.
        count: how many there are, None where that is not known before they are read.
    """

    images: Callable[[], Iterable[tuple[str, Path | bytes]]]
    labelling: Callable[[], Labelling]
    framing: Framing
    count: int | None = None

    def dataset(self) -> Dataset:
        """All of them in memory.

        Raises:
            CbdmError: what `Framing.stack`, `labelling` or `Dataset` refuses.
        """
        x = self.framing.stack(self.images(), self.count)
        return self.labelling().of(x)

    def rows(self) -> Iterator[np.ndarray]:
        """(C, H, W) uint8 of each, none of which is kept.

        Raises:
            CbdmError: what `Framing.each` refuses, a size of which the memory holds no image, or grey and coloured
                images where the framing says no channels.
        """
        self.framing.check_fits([], 1)
        first = None
        for name, pixels in self.framing.each(self.images()):
            first = first or (name, len(pixels))
            if len(pixels) != first[1]:
                grey, coloured = (name, first[0]) if len(pixels) == 1 else (first[0], name)
                raise CbdmError(
                    f"{grey} is grey and {coloured} is not: give channels=3, which takes all as RGB, or channels=1, "
                    "which makes all grey (--set data.options.channels=3)"
                )
            yield pixels

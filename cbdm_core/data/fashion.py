"""Fashion-MNIST, from its idx files."""

from __future__ import annotations

from pathlib import Path

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.fetching import Published
from cbdm_core.data.idx import IdxSet
from cbdm_core.data.places import kept_under

__all__ = ["CLASSES", "FETCHED", "fashion"]

CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_FILES = IdxSet("Fashion-MNIST", CLASSES, "install the Debian package dataset-fashion-mnist, or cbdm fetch fashion")
# Address and sums as the authors' README has them.
FETCHED = {
    "fashion": Published(
        "fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        64 << 20,
    )
}
# Where that package puts the files.
_SYSTEM = Path("/usr/share/datasets/fashion-mnist")


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
    folder = Path(root).expanduser() if root is not None else kept_under("fashion-mnist") or _SYSTEM
    return _FILES.read(folder, part, size)

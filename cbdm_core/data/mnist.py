"""MNIST, from its idx files."""

from __future__ import annotations

from pathlib import Path

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.fetching import Published
from cbdm_core.data.idx import IdxSet
from cbdm_core.data.places import place_of

__all__ = ["FETCHED", "mnist"]

_FILES = IdxSet("MNIST", tuple("0123456789"), "cbdm fetch mnist loads it")
# The copy that torchvision keeps, with the sums of the originals.
FETCHED = {
    "mnist": Published(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        16 << 20,
    )
}


def mnist(*, size: int = 28, part: str = "train", root: str | Path | None = None) -> Dataset:
    """70,000 grey pictures of handwritten digits in ten classes: 60,000 to train on, 10,000 to hold against.

    Args:
        size: pixels of a side: 28 as published, or 14 or 7, the means of 2 × 2 or 4 × 4 pixels, rounded.
        part: "train" or "test".
        root: folder of the four idx files, `train-images-idx3-ubyte` and so on, gzipped (`.gz`) or plain; default
            $CBDM_DATA/mnist.

    Raises:
        CbdmError: no such files, damaged ones, or another size or part.

    Source: LeCun, Bottou, Bengio & Haffner, Proceedings of the IEEE 86, 1998.
    """
    return _FILES.read(place_of("mnist", root, fetched=True), part, size)

"""Small files in the format of Fashion-MNIST: what tests read instead of the real 30 MB."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """An array of bytes in the idx format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def fashion_files(folder: Path, train: int = 30, test: int = 20) -> Path:
    """The four files with images of noise, brighter for larger labels; images gzipped, labels plain."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, n in (("train", train), ("t10k", test)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = random.integers(0, 30, (n, 28, 28)) + 20 * labels[:, None, None]
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images.astype(np.uint8))))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder

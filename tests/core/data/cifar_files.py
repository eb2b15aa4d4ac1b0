"""Small archives in the formats of CIFAR: the binary records, and pickles as Python 2 and Python 3 write them."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def examples(classes: int, files: list[str], n: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """File → ((n, 3072) pixels, (n,) labels)."""
    random = np.random.default_rng(classes)
    return {f: (random.integers(0, 256, (n, 3072), dtype=np.uint8), random.integers(0, classes, n)) for f in files}


def binary10(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], 1).tobytes()


def binary100(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate(
        [labels[:, None].astype(np.uint8) // 5, labels[:, None].astype(np.uint8), pixels], 1
    ).tobytes()


def python2(pixels: np.ndarray, labels: np.ndarray, key: str = "labels") -> bytes:
    """The published kind: protocol 2 by Python 2, whose text is bytes, written here op by op."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86" + dtype + b"\x89"
    array += text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    names = b"](" + text(b"leptodactylus_pentadactylus_s_000004.png") + b"e"
    entries = [b"data", array, key.encode(), listed, b"filenames", names]
    return b"\x80\x02}(" + b"".join(text(e) if i % 2 == 0 else e for i, e in enumerate(entries)) + b"u."


def python3(pixels: np.ndarray, labels: np.ndarray, key: str = "labels", protocol: int = 2) -> bytes:
    return pickle.dumps({b"data": pixels, key: labels.tolist()}, protocol=protocol)


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    """An archive with these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def cifar_archive(path: Path, classes: int = 10) -> Path:
    """The binary archive of CIFAR-10 or CIFAR-100 with one image of each class a file."""
    names, write = (BATCHES, binary10) if classes == 10 else (["train", "test"], binary100)
    parts = examples(classes, names, classes)
    return tar(path, {f"{name}.bin": write(pixels, np.arange(classes)) for name, (pixels, _) in parts.items()})

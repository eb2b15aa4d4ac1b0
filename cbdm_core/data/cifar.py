"""CIFAR-10 and CIFAR-100, from their archives or folders, in the binary and the Python version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from cbdm_core.data.archives import check_md5, members
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.fetching import Published
from cbdm_core.data.places import place_of
from cbdm_core.data.plain_pickle import load_plain
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import regular_file

__all__ = ["CIFAR10", "CIFAR100", "FETCHED", "cifar10", "cifar100"]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_FINE.split())
_PIXELS = 3 * 32 * 32
_MOST_BYTES = 200 << 20  # the largest published file, the Python version's train of CIFAR-100, has 155 MB


@dataclass(frozen=True)
class _Published:
    """One of the two sets: its archives with their MD5 sums, its folders and files, and where labels stand."""

    name: str
    class_names: tuple[str, ...]
    archives: Mapping[str, str]
    folders: tuple[str, str]
    parts: Mapping[str, tuple[str, ...]]
    label_bytes: int  # before the pixels of a record; the last is the class
    label_key: str

    def read(self, root: str | Path | None, part: str, verify: bool) -> Dataset:
        if part not in self.parts:
            raise unknown_name(f"part of {self.name}", part, tuple(self.parts))
        if not isinstance(verify, bool):
            raise CbdmError(f"verify is {verify!r}, it must be true or false")
        place = place_of(self.name, root, fetched=True)
        files = self._files(place, part, verify)
        pixels, labels = zip(*(self._examples(name, content) for name, content in files))
        x = np.concatenate(pixels).reshape(-1, 3, 32, 32)
        y = np.concatenate(labels).astype(np.int64)
        return Dataset(torch.from_numpy(x), torch.from_numpy(y), self.class_names)

    def _files(self, place: Path, part: str, verify: bool) -> list[tuple[str, bytes]]:
        """(name, content) of the files of a part, in their order, of the binary version if both are there."""
        plain = self.parts[part]
        wanted = [[f"{name}.bin" for name in plain], list(plain)]
        for found in self._versions(place, {name for names in wanted for name in names}, verify):
            for names in wanted:
                if set(names) <= set(found):
                    return [(name, found[name]) for name in names]
        raise CbdmError(
            f"{place} does not hold {self.name}: name the archive {' or '.join(self.archives)}, or the folder with "
            f"{', '.join(wanted[0])} or {', '.join(wanted[1])}"
        )

    def _versions(self, place: Path, names: set[str], verify: bool) -> Iterator[dict[str, bytes]]:
        """The wanted files of each place where the set may be."""
        if place.is_file():
            yield self._from_archive(place, names, verify)
            return
        for folder in (place, *(place / name for name in self.folders)):
            there = [folder / name for name in names if (folder / name).is_file()]
            yield {file.name: regular_file(file, _MOST_BYTES).read_bytes() for file in there}
        for archive in (place / name for name in self.archives):
            if archive.is_file():
                yield self._from_archive(archive, names, verify)

    def _from_archive(self, archive: Path, names: set[str], verify: bool) -> dict[str, bytes]:
        if verify and archive.name in self.archives:
            check_md5(archive, self.archives[archive.name])
        found: dict[str, bytes] = {}
        for full, content in members(archive, _MOST_BYTES):
            name = PurePosixPath(full).name
            if name in found:
                raise CbdmError(f"{archive} holds two files called {name}: fetch it again")
            if name in names:
                found[name] = content
        return found

    def _examples(self, name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3072) pixels and (N,) labels of a file."""
        return self._binary(name, content) if name.endswith(".bin") else self._pickled(name, content)

    def _binary(self, name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        record = self.label_bytes + _PIXELS
        if not content or len(content) % record:
            raise CbdmError(
                f"{name} of {self.name} has {len(content):,} bytes, no whole number of records of {record:,}: "
                "fetch it again"
            )
        table = np.frombuffer(content, np.uint8).reshape(-1, record)
        return table[:, self.label_bytes :], table[:, self.label_bytes - 1]

    def _pickled(self, name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        entries = load_plain(content, f"{name} of {self.name}")
        pixels, labels = entries.get("data"), entries.get(self.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
            raise CbdmError(f"{name} of {self.name} has no array 'data' of shape (N, {_PIXELS:,}): fetch it again")
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
            raise CbdmError(f"{name} of {self.name} has no list {self.label_key!r} of labels: fetch it again")
        if len(labels) != len(pixels):
            raise CbdmError(f"{name} of {self.name} has {len(pixels)} images and {len(labels)} labels: fetch it again")
        return pixels, np.array(labels)


_CIFAR10 = _Published(
    "cifar10",
    CIFAR10,
    {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    },
    ("cifar-10-batches-bin", "cifar-10-batches-py"),
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    1,
    "labels",
)
_CIFAR100 = _Published(
    "cifar100",
    CIFAR100,
    {
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    },
    ("cifar-100-binary", "cifar-100-python"),
    {"train": ("train",), "test": ("test",)},
    2,
    "fine_labels",
)


def _binary_archive(of: _Published) -> Published:
    """Where the binary version is, for which no pickle is read."""
    name, md5 = next((name, md5) for name, md5 in of.archives.items() if "binary" in name)
    return Published(of.name, "https://www.cs.toronto.edu/~kriz/", {name: md5}, _MOST_BYTES)


FETCHED = {of.name: _binary_archive(of) for of in (_CIFAR10, _CIFAR100)}


def cifar10(*, root: str | Path | None = None, part: str = "train", verify: bool = True) -> Dataset:
    """60,000 photographs of 32×32 pixels in ten balanced classes: 50,000 to train on, 10,000 to hold against.

    Args:
        root: an archive, `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`; the folder of its files; or a folder
            that holds either. Default $CBDM_DATA/cifar10. The Python version's pickles are read without executing
            them (`load_plain`).
        part: "train" or "test".
        verify: hold an archive of a published name against its published MD5 sum.

    Raises:
        CbdmError: no such files, damaged ones, pickles of more than arrays, or another part.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _CIFAR10.read(root, part, verify)


def cifar100(*, root: str | Path | None = None, part: str = "train", verify: bool = True) -> Dataset:
    """60,000 photographs of 32×32 pixels in a hundred balanced classes, the fine labels; otherwise as `cifar10`.

    Args:
        root: an archive, `cifar-100-binary.tar.gz` or `cifar-100-python.tar.gz`; the folder of its files; or a folder
            that holds either. Default $CBDM_DATA/cifar100.
        part: "train" or "test".
        verify: hold an archive of a published name against its published MD5 sum.

    Raises:
        CbdmError: no such files, damaged ones, pickles of more than arrays, or another part.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _CIFAR100.read(root, part, verify)

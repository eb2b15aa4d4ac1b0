"""A labelled data set: images as bytes, or floats of any shape, such as vectors, signals and latents."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cbdm_core.conditions import Classes, ConditionSpace, MultiLabel, Vectors
from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["Dataset", "as_seen", "from_uint8", "row_digests", "to_uint8"]

_PART = 4096  # rows of a data set on the disk that are looked at together


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] → 0 … 255, clipped and rounded: the inverse of `Dataset.model_input`."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """float32 x/127.5 − 1 in [−1, 1] of bytes, the inverse of `to_uint8`."""
    if x.device.type != "cpu":
        return x.to(torch.float32).div_(127.5).sub_(1)
    out = torch.empty_like(x, dtype=torch.float32)
    values = out.numpy()
    np.divide(x.numpy(), np.float32(127.5), out=values)  # numpy converts as it divides, torch in a pass of its own
    values -= np.float32(1)
    return out


def _mirror(x: np.ndarray, rows: np.ndarray) -> None:
    """Reverse bytes along the last axis: the order of words, and the bytes in each, a sixth of the time of a flip."""
    width = math.gcd(x.shape[-1], 8)
    words = np.ascontiguousarray(x[rows]).view(f"u{width}")[..., ::-1]
    x[rows] = np.ascontiguousarray(words).byteswap(inplace=True).view(np.uint8)


def as_seen(x: Tensor) -> Tensor:
    """Images as a viewer gets them: clipped to [−1, 1] and rounded to 8 bits."""
    return from_uint8(to_uint8(x))


def row_digests(x: Tensor | MappedRows) -> Iterator[bytes]:
    """A hash of the bytes of each row, by which equal examples are found."""
    rows = (row for part in x.split(_PART) for row in part.cpu().numpy())
    return (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with labels, checked once when it is made; a class may have no example.

    Args:
        x: in memory, or on the disk as `MappedRows`; (N, C, *spatial) uint8 images, or float32 in units of its own:
            vectors (N, D), or (N, C, *spatial).
        y: (N,) int64 labels in [0, K).
        class_names: K different names.
        condition: what the network is told of each example where that is no label, (N, D) float32 vectors or (N, A)
            int64 attributes of 0 and 1; None tells it the label. Labels then only say what to count and judge by, such
            as regions of high and low density of the condition.
        units: of floats, such as `Units.standardising(x)`; None shows a network the floats as they are. Images have
            none.
        condition_names: D different names of the numbers of a condition, such as of attributes; None where they have
            none. Nothing is computed from them.

    Raises:
        CbdmError: no example, another dtype or shape, NaN or infinite values, units of another number of channels,
            labels out of range, lengths that disagree, or a name twice.
    """

    x: Tensor | MappedRows
    y: Tensor
    class_names: tuple[str, ...]
    condition: Tensor | None = None
    units: Units | None = None
    condition_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # Names come from files and folders of anybody's, and go to terminals and pages.
        object.__setattr__(self, "class_names", tuple(map(clean_text, self.class_names)))
        self._check_examples()
        self._check_units()
        self._check_labels()
        self._check_condition()
        self._check_condition_names()
        twice = [name for name, n in Counter(self.class_names).items() if n > 1]
        if twice:
            raise CbdmError(f"two classes are called {twice[0]!r}: give each class its own name")

    def _check_examples(self) -> None:
        kind, shape = str(self.x.dtype).removeprefix("torch."), tuple(self.x.shape)
        if len(shape) < {"float32": 2, "uint8": 3}.get(kind, math.inf):
            raise CbdmError(
                f"examples are {kind} of shape {shape}: convert images to uint8 (N, C, …), vectors to float32 (N, D), "
                "and other values to float32 (N, C, …)"
            )
        if self.x.numel() == 0:
            raise CbdmError(f"the data set is empty, its examples have shape {shape}: give it one example or more")
        if kind == "float32":
            self._refuse_unfinite()

    def _refuse_unfinite(self) -> None:
        if isinstance(self.x, MappedRows) and self.x.finite:
            return
        bad = torch.cat([(~torch.isfinite(part.flatten(1))).sum(1) for part in self.x.split(_PART)])
        rows = bad.nonzero()[:, 0]
        if len(rows):
            raise CbdmError(
                f"{int(bad.sum())} values in {len(rows)} examples are NaN or infinite, the first in row "
                f"{int(rows[0])}: remove or mend those examples"
            )
        if isinstance(self.x, MappedRows):
            self.x.finite = True

    def _check_units(self) -> None:
        if self.units is None:
            if not self.is_images and len(self.shape) > 1:  # so that it is known that they are no images
                object.__setattr__(self, "units", Units.identity(self.shape[0]))
        elif self.is_images:
            raise CbdmError("images are bytes and have no units: leave units out, or give the images as float32")
        elif len(self.units.mean) != self.shape[0]:
            raise CbdmError(
                f"examples of shape {self.shape} have {self.shape[0]} channels, the units {len(self.units.mean)}: give "
                "a mean and a scale for each"
            )

    def _check_labels(self) -> None:
        kind, shape = str(self.y.dtype).removeprefix("torch."), tuple(self.y.shape)
        if kind != "int64":
            raise CbdmError(f"labels are {kind}, they must be int64: convert them with .long()")
        if shape != (len(self.x),):
            raise CbdmError(
                f"{len(self.x)} examples need {len(self.x)} labels, got labels of shape {shape}: drop the rest"
            )
        wrong = ((self.y < 0) | (self.y >= self.num_classes)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise CbdmError(
                f"label {int(self.y[row])} of row {row} is out of range: {self.num_classes} classes have labels 0 … "
                f"{self.num_classes - 1}; mend the label or name more classes"
            )

    def _check_condition(self) -> None:
        c = self.condition
        if c is None:
            return
        kind, shape = str(c.dtype).removeprefix("torch."), tuple(c.shape)
        if kind not in ("float32", "int64") or len(shape) != 2 or shape[0] != len(self.x) or shape[1] == 0:
            raise CbdmError(
                f"conditions are {kind} of shape {shape}: {len(self.x)} examples need vectors float32 "
                f"({len(self.x)}, D) or attributes int64 ({len(self.x)}, A)"
            )
        good = torch.isfinite(c) if kind == "float32" else (c == 0) | (c == 1)
        rows = (~good).any(1).nonzero()[:, 0]
        if len(rows):
            allowed = "finite numbers" if kind == "float32" else "0 or 1"
            raise CbdmError(f"the condition of row {int(rows[0])} is {c[rows[0]].tolist()}: allowed are {allowed}")

    def _check_condition_names(self) -> None:
        if self.condition_names is None:
            return
        names = tuple(map(clean_text, self.condition_names))
        object.__setattr__(self, "condition_names", names)
        size = 0 if self.condition is None else self.condition.shape[1]
        if len(names) != size:
            raise CbdmError(f"{len(names)} condition_names for conditions of {size} numbers: give each number one")
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise CbdmError(f"two numbers of a condition are called {twice[0]!r}: give each its own name")

    @property
    def space(self) -> ConditionSpace:
        """The space of what the network is told."""
        if self.condition is None:
            return Classes(self.num_classes)
        size = self.condition.shape[1]
        return Vectors(size) if self.condition.is_floating_point() else MultiLabel(size)

    def condition_values(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """What the network is told of these rows: labels, or conditions where there are some."""
        return self.y[rows] if self.condition is None else self.condition[rows]

    @property
    def num_classes(self) -> int:
        """K, classes without examples included."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether the examples are images (bytes), or else floats."""
        return self.x.dtype == torch.uint8

    def counts(self) -> Tensor:
        """(K,) long, the number of examples of each class; zero where there is none."""
        return torch.bincount(self.y, minlength=self.num_classes)

    def model_input(self, rows: Tensor | slice = slice(None), mirrored: Tensor | None = None) -> Tensor:
        """(B, …) float32: images as x/127.5 − 1 in [−1, 1], floats as they are or, with units, (x − mean)/scale.

        Args:
            rows: which examples.
            mirrored: (M,) long places in the result of images that are flipped along their last axis, for rows that
                are given by number.

        Raises:
            CbdmError: `mirrored` with rows that are a slice, or with data that are no images.
        """
        if mirrored is not None and not (isinstance(rows, Tensor) and self.is_images):
            raise CbdmError("only images that are given by number are mirrored: those of a slice are the data's own")
        if isinstance(rows, Tensor) and rows.dtype == torch.int64 and isinstance(self.x, Tensor):
            # A tenth of the time of x[rows].
            x = self.x.index_select(0, torch.where(rows < 0, rows + len(self.x), rows))
        else:
            x = self.x[rows]
        if self.is_images:
            if mirrored is not None:
                _mirror(x.numpy(), mirrored.numpy())  # rows by number are a copy
            return from_uint8(x)
        return x if self.units is None else self.units.to_model(x)

    def own_units(self, x: Tensor) -> Tensor:
        """(B, …) float32 of what a model draws: floats in the data's units, images in [−1, 1] as they are."""
        return x if self.units is None else self.units.from_model(x)

    def content_hash(self) -> str:
        """SHA-256 in hex of examples, labels, names of classes, conditions and units."""
        facts = (self.shape, str(self.x.dtype), self.class_names, *([] if self.units is None else [self.units]))
        digest = hashlib.sha256(repr(facts).encode())
        for part in self.x.split(_PART):
            digest.update(part.contiguous().numpy().data)
        for array in (self.y, *([] if self.condition is None else [self.condition])):
            digest.update(array.contiguous().numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | Sequence[int]) -> Dataset:
        """The examples of these rows, with the same class names."""
        rows = torch.as_tensor(rows)
        if rows.ndim != 1:
            raise CbdmError(f"rows have {rows.ndim} dimensions, they must have 1: write dataset[[3]] for row 3 alone")
        rows = rows if len(rows) else rows.long()  # an empty list becomes float, which indexes nothing
        condition = None if self.condition is None else self.condition[rows]
        x = self.x.subset(rows) if isinstance(self.x, MappedRows) else self.x[rows]
        return replace(self, x=x, y=self.y[rows], condition=condition)

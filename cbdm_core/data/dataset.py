"""A labelled data set in memory: images as bytes, or vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["Dataset", "to_uint8"]


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] → 0 … 255, clipped and rounded: the inverse of `Dataset.model_input`."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with labels; a class may have none.

    Args:
        x: (N, C, *spatial) uint8 images, or (N, D) float32 vectors.
        y: (N,) long labels in [0, K).
        class_names: K names.

    Raises:
        CbdmError: no example, NaN or infinite values, labels out of range, or lengths that disagree.
    """

    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.x) == 0:
            raise CbdmError("the data set has no example: give it one or more")
        if self.y.shape != (len(self.x),):
            raise CbdmError(f"{len(self.x)} examples need {len(self.x)} labels, got a label array of {tuple(self.y.shape)}")
        if self.x.is_floating_point():
            self._refuse_unfinite()
        wrong = (self.y < 0) | (self.y >= len(self.class_names))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise CbdmError(
                f"label {int(self.y[row])} of row {row} is out of range: {len(self.class_names)} classes have labels "
                f"0 … {len(self.class_names) - 1}"
            )

    def _refuse_unfinite(self) -> None:
        bad = ~torch.isfinite(self.x.flatten(1)).all(1)
        if bad.any():
            raise CbdmError(
                f"{int(bad.sum())} examples hold NaN or infinite values, the first is row {int(bad.nonzero()[0])}: remove "
                "or mend them"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def is_images(self) -> bool:
        return self.x.dtype == torch.uint8

    def counts(self) -> Tensor:
        """(K,) examples of each class."""
        return torch.bincount(self.y, minlength=self.num_classes)

    def model_input(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """float32: images as x/127.5 − 1 in [−1, 1], vectors as they are."""
        x = self.x[rows]
        return x.float() / 127.5 - 1 if self.is_images else x

    def content_hash(self) -> str:
        """SHA-256 of examples, labels and names."""
        digest = hashlib.sha256(repr((self.shape, str(self.x.dtype), self.class_names)).encode())
        for array in (self.x, self.y):
            digest.update(array.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | Sequence[int]) -> Dataset:
        rows = torch.as_tensor(rows)
        return replace(self, x=self.x[rows], y=self.y[rows])

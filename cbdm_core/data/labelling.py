"""What a column of anybody's table says of each example: its class, its attributes, or a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.data.regions import REGIONS, by_combination, by_density
from cbdm_core.errors import CbdmError

__all__ = [
    "MOST_UNNAMED",
    "Labelling",
    "check_conditions",
    "conditions_of",
    "from_attributes",
    "from_classes",
    "from_vectors",
    "in_regions",
]

MOST_UNNAMED = 65_536  # labels that are really identity numbers would make as many classes as their largest
_NEIGHBOURS = 10


class Labelling(NamedTuple):
    """What is told of the examples of a `Dataset`.

    Args:
        labels: (N,) long.
        class_names: (K,) their names.
        condition: (N, D) float32 or (N, A) int64, or None where the label is the condition.
        condition_names: D or A names, or None where they have none.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    condition: Tensor | None = None
    condition_names: tuple[str, ...] | None = None

    def of(self, x: Tensor | MappedRows) -> Dataset:
        """The data set of these examples.

        Raises:
            CbdmError: what `Dataset` refuses.
        """
        return Dataset(x, self.labels, self.class_names, self.condition, condition_names=self.condition_names)


def from_classes(values: Sequence[str] | Sequence[int]) -> Labelling:
    """Whole numbers of 0 or more, as numbers or as text, are the labels 0 … K − 1; other names come in their order.

    Args:
        values: (N,) one class for each example.

    Raises:
        CbdmError: numbers so large that they cannot be meant as labels.
    """
    texts = [str(value).strip() for value in values]
    if not all(text.isascii() and text.isdigit() for text in texts):
        names = sorted(set(texts))
        place = {name: label for label, name in enumerate(names)}
        return Labelling(torch.tensor([place[text] for text in texts]), tuple(names))
    large = max(texts, key=lambda text: (len(text.lstrip("0")), text.lstrip("0")), default="0")
    if len(large) > len(str(MOST_UNNAMED)) or int(large) >= MOST_UNNAMED:
        raise CbdmError(f"label {large[:40]} makes too many classes: number the classes from 0, or name them by words")
    names = tuple(str(label) for label in range(int(large) + 1))
    return Labelling(torch.tensor([int(text) for text in texts]), names)


def from_attributes(attributes: np.ndarray, names: Sequence[str] | None = None) -> Labelling:
    """Attributes of 0 and 1 as the condition; labels are regions of common, middling and rare combinations.

    Args:
        attributes: (N, A) of 0 and 1.
        names: of the attributes.
    """
    return in_regions(_attributes(attributes), names)


def from_vectors(vectors: np.ndarray, names: Sequence[str] | None = None) -> Labelling:
    """Vectors as the condition, as they are; labels are thirds by density, which 10 neighbours tell.

    Args:
        vectors: (N, D) finite numbers.
        names: of the columns.
    """
    return in_regions(_vectors(vectors), names)


def in_regions(condition: Tensor, names: Sequence[str] | None = None) -> Labelling:
    """Conditions without labels, which are regions of common and rare ones then.

    Args:
        condition: (N, A) int64 of 0 and 1, or (N, D) float32.
        names: of their numbers.
    """
    names = None if names is None else tuple(names)
    if not condition.is_floating_point():
        return Labelling(by_combination(condition), REGIONS, condition, names)
    neighbours = min(_NEIGHBOURS, len(condition) - 1)
    y = by_density(condition, neighbours) if neighbours else torch.zeros(len(condition), dtype=torch.long)
    return Labelling(y, REGIONS, condition, names)


def conditions_of(values: np.ndarray) -> Tensor:
    """Whole numbers or truth values that are all 0 or 1 are attributes, other numbers vectors.

    Args:
        values: (N, D), or (N,) for D = 1.

    Returns:
        (N, D) int64 attributes or float32 vectors.

    Raises:
        CbdmError: what are no numbers, none in a row, or more than float32 holds.
    """
    check_conditions(values)
    rows = values.reshape(len(values), -1)
    if rows.dtype.kind != "f" and np.isin(rows, (0, 1)).all():
        return _attributes(rows)
    with np.errstate(over="ignore"):
        unfinite = np.flatnonzero(~np.isfinite(rows.astype(np.float32)).all(1))
    if len(unfinite):
        raise CbdmError(
            f"{len(unfinite)} of {len(rows)} conditions hold NaN or numbers that float32 does not, the first in row "
            f"{unfinite[0]}: remove or mend those examples"
        )
    return _vectors(rows)


def check_conditions(values: np.ndarray) -> None:
    """Refuse what cannot be conditions, without a look at the values.

    Raises:
        CbdmError: what are no numbers, or none in a row.
    """
    if values.dtype.kind not in "biuf" or values.ndim not in (1, 2) or values.size == 0:
        raise CbdmError(
            f"conditions are {values.dtype} of shape {values.shape}: save numbers, (N, D) or (N,), a row an example"
        )


def _attributes(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows).astype(np.int64))


def _vectors(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows).astype(np.float32))

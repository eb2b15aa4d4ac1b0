"""What a list for each example says: the labels that it has, several or none, its attributes, or a vector."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from cbdm_core.data.labelling import Labelling, conditions_of, from_attributes, in_regions
from cbdm_core.errors import CbdmError

__all__ = ["from_lists", "is_listed", "of_lists"]

_MOST_LABELS = 4_096  # each is an attribute of every example


def is_listed(value: object) -> bool:
    """Whether a value is a list that `from_lists` takes: of names, or of finite numbers or truth values.

    Args:
        value: of a JSON, or of a column of lists.
    """
    if not isinstance(value, list):
        return False
    return all(isinstance(v, str) for v in value) or all(_is_number(v) for v in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def of_lists(values: Sequence[object]) -> bool:
    """Whether the labels of a file are lists, which all must be then.

    Args:
        values: (N,) the label of each example.

    Raises:
        CbdmError: lists beside others.
    """
    listed = [isinstance(value, list) for value in values]
    if any(listed) and not all(listed):
        raise CbdmError(
            f"the label of {sum(listed):,} examples is a list, that of {len(listed) - sum(listed):,} is not: write all "
            "as lists, or none"
        )
    return all(listed)


def from_lists(values: Sequence[Sequence[str] | Sequence[float]], names: Sequence[str] | None = None) -> Labelling:
    """Lists of names, of numbers that have names, or of different lengths are labels, others rows of numbers.

    Attribute a of an example is 1 if its list holds the a-th name in alphabetical order, or the number a. Numbers in
    lists of one length are attributes if all are 0 or 1, else vectors as they are.

    Args:
        values: (N,) lists, each one that `is_listed` takes.
        names: what the numbers 0 … A − 1 stand for; None where they have no names.

    Raises:
        CbdmError: names beside numbers; all lists empty; labels below 0, beyond `names`, not whole or more than 4,096;
            or a whole number alone in each list, which may be meant as a class.
    """
    kinds = {isinstance(v, str) for row in values for v in row}
    if not kinds:
        raise CbdmError("the list of labels is empty for every example: name the labels of those that have some")
    if len(kinds) > 1:
        raise CbdmError("some lists of labels hold names and some numbers: keep to one of the two")
    if kinds == {True}:
        place = {name: a for a, name in enumerate(sorted({str(v) for row in values for v in row}))}
        return from_attributes(_several([[place[str(v)] for v in row] for row in values], len(place)), tuple(place))
    numbers = [[float(v) for v in row] for row in values]
    if names is None and len({len(row) for row in numbers}) == 1:
        return in_regions(conditions_of(_rows(numbers, any(isinstance(v, float) for row in values for v in row))))
    labels = _whole(numbers, _MOST_LABELS if names is None else len(names))
    count = 1 + max(map(max, filter(None, labels))) if names is None else len(names)
    return from_attributes(_several(labels, count), names)


def _rows(numbers: Sequence[Sequence[float]], points: bool) -> np.ndarray:
    """(N, D); attributes that a file holds as 0.0 and 1.0 are whole numbers."""
    rows = np.array(numbers)
    if np.isin(rows, (0, 1)).all():
        return rows.astype(np.int64)
    if rows.shape[1] == 1 and not points:
        raise CbdmError(
            "each example has a list of one whole number: write a class as the number itself, without the list, and a "
            "vector of one number as 3.0"
        )
    return rows


def _whole(numbers: Sequence[Sequence[float]], beyond: int) -> list[list[int]]:
    """The labels of each example, all below `beyond`."""
    wrong = next((v for row in numbers for v in row if not v.is_integer() or not 0 <= v < beyond), None)
    if wrong is not None:
        raise CbdmError(
            f"{wrong:g} stands in a list of labels, which are whole numbers from 0 to {beyond - 1:,} where lists have "
            "different lengths or the labels have names: mend it, or write lists of one length, which are vectors"
        )
    return [[int(v) for v in row] for row in numbers]


def _several(labels: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """(N, A) of 0 and 1, 1 at the labels that an example has."""
    if count > _MOST_LABELS:
        raise CbdmError(f"the lists hold {count:,} labels, at most {_MOST_LABELS:,} are taken: keep the commonest")
    attributes = np.zeros((len(labels), count), dtype=np.int64)
    for row, present in zip(attributes, labels):
        row[list(present)] = 1
    return attributes

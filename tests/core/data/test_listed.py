"""Lists of labels: several or none of them, attributes, or a vector, as they are written."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.data.listed import from_lists, is_listed, of_lists
from cbdm_core.errors import CbdmError

SETS = st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=8).filter(any)


@given(SETS)
def test_named_labels_come_back_from_their_attributes(labels):
    names = sorted({f"n{label}" for row in labels for label in row})
    told = from_lists([[f"n{label}" for label in row] for row in labels])
    assert told.condition_names == tuple(names)
    assert [{names[a] for a in np.flatnonzero(row)} for row in told.condition] == [
        {f"n{v}" for v in row} for row in labels
    ]


@given(SETS)
def test_numbers_that_have_names_are_attributes_whatever_the_lengths_of_their_lists(labels):
    told = from_lists([list(row) for row in labels], [str(label) for label in range(10)])
    assert told.condition_names == tuple("0123456789")
    assert told.condition.shape == (len(labels), 10)
    assert [set(np.flatnonzero(row).tolist()) for row in told.condition] == labels


def test_lists_of_different_lengths_are_labels_without_names():
    told = from_lists([[3], [0, 1], []])
    assert told.condition.tolist() == [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]] and told.condition.dtype == torch.int64


@pytest.mark.parametrize(
    ("values", "rows", "dtype"),
    [
        ([[0, 1], [1, 1]], [[0, 1], [1, 1]], torch.int64),
        ([[0.0, 1.0], [1.0, 1.0]], [[0, 1], [1, 1]], torch.int64),
        ([[True], [False]], [[1], [0]], torch.int64),
        ([[0, 2], [1, 1]], [[0.0, 2.0], [1.0, 1.0]], torch.float32),
        ([[3.0], [5]], [[3.0], [5.0]], torch.float32),
    ],
)
def test_lists_of_one_length_are_attributes_if_all_are_0_or_1_and_vectors_else(values, rows, dtype):
    told = from_lists(values)
    assert told.condition.tolist() == rows and told.condition.dtype == dtype


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        ([[], []], None, "is empty for every example"),
        ([["owl"], [1]], None, "some lists of labels hold names and some numbers"),
        ([[3], [5]], None, "a list of one whole number: write a class as the number itself"),
        ([[1], [0, -1]], None, "-1 stands in a list of labels, which are whole numbers from 0 to 4,095"),
        ([[1], [0, 0.5]], None, "0.5 stands in a list of labels"),
        ([[1], [0, 4096]], None, "4096 stands in a list of labels"),
        ([[1], [0, 10**300]], None, r"1e\+300 stands in a list of labels"),
        ([[1], [2]], ["a", "b"], "2 stands in a list of labels, which are whole numbers from 0 to 1"),
        ([[1], [2]], ["a"] * 5_000, "hold 5,000 labels, at most 4,096 are taken"),
        ([[f"n{i}" for i in range(5_000)]], None, "hold 5,000 labels, at most 4,096 are taken"),
        ([[1e300, 2.0]], None, "numbers that float32 does not"),
    ],
)
def test_refused_in_one_line(values, names, said):
    with pytest.raises(CbdmError, match=said) as refused:
        from_lists(values, names)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ([], True),
        (["a"], True),
        ([1, 2.5, True], True),
        ([10**400], False),
        ([float("nan")], False),
        ([1, "a"], False),
        ([[1]], False),
        ([None], False),
        ((1,), False),
        ("ab", False),
    ],
)
def test_what_is_a_list(value, taken):
    assert is_listed(value) == taken


def test_lists_beside_others_are_refused():
    assert of_lists([[1], [2]]) and not of_lists([1, 2])
    with pytest.raises(CbdmError, match="of 1 examples is a list, that of 2 is not"):
        of_lists([1, [1], "a"])


def test_as_many_labels_as_are_allowed_are_taken():
    assert from_lists([[f"n{i}" for i in range(4096)]]).condition.shape == (1, 4096)
    assert from_lists([[4095], [0, 1]]).condition.shape == (2, 4096)

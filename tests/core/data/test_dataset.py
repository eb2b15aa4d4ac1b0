"""A data set says what it holds, and refuses what it cannot hold."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.conditions import Classes, MultiLabel, Vectors
from cbdm_core.data.dataset import Dataset, from_uint8, to_uint8
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError


def images(n=5, y=None, names=("a", "b", "c")):
    x = torch.arange(n * 12, dtype=torch.uint8).reshape(n, 3, 2, 2)
    return Dataset(x, torch.arange(n) % 2 if y is None else y, names)


def test_bytes_and_model_input_are_inverse():
    """All 256 values go to [−1, 1] by x/127.5 − 1 and come back."""
    x = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    data = Dataset(x, torch.zeros(4, dtype=torch.long), ("a",))
    z = data.model_input()
    truth = np.arange(256, dtype=np.float64) / 127.5 - 1
    np.testing.assert_allclose(z.flatten().double(), truth, atol=1e-7)
    assert z.dtype == torch.float32 and (z.min(), z.max()) == (-1, 1)
    assert torch.equal(to_uint8(z), x)


def test_bytes_in_any_layout_have_the_bits_of_torch():
    x = torch.arange(256, dtype=torch.uint8).reshape(4, 2, 8, 4)
    for some in (x, x.transpose(1, 3), x[:, :, ::2], x[0, 0, 0, 0], x[:0]):
        ours, theirs = from_uint8(some), some.to(torch.float32).div(127.5).sub(1)
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride() and ours.dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 8), (3, 2, 16), (2, 3, 12), (1, 28, 28), (1, 6), (2, 5, 7), (1, 1)])
def test_mirrored_images_are_flipped_at_every_width(shape):
    """Widths of whole words of 8, 4 and 2 bytes and of none."""
    x = torch.randint(0, 256, (9, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, places = torch.tensor([4, 4, 0, -1, 7]), torch.tensor([1, 3])
    data = Dataset(x, torch.zeros(9, dtype=torch.long), ("a",))
    expected = data.model_input(rows)
    expected[places] = expected[places].flip(-1)
    assert torch.equal(data.model_input(rows, places), expected)
    assert torch.equal(data.model_input(rows, places[:0]), data.model_input(rows))


def test_beyond_the_range_is_clipped():
    assert to_uint8(torch.tensor([-7.0, -1.0, 0.001, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


def test_vectors_are_handed_over_as_they_are():
    x = torch.tensor([[300.0, -2.0], [0.1, 5.0]])
    data = Dataset(x, torch.tensor([0, 1]), ("a", "b"))
    assert not data.is_images
    assert torch.equal(data.model_input(torch.tensor([1])), x[1:])


def test_rows_select_examples_labels_and_keep_the_names():
    data = images()
    some = data[torch.tensor([4, 1, 1])]
    assert some.y.tolist() == [0, 1, 1] and some.class_names == data.class_names
    assert torch.equal(some.x, torch.stack([data.x[4], data.x[1], data.x[1]]))
    assert data[data.y == 1].y.tolist() == [1, 1]
    assert data.counts().tolist() == [3, 2, 0] and data.num_classes == 3 and data.shape == (3, 2, 2)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_counts_are_a_count(labels):
    data = images(len(labels), torch.tensor(labels), tuple("abcde"))
    assert data.counts().tolist() == [labels.count(c) for c in range(5)]


def test_hash_hears_of_every_part():
    data = images()
    x, y = data.x.clone(), data.y.clone()
    x[3, 1, 0, 1] ^= 1
    y[0] = 2
    others = [
        Dataset(x, data.y, data.class_names),
        Dataset(data.x, y, data.class_names),
        Dataset(data.x, data.y, ("a", "b", "C")),
        Dataset(data.x.reshape(5, 1, 4, 3), data.y, data.class_names),
        data[torch.tensor([1, 0, 2, 3, 4])],
    ]
    assert len({d.content_hash() for d in [data, *others]}) == 6
    strided = Dataset(data.x.transpose(2, 3).contiguous().transpose(2, 3), data.y.clone(), data.class_names)
    assert strided.content_hash() == data.content_hash()


def test_unfinite_values_are_counted_and_the_first_row_named():
    x = torch.zeros(9, 3)
    x[4, 0], x[4, 2], x[7, 1] = torch.nan, -torch.inf, torch.inf
    with pytest.raises(CbdmError, match="3 values in 2 examples are NaN or infinite, the first in row 4"):
        Dataset(x, torch.zeros(9, dtype=torch.long), ("a",))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_named_with_their_row(label):
    with pytest.raises(CbdmError, match=rf"label {label} of row 2 is out of range: 3 classes have labels 0 … 2"):
        images(5, torch.tensor([0, 2, label, 0, 99]))


def vector_set(x, y=(0,), names=("a",)):
    return lambda: Dataset(x, torch.as_tensor(y), names)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (vector_set(torch.zeros(3, 2), [0, 0]), r"3 examples need 3 labels, got labels of shape \(2,\)"),
        (vector_set(torch.zeros(1, 2), [[0]]), r"labels of shape \(1, 1\)"),
        (vector_set(torch.zeros(1, 2), [0.0]), "labels are float32, they must be int64"),
        (vector_set(torch.zeros(0, 2)), r"the data set is empty, its examples have shape \(0, 2\)"),
        (vector_set(torch.zeros(1, 0)), r"the data set is empty, its examples have shape \(1, 0\)"),
        (vector_set(torch.zeros(1, 2, dtype=torch.float64)), r"examples are float64 of shape \(1, 2\)"),
        (vector_set(torch.zeros(1)), r"examples are float32 of shape \(1,\): convert .* other values to float32"),
        (vector_set(torch.zeros(1, 1, 2, 2, dtype=torch.float16)), r"examples are float16 of shape \(1, 1, 2, 2\)"),
        (lambda: replace(images(), units=Units.identity(3)), "images are bytes and have no units"),
        (lambda: replace(vector_set(torch.zeros(1, 2))(), units=Units.identity(3)), "have 2 channels, the units 3"),
        (vector_set(torch.zeros(1, 2, dtype=torch.uint8)), r"examples are uint8 of shape \(1, 2\)"),
        (vector_set(torch.zeros(1, 2), names=("a", "b", "a")), "two classes are called 'a'"),
        (lambda: images()[torch.tensor(2)], "rows have 0 dimensions"),
        (lambda: images()[[]], "the data set is empty"),
    ],
)
def test_refused_in_one_line(make, said):
    with pytest.raises(CbdmError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def told(condition, n=4):
    return lambda: Dataset(torch.zeros(n, 2), torch.arange(n) % 2, ("a", "b"), condition)


def test_a_network_is_told_the_condition_and_labels_only_count():
    vector, attribute = (
        torch.tensor([[0.5, -1.0], [2.0, 3.0], [4.0, 5.0]]),
        torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]),
    )
    x, y = torch.zeros(3, 2), torch.tensor([1, 0, 1])
    by_class, by_vector, by_attribute = (Dataset(x, y, ("a", "b"), c) for c in (None, vector, attribute))
    assert [data.space for data in (by_class, by_vector, by_attribute)] == [Classes(2), Vectors(2), MultiLabel(3)]
    assert torch.equal(by_class.condition_values(), y) and by_class.condition_values(torch.tensor([2, 1])).tolist() == [
        1,
        0,
    ]
    assert torch.equal(by_vector.condition_values(torch.tensor([2, 0])), vector[[2, 0]])
    assert torch.equal(by_attribute.condition_values(), attribute)
    assert by_vector.counts().tolist() == [1, 2]


def test_rows_keep_their_conditions_and_the_hash_hears_of_them():
    c = torch.arange(8.0).reshape(4, 2)
    data = told(c)()
    assert data[[3, 1, 1]].condition.tolist() == [[6, 7], [2, 3], [2, 3]]
    changed = c.clone()
    changed[2, 1] += 1e-3
    others = [told(changed)(), told(None)(), told(torch.zeros(4, 2, dtype=torch.long))()]
    assert len({other.content_hash() for other in [data, *others]}) == 4
    assert told(c.clone())().content_hash() == data.content_hash()


def test_names_of_a_condition_stay_with_its_rows_and_the_hash_does_not_hear_of_them():
    data = Dataset(torch.zeros(4, 2), torch.arange(4) % 2, ("a", "b"), torch.eye(4).long()[:, :2])
    named = replace(data, condition_names=("hat", "a\x1bb"))
    assert named[[1, 2]].condition_names == ("hat", r"a\x1bb") and named.content_hash() == data.content_hash()


@pytest.mark.parametrize(
    ("condition", "names", "said"),
    [
        (None, ("hat",), "1 condition_names for conditions of 0 numbers"),
        (torch.zeros(4, 2), ("hat",), "1 condition_names for conditions of 2 numbers: give each number one"),
        (torch.zeros(4, 2), ("hat", "hat"), "two numbers of a condition are called 'hat'"),
    ],
)
def test_names_that_do_not_fit_a_condition_are_refused(condition, names, said):
    with pytest.raises(CbdmError, match=said):
        replace(told(condition)(), condition_names=names)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (torch.zeros(4, 2, dtype=torch.float64), "conditions are float64"),
        (torch.zeros(4, 2, dtype=torch.int32), "conditions are int32"),
        (torch.zeros(4, 2, dtype=torch.bool), "conditions are bool"),
        (torch.zeros(4), r"of shape \(4,\)"),
        (torch.zeros(3, 2), r"of shape \(3, 2\): 4 examples need vectors float32 \(4, D\)"),
        (torch.zeros(4, 0), r"of shape \(4, 0\)"),
        (
            torch.tensor([[0.0], [1.0], [torch.nan], [2.0]]),
            r"condition of row 2 is \[nan\]: allowed are finite numbers",
        ),
        (torch.tensor([[0.0], [torch.inf], [3.0], [2.0]]), r"condition of row 1 is \[inf\]"),
        (torch.tensor([[0, 1], [1, 1], [0, 0], [0, 2]]), r"condition of row 3 is \[0, 2\]: allowed are 0 or 1"),
        (torch.tensor([[0, 1], [-1, 1], [0, 0], [0, 2]]), r"condition of row 1 is \[-1, 1\]"),
    ],
)
def test_a_condition_that_is_none_is_refused(condition, said):
    with pytest.raises(CbdmError, match=said) as caught:
        told(condition)()
    assert "\n" not in str(caught.value)


def test_names_of_many_classes_are_checked_in_one_pass():
    """Each name held against all before it took half a minute."""
    names = tuple(map(str, range(60_000)))
    start = time.process_time()
    assert images(names=names).num_classes == 60_000
    with pytest.raises(CbdmError, match="two classes are called '7'"):
        images(names=(*names, "7"))
    assert time.process_time() - start < 5

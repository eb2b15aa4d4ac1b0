"""Long tails against the published splits, and against their formulas."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.longtail import long_tail_counts, make_long_tail, split_hash, take
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "longtail_splits.npz", allow_pickle=False)
IMBALANCE = st.floats(1e-4, 1, exclude_min=False)


def labelled(y, names):
    return Dataset(torch.arange(len(y), dtype=torch.float32)[:, None], torch.as_tensor(y), tuple(names))


@pytest.mark.parametrize("imbalance", ["0.1", "0.01", "0.001"])
@pytest.mark.parametrize("profile", ["exp", "step"])
@pytest.mark.parametrize(("name", "classes", "n_max"), [("cifar10", 10, 5000), ("cifar100", 100, 500)])
def test_counts_are_the_published_ones(name, classes, n_max, profile, imbalance):
    counts = long_tail_counts(profile, classes, n_max, float(imbalance))
    assert counts.tolist() == GOLDEN[f"{name}_{profile}_{imbalance}"].tolist()


def test_the_split_is_the_published_one():
    labels = torch.from_numpy(GOLDEN["split_labels"])
    indices = take(labels, long_tail_counts("exp", 10, 60, 0.05), seed=0)
    assert indices.tolist() == GOLDEN["split_selected"].tolist()
    assert labels[indices].tolist() == GOLDEN["split_targets"].tolist()


def test_digits_go_from_174_to_3():
    data = digits()
    tail, indices, digest = make_long_tail(data, imbalance=0.02, seed=3)
    expected = [int(174 * 0.02 ** (c / 9)) for c in range(10)]
    assert tail.counts().tolist() == expected and (expected[0], expected[-1]) == (174, 3)
    assert len(set(indices.tolist())) == len(indices) == sum(expected)
    assert torch.equal(tail.x, data.x[indices]) and torch.equal(tail.y, data.y[indices])
    packed = b"".join(int(i).to_bytes(8, "little", signed=True) for i in indices)
    assert digest == hashlib.sha256(packed).hexdigest() == split_hash(indices)


def test_the_seed_changes_which_but_not_how_many():
    data = digits()
    splits = [make_long_tail(data, seed=seed) for seed in (0, 0, 1)]
    assert splits[0][2] == splits[1][2] != splits[2][2]
    assert torch.equal(splits[0][0].counts(), splits[2][0].counts())


@given(st.integers(2, 200), st.integers(1, 10_000), IMBALANCE)
def test_exponential_counts_fall_from_one_end_to_the_other(classes, n_max, imbalance):
    counts = long_tail_counts("exp", classes, n_max, imbalance)
    assert len(counts) == classes and (counts.diff() <= 0).all()
    assert counts[0] == n_max and counts[-1] == int(n_max * imbalance)
    exact = n_max * imbalance ** (torch.arange(classes, dtype=torch.float64) / (classes - 1))
    assert (counts <= exact + 1e-6).all() and (counts > exact - 1 - 1e-6).all()


@given(st.integers(1, 200), st.integers(1, 10_000), IMBALANCE)
def test_step_counts_have_two_values(classes, n_max, imbalance):
    counts = long_tail_counts("step", classes, n_max, imbalance).tolist()
    head = (classes + 1) // 2
    assert counts == [n_max] * head + [int(n_max * imbalance)] * (classes - head)


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_one_class_keeps_everything(profile):
    assert long_tail_counts(profile, 1, 50, 0.01).tolist() == [50]


@given(st.data())
def test_take_keeps_what_was_asked(data):
    labels = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=60))
    counts = [data.draw(st.integers(0, labels.count(c))) for c in range(6)]
    indices = take(torch.tensor(labels), counts, seed=data.draw(st.integers(0, 2**32 - 1)))
    kept = [labels[i] for i in indices]
    assert kept == [c for c in range(6) for _ in range(counts[c])]
    assert len(set(indices.tolist())) == sum(counts)


@given(st.integers(0, 2**32 - 1))
def test_a_class_keeps_more_of_the_same_when_more_is_asked(seed):
    """Splits of one seed are nested, so that imbalances can be compared on common examples."""
    labels = torch.arange(60) % 3
    few, many = take(labels, [5, 0, 2], seed=seed), take(labels, [9, 1, 20], seed=seed)
    assert set(few.tolist()) <= set(many.tolist())


def test_classes_without_examples_keep_none():
    """The default n_max is the smallest class that has any; the empty class's place in the profile stays its own."""
    data = labelled([0] * 20 + [2] * 10 + [3] * 30, "abcd")
    tail, _, _ = make_long_tail(data, imbalance=0.1)
    assert tail.counts().tolist() == [10, 0, int(10 * 0.1 ** (2 / 3)), 1]
    assert tail.class_names == data.class_names


def test_explicit_counts_may_be_zero():
    data = labelled([0] * 4 + [2] * 3, "abc")
    assert make_long_tail(data, counts=[1, 0, 3])[0].counts().tolist() == [1, 0, 3]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_share_of_each_class_is_held_out(counts, share, seed):
    """The nearest number to the share, one at least where a class has two, and never all."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    data = Dataset(torch.zeros(len(y), 2), y, tuple(map(str, range(len(counts)))))
    tail, indices, _ = make_long_tail(data, profile="held-out", held_out=share, seed=seed)
    out = [n - kept for n, kept in zip(counts, tail.counts().tolist(), strict=True)]
    for n, held in zip(counts, out, strict=True):
        assert held == (0 if n < 2 else min(max(1, math.floor(share * n + 0.5)), n - 1))
    assert len(set(indices.tolist())) == len(indices) and torch.equal(data.y[indices], tail.y)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(CbdmError, match=r"held_out is .*, it must be above 0 and below 1"):
        make_long_tail(digits(), profile="held-out", held_out=share)


def test_no_profile_keeps_everything_in_order():
    data = labelled([1, 0, 1], "ab")
    tail, indices, digest = make_long_tail(data, profile="none")
    assert indices.tolist() == [0, 1, 2] and tail.content_hash() == data.content_hash()
    assert digest == split_hash(indices)


DATA = labelled([0] * 4 + [1] * 3, ["cat", "dog"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_long_tail(DATA, counts=[4, 5]), "class dog has 3 examples, 5 were asked for"),
        (lambda: make_long_tail(DATA, n_max=5), "class cat has 4 examples, 5 were asked for"),
        (lambda: make_long_tail(DATA, counts=[4, -1]), "class dog is given a count of -1"),
        (lambda: make_long_tail(DATA, counts=[4, 1.5]), "a count is 1.5: counts are whole numbers"),
        (lambda: make_long_tail(DATA, counts=[4]), "1 counts for 2 classes"),
        (lambda: make_long_tail(DATA, counts=[0, 0]), "keeps no example at all"),
        (lambda: make_long_tail(DATA, profile="steps"), "'steps': did you mean 'step'"),
        (lambda: make_long_tail(DATA, profile="steps", counts=[1, 1]), "'steps': did you mean 'step'"),
        (lambda: make_long_tail(DATA, n_max=0), "n_max ≥ 1, got 2 and 0"),
        (lambda: make_long_tail(DATA, seed=-1), "seed of a split is -1"),
        (lambda: take(torch.tensor([0, 3]), [1, 0], seed=0), "2 counts, and the labels go up to 3"),
        (lambda: take(torch.tensor([0]), [2], seed=0), "class 0 has 1 examples, 2 were asked for"),
        (lambda: long_tail_counts("none", 3, 3, 0.5), "unknown long-tail profile 'none'"),
        (lambda: long_tail_counts("exp", 0, 3, 0.5), "num_classes ≥ 1"),
    ],
)
def test_refused_in_one_line(make, said):
    with pytest.raises(CbdmError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("imbalance", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_imbalance_must_be_in_the_unit_interval(imbalance):
    with pytest.raises(CbdmError, match=rf"imbalance is {imbalance}, it must be in \(0, 1\]"):
        make_long_tail(DATA, imbalance=imbalance)

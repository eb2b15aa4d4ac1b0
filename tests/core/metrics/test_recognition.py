"""Recognition: accuracy against Bayes, what filling does where it is known, pairing, and a test set apart."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from cbdm_cli.study.results import estimate
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import classifier as features
from cbdm_core.metrics.recognition import (
    ARMS,
    Recognition,
    class_accuracy,
    filling_labels,
    held_out_rows,
    predict_held_out,
    recognition_groups,
    training_sets,
)

SHIFT = 1.0


def gaussians(counts, seed, dimension=8):
    """Class c is N(±SHIFT e₁, I), minus for 0 and plus for 1: Bayes accuracy is Φ(SHIFT) for each class."""
    y = torch.arange(2).repeat_interleave(torch.tensor(counts))
    x = Draws(seed, 0, torch.arange(len(y))).normal("toy", dimension)
    x[:, 0] += SHIFT * (2 * y - 1)
    return x, y


TEST = gaussians([4000, 4000], seed=99)
COUNTS = torch.tensor([300, 6])


def accuracies(labels_of_filling=lambda labels, seed: labels, arms=ARMS, seeds=4):
    """Arm → (overall, tail) accuracy at each seed, with true draws as the filling."""
    found = {arm: [] for arm in arms}
    x, y = gaussians(COUNTS.tolist(), seed=1)
    labels = filling_labels(COUNTS)
    for seed in range(seeds):
        extra = gaussians([0, len(labels)], seed=1000 + seed)[0]
        sets = training_sets(x, y, extra, labels, seed)
        for arm in arms:
            xs, ys = sets[arm]
            if arm == "filled":
                ys = torch.cat([y, labels_of_filling(labels, seed)])
            predicted = predict_held_out(xs, ys, TEST[0], 2, seed=seed)
            result = Recognition.of(predicted, TEST[1], COUNTS)
            found[arm].append((result.groups["overall"], result.groups["tail"]))
    return found


@pytest.fixture(scope="module")
def truly_filled():
    return accuracies()


def difference(found, arm, other, place):
    return estimate([a[place] - b[place] for a, b in zip(found[arm], found[other], strict=True)])


def test_the_accuracy_comes_near_bayes_and_does_not_pass_it():
    """8,000 test rows have a standard error of 0.0041: four of them above; below, 0.04 for what is not learned."""
    x, y = gaussians([3000, 3000], seed=2)
    predicted = predict_held_out(x, y, TEST[0], 2, seed=0)
    accuracy = Recognition.of(predicted, TEST[1], torch.tensor([3000, 3000])).groups["overall"]
    assert norm.cdf(SHIFT) - 0.04 < accuracy < norm.cdf(SHIFT) + 0.0165


def test_filling_with_true_examples_raises_the_tail_beyond_its_interval(truly_filled):
    """Against the training set alone, and in all against copies, which bring no new example."""
    for other, place in (("alone", 1), ("oversampled", 1), ("oversampled", 0)):
        gain = difference(truly_filled, "filled", other, place)
        assert gain.mean > 0.05 and gain.excludes_zero, (other, place, gain)


def test_filling_with_shuffled_labels_lowers_accuracy(truly_filled):
    """The same examples with coins for labels: below the true labels and, in all, below the Bayes rule by far."""

    def coins(labels, seed):
        return (Draws(seed, 0, torch.arange(len(labels))).uniform("coins", 1)[:, 0] < 0.5).long()

    shuffled = accuracies(coins, arms=["filled"])
    for place in (0, 1):
        lost = estimate([a[place] - b[place] for a, b in zip(shuffled["filled"], truly_filled["filled"], strict=True)])
        assert lost.mean < -0.05 and lost.excludes_zero, (place, lost)


def test_the_same_seed_gives_the_same_and_leaves_the_global_state(small=200):
    x, y = gaussians([small, 10], seed=3)
    before = torch.random.get_rng_state()
    first = predict_held_out(x, y, TEST[0], 2, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)  # what the caller did before is of no matter
    assert torch.equal(predict_held_out(x, y, TEST[0], 2, seed=5), first)
    assert not torch.equal(predict_held_out(x, y, TEST[0], 2, seed=6), first)


def test_arms_differ_in_the_filling_alone():
    """Filled with the very copies that oversampling takes, the two classifiers agree on every test row."""
    x, y = gaussians([60, 5], seed=4)
    labels = filling_labels(torch.tensor([60, 5]))
    copies = training_sets(x, y, torch.zeros(len(labels), 8), labels, seed=7)["oversampled"][0][len(x) :]
    sets = training_sets(x, y, copies, labels, seed=7)
    for xs, ys in sets.values():
        assert torch.equal(xs[: len(x)], x) and torch.equal(ys[: len(y)], y) and len(xs) == len(x) + len(labels)
    oversampled, filled = (predict_held_out(*sets[arm], TEST[0], 2, seed=1) for arm in ("oversampled", "filled"))
    assert torch.equal(oversampled, filled)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.integers(1, 14), st.integers(0, 99))
def test_filling_and_copies_by_counting(counts, fill, seed):
    """Every class with images and fewer than N comes to N; each of its images is used as often as another, or once
    more; the arm of the training set alone keeps its proportions likewise."""
    if not any(0 < n < fill for n in counts):
        return
    counts = torch.tensor(counts)
    y = torch.arange(len(counts)).repeat_interleave(counts)
    x = torch.arange(len(y), dtype=torch.float32)[:, None]  # an example is its number
    labels = filling_labels(counts, fill)
    sets = training_sets(x, y, -torch.ones(len(labels), 1), labels, seed)
    expected = [max(n, fill) if n else 0 for n in counts.tolist()]
    for arm in ("oversampled", "filled"):
        assert torch.bincount(sets[arm][1], minlength=len(counts)).tolist() == expected
    for arm, groups in (("oversampled", range(len(counts))), ("alone", [None])):
        xs, ys = sets[arm]
        assert torch.equal(ys, y[xs[:, 0].long()])  # a copy keeps its label
        used = torch.bincount(xs[:, 0].long(), minlength=len(y))
        for group in groups:
            of = used if group is None else used[y == group]
            assert len(of) == 0 or int(of.max() - of.min()) <= 1
    assert (sets["filled"][0][len(y) :] == -1).all()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.data())
def test_no_test_image_is_in_training_byte_by_byte(values, data):
    """Few different images, so that twins of training images under other row numbers come up all the time."""
    reference = torch.tensor(values, dtype=torch.uint8)[:, None, None].expand(-1, 1, 2).clone()
    kept = data.draw(st.lists(st.sampled_from(range(len(values))), min_size=1, unique=True))
    expected = [i for i, value in enumerate(values) if value not in {values[j] for j in kept}]
    if not expected:
        with pytest.raises(CbdmError, match="no test image is left"):
            held_out_rows(reference, reference[kept])
        return
    assert held_out_rows(reference, reference[kept]).tolist() == expected


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_accuracies_by_counting(K, count, seed):
    g = torch.Generator().manual_seed(seed)
    predicted, y = torch.randint(K, (count,), generator=g), torch.randint(K, (count,), generator=g)
    training = torch.randint(1, 200, (K,), generator=g)
    pairs = list(zip(predicted.tolist(), y.tolist(), strict=True))

    def one(label):
        of = [p == t for p, t in pairs if t == label]
        return sum(of) / len(of) if of else None

    result = Recognition.of(predicted, y, training)
    assert result.classes == pytest.approx([one(label) for label in range(K)], abs=1e-12)
    assert class_accuracy(predicted, y, K).isnan().tolist() == [one(label) is None for label in range(K)]
    for name, labels in recognition_groups(training).items():
        known = [value for label in labels if (value := one(label)) is not None]
        expected = sum(known) / len(known) if known else None
        assert result.groups[name] == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_images_take_the_convolutional_network(monkeypatch):
    """Light squares above or below the middle, told apart after few steps."""
    monkeypatch.setattr(features, "_STEPS", (60, 60))
    g = torch.Generator().manual_seed(0)
    x, y = 0.3 * torch.randn(300, 1, 8, 8, generator=g), torch.arange(300) % 2
    x[y == 0, :, :4] += 1
    x[y == 1, :, 4:] += 1
    predicted = predict_held_out(x[:200], y[:200], x[200:], 2, seed=0)
    assert float((predicted == y[200:]).double().mean()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: filling_labels(torch.tensor([5, 2]), 0), "fill = 0: .* 1 or more"),
        (lambda: filling_labels(torch.tensor([5, 2, 0]), 2), "has 2 examples or more; fill up to 3"),
        (lambda: filling_labels(torch.tensor([], dtype=torch.long)), "0 classes, none with a training example"),
        (lambda: filling_labels(torch.tensor([0, 0, 0])), "3 classes, none with a training example"),
        (lambda: filling_labels(torch.tensor([0, 0]), 5), "2 classes, none with a training example"),
        (lambda: filling_labels(torch.tensor([4, 4])), "has 4 examples or more; fill up to 5"),
        (lambda: held_out_rows(torch.zeros(3, 2), torch.zeros(3, 4)), "give the subset of one set"),
        (
            lambda: training_sets(torch.zeros(0, 3), torch.tensor([]), torch.zeros(1, 3), torch.tensor([1]), 0),
            "0 training examples with 0 labels: give 1 or more",
        ),
        (
            lambda: training_sets(torch.zeros(0, 3), torch.tensor([]), torch.zeros(0, 3), torch.tensor([]), 0),
            "0 training examples with 0 labels: give 1 or more",
        ),
        (
            lambda: training_sets(torch.zeros(2, 3), torch.tensor([1]), torch.zeros(1, 3), torch.tensor([1]), 0),
            "2 training examples with 1 labels: .* one label each",
        ),
        (
            lambda: training_sets(torch.zeros(2, 3), torch.tensor([0, 0]), torch.zeros(1, 3), torch.tensor([1]), 0),
            "label 1 has no training example",
        ),
        (
            lambda: training_sets(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(1, 4), torch.tensor([1]), 0),
            "1 generated examples of shape .4,.",
        ),
        (
            lambda: predict_held_out(torch.zeros(2, 3), torch.tensor([0, 2]), torch.zeros(1, 3), 2, seed=0),
            "labels go from 0 to 2: 2 classes have 0 … 1",
        ),
        (
            lambda: predict_held_out(torch.full((1, 3), math.nan), torch.tensor([0]), torch.zeros(1, 3), 2, seed=0),
            "NaN or infinite",
        ),
        (
            lambda: predict_held_out(torch.zeros(1, 3), torch.tensor([0]), torch.zeros(0, 3), 2, seed=0),
            "1 training and 0 test examples",
        ),
        (
            lambda: predict_held_out(torch.zeros(2, 3), torch.tensor([0]), torch.zeros(1, 3), 2, seed=0),
            "2 training examples of shape .* with 1 labels",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(CbdmError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

"""Batches: a pure function of (seed, step), whole epochs, and the class law that was asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import digits
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError


def numbered(n, y=None, names=("a",)):
    """Vectors that hold their own row number."""
    x = torch.arange(n, dtype=torch.float32)[:, None]
    return Dataset(x, torch.zeros(n, dtype=torch.long) if y is None else y, names)


def drawn(batches, steps):
    return torch.cat([batches.at(step)[0][:, 0].long() for step in steps])


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_each_epoch_is_a_permutation(n, batch_size, seed):
    """Also where batches reach over the end of an epoch, or hold several."""
    epochs = 3
    stream = drawn(Batches(numbered(n), batch_size, seed=seed), range(-(-epochs * n // batch_size)))
    for epoch in stream[: epochs * n].reshape(epochs, n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_epochs_and_seeds_have_their_own_orders():
    n = 200
    one, other = (drawn(Batches(numbered(n), n, seed=s), range(3)).reshape(3, n) for s in (0, 1))
    orders = {tuple(order.tolist()) for order in [*one, *other, torch.arange(n)]}
    assert len(orders) == 7


def test_every_place_of_an_epoch_is_as_likely():
    """Chi-square of where example 0 comes in 3,000 epochs of 12."""
    batches = Batches(numbered(12), 12, seed=7)
    places = [drawn(batches, [e]).tolist().index(0) for e in range(3000)]
    assert chisquare(torch.bincount(torch.tensor(places), minlength=12).numpy()).pvalue > 1e-3


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.booleans(), st.integers(0, 2**31))
def test_a_batch_does_not_depend_on_history(steps, weighted, seed):
    data = numbered(17)
    weights = torch.arange(17.0) if weighted else None
    used = Batches(data, 5, seed=seed, weights=weights)
    for step in steps:
        fresh = Batches(data, 5, seed=seed, weights=weights)
        assert all(torch.equal(a, b) for a, b in zip(used.at(step)[:4], fresh.at(step)[:4]))
    assert len(used._orders) <= 2


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_shares_make_up_the_batch(world, weighted):
    data = digits()
    weights = torch.rand(len(data), generator=torch.Generator().manual_seed(0)) if weighted else None
    batches = Batches(data, 24, seed=5, weights=weights, flip=True)
    for step in (0, 74, 1000):  # 74 reaches over the end of the first epoch
        shares = [batches.at(step, rank, world) for rank in range(world)]
        whole = batches.at(step)
        assert whole[2].tolist() == list(range(24))
        for parts, together in zip(list(zip(*shares))[:4], whole[:4]):
            assert torch.equal(torch.cat(parts), together)


def test_a_batch_is_the_model_input_of_its_examples():
    data = digits()
    x_0, y, *_ = Batches(data, 1797, seed=0).at(0)
    assert (x_0.dtype, x_0.shape, x_0.min(), x_0.max()) == (torch.float32, (1797, 1, 8, 8), -1, 1)
    order = Draws(0, 0, torch.arange(1797)).bits("order", 2)
    keys = [(int(high) << 30) | (int(low) >> 2) for high, low in order]
    expected = sorted(range(1797), key=keys.__getitem__)
    assert torch.equal(x_0, data.model_input(torch.tensor(expected))) and torch.equal(y, data.y[expected])


def test_weighted_draws_are_those_of_draws():
    """The distribution function is summed once; the numbers are those of `Draws.categorical`."""
    weights = torch.rand(500, generator=torch.Generator().manual_seed(1)) ** 4
    weights[:30] = weights[-30:] = 0
    batches = Batches(numbered(500), 64, seed=3, weights=weights)
    for step in range(20):
        expected = Draws(3, step, torch.arange(64)).categorical("batch", weights)
        assert torch.equal(drawn(batches, [step]), expected)


def test_weight_0_is_never_drawn_at_the_edges(monkeypatch):
    """A number that falls on a step of the distribution function, or rounds up to its end."""
    edges = torch.tensor([1e-300, 0.25, 0.5, 1 - 2**-53, 1.0], dtype=torch.float64)
    monkeypatch.setattr(Draws, "uniform", lambda self, purpose, *shape: edges.reshape(-1, *shape))
    weights = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.0, 0.0])
    assert drawn(Batches(numbered(6), 5, seed=0, weights=weights), [0]).tolist() == [1, 2, 4, 4, 4]
    assert Draws(0, 0, torch.arange(5)).categorical("batch", weights).tolist() == [1, 2, 4, 4, 4]


def test_resampled_classes_follow_the_law():
    """Chi-square of 64,000 drawn labels against π, of which one entry is 0, under a long tail with an empty class."""
    counts = torch.tensor([500, 120, 0, 40, 11, 2])
    y = torch.repeat_interleave(torch.arange(6), counts)
    law = torch.tensor([0.1, 0.3, 0.0, 0.0, 0.2, 0.4], dtype=torch.float64)
    weights = resampling_weights(y, law)
    batches = Batches(numbered(len(y), y, tuple("abcdef")), 640, seed=11, weights=weights)
    labels = torch.cat([batches.at(step)[1] for step in range(100)])
    seen = torch.bincount(labels, minlength=6)
    assert seen[law == 0].tolist() == [0, 0]
    expected = (law * len(labels))[law > 0]
    assert chisquare(seen[law > 0].numpy(), expected.numpy()).pvalue > 1e-3
    assert chisquare(seen[[0, 1, 4, 5]].numpy(), (counts[[0, 1, 4, 5]] / 633 * len(labels)).numpy()).pvalue < 1e-9


def test_examples_of_a_class_are_as_likely():
    y = torch.tensor([0] * 3 + [1] * 9)
    batches = Batches(numbered(12, y, ("a", "b")), 600, seed=2, weights=resampling_weights(y, torch.tensor([0.5, 0.5])))
    seen = torch.bincount(drawn(batches, range(20)), minlength=12)
    assert chisquare(seen.numpy(), [2000] * 3 + [2000 / 3] * 9).pvalue > 1e-3


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any), st.data())
def test_resampling_weights_sum_to_the_law(counts, data):
    """Σ over the examples of class c is π_c, to 1e-12."""
    masses = [data.draw(st.floats(0.01, 1)) if n else 0.0 for n in counts]
    law = torch.tensor(masses, dtype=torch.float64) / sum(masses)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    mass = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, y, resampling_weights(y, law))
    torch.testing.assert_close(mass, law, rtol=0, atol=1e-12)


def test_coins_are_those_of_the_step_in_any_order_and_share():
    x = torch.tensor([[0, 255]], dtype=torch.uint8).expand(8, 1, 1, 2)
    batches = Batches(Dataset(x, torch.zeros(8, dtype=torch.long), ("a",)), 4, seed=9, flip=True)
    for step, rank, world in ((0, 0, 1), (31, 0, 1), (31, 1, 2), (31, 0, 2), (32, 0, 2), (5, 0, 1), (2**31, 3, 4)):
        x_0, _, rows, *_ = batches.at(step, rank, world)
        assert torch.equal(x_0[:, 0, 0, 0] == 1, Draws(9, step, rows).uniform("flip") < 0.5)


def test_half_of_the_images_are_mirrored():
    """Left to right, one fair coin per row, whatever else is drawn."""
    n = 6000
    x = torch.zeros(n, 1, 2, 3, dtype=torch.uint8)
    x[:, :, 0, 0] = 255
    data = Dataset(x, torch.zeros(n, dtype=torch.long), ("a",))
    x_0, _, rows, *_ = Batches(data, n, seed=9, flip=True).at(4)
    plain, mirrored = (data.model_input(torch.tensor([0]))[0].flip(axes) for axes in ([], [-1]))
    is_plain, is_mirrored = (x_0 == plain).flatten(1).all(1), (x_0 == mirrored).flatten(1).all(1)
    assert (is_plain ^ is_mirrored).all()
    assert torch.equal(is_mirrored, Draws(9, 4, rows).uniform("flip") < 0.5)
    assert binomtest(int(is_mirrored.sum()), n).pvalue > 1e-3


TAIL = torch.repeat_interleave(torch.arange(5), torch.tensor([30, 12, 0, 5, 1]))
LAW = torch.tensor([0.2, 0.3, 0.0, 0.1, 0.4], dtype=torch.float64)


def pure(batch_size=8, seed=0, law=LAW):
    return Batches(numbered(len(TAIL), TAIL, tuple("abcde")), batch_size, seed=seed, pure=law)


def test_a_pure_batch_holds_one_class_and_classes_follow_the_law():
    """Chi-square of the classes of 2,000 batches against π, one entry of which is 0; the class counts do not matter."""
    batches = pure()
    labels = []
    for step in range(2000):
        x_0, y, _, conditions, *_ = batches.at(step)
        assert len(y.unique()) == 1 and torch.equal(conditions, y)
        assert torch.equal(TAIL[x_0[:, 0].long()], y)  # the examples are those of the class
        labels.append(int(y[0]))
    seen = torch.bincount(torch.tensor(labels), minlength=5)
    assert seen[2] == 0
    alive = LAW > 0
    assert chisquare(seen[alive].numpy(), (LAW * 2000)[alive].numpy()).pvalue > 1e-3


def test_examples_of_a_pure_batch_are_as_likely():
    """With replacement: chi-square over the 12 examples of class 1, and a class of one example fills its batch."""
    only = torch.zeros(5, dtype=torch.float64)
    only[1] = 1
    seen = torch.bincount(drawn(pure(600, law=only), range(20)), minlength=len(TAIL))
    assert seen[TAIL != 1].sum() == 0
    assert chisquare(seen[TAIL == 1].numpy()).pvalue > 1e-3
    assert drawn(pure(7, law=torch.tensor([0.0, 0, 0, 0, 1])), [3]).tolist() == [47] * 7


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_pure_batch_is_a_function_of_seed_and_step(steps, seed):
    used = pure(seed=seed)
    for step in steps:
        assert all(torch.equal(a, b) for a, b in zip(used.at(step)[:4], pure(seed=seed).at(step)[:4]))


def test_pure_seeds_have_their_own_classes():
    one, other = ([int(pure(seed=seed).at(step).y[0]) for step in range(60)] for seed in (0, 1))
    assert one != other and len(set(one)) == 4


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_a_pure_batch_are_of_one_class_and_make_it_up(world):
    batches = pure()
    for step in range(40):
        shares = [batches.at(step, rank, world) for rank in range(world)]
        for parts, together in zip(list(zip(*shares))[:4], batches.at(step)[:4]):
            assert torch.equal(torch.cat(parts), together)
    # Shares are no copies of one another.
    assert any(not torch.equal(batches.at(s, 0, world).x_0, batches.at(s, 1, world).x_0) for s in range(40))


@pytest.mark.parametrize("how", [{}, {"weights": torch.arange(48.0)}, {"pure": LAW}])
def test_conditions_belong_to_the_example(how):
    """With conditions it is theirs, in each way to draw batches; without, the labels."""
    condition = torch.arange(48.0)[:, None] * torch.tensor([1.0, -2.0])
    data = Dataset(torch.arange(48.0)[:, None], TAIL, tuple("abcde"), condition)
    for step in range(10):
        batch = Batches(data, 8, seed=1, **how).at(step)
        assert torch.equal(batch.conditions, batch.x_0 * torch.tensor([1.0, -2.0]))
        assert torch.equal(batch.y, TAIL[batch.x_0[:, 0].long()])
        plain = Batches(numbered(48, TAIL, tuple("abcde")), 8, seed=1, **how).at(step)
        assert torch.equal(plain.conditions, plain.y) and torch.equal(plain.x_0, batch.x_0)


def weighted(weights):
    return lambda: Batches(numbered(3), 2, seed=0, weights=torch.tensor(weights))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Batches(numbered(3), 0, seed=0), "batch_size is 0"),
        (lambda: Batches(numbered(3), 2, seed=0, flip=True), "flip=true is for images"),
        (weighted([1.0, 1.0]), r"weights have shape \(2,\): give one per example, \(3,\)"),
        (weighted([1.0, -1.0, 0.0]), "the weight of row 1 is -1.0"),
        (weighted([1.0, 0.0, float("nan")]), "the weight of row 2 is nan"),
        (weighted([0.0, 0.0, 0.0]), "every weight is 0"),
        (lambda: pure(law=torch.tensor([0.0, 0.5, 0.5, 0, 0])), r"draws classes that have no example: \[2\]"),
        (lambda: pure(law=torch.tensor([0.5, 0.5])), "a law of 2 classes, and the labels go up to 4"),
        (lambda: pure(law=torch.tensor([1.0, -1.0, 0, 1, 1])), "must be 0 or more"),
        (
            lambda: Batches(numbered(3), 2, seed=0, pure=torch.ones(1), weights=torch.ones(3)),
            "choose one of pure and resample",
        ),
        (lambda: Batches(numbered(3), 10, seed=0).at(0, 0, 4), "batch_size 10 does not divide by 4 processes"),
        (lambda: Batches(numbered(3), 10, seed=0).at(0, 2, 2), "step 0 and rank 2 of 2"),
        (lambda: Batches(numbered(3), 10, seed=0).at(-1), "step -1 and rank 0 of 1"),
        (lambda: resampling_weights(torch.tensor([0, 2]), torch.ones(3) / 3), r"have no example: \[1\]"),
        (lambda: resampling_weights(torch.tensor([0, 2]), torch.ones(2) / 2), "2 classes, and the labels go up to 2"),
        (lambda: resampling_weights(torch.tensor([0, 1]), torch.tensor([2.0, -1.0])), "must be 0 or more"),
        (lambda: resampling_weights(torch.tensor([0, 1]), torch.zeros(2)), "with a positive sum"),
    ],
)
def test_refused_in_one_line(make, said):
    with pytest.raises(CbdmError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)

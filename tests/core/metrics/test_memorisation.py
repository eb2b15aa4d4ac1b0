"""Copies that were planted are found, fair samples are not accused, and distances are those of double loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import memorisation as module
from cbdm_core.metrics.memorisation import diversity, memorisation, relative_diversity


def rows(seed, n, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6), lattice=st.booleans())
def test_against_a_loop(seed, lattice):
    fake, training, held = rows(seed, 7, 2), rows(seed + 1, 6, 2), rows(seed + 2, 9, 2)
    fake, training, held = ((x.round() if lattice else x) for x in (fake, training, held))
    found = memorisation(fake, training, held)
    assert found.expected == 6 / 15
    nearer = 0.0
    for j, y in enumerate(fake):
        a, b = ([float((y - x).square().sum().sqrt()) for x in points] for points in (training, held))
        assert a[found.nearest_training[j]] == pytest.approx(min(a), abs=1e-12)
        assert b[found.nearest_held_out[j]] == pytest.approx(min(b), abs=1e-12)
        if min(b) > 0:
            assert float(found.ratio[j]) == pytest.approx(min(a) / min(b), rel=1e-9)
        nearer += 1.0 if min(a) < min(b) - 1e-12 else 0.5 if abs(min(a) - min(b)) <= 1e-12 else 0.0
    assert found.fraction == pytest.approx(nearer / 7)


@pytest.mark.parametrize(("n_training", "n_held"), [(100, 100), (300, 60), (40, 200)])
def test_a_fair_sampler_is_not_flagged_whatever_the_sizes(n_training, n_held):
    """The mean over 60 drawings of all three sets is 0 within 4 standard errors."""
    found = [memorisation(rows(3 * i, 80), rows(3 * i + 1, n_training), rows(3 * i + 2, n_held)) for i in range(60)]
    copied = torch.tensor([f.copied for f in found])
    assert abs(float(copied.mean())) < 4 * float(copied.std()) / 60**0.5
    assert float(copied.mean().abs()) < 0.1
    fraction = torch.tensor([f.fraction for f in found])
    assert float(fraction.mean()) == pytest.approx(n_training / (n_training + n_held), abs=0.03)


@pytest.mark.parametrize(("n_training", "n_held"), [(100, 100), (300, 60), (40, 200)])
def test_a_planted_memoriser_is_flagged(n_training, n_held):
    training, held = rows(0, n_training), rows(1, n_held)
    source = torch.arange(80) % n_training
    found = memorisation(training[source] + 1e-3 * rows(2, 80), training, held)
    assert found.copied == 1.0 == found.fraction
    assert torch.equal(found.nearest_training, source)
    assert float(found.ratio.max()) < 0.1


def test_the_share_of_copies_is_estimated():
    """A quarter copies among fair samples: copied is ¼ on average."""
    found = []
    for i in range(60):
        training, held = rows(10 * i, 150), rows(10 * i + 1, 50)
        fake = torch.cat([training[:20] + 1e-4, rows(10 * i + 2, 60)])
        found.append(memorisation(fake, training, held).copied)
    values = torch.tensor(found)
    assert float(values.mean()) == pytest.approx(0.25, abs=4 * float(values.std()) / 60**0.5)
    assert float(values.std()) / 60**0.5 < 0.05


def test_exact_copies_of_either_and_of_both():
    training, held = torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [5.0]])
    found = memorisation(torch.tensor([[0.0], [1.0], [5.0]]), training, held)
    assert found.ratio.tolist() == [0.0, torch.inf, 1.0]
    assert found.nearer.tolist() == [1.0, 0.0, 0.5]
    assert found.copied == 0.0


@given(seed=st.integers(0, 10**6))
def test_swapping_the_sets_swaps_the_two(seed):
    fake, training, held = rows(seed, 30), rows(seed + 1, 20), rows(seed + 2, 10)
    one, other = memorisation(fake, training, held), memorisation(fake, held, training)
    assert one.fraction == pytest.approx(1 - other.fraction)
    assert torch.equal(one.nearest_training, other.nearest_held_out)
    torch.testing.assert_close(one.ratio, 1 / other.ratio)


def brute_diversity(points):
    apart = [float((a - b).square().sum().sqrt()) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
    return sum(apart) / len(apart)


@given(seed=st.integers(0, 10**6))
def test_diversity_against_a_loop(seed):
    x, y = rows(seed, 15), torch.randint(0, 4, (15,), generator=torch.Generator().manual_seed(seed))
    y[0] = 9  # alone in its class
    found = diversity(x, y)
    several = [label for label in range(10) if int((y == label).sum()) > 1]
    assert sorted(found) == several
    for label in several:
        assert found[label] == pytest.approx(brute_diversity(x[y == label]), rel=1e-12)


def test_diversity_of_a_gaussian_in_one_dimension():
    """E |x − x'| = 2σ/√π."""
    x = 3 * rows(0, 4000, 1)
    assert diversity(x, torch.zeros(4000, dtype=torch.long))[0] == pytest.approx(6 / torch.pi**0.5, rel=0.03)


def test_relative_diversity():
    """Half the spread is ½, one sample again and again 0; scale and shift of both sets do not enter."""
    real, labels = rows(0, 40), torch.arange(40) % 2
    half = torch.where((labels == 0)[:, None], real / 2 + 7, real[:1].expand(40, -1))
    assert relative_diversity(real, labels, half, labels) == pytest.approx({0: 0.5, 1: 0.0}, abs=1e-12)
    assert relative_diversity(10 * real - 3, labels, 10 * half - 3, labels) == pytest.approx({0: 0.5, 1: 0}, abs=1e-12)
    assert relative_diversity(real, labels, real[:3], labels[:3]) == pytest.approx(
        {0: brute_diversity(real[[0, 2]]) / brute_diversity(real[labels == 0])}
    )
    alike = torch.ones(40, 4)
    assert relative_diversity(alike, labels, real, labels) == {}


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunk_changes_nothing(monkeypatch, chunk):
    fake, training, held = rows(0, 61), rows(1, 50), rows(2, 40)
    labels = torch.arange(61) % 3
    expected, varied = memorisation(fake, training, held), diversity(fake, labels)
    monkeypatch.setattr(module, "CHUNK", chunk)
    found = memorisation(fake, training, held)
    assert torch.equal(found.ratio, expected.ratio)
    assert torch.equal(found.nearest_training, expected.nearest_training)
    assert diversity(fake, labels) == pytest.approx(varied, rel=1e-12)


def test_no_tensor_is_larger_than_a_chunk_of_distances(largest_tensor):
    with largest_tensor:
        memorisation(rows(0, 1500, 2), rows(1, 2000, 2), rows(2, 1000, 2))
        diversity(rows(3, 1800, 2), torch.zeros(1800, dtype=torch.long))
    assert largest_tensor.elements == 512 * 2000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: memorisation(rows(0, 3), rows(0, 0), rows(0, 3)), "0 real feature rows"),
        (lambda: memorisation(rows(0, 0), rows(0, 3), rows(0, 3)), "0 generated feature rows"),
        (lambda: memorisation(rows(0, 3), rows(0, 3), rows(0, 3, 2)), "2 numbers, generated ones 4"),
        (lambda: diversity(rows(0, 3), torch.zeros(2)), r"3 feature rows need 3 labels, got \(2,\)"),
    ],
)
def test_refused(call, words):
    with pytest.raises(CbdmError, match=words):
        call()

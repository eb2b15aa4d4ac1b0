"""Laws over conditions that are no classes, and the affinity: against scipy, counting and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import chisquare, gaussian_kde

from cbdm import make_law
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_priors.laws import vectors as laws
from cbdm_priors.laws.affinity import Affinity, feature_similarity
from cbdm_priors.laws.vectors import (
    Bank,
    Combinations,
    Gaussian,
    KernelBank,
    NeighbourBank,
    kernel_log_density,
    knn_log_density,
)


def vectors(n=400, seed=0):
    """Nine in ten near 0, one in ten far out and spread."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    x[: n // 10] = 4 + 2 * x[: n // 10]
    return x


def draws_of(rows, seed=0):
    return Draws(seed, 0, torch.arange(rows))


def drawn(law, rows=20_000, width=2):
    c = Condition.of(torch.zeros(rows, width, dtype=torch.float64))
    return law.sample(c, draws=draws_of(rows)).value


def test_a_bank_is_the_training_law():
    table = vectors(8)
    sample = drawn(Bank(table))
    index = (sample[:, None] == table[None]).all(-1).double().argmax(1)
    assert torch.equal(table[index], sample)
    assert chisquare(np.bincount(index, minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 5, 399])
def test_neighbour_density_is_that_of_the_kth_neighbour(k):
    table = vectors()
    radius = cKDTree(table.numpy()).query(table.numpy(), k=k + 1)[0][:, -1]
    torch.testing.assert_close(knn_log_density(table, k), torch.from_numpy(-2 * np.log(radius)), rtol=1e-12, atol=1e-12)


def test_neighbour_density_of_a_condition_seen_often_is_finite():
    table = torch.cat([torch.zeros(30, 2), torch.eye(2)]).double()
    density, spread = knn_log_density(table, 3), 2 / 32 - 2 / 32**2
    assert density[:30].tolist() == pytest.approx([-2 * np.log(1e-6 * spread**0.5)] * 30, rel=1e-12)
    assert density[30:].tolist() == pytest.approx([0, 0], abs=1e-12)  # the third neighbour of either is at (0, 0)


def test_kernel_density_is_scipys():
    """scipy whitens by the covariance; with uncorrelated coordinates that is our standardising, up to a constant."""
    x = vectors(200).numpy()
    x = x - x.mean(0)
    _, vectors_ = np.linalg.eigh(np.cov(x.T))
    x = x @ vectors_  # uncorrelated now
    scott = len(x) ** (-1 / 6)
    theirs = np.log(gaussian_kde(x.T, bw_method=scott * ((len(x) - 1) / len(x)) ** 0.5)(x.T))
    ours = kernel_log_density(torch.from_numpy(x)).numpy()
    gap = ours - theirs
    np.testing.assert_allclose(gap, gap.mean(), atol=1e-10)


@pytest.mark.parametrize("make", [NeighbourBank, KernelBank])
def test_inverse_density_flattens(make):
    """Exponent 0 is the training law; 1 gives the sparse tenth more than its share; −1 less."""
    table = vectors()
    share = [float(make(table, a).probs[:40].sum()) for a in (-1.0, 0.0, 0.5, 1.0)]
    assert share == sorted(share) and share[1] == pytest.approx(0.1, abs=1e-12) and share[3] > 0.3


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_neighbour_bank_against_its_formula(exponent):
    table = vectors(60)
    radius = cKDTree(table.numpy()).query(table.numpy(), k=11)[0][:, -1]
    weight = radius ** (2 * exponent)
    np.testing.assert_allclose(NeighbourBank(table, exponent).probs.numpy(), weight / weight.sum(), rtol=1e-10)


def test_a_gaussian_law_has_the_moments_of_the_conditions():
    """20,000 draws; four standard errors."""
    table = vectors()
    for widening in (1.0, 2.0):
        sample = drawn(Gaussian(table, widening))
        covariance = np.cov(table.numpy().T) * widening**2
        error = 4 * np.sqrt(np.diag(covariance) / 20_000)
        assert (np.abs(sample.mean(0).numpy() - table.mean(0).numpy()) < error).all()
        np.testing.assert_allclose(np.cov(sample.numpy().T), covariance, rtol=0.1, atol=0.05)


def test_a_gaussian_law_of_a_plane_stays_in_it():
    flat = torch.cat([vectors(), vectors().sum(1, keepdim=True)], 1)
    sample = drawn(Gaussian(flat), width=3)
    torch.testing.assert_close(
        sample[:, 2], sample[:, :2].sum(1), rtol=0, atol=1e-5
    )  # √ of an eigenvalue rounded from 0


def test_combinations_are_counted():
    table = torch.tensor([[1, 0, 1]] * 6 + [[0, 0, 0]] * 3 + [[1, 1, 1]])
    for kappa, weights in ((1.0, [3, 6, 1]), (0.0, [1, 1, 1]), (-1.0, [1 / 3, 1 / 6, 1])):
        law = Combinations(table, kappa)
        assert law.values.tolist() == [[0, 0, 0], [1, 0, 1], [1, 1, 1]]
        np.testing.assert_allclose(law.probs.numpy(), np.array(weights) / np.sum(weights), rtol=1e-12)
    c = Condition.of(torch.zeros(5, 3, dtype=torch.long))
    assert law.sample(c, draws=draws_of(5)).value.dtype == torch.long


@pytest.mark.parametrize("text", ["bank", "knn:1,5", "kde:1", "gaussian:1", "combinations:0"])
def test_vector_laws_keep_what_is_hidden_hidden_and_are_functions_of_the_draws(text):
    law = make_law(text, [1], conditions=vectors(50))
    c = Condition(torch.zeros(64, 2, dtype=torch.float32), torch.arange(64) % 3 > 0)
    one = law.sample(c, draws=draws_of(64))
    assert torch.equal(one.present, c.present) and one.value.dtype == torch.float32 and one.value.shape == (64, 2)
    rows = torch.tensor([9, 4, 63])
    assert torch.equal(law.sample(c[rows], draws=draws_of(64)[rows]).value, one.value[rows])
    assert not torch.equal(law.sample(c, draws=draws_of(64, seed=1)).value, one.value)
    if law.finite:
        values, probs = law.atoms(c)
        assert len(values) == len(probs) and float(probs.sum()) == pytest.approx(1, abs=1e-12)


def test_an_affinity_against_its_formula():
    similarity = torch.tensor([[0.0, -1.0, -2.0], [-1.0, 0.0, float("-inf")], [-2.0, 0.5, 0.0]]).double()
    for temperature in (0.5, 1.0, 3.0):
        weight = np.exp(similarity.numpy() / temperature)
        expected = weight / weight.sum(1, keepdims=True)
        np.testing.assert_allclose(Affinity(similarity, temperature).table.numpy(), expected, rtol=1e-13)
    table = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
    np.testing.assert_allclose(Affinity.of_table(table).table.numpy(), [[0.25, 0.75], [0, 1]], rtol=1e-13)


def test_an_affinity_draws_by_the_label_of_the_row():
    table = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.0, 1.0], [0.5, 0.25, 0.25]], dtype=torch.float64)
    law, label = Affinity.of_table(table), torch.arange(30_000) % 3
    other = law.sample(Condition.of(label), draws=draws_of(30_000)).value
    for y in range(3):
        seen, expected = np.bincount(other[label == y], minlength=3), 10_000 * table[y].numpy()
        assert (seen[expected == 0] == 0).all()
        if (expected > 0).sum() > 1:
            assert chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_similarity_from_features_by_hand():
    """Class means 0, 3 and (0, 4): squared distances 9, 16, 25 whose mean is 50/3; class 3 has no example."""
    features = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    similarity = feature_similarity(features, torch.tensor([0, 0, 1, 2]), 4)
    square = torch.tensor([[0.0, 9.0, 16.0], [9.0, 0.0, 25.0], [16.0, 25.0, 0.0]]).double()
    torch.testing.assert_close(similarity[:3, :3], -square / (2 * 50 / 3), rtol=1e-12, atol=0)
    assert similarity[:, 3].isneginf().all() and similarity[3, :3].tolist() == [0, 0, 0]
    law = Affinity(similarity)
    assert law.table[:, 3].tolist() == [0.0] * 4 and law.table[0, 0] > law.table[0, 1] > law.table[0, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bank(torch.zeros(3)), r"observed conditions \(N, D\), got \(3,\)"),
        (lambda: Bank(torch.full((3, 2), float("nan"))), "NaN or infinite"),
        (lambda: NeighbourBank(torch.zeros(3, 2), 1.0, 3), "k = 3 neighbours of 3 conditions: choose 1 … 2"),
        (lambda: KernelBank(torch.zeros(3, 2), 1.0, -1.0), "bandwidth must be 0"),
        (lambda: NeighbourBank(vectors(), float("inf")), "exponent of a law must be a finite number"),
        (lambda: Gaussian(torch.zeros(1, 2)), "needs 2 observed conditions"),
        (lambda: Gaussian(vectors(), 0.0), "widening above 0"),
        (lambda: Affinity(torch.zeros(2, 3)), r"K × K table, got the shape \(2, 3\)"),
        (lambda: Affinity(torch.full((2, 2), float("-inf"))), "each of its rows has a label it can draw"),
        (lambda: Affinity(torch.zeros(2, 2), 0.0), "temperature above 0, got 0.0"),
        (lambda: Affinity.of_table(torch.tensor([[1.0, -1.0], [0.0, 1.0]])), "finite numbers of 0 or more"),
        (lambda: make_law("knn:1,5", [3, 4]), "made from the training set's conditions, which these data do not have"),
        (lambda: make_law("affinity", [3, 4]), "made from the training set's similarity"),
        (lambda: feature_similarity(torch.zeros(3, 2), torch.zeros(2).long(), 2), "as many rows of features"),
    ],
)
def test_refused_in_one_line(make, message):
    with pytest.raises(CbdmError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("density", [lambda x: knn_log_density(x, 3), lambda x: kernel_log_density(x, 0.4)])
def test_densities_of_many_conditions_do_not_depend_on_the_parts(monkeypatch, density):
    """Looked at seven at a time, the last part shorter, they are those of the whole."""
    table = vectors(40)
    whole = density(table)
    monkeypatch.setattr(laws, "_CHUNK", 7)
    torch.testing.assert_close(density(table), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5])
def test_a_gaussian_law_of_few_conditions_has_their_unbiased_covariance(n):
    """root·rootᵀ = w²Σ with the divisor N − 1, which counts where N is small."""
    table = vectors(n)
    law = Gaussian(table, widening=1.5)
    torch.testing.assert_close(law.root @ law.root.T, 2.25 * torch.cov(table.T), rtol=1e-12, atol=1e-12)


def test_laws_without_an_argument_are_the_plain_ones():
    """κ = 0 makes combinations alike, an exponent of 1 undoes the density, a widening of 1 is the fit."""
    table, hot = vectors(30), torch.tensor([[1, 0], [1, 0], [0, 1]])
    for plain, said in (
        (Combinations(hot), Combinations(hot, 0.0)),
        (KernelBank(table), KernelBank(table, 1.0, 0.0)),
        (NeighbourBank(table), NeighbourBank(table, 1.0)),
    ):
        torch.testing.assert_close(plain.probs, said.probs, rtol=0, atol=0)
    assert torch.equal(Gaussian(table).root, Gaussian(table, 1.0).root)
    for wrong in (0.0, math.inf, math.nan):
        with pytest.raises(CbdmError, match="a widening above 0"):
            Gaussian(table, wrong)

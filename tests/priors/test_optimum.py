"""The closed-form optimum where its general case says nothing: classes that are not there, one class, strength 0."""

from __future__ import annotations

import pytest
import torch

from cbdm_priors.optimum import balanced_optimum, null_optimum

E_STAR = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 1.0]]], dtype=torch.float64)
UNEVEN = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
HALF = torch.tensor([0.5], dtype=torch.float64)


def test_a_class_nobody_sees_nor_draws_keeps_its_prediction():
    law = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    optimum = balanced_optimum(E_STAR, UNEVEN, law, HALF, 0.25)
    assert torch.equal(optimum[:, 2], E_STAR[:, 2])
    two = balanced_optimum(E_STAR[:, :2], UNEVEN[:, :2], law[:2], HALF, 0.25)
    torch.testing.assert_close(optimum[:, :2], two, rtol=1e-13, atol=1e-13)


def test_gamma_0_keeps_the_prediction_of_a_class_nobody_sees():
    """Only γ moves the other output, so a class with r_c = 0 is not moved; the others are pulled to its e*_c."""
    law = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    optimum = balanced_optimum(E_STAR, UNEVEN, law, HALF, 0.0)
    # 3/2 e_c = e*_c + m/2 for the others, and m = Σ π e with e_2 = e*_2.
    mean = ((E_STAR[:, 0] + E_STAR[:, 1]) / 6 + E_STAR[:, 2] / 2) / (1 - 1 / 6)
    expected = torch.stack([*((2 * E_STAR[:, c] + mean) / 3 for c in (0, 1)), E_STAR[:, 2]], dim=1)
    torch.testing.assert_close(optimum, expected, rtol=1e-13, atol=1e-13)


def test_a_class_nobody_sees_but_the_law_draws_takes_the_mean():
    law = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    optimum = balanced_optimum(E_STAR, UNEVEN, law, HALF, 0.25)
    mean = 0.7 * optimum[:, 0] + 0.3 * optimum[:, 1]
    torch.testing.assert_close(optimum[:, 2], mean, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
def test_strength_0_is_the_truth(gamma):
    law = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(balanced_optimum(E_STAR, UNEVEN, law, 0 * HALF, gamma), E_STAR, rtol=0, atol=1e-15)
    assert torch.equal(null_optimum(E_STAR, E_STAR.mean(1), 0 * HALF), E_STAR)


def test_one_class_has_nothing_to_be_pulled_to():
    one = torch.ones(1, 1, dtype=torch.float64)
    optimum = balanced_optimum(E_STAR[:, :1], one, one[0], 3 * HALF, 0.25)
    torch.testing.assert_close(optimum, E_STAR[:, :1], rtol=1e-15, atol=0)


def test_huge_strength_makes_every_class_the_same():
    law = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    r = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    optimum = balanced_optimum(E_STAR, r, law, torch.tensor([1e6], dtype=torch.float64), 0.25)
    assert (optimum - optimum[:, :1]).abs().max() < 1e-4


def test_posteriors_over_many_orders_of_magnitude_stay_finite():
    """Far from a class its r_c underflows; each row is divided by its own scale before the solve."""
    r = torch.tensor([[1.0, 1e-300, 1e-30]], dtype=torch.float64)
    law = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    optimum = balanced_optimum(E_STAR, r, law, HALF, 0.25)
    torch.testing.assert_close(optimum, E_STAR[:, :1].expand(1, 3, 2), rtol=1e-10, atol=1e-10)


def test_each_row_has_its_own_strength_and_posterior():
    law = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    e = torch.cat([E_STAR, 2 * E_STAR + 1])
    r = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    strength = torch.tensor([0.5, 2.0], dtype=torch.float64)
    together = balanced_optimum(e, r, law, strength, 0.25)
    for i in range(2):
        alone = balanced_optimum(e[i : i + 1], r[i : i + 1], law, strength[i : i + 1], 0.25)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)
    nulls = null_optimum(e, e.mean(1), strength)
    torch.testing.assert_close(nulls[1], (e[1] + 2.0 * e[1].mean(0)) / 3.0, rtol=1e-15, atol=1e-15)

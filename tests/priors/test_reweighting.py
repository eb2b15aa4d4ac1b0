"""Class reweighting: its weights in closed form, its unbiasedness and its cap."""

from __future__ import annotations

import pytest
import torch

from cbdm import ClassBalancing, ClassReweighting, Fixed, Power, Training, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from tests.priors.steps import LawStub, TableNetwork, make_step

COUNTS = [60, 30, 10]


def reweighting(counts=COUNTS, **options):
    return ClassReweighting(DenoisingLoss(), Uniform(counts), Training(counts), **options)


def a_step(labels, present=None, classes=3):
    generator = torch.Generator().manual_seed(3)
    network = TableNetwork(torch.randn(classes + 1, 4, generator=generator, dtype=torch.float64))
    c = Condition.of(torch.tensor(labels))
    if present is not None:
        c = Condition(c.value, torch.tensor(present))
    return make_step(network, c, torch.randn(len(labels), 4, generator=generator, dtype=torch.float64))


def test_weights_are_the_ratio_of_the_laws():
    torch.testing.assert_close(reweighting().weights, torch.tensor([100 / 180, 100 / 90, 100 / 30]))


def test_weights_scale_each_row_by_its_own_class():
    step = a_step([2, 0, 1, 2])
    inner = DenoisingLoss()(step)["denoising"]
    expected = inner * torch.tensor([10 / 3, 5 / 9, 10 / 9, 10 / 3], dtype=torch.float64)
    torch.testing.assert_close(reweighting()(step)["denoising"], expected, rtol=1e-6, atol=0)


def test_the_true_label_decides_where_the_condition_is_hidden():
    shown, hidden = a_step([2, 0]), a_step([2, 0], present=[False, False])
    ratio = reweighting()(hidden)["denoising"] / DenoisingLoss()(hidden)["denoising"]
    torch.testing.assert_close(ratio, torch.tensor([10 / 3, 5 / 9], dtype=torch.float64), rtol=1e-6, atol=0)
    assert not torch.equal(shown.eps_hat, hidden.eps_hat)


def test_every_inner_term_is_scaled():
    step = a_step([2, 0])
    inner = ClassBalancing(DenoisingLoss(), LawStub(torch.tensor([0, 1])))
    plain, scaled = inner(step), ClassReweighting(inner, Uniform(COUNTS), Training(COUNTS))(step)
    weight = torch.tensor([10 / 3, 5 / 9], dtype=torch.float64)
    assert scaled.keys() == plain.keys() == {"denoising", "balancing"}
    for name in plain:
        torch.testing.assert_close(scaled[name], weight * plain[name], rtol=1e-6, atol=0)


def test_the_same_law_twice_changes_no_bit():
    step = a_step([0, 1, 2, 1])
    same = ClassReweighting(DenoisingLoss(), Power(COUNTS, 0.5), Power(COUNTS, 0.5))
    assert torch.equal(same(step)["denoising"], DenoisingLoss()(step)["denoising"])


def test_cap_bounds_the_weights_and_biases_them():
    capped = reweighting(cap=1.5)
    torch.testing.assert_close(capped.weights, torch.tensor([5 / 9, 10 / 9, 1.5]))
    q = Training(COUNTS).probs
    assert float((q * reweighting().weights).sum()) == pytest.approx(1, abs=1e-6)
    assert float((q * capped.weights).sum()) == pytest.approx(0.6 * 5 / 9 + 0.3 * 10 / 9 + 0.1 * 1.5, rel=1e-6)


def test_a_class_without_images_gets_weight_0_when_the_target_avoids_it():
    weights = reweighting([8, 0, 2]).weights
    torch.testing.assert_close(weights, torch.tensor([0.625, 0.0, 2.5]))


def test_refuses_a_target_that_asks_for_what_is_not_there():
    with (
        pytest.warns(UserWarning, match="no training image"),
        pytest.raises(CbdmError, match=r"classes with no training image: \[1\]"),
    ):
        ClassReweighting(DenoisingLoss(), Fixed([8, 0, 2], 1, 1, 1), Training([8, 0, 2]))


def test_refuses_laws_over_other_classes():
    with pytest.raises(CbdmError, match="3 classes and the training law 2"):
        ClassReweighting(DenoisingLoss(), Uniform([1, 1, 1]), Training([1, 1]))


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan")])
def test_refuses_a_cap_that_is_none(cap):
    with pytest.raises(CbdmError, match="cap on class weights must be above 0"):
        reweighting(cap=cap)


def test_carries_nothing_into_a_checkpoint():
    assert reweighting().state_dict() == {}

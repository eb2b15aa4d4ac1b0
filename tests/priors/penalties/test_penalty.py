"""What all penalties share: which rows and steps count, that the mean stays, and the weights in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import MinSNR
from cbdm_priors.penalties.penalty import Penalty, constant, linear, named_time_weight, published
from tests.priors.steps import TableNetwork, make_step


class Own(Penalty):
    """The row's number in the batch, plus one; it counts the rows that it was asked for."""

    term = "own"

    def __init__(self, inner, **options):
        super().__init__(inner, **{"strength": 1.0, **options})
        self.asked: list[int] = []

    def penalty(self, step):
        self.asked.append(len(step))
        return step.draws.rows.double() + 1


class Coupled(Own):
    couples_rows = True


class WithHead(Own):
    def __init__(self, inner, **options):
        super().__init__(inner, **options)
        self.head = nn.Linear(2, 1).double()

    def penalty(self, step):
        return self.head(step.eps_hat)[:, 0]


def a_step(rows=8, number=0, present=None, seed=0):
    present = torch.ones(rows, dtype=torch.bool) if present is None else present
    network = TableNetwork(torch.zeros(3, 2, dtype=torch.float64))
    step = make_step(network, Condition(torch.zeros(rows, dtype=torch.long), present), torch.ones(rows, 2).double())
    return replace(step, draws=Draws(seed, number, step.draws.rows))


@settings(max_examples=5)
@given(fraction=st.floats(0.05, 1.0))
def test_a_fraction_of_the_rows_is_unbiased(fraction):
    """Over 800 steps each row's mean is its value, to four standard errors of a coin with probability f."""
    rows, steps, own = 6, 800, Own(DenoisingLoss(), fraction=fraction)
    total = sum(own(a_step(rows, number))["own"] for number in range(steps)) / steps
    value = torch.arange(rows).double() + 1
    error = 4 * value * ((1 - fraction) / fraction / steps) ** 0.5 + 1e-9
    assert ((total - value).abs() <= error).all()


@settings(max_examples=20)
@given(fraction=st.floats(0.05, 0.95), rows=st.integers(1, 64), number=st.integers(0, 50))
def test_a_fraction_takes_its_share_give_or_take_a_row(fraction, rows, number):
    own = Own(DenoisingLoss(), fraction=fraction)
    own(a_step(rows, number))
    assert abs(sum(own.asked) - fraction * rows) < 1 + 1e-9


def test_the_rows_of_a_fraction_do_not_depend_on_the_process():
    """Rows 0 … 7 of one process are rows 0 … 3 and 4 … 7 of two."""
    own, step = Own(DenoisingLoss(), fraction=0.3), a_step(8, 5)
    halves = [own(step[torch.arange(4)])["own"], own(step[torch.arange(4, 8)])["own"]]
    assert torch.equal(torch.cat(halves), own(step)["own"])


@pytest.mark.parametrize("every", [1, 2, 5])
def test_every_kth_step_is_unbiased(every):
    own = Own(DenoisingLoss(), every=every)
    terms = [own(a_step(3, number))["own"] for number in range(2 * every)]
    torch.testing.assert_close(sum(terms) / len(terms), torch.tensor([1.0, 2.0, 3.0]).double(), rtol=1e-15, atol=0)
    assert len(own.asked) == 2, "the other steps cost nothing"


def test_rows_that_see_no_condition_get_0_and_others_their_strength_time_and_loss_weight():
    present = torch.tensor([True, False, True])
    own = Own(DenoisingLoss(MinSNR(0.36)), strength=3.0, time_weight=linear)
    # t = ½, and min(1, γσ²/α²) = 0.64 at α = 0.6, σ = 0.8, γ = 0.36
    expected = 3.0 * 0.5 * 0.64 * torch.tensor([1.0, 0.0, 3.0]).double()
    torch.testing.assert_close(own(a_step(3, present=present))["own"], expected, rtol=1e-12, atol=0)


def test_no_row_shown_costs_nothing():
    own = Own(DenoisingLoss())
    assert own(a_step(3, present=torch.zeros(3, dtype=torch.bool)))["own"].tolist() == [0.0] * 3 and not own.asked


def test_at_strength_0_it_is_its_inner_one():
    own = Own(DenoisingLoss(), strength=0.0)
    assert own(a_step()).keys() == {"denoising"} and not own.asked


@pytest.mark.parametrize("options", [{"every": 2}, {"fraction": 0.01}])
def test_its_own_parameters_have_a_gradient_at_every_step(options):
    """Distributed training waits for each of them, also where the penalty was not asked."""
    adjustment = WithHead(DenoisingLoss(), **options)
    own = adjustment(a_step(2, number=1))["own"]
    own.sum().backward()
    assert all(p.grad is not None for p in adjustment.head.parameters())


def test_refuses_what_does_not_fit():
    for options, message in [
        ({"strength": -1.0}, "the strength of own must be a number of 0 or more, got -1.0"),
        ({"strength": float("nan")}, "the strength of own"),
        ({"fraction": 0.0}, r"the fraction of rows must lie in \(0, 1\], got 0.0"),
        ({"fraction": 1.5}, "the fraction of rows"),
        ({"every": 0}, "every must be a whole number of steps"),
        ({"every": 1.5}, "every must be a whole number of steps"),
        ({"time_weight": "linaer"}, "did you mean 'linear'"),
    ]:
        with pytest.raises(CbdmError, match=message):
            Own(DenoisingLoss(), **options)
    with pytest.raises(CbdmError, match=r"compares rows with one another, so it takes no fraction of them, got 0.5"):
        Coupled(DenoisingLoss(), fraction=0.5)


def test_time_weights():
    t = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)
    assert torch.equal(linear(t), t) and constant(t).tolist() == [1.0, 1.0, 1.0]
    steps = torch.tensor([0, 24, 49], dtype=torch.float64) / 50
    torch.testing.assert_close(published(50)(t), steps, rtol=0, atol=1e-16)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("linear", [0.25, 0.5, 1.0]),
        ("constant", [1.0, 1.0, 1.0]),
        ("published", [0.0, 0.25, 0.75]),
        ("power:2", [0.0625, 0.25, 1.0]),
        ("power:0", [1.0, 1.0, 1.0]),
        ("window:0.25,0.5", [1.0, 1.0, 0.0]),
    ],
)
def test_time_weights_by_name(text, value):
    t = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    assert named_time_weight(text, 4)(t).tolist() == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linaer", "did you mean 'linear'"),
        ("published", "needs a table schedule"),
        ("power", "write power:a"),
        ("power:x", "write power:a"),
        ("power:-1", "a ≥ 0"),
        ("window:0.5,0.2", "low ≤ high"),
        ("window:0.5", "window:low,high"),
        ("linear:2", "unknown time weight 'linear:2'"),
    ],
)
def test_another_time_weight_is_refused(text, message):
    with pytest.raises(CbdmError, match=message):
        named_time_weight(text)

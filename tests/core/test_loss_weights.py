"""Each loss weight makes the ε-loss the squared error of what the network says, on every schedule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.adjustment import DenoisingLoss, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import LOSS_WEIGHTS, EDMWeight
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.predicts import Predicts
from cbdm_core.process import Process
from cbdm_core.schedules import SCHEDULES
from tests.core.networks.test_predicts import SAID, normal

SAID_BY_WEIGHT = {"constant": "eps", "x_0": "x_0", "v": "v", "flow": "flow", "edm": "edm"}
SCHEDULE_NAMES = st.sampled_from(list(SCHEDULES))


def coefficients(name: str, part: float):
    """The schedule, and α and σ at that part of its domain, as (1,) tensors."""
    schedule = SCHEDULES[name]()
    low, high = schedule.domain
    return schedule, *schedule(torch.tensor([low + part * (high - low)], dtype=torch.float64))


def test_every_weight_but_min_snr_is_the_loss_of_a_prediction():
    assert {*SAID_BY_WEIGHT, "min-snr"} == set(LOSS_WEIGHTS) and set(SAID_BY_WEIGHT.values()) == set(SAID)


@pytest.mark.parametrize("weight", SAID_BY_WEIGHT)
@given(SCHEDULE_NAMES, st.floats(0, 1), st.integers(0, 99))
def test_the_weighted_loss_is_the_squared_error_of_what_is_said(weight, name, part, seed):
    """w‖ε̂ − ε‖² against ‖said(x̂_0, ε̂) − said(x_0, ε)‖² with x̂_0 = (x_t − σε̂)/α, to 1e-9 relative."""
    _, alpha, sigma = coefficients(name, part)
    x_0, eps, eps_hat = normal(3, 1, 4, seed=seed)
    x_0_hat = x_0 - sigma / alpha * (eps_hat - eps)
    said = SAID[SAID_BY_WEIGHT[weight]]
    brute = mean_squared(said(x_0_hat, eps_hat, alpha, sigma), said(x_0, eps, alpha, sigma))
    ours = LOSS_WEIGHTS[weight]()(alpha, sigma) * mean_squared(eps_hat, eps)
    torch.testing.assert_close(ours, brute, rtol=1e-9, atol=0)


class _Squashed(ScoreNetwork):
    """A network that says tanh of what it sees, and keeps it."""

    def forward(self, x_t, t, c):
        self.said = torch.tanh(x_t + t[:, None])
        return self.said


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("weight", SAID_BY_WEIGHT)
def test_the_denoising_term_is_the_plain_squared_error_of_the_inner_network(weight, name):
    """Through the whole path: schedule → x_t → network → ε̂ → weighted loss, to 1e-8 relative."""
    schedule, inner, what = SCHEDULES[name](), _Squashed(), SAID_BY_WEIGHT[weight]
    rows = torch.arange(64)
    step = Process(schedule).denoise(
        Predicts(inner, what, schedule), normal(64, 3), Condition.of(rows % 3), Draws(0, 0, rows)
    )
    target = SAID[what](step.x_0, step.eps, step.alpha_t, step.sigma_t)
    ours = DenoisingLoss(LOSS_WEIGHTS[weight]())(step)["denoising"]
    torch.testing.assert_close(ours, mean_squared(inner.said, target), rtol=1e-8, atol=1e-12)


@given(st.floats(-6, 6).map(lambda power: 10**power), st.floats(0.05, 5))
def test_edm_is_its_paper_s_weight_of_the_error_in_x_0(sigma, sigma_data):
    """λ(σ) = (σ² + σ_d²)/(σ σ_d)² on ‖x̂_0 − x_0‖² = σ²‖ε̂ − ε‖², at α = 1."""
    paper = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2 * sigma**2
    weight = EDMWeight(sigma_data)(*torch.tensor([[1.0], [sigma]], dtype=torch.float64))
    assert float(weight) == pytest.approx(paper, rel=1e-12)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("weight", list(LOSS_WEIGHTS))
def test_weights_in_float32_are_nearly_as_good(weight, name):
    """To 1e-5 relative over the whole domain, where they reach from 1e-6 to 4e7."""
    schedule = SCHEDULES[name]()
    exact = schedule(torch.linspace(*schedule.domain, 201, dtype=torch.float64))
    rough = LOSS_WEIGHTS[weight]()(*(v.float() for v in exact))
    torch.testing.assert_close(rough.double(), LOSS_WEIGHTS[weight]()(*exact), rtol=1e-5, atol=0)


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan, math.inf])
def test_data_without_a_deviation_are_refused(sigma_data):
    with pytest.raises(CbdmError, match="sigma_data > 0"):
        EDMWeight(sigma_data)

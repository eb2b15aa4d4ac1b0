"""What a network may say instead of ε: there and back on every schedule, EDM's preconditioning, and training."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm_core.adjustment import ADJUSTMENTS, DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import LOSS_WEIGHTS
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.predicts import PREDICTIONS, Predicts
from cbdm_core.objective import Objective
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.priors import make_law
from cbdm_core.process import Process
from cbdm_core.samplers import DPMSolverPP2M
from cbdm_core.schedules import EDM, SCHEDULES, VP, RectifiedFlow
from tests.examples import COUNTS, example

SIGMA_DATA = 0.5


def karras(x_bar, sigma_bar, sigma_data=SIGMA_DATA):
    """(c_in, c_skip, c_out) as table 1 of the paper prints them; x̄ is not used but says what they act on."""
    total = sigma_bar**2 + sigma_data**2
    return 1 / total**0.5, sigma_data**2 / total, sigma_bar * sigma_data / total**0.5


def edm_target(x_0, eps, alpha, sigma):
    """F = (x_0 − c_skip x̄)/c_out (eq. 8)."""
    x_bar, sigma_bar = x_0 + sigma / alpha * eps, sigma / alpha
    _, c_skip, c_out = karras(x_bar, sigma_bar)
    return (x_0 - c_skip * x_bar) / c_out


# What each prediction says of (x_0, ε) at (α, σ).
SAID = {
    "eps": lambda x_0, eps, alpha, sigma: eps,
    "x_0": lambda x_0, eps, alpha, sigma: x_0,
    "v": lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
    "flow": lambda x_0, eps, alpha, sigma: eps - x_0,
    "edm": edm_target,
}
# What a network would be trained to say under each schedule.
NATURAL = {"linear": "eps", "cosine": "v", "vp": "v", "rectified-flow": "flow", "edm": "edm"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class _Says(ScoreNetwork):
    """Says what it was given, and keeps what it saw."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, x_t, t, c):
        self.seen = x_t
        return self.said

    def with_features(self, x_t, t, c):
        return self(x_t, t, c), 2 * x_t


class _Coefficients:
    """A schedule with the same (α, σ) at all times."""

    def __init__(self, alpha, sigma):
        self.pair = alpha, sigma

    def __call__(self, t):
        return tuple(torch.full_like(t, v) for v in self.pair)


def labels(rows: int) -> Condition:
    return Condition.of(torch.zeros(rows, dtype=torch.long))


def test_every_prediction_and_schedule_is_tested():
    assert {*PREDICTIONS, "edm"} == set(SAID) and set(NATURAL) == set(SCHEDULES)


# There and back


def noised(name: str, part: float, seed: int):
    """(schedule, t, α, σ, x_0, ε, x_t) at that part of the schedule's domain."""
    schedule = SCHEDULES[name]()
    low, high = schedule.domain
    t = torch.tensor([low + part * (high - low)], dtype=torch.float64)
    alpha, sigma = schedule(t)
    x_0, eps = normal(2, 1, 3, seed=seed)
    return schedule, t, alpha, sigma, x_0, eps, alpha * x_0 + sigma * eps


@pytest.mark.parametrize("what", SAID)
@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 1), st.integers(0, 99))
def test_what_is_said_of_the_noise_gives_it_back(what, name, part, seed):
    """ε → said → ε̂ to 1e-9 at every time of every schedule's domain."""
    schedule, t, alpha, sigma, x_0, eps, x_t = noised(name, part, seed)
    network = Predicts(_Says(SAID[what](x_0, eps, alpha, sigma)), what, schedule)
    torch.testing.assert_close(network(x_t, t, labels(1)), eps, rtol=0, atol=1e-9)
    eps_hat, features = network.with_features(x_t, t, labels(1))
    torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-9)
    assert torch.equal(features, 2 * network.network.seen)


class _RowByRow:
    """A schedule with an (α, σ) of its own for each row."""

    def __init__(self, alpha, sigma):
        self.pair = alpha, sigma

    def __call__(self, t):
        return self.pair


@given(st.sampled_from(sorted(PREDICTIONS)), st.floats(0.05, 4), st.floats(0.05, 4), st.integers(0, 99))
def test_each_row_is_read_with_its_own_level(what, alpha, sigma, seed):
    """To 1e-10, at any α and σ and not only those that a schedule joins."""
    x_0, eps = normal(2, 3, 2, 2, 2, seed=seed)
    alphas = torch.tensor([alpha, 1.0, 0.3], dtype=torch.float64)
    sigmas = torch.tensor([sigma, 0.5, (1 - 0.3**2) ** 0.5], dtype=torch.float64)
    a, s = alphas.reshape(-1, 1, 1, 1), sigmas.reshape(-1, 1, 1, 1)
    network = Predicts(_Says(SAID[what](x_0, eps, a, s)), what, _RowByRow(alphas, sigmas))
    eps_hat = network(a * x_0 + s * eps, torch.zeros(3), labels(3))
    torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-10)


def test_the_dtype_stays_and_other_words_are_refused():
    said = torch.ones(1, 2)
    schedule = _Coefficients(0.6, 0.8)
    assert Predicts(_Says(said), "v", schedule)(said, torch.zeros(1), labels(1)).dtype == torch.float32
    with pytest.raises(CbdmError, match=r"'x0'.*did you mean 'x_0'"):
        Predicts(_Says(said), "x0", schedule)


# EDM's preconditioning


@given(st.floats(0.05, 1), st.floats(-2, 2).map(lambda power: 10**power), st.floats(0.1, 3))
def test_edm_is_equation_7_step_by_step(alpha, sigma, sigma_data):
    """D = c_skip x̄ + c_out F(c_in x̄) and ε̂ = (x_t − αD)/σ, with F = tanh, to 1e-10 where nothing cancels."""

    class Tanh(ScoreNetwork):
        def forward(self, x_t, t, c):
            return torch.tanh(x_t)

    x_t = normal(4, 3) * (1 + sigma)
    c_in, c_skip, c_out = karras(x_t / alpha, sigma / alpha, sigma_data)
    D = c_skip * x_t / alpha + c_out * torch.tanh(c_in * x_t / alpha)
    network = Predicts(Tanh(), "edm", _Coefficients(alpha, sigma), sigma_data=sigma_data)
    eps_hat = network(x_t, torch.zeros(4, dtype=torch.float64), labels(4))
    torch.testing.assert_close(eps_hat, (x_t - alpha * D) / sigma, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [1e-12, 1e-9, 1e-6, 1e-3, 80.0])
def test_edm_keeps_its_digits_at_small_noise(sigma):
    """Against 60 digits to 1e-14, where (x_t − x̂_0)/σ in float64 would be left with 16 + log10 σ digits."""
    x, said = 0.7, -0.3
    with localcontext() as context:
        context.prec = 60
        X, F, S, d = Decimal(x), Decimal(said), Decimal(sigma), Decimal(SIGMA_DATA)
        total = S * S + d * d
        exact = float((X - (d * d / total * X + S * d / total.sqrt() * F)) / S)
    one = torch.ones(1, 1, dtype=torch.float64)
    network = Predicts(_Says(said * one), "edm", _Coefficients(1.0, sigma))
    ours = float(network(x * one, torch.zeros(1, dtype=torch.float64), labels(1)))
    assert ours == pytest.approx(exact, rel=1e-14)
    if sigma <= 1e-9:
        _, c_skip, c_out = karras(x, sigma)
        assert abs((x - (c_skip * x + c_out * said)) / sigma - exact) > 1e-9, "the plain formula would have done"


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_silent_network_is_exact_for_data_of_that_deviation(name):
    """For x_0 ~ N(0, σ_d² I) the best F is 0, so that F = 0 must be the oracle; and c_in x̄ has variance 1."""
    schedule, rows = SCHEDULES[name](), 50
    one = torch.ones(1, dtype=torch.float64)
    oracle = GaussianMixtureOracle(torch.zeros(1, 2), SIGMA_DATA**2 * torch.eye(2)[None], one, schedule)
    silent = _Says(torch.zeros(rows, 2, dtype=torch.float64))
    t = torch.linspace(*schedule.domain, rows, dtype=torch.float64)
    alpha, sigma = (v[:, None] for v in schedule(t))
    x_t = normal(rows, 2) * (alpha**2 * SIGMA_DATA**2 + sigma**2).sqrt()
    eps_hat = Predicts(silent, "edm", schedule)(x_t, t, labels(rows))
    torch.testing.assert_close(eps_hat, oracle(x_t, t, labels(rows)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(silent.seen, normal(rows, 2), rtol=1e-12, atol=0)
    # The way that also gives features scales the input as well.
    again, features = Predicts(silent, "edm", schedule).with_features(x_t, t, labels(rows))
    assert torch.equal(again, eps_hat)
    torch.testing.assert_close(features, 2 * normal(rows, 2), rtol=1e-12, atol=0)


def test_mistakes_are_refused_in_one_line():
    said = _Says(torch.ones(1, 2))
    with pytest.raises(CbdmError, match=r"unknown prediction 'emd': did you mean 'edm'\?"):
        Predicts(said, "emd", EDM())
    for sigma_data in (0.0, -0.5, float("nan"), float("inf")):
        with pytest.raises(CbdmError, match="sigma_data > 0") as caught:
            Predicts(said, "edm", EDM(), sigma_data=sigma_data)
        assert "\n" not in str(caught.value)


def test_edm_keeps_the_dtype_of_x_t():
    x_t = torch.ones(1, 2)
    network = Predicts(_Says(x_t), "edm", EDM())
    assert network(x_t, torch.ones(1), labels(1)).dtype == network.network.seen.dtype == torch.float32


# Training with them


@pytest.mark.parametrize(
    ("schedule", "what"),
    [(RectifiedFlow(), "flow"), (RectifiedFlow(logit_normal=(0.0, 1.0)), "flow"), (EDM(), "edm"), (VP(), "v")],
    ids=["rectified-flow", "logit-normal", "edm", "vp"],
)
def test_a_small_network_learns_a_gaussian(schedule, what):
    """300 steps: mean and covariance of 4,000 samples to 0.06 each, of which 0.03 is the sampling's three σ."""
    mean, covariance = torch.tensor([0.6, -0.4]), torch.tensor([[0.4, 0.2], [0.2, 0.25]])
    factor, rows, steps = torch.linalg.cholesky(covariance), torch.arange(512), 300
    torch.manual_seed(0)
    network = Predicts(MLP((2,), 1, width=64, depth=2), what, schedule)
    objective = Objective(Process(schedule), network, DenoisingLoss(LOSS_WEIGHTS[what]()), drop=0.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        draws = Draws(0, step, rows)
        x_0 = mean + draws.normal("data", 2) @ factor.T
        optimiser.zero_grad()
        objective(x_0, labels(len(rows)), draws)["denoising"].mean().backward()
        optimiser.step()
        decay.step()
    draws = Draws(9, 0, torch.arange(4_000))
    x = DPMSolverPP2M(schedule).sample(network.eval(), labels(4_000), (2,), steps=50, draws=draws)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(x.T.cov(), covariance, atol=0.06)


@pytest.mark.parametrize("schedule_name", list(SCHEDULES))
@pytest.mark.parametrize("adjustment_name", list(ADJUSTMENTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_adjustment_is_finite_on_the_whole_domain_of_every_schedule(
    adjustment_name, schedule_name, dtype, monkeypatch
):
    """Losses and gradients under the schedule's own prediction and loss weight, at 32 times from end to end."""
    schedule, what = SCHEDULES[schedule_name](), NATURAL[schedule_name]
    rows = torch.arange(32)
    times = torch.linspace(*schedule.domain, len(rows), dtype=torch.float64)
    monkeypatch.setattr(schedule, "draw_t", lambda draws: times)
    weight = LOSS_WEIGHTS["constant" if what == "eps" else what]()
    torch.manual_seed(2)
    network = Predicts(MLP((6,), len(COUNTS), width=16, depth=1), what, schedule)
    law = make_law("uniform", COUNTS)
    adjustment = example("adjustment", adjustment_name)[0](DenoisingLoss(weight), law, network)
    objective = Objective(Process(schedule), network, adjustment, drop=0.25).to(dtype)
    given_labels = torch.tensor([0, 1, 3, 4])[rows % 4]
    terms = objective(normal(32, 6).to(dtype), Condition.of(given_labels), Draws(5, 0, rows))
    for term in terms.values():
        assert term.shape == (32,) and torch.isfinite(term).all()
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads) and any(g.abs().sum() > 0 for g in grads)

"""The forward process outside the variance-preserving case, against linear algebra, and the step that it packs."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cbdm_core import process
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.mlp import MLP
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine, Linear, NoiseSchedule

SEEDS = st.integers(0, 2**31)


class Straight(NoiseSchedule):
    """x_t = (1 − t) x_0 + t ε: α² + σ² is not 1."""

    domain = (0.01, 0.99)

    def __call__(self, t):
        return 1 - t.double(), t.double()


SCHEDULES = st.sampled_from([Straight(), Cosine(), Linear(steps=40)])


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, st.floats(0.02, 5), st.floats(0.02, 5))
def test_conversions_hold_for_any_alpha_and_sigma(seed, alpha, sigma):
    """Each conversion says what x_0 and ε say themselves, to 1e-10 of the numbers on the way."""
    x_0, eps = normal(seed, 2, 3), normal(seed + 1, 2, 3)
    x_t = alpha * x_0 + sigma * eps
    worst = max(alpha / sigma, sigma / alpha, 1.0)
    for said, truth in (
        (process.eps_to_x0(eps, x_t, alpha, sigma), x_0),
        (process.x0_to_eps(x_0, x_t, alpha, sigma), eps),
    ):
        torch.testing.assert_close(said, truth, rtol=1e-10, atol=1e-12 * worst)


@given(SEEDS, SCHEDULES, st.floats(0.03, 0.97), st.floats(0.03, 0.97), st.floats(0.03, 0.97))
def test_posterior_is_the_joint_normal_of_a_chain_conditioned(seed, schedule, s, u, t):
    """x_0 → x_s → x_u → x_t as one joint normal built from `transition`; x_s given x_t, by solving, whatever u is."""
    s, u, t = sorted((s, u, t))
    assume(u - s > 0.02 and t - u > 0.02)
    chain, x_0, seen = Process(schedule), float(normal(seed, 1)), float(normal(seed + 1, 1))
    one = torch.ones(1, 1, dtype=torch.float64)
    # Rows x_s, x_u, x_t of x = mean·x_0 + L z, where z are the three steps' own noises.
    mean, L = np.zeros(3), np.zeros((3, 3))
    kept, row = 1.0, np.zeros(3)
    for i, (a, b) in enumerate(((0.0, s), (s, u), (u, t))):
        ratio, variance = (float(value) for value in chain.transition(one, scalar(a), scalar(b)))
        kept, row = kept * ratio, row * ratio
        row[i] = variance**0.5
        mean[i], L[i] = kept * x_0, row
    joint = L @ L.T
    gain = np.linalg.solve(joint[2:, 2:], joint[2:, :1])[0, 0]
    expected = mean[0] + gain * (seen - mean[2]), joint[0, 0] - gain * joint[2, 0]
    got = chain.posterior(seen * one, x_0 * one, scalar(s), scalar(t))
    assert [float(value) for value in got] == pytest.approx(expected, rel=1e-9, abs=1e-11)


@given(SEEDS, SCHEDULES, st.floats(0.03, 0.97))
def test_at_time_0_the_posterior_is_x_0_itself(seed, schedule, t):
    x_t, x_0 = normal(seed, 2, 3), normal(seed + 1, 2, 3)
    mean, variance = Process(schedule).posterior(x_t, x_0, scalar(0.0), scalar(t))
    torch.testing.assert_close(mean, x_0, rtol=1e-12, atol=1e-13)
    assert float(variance) == 0


def test_each_row_has_its_own_times():
    """A batch of times is row by row what one time alone gives."""
    s, t = torch.tensor([0.1, 0.3, 0.6]).double(), torch.tensor([0.2, 0.9, 0.7]).double()
    x_t, x_0, chain = normal(0, 3, 2), normal(1, 3, 2), Process(Straight())
    mean, variance = chain.posterior(x_t, x_0, s, t)
    for i in range(3):
        alone = chain.posterior(x_t[i : i + 1], x_0[i : i + 1], s[i], t[i])
        torch.testing.assert_close((mean[i : i + 1], variance[i : i + 1]), alone, rtol=1e-14, atol=0)
    torch.testing.assert_close(chain.perturb(x_0, t, x_t), (1 - t[:, None]) * x_0 + t[:, None] * x_t)


@pytest.mark.parametrize("t", [0.3, 0.2])
def test_a_transition_back_in_time_is_refused(t):
    for asked in (
        lambda: Process(Cosine()).transition(normal(0, 1, 2), scalar(0.3), scalar(t)),
        lambda: Process(Cosine()).posterior(normal(0, 1, 2), normal(1, 1, 2), scalar(0.3), scalar(t)),
    ):
        with pytest.raises(CbdmError, match="from an earlier time to a later"):
            asked()


def test_a_step_is_packed_from_its_draws():
    """t and ε are the draws' own, x_t = α_t x_0 + σ_t ε, ε̂ is the network's answer to exactly that."""
    schedule, draws = Linear(steps=50), Draws(3, 7, torch.tensor([4, 1, 9]))
    oracle, c, x_0 = GaussianMixtureOracle.ring(schedule), Condition.of([0, 2, 3]), normal(0, 3, 2)
    step = Process(schedule).denoise(oracle, x_0, c, draws)
    alpha_t, sigma_t = (value[:, None] for value in schedule(step.t))
    assert torch.equal(step.t, schedule.draw_t(draws))
    assert torch.equal(step.eps, draws.normal("eps", 2, dtype=torch.float64))
    assert torch.equal(step.x_t, alpha_t * x_0 + sigma_t * step.eps)
    assert torch.equal(step.eps_hat, oracle(step.x_t, step.t, c))
    assert step.features is None and step.c is c and step.network is oracle and step.draws is draws


def test_features_come_from_the_same_forward():
    network, draws = MLP((2,), 4, width=8, depth=1).double().eval(), Draws(0, 0, torch.arange(3))
    step = Process(Cosine()).denoise(network, normal(0, 3, 2), Condition.of([0, 1, 2]), draws, with_features=True)
    eps_hat, features = network.with_features(step.x_t, step.t, step.c)
    assert torch.equal(step.eps_hat, eps_hat) and torch.equal(step.features, features)


@pytest.mark.parametrize("counts", [(2, 3, 3), (3, 2, 3), (3, 3, 2)])
def test_a_batch_whose_parts_differ_in_length_is_refused(counts):
    examples, conditions, rows = counts
    oracle = GaussianMixtureOracle.ring(Cosine())
    with pytest.raises(CbdmError, match=f"{examples} examples, {conditions} conditions and {rows} rows"):
        Process(Cosine()).denoise(
            oracle, normal(0, examples, 2), Condition.of([0] * conditions), Draws(0, 0, torch.arange(rows))
        )


def test_the_masks_of_a_step_are_had_again_where_they_were_kept():
    """ε̂ to the bit under its own masks and condition, other numbers under new ones; not kept, they are not made up."""
    draws, x_0 = Draws(0, 3, torch.arange(64)), normal(0, 64, 4).float()
    torch.manual_seed(0)
    network, c = Dropping(), Condition.of(torch.arange(64) % 3)
    kept = Process(Cosine()).denoise(network, x_0, c, draws, keep_dropout=True)
    assert torch.equal(kept.predict(c, same_dropout=True), kept.eps_hat)
    assert not torch.equal(kept.predict(c), kept.eps_hat)
    plain = Process(Cosine()).denoise(network, x_0, c, draws)
    assert not torch.equal(plain.predict(c), plain.eps_hat)
    with pytest.raises(CbdmError, match="dropout masks of this batch are not known"):
        plain.predict(c, same_dropout=True)


class Dropping(ScoreNetwork):
    """x_t, half of whose values are dropped."""

    def forward(self, x_t, t, c):
        return torch.nn.functional.dropout(x_t, 0.5)

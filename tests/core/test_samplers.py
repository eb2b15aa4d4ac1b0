"""Each sampler is held to the order it declares, on the oracle."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from cbdm_core import samplers
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.process import Process
from cbdm_core.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from cbdm_core.schedules import EDM, Cosine, Linear, at_time

END = 0.02
SCHEDULE = Cosine()
LABELS = Condition.of(torch.tensor([0, 1, 2, 3, 0, 1]))
DRAWS = Draws(0, 0, torch.arange(6))


def grid(steps):
    """Uniform in t from the schedule's end, as close to 1 as log-SNR is finite, to 0.02."""
    return np.linspace(SCHEDULE.domain[1], END, steps + 1)


def solved(sampler, steps, oracle):
    x_T = DRAWS.normal("start", 2, dtype=torch.float64)
    return sampler.sample(
        oracle, LABELS, (2,), steps=steps, draws=DRAWS, x_T=x_T, times=grid(steps), dtype=torch.float64
    )


@lru_cache
def the_truth():
    return solved(Heun(SCHEDULE), 3_000, GaussianMixtureOracle.ring(SCHEDULE))


@pytest.mark.parametrize(
    "sampler", [DDIM(SCHEDULE), DPMSolverPP2M(SCHEDULE), Heun(SCHEDULE)], ids=lambda s: type(s).__name__
)
def test_a_deterministic_sampler_has_its_order(sampler):
    """The slope of log error against log steps is the declared order, to 0.15, over 80 … 640 steps."""
    oracle = GaussianMixtureOracle.ring(SCHEDULE)
    truth = the_truth()
    steps = np.array([80, 160, 320, 640])
    errors = [float((solved(sampler, int(n), oracle) - truth).abs().max()) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope > sampler.order - 0.15, (slope, errors)
    assert slope < sampler.order + 0.5, "it does better than it declares: raise the order"


class _GivenNoise:
    """Draws whose noise is a given number for each row."""

    def __init__(self, *z):
        self.z = z

    def normal(self, purpose, *shape, dtype):
        return torch.tensor(self.z, dtype=dtype)[:, None].expand(-1, *shape)


def moments(sampler, times, oracle, mean, variance):
    """Mean and variance at the last time: a step is x_s = a x_t + b + c z when the data are one Gaussian."""
    label = Condition.of(torch.zeros(3, dtype=torch.long))
    points, noise = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64), _GivenNoise(0.0, 0.0, 1.0)
    for t, s in pairwise(times):
        b, at_1, noisy = sampler.step(oracle, points, t, s, label, None, draws=noise)[0][:, 0].tolist()
        a, c = at_1 - b, noisy - b
        mean, variance = a * mean + b, a**2 * variance + c**2
    return mean, variance


@pytest.mark.parametrize(
    "sampler",
    [Ancestral(SCHEDULE), Ancestral(SCHEDULE, variance="small"), DDIM(SCHEDULE, eta=0.5), DDIM(SCHEDULE, eta=1.0)],
    ids=["large", "small", "eta 0.5", "eta 1"],
)
def test_a_stochastic_sampler_has_its_weak_order(sampler):
    """Mean and variance of one Gaussian, propagated exactly, without Monte Carlo: slope 1 to 0.15."""
    one = lambda value: torch.full((1, 1), value, dtype=torch.float64)  # noqa: E731
    oracle = GaussianMixtureOracle(one(0.7), one(0.3)[None], torch.ones(1), SCHEDULE)

    def truth(t):
        alpha, sigma = at_time(SCHEDULE, t)
        return alpha * 0.7, alpha**2 * 0.3 + sigma**2

    steps, errors = np.array([100, 200, 400, 800]), []
    for n in steps:
        mean, variance = moments(sampler, grid(int(n)), oracle, *truth(SCHEDULE.domain[1]))
        errors.append(abs(mean - truth(END)[0]) + abs(variance - truth(END)[1]))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert sampler.stochastic and sampler.order == 1
    assert 0.85 < slope < 1.5, (slope, errors)


@pytest.mark.parametrize("schedule", [Linear(steps=20), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_ancestral_is_exact_where_its_variance_is(schedule, steps):
    """With the large variance on N(0, I) data, with the small on one point: no error at any number of steps.

    The last step, which adds no noise, leaves the variance α_t² of x̂_0 = α_t x_t (Ho et al. 2020, section 3.2).
    """
    times = np.linspace(schedule.domain[1], 0.1, steps + 1)
    alpha_T, sigma_T = at_time(schedule, times[0])
    alpha_end, sigma_end = at_time(schedule, 0.1)

    def after(variance, spread, mean, grid):
        one = torch.ones(1, 1, dtype=torch.float64)
        oracle = GaussianMixtureOracle(one * mean, one[None] * spread, torch.ones(1), schedule)
        start = alpha_T * mean, alpha_T**2 * spread + sigma_T**2
        return moments(Ancestral(schedule, variance=variance), grid, oracle, *start)

    assert after("large", 1.0, 0.0, times) == pytest.approx((0, 1), abs=1e-10)
    assert after("large", 1.0, 0.0, [*times, 0.0]) == pytest.approx((0, alpha_end**2), abs=1e-10)
    # A covariance of 1e-14 stands for the point, which no Cholesky factor has.
    assert after("small", 1e-14, 0.7, times) == pytest.approx((alpha_end * 0.7, sigma_end**2), abs=1e-9)
    assert after("small", 1e-14, 0.7, [*times, 0.0]) == pytest.approx((0.7, 0), abs=1e-9)
    # The other way round each is wrong.
    assert abs(after("small", 1.0, 0.0, times)[1] - 1) > 0.01
    assert abs(after("large", 1e-14, 0.7, times)[1] - sigma_end**2) > 0.001


@pytest.mark.parametrize("sampler", [Ancestral(SCHEDULE), DDIM(SCHEDULE), DPMSolverPP2M(SCHEDULE), Heun(SCHEDULE)])
def test_samples_of_a_mixture_have_its_moments(sampler):
    """1,500 samples a class: mean to 0.06 and variance to 20 % (four standard errors)."""
    oracle = GaussianMixtureOracle.ring(SCHEDULE)
    labels = torch.arange(6000) % 4
    draws = Draws(0, 0, torch.arange(6000))
    x = sampler.sample(oracle, Condition.of(labels), (2,), steps=100, draws=draws, dtype=torch.float64)
    for y in range(4):
        own = x[labels == y]
        assert (own.mean(0) - oracle.means[y]).abs().max() < 0.06
        assert (own.T.cov() - oracle.covariances[y]).abs().max() < 0.05


def test_the_clip_of_x_0_acts():
    """A clipped sampler ends inside the bound, and before that its steps differ from the unclipped ones'."""
    oracle = GaussianMixtureOracle.ring(SCHEDULE)
    for plain, clipped in (
        (Ancestral(SCHEDULE), Ancestral(SCHEDULE, clip=1.0)),
        (DDIM(SCHEDULE), DDIM(SCHEDULE, clip=1.0)),
        (DPMSolverPP2M(SCHEDULE), DPMSolverPP2M(SCHEDULE, clip=1.0)),
        (Heun(SCHEDULE), Heun(SCHEDULE, clip=1.0)),
    ):
        x, y = (s.sample(oracle, LABELS, (2,), steps=20, draws=DRAWS, dtype=torch.float64) for s in (plain, clipped))
        assert x.abs().max() > 1.5 and y.abs().max() <= 1.0 + 1e-12
        assert y.min() < -0.5 and y.max() > 0.5
        steps = [s.step(oracle, x, 0.5, 0.4, LABELS, None, draws=DRAWS)[0] for s in (plain, clipped)]
        assert (steps[0] - steps[1]).abs().max() > 0.05


def test_ddim_with_eta_1_is_ancestral_with_the_small_variance():
    oracle = GaussianMixtureOracle.ring(SCHEDULE)
    x = [
        s.sample(oracle, LABELS, (2,), steps=30, draws=DRAWS, dtype=torch.float64)
        for s in (DDIM(SCHEDULE, eta=1.0), Ancestral(SCHEDULE, variance="small"))
    ]
    torch.testing.assert_close(x[0], x[1], atol=1e-10, rtol=0)


def test_an_ancestral_step_is_the_posterior():
    """Mean and small variance agree with `Process.posterior`, the large variance with the forward transition."""
    schedule = Linear(steps=10)
    oracle = GaussianMixtureOracle.ring(schedule)
    x, t, s = DRAWS.normal("x", 2, dtype=torch.float64), *torch.tensor([[0.7], [0.6]], dtype=torch.float64)
    alpha_t, sigma_t = at_time(schedule, 0.7)
    x_0 = (x - sigma_t * oracle(x, t.expand(6), LABELS)) / alpha_t
    mean, small = Process(schedule).posterior(x, x_0, s, t)
    large = Process(schedule).transition(x, s, t)[1]
    z = DRAWS.normal("noise", 2, dtype=torch.float64)
    for variance, expected in (("small", small), ("large", large)):
        x_s, _ = Ancestral(schedule, variance=variance).step(oracle, x, 0.7, 0.6, LABELS, None, draws=DRAWS)
        torch.testing.assert_close(x_s, mean + expected.sqrt() * z, atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", [SCHEDULE, EDM()])
def test_a_path_starts_where_data_of_variance_1_are_noised_to(schedule):
    """x_T is the draw "x_T" of step 0, with variance α_T² + σ_T²: 1 where that is kept, 6,401 under EDM's."""
    seen = []

    class Watched(GaussianMixtureOracle):
        def forward(self, x_t, t, c):
            seen.append(x_t)
            return super().forward(x_t, t, c)

    ring = GaussianMixtureOracle.ring(schedule)
    oracle = Watched(ring.means, ring.covariances, ring.class_probs, schedule)
    DDIM(schedule).sample(oracle, LABELS, (2,), steps=1, draws=DRAWS, dtype=torch.float64)
    alpha_T, sigma_T = at_time(schedule, schedule.domain[1])
    draw = DRAWS.at(0).normal("x_T", 2, dtype=torch.float64)
    torch.testing.assert_close(seen[0], draw * float(alpha_T**2 + sigma_T**2) ** 0.5)


def test_what_draws_noise_along_the_way_says_so():
    assert [s.stochastic for s in (DDIM(SCHEDULE), DDIM(SCHEDULE, eta=0.5), Ancestral(SCHEDULE))] == [False, True, True]


def test_mistakes_are_refused():
    oracle = GaussianMixtureOracle.ring(SCHEDULE)
    with pytest.raises(CbdmError, match="did you mean 'large'"):
        Ancestral(SCHEDULE, variance="larg")
    for make in (
        lambda: Ancestral(SCHEDULE, clip=0.0),
        lambda: DPMSolverPP2M(SCHEDULE, clip=-1.0),
        lambda: Heun(SCHEDULE, clip=0.0),
        lambda: DDIM(SCHEDULE, eta=1.5),
        lambda: DDIM(SCHEDULE, eta=-0.5),
    ):
        with pytest.raises(CbdmError):
            make()
    for times in ([0.5], [0.5, 0.5], [0.2, 0.4]):
        with pytest.raises(CbdmError, match="decrease"):
            DDIM(SCHEDULE).sample(oracle, LABELS, (2,), steps=1, draws=DRAWS, times=times)
    with pytest.raises(CbdmError, match="steps must be 1 or more"):
        DDIM(SCHEDULE).sample(oracle, LABELS, (2,), steps=0, draws=DRAWS)
    with pytest.raises(CbdmError, match="one condition per row"):
        DDIM(SCHEDULE).sample(oracle, LABELS[:3], (2,), steps=2, draws=DRAWS)


def test_the_schedule_is_asked_once_for_each_time_and_not_remembered_without_end(monkeypatch):
    asked = []
    monkeypatch.setattr(samplers, "at_time", lambda schedule, t: asked.append(t) or (t, 1 - t))
    sampler = DDIM(SCHEDULE)
    assert [sampler.at(t) for t in (0.1, 0.2, 0.1, 0.2)] == [(0.1, 0.9), (0.2, 0.8)] * 2 and asked == [0.1, 0.2]
    for i in range(3 * samplers._MOST_TIMES):
        sampler.at(i / samplers._MOST_TIMES)
        assert len(sampler._known) <= samplers._MOST_TIMES

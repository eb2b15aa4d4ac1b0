"""Schedules against the published table, the printed formula and exact arithmetic; and samplers under each of them."""

import inspect
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import chisquare, kstest, norm

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM, DPMSolverPP2M, Heun
from cbdm_core.schedules import EDM, VP, Cosine, Linear, RectifiedFlow, at_time, uniform_times
from tests.golden_weights import load_golden


@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_published_table_bit_for_bit(letter):
    """ᾱ_i as stored by the published program; α² and 1 − σ² at t = (i + 1)/T to a bit or two."""
    golden = load_golden(letter)
    c, table = golden.config, golden["alphas_bar"]
    schedule = Linear(steps=c["T"], beta_1=c["beta_1"], beta_T=c["beta_T"])
    assert torch.equal(schedule.alphas_bar, table)
    alpha_t, sigma_t = schedule((torch.arange(c["T"]).double() + 1) / c["T"])
    torch.testing.assert_close(alpha_t.square(), table, rtol=0, atol=4e-16)
    torch.testing.assert_close(sigma_t.square(), 1 - table, rtol=0, atol=4e-16)


@pytest.mark.parametrize("steps", [1, 7, 1000, 4000])
def test_every_point_of_the_table_is_met(steps):
    """(i + 1)/T need not be a binary number: t·T may miss the whole by a bit, and must not leave the point."""
    schedule = Linear(steps=steps)
    alpha_t, _ = schedule(torch.tensor([(i + 1) / steps for i in range(steps)], dtype=torch.float64))
    torch.testing.assert_close(alpha_t.square(), schedule.alphas_bar, rtol=1e-14, atol=0)


@given(st.integers(1, 1000), st.floats(-12, -5).map(lambda power: 10**power))
def test_log_snr_falls_across_the_points_of_the_table(i, apart):
    """Times beside a point of the table are times of their own, on its right as on its left."""
    t = torch.tensor([i / 1000 - apart, i / 1000, i / 1000 + apart], dtype=torch.float64)
    assert (Linear(steps=1000).log_snr(t).diff() < 0).all()


def test_training_times_are_the_points_of_the_table_equally_often():
    i = Linear(steps=20).draw_t(Draws(0, 0, torch.arange(20_000))) * 20 - 1
    torch.testing.assert_close(i, i.round(), atol=1e-12, rtol=0)
    counts = torch.bincount(i.round().long(), minlength=20)
    assert len(counts) == 20 and chisquare(counts.numpy()).pvalue > 0.01


def cosine_of(x):
    """cos x for |x| < 2 by its series, in the digits of the decimal context."""
    term, total = Decimal(1), Decimal(1)
    for k in range(1, 60):
        term *= -x * x / ((2 * k - 1) * (2 * k))
        total += term
    return total


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@given(st.floats(-12, 0).map(lambda power: 10**power), st.floats(0.001, 0.1))
def test_cosine_is_equation_17_and_sigma_keeps_its_digits(t, s):
    """ᾱ = cos²(π/2·(t + s)/(1 + s))/cos²(π/2·s/(1 + s)) in 60 digits: σ_t to 1e-7 relative even where 1 − ᾱ cancels.

    What is lost is lost in t + s, of which t = 1e-12 keeps 4 digits in float64; so 1e-14/t, and α to 1e-13.
    """
    with localcontext() as context:
        context.prec = 60
        T, S = Decimal(t), Decimal(s)
        f = [cosine_of(PI / 2 * (u + S) / (1 + S)) ** 2 for u in (T, Decimal(0))]
        alphas_bar = f[0] / f[1]
        alpha, sigma = float(alphas_bar.sqrt()), float((1 - alphas_bar).sqrt())
    alpha_t, sigma_t = (float(v) for v in Cosine(s=s)(torch.tensor(t, dtype=torch.float64)))
    assert alpha_t == pytest.approx(alpha, abs=1e-13)
    assert sigma_t == pytest.approx(sigma, rel=1e-13 + 1e-15 / t)


@given(st.floats(-12, -4).map(lambda power: 10**power))
def test_linear_sigma_keeps_its_digits_below_the_table(t):
    """Left of the first point log ᾱ = t·T·log(1 − β_0), so σ² = 1 − (1 − β_0)^{tT}, in 60 digits."""
    steps, beta = 1000, float(np.float32(1e-4))
    with localcontext() as context:
        context.prec = 60
        sigma = float((1 - (1 - Decimal(beta)) ** (Decimal(t) * steps)).sqrt())
    # β_0 near 0 keeps 12 digits in 1 − β_0, which the table holds in float64.
    assert float(Linear(steps=steps)(torch.tensor(t, dtype=torch.float64))[1]) == pytest.approx(sigma, rel=2e-12)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"beta_1": 0.0}, {"beta_1": 0.5, "beta_T": 0.1}, {"beta_T": 1.0}, {"beta_1": float("nan")}],
)
def test_another_linear_schedule_is_refused(options):
    with pytest.raises(CbdmError, match="linear needs steps ≥ 1") as caught:
        Linear(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("s", [0.0, -0.1, float("inf"), float("nan")])
def test_another_cosine_schedule_is_refused(s):
    with pytest.raises(CbdmError, match="offset s > 0"):
        Cosine(s=s)


def at(schedule, times):
    """α and σ at those times, as arrays."""
    return (v.numpy() for v in schedule(torch.as_tensor(times, dtype=torch.float64)))


# Rectified flow


@given(st.floats(0, 1))
def test_rectified_flow_is_a_straight_line(t):
    alpha_t, sigma_t = at_time(RectifiedFlow(), t)
    assert alpha_t + sigma_t == pytest.approx(1, abs=1e-15) and sigma_t == t


# The variance-preserving SDE


@pytest.mark.parametrize("rates", [(0.1, 20.0), (3.0, 3.0), (0.5, 90.0)])
def test_vp_solves_its_equation(rates):
    """d log α/dt = −β(t)/2 and dσ²/dt = β(t)(1 − σ²) with β(t) = β_min + t(β_max − β_min), integrated to 1e-9."""
    low, high = rates

    def slope(t, y):
        beta = low + t * (high - low)
        return [-beta / 2, beta * (1 - y[1])]

    times = np.linspace(0, 1, 51)
    solution = solve_ivp(slope, (0, 1), [0.0, 0.0], t_eval=times, rtol=1e-12, atol=1e-13, method="DOP853")
    alpha, sigma = at(VP(beta_min=low, beta_max=high), times)
    np.testing.assert_allclose(np.log(alpha), solution.y[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sigma**2, solution.y[1], rtol=1e-9, atol=1e-12)


def test_vp_is_the_limit_of_the_table():
    """A table of T steps with β_i = β(i/(T−1))/T: log ᾱ differs by Σβ_i²/2 + …, so that 4 times T leaves a quarter."""
    gaps = []
    for steps in (1_000, 4_000):
        table = Linear(steps=steps, beta_1=0.1 / steps, beta_T=20.0 / steps)
        times = np.arange(1, 21) / 20
        gaps.append(abs(np.log(next(iter(at(table, times)))) - np.log(next(iter(at(VP(), times))))).max())
    assert gaps[1] < 0.02 and gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)


@given(st.floats(-12, 0).map(lambda power: 10**power))
def test_vp_sigma_keeps_its_digits(t):
    with localcontext() as context:
        context.prec = 60
        T = Decimal(t)
        sigma = float((1 - (-T * T * Decimal("9.95") - T * Decimal("0.1")).exp()).sqrt())
    assert at_time(VP(), t)[1] == pytest.approx(sigma, rel=1e-13)


# EDM


@pytest.mark.parametrize("options", [{}, {"sigma_min": 0.01, "sigma_max": 300.0, "rho": 3.0}])
@pytest.mark.parametrize("steps", [18, 40])
def test_edm_runs_through_the_noise_levels_of_equation_5(options, steps):
    """σ_i = (σ_max^{1/ρ} + i/(N−1)·(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ for N times evenly spread on the domain."""
    schedule = EDM(**options)
    low, high, rho = schedule.sigma_min, schedule.sigma_max, schedule.rho
    share = np.arange(steps) / (steps - 1)
    expected = np.exp(rho * np.log(high ** (1 / rho) * (1 - share) + low ** (1 / rho) * share))
    alpha, sigma = at(schedule, np.linspace(*schedule.domain[::-1], steps))
    np.testing.assert_allclose(sigma, expected, rtol=1e-12)
    assert (alpha == 1).all()
    assert at_time(schedule, schedule.domain[0])[1] == pytest.approx(low, rel=1e-12)
    assert at_time(schedule, 1.0)[1] == pytest.approx(high, rel=1e-12)


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_edm_samples_on_the_grid_of_its_paper(steps):
    """σ_0 = 80 … σ_{N−1} = 0.002, σ_N = 0 (Karras et al. 2022, eq. 5); uniform times to 0 would end at 0.0069."""
    share = np.arange(steps) / (steps - 1)
    expected = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    alpha, sigma = at(EDM(), np.array(EDM().grid(steps)))
    np.testing.assert_allclose(sigma, [*expected, 0.0], rtol=1e-9)
    assert (alpha == 1).all()
    assert at_time(EDM(), uniform_times(EDM(), 18)[-2])[1] == pytest.approx(0.0069, abs=5e-5)


def test_one_step_of_edm_starts_from_all_the_noise():
    assert EDM().grid(1) == [1.0, 0.0]
    with pytest.raises(CbdmError, match="steps must be 1 or more, got 0"):
        EDM().grid(0)


def test_edm_falls_in_a_line_to_no_noise_below_its_domain():
    _, sigma = at(EDM(), np.linspace(0, EDM.domain[0], 11))
    np.testing.assert_allclose(sigma, 0.002 * np.arange(11) / 10, rtol=1e-12)


@given(st.floats(0.001, 1.0))
def test_edm_finds_the_time_of_a_noise_level(t):
    """The inverse of σ(t) on the domain, to 1e-12; a level outside [σ_min, σ_max] gets the nearest end."""
    schedule = EDM()
    sigma = schedule(torch.tensor(t, dtype=torch.float64))[1]
    assert float(schedule.time_of(sigma)) == pytest.approx(t, abs=1e-12)
    assert schedule.time_of(torch.tensor([0.001, 81.0]).double()).tolist() == [0.001, 1.0]


# Training times

ROWS = Draws(3, 0, torch.arange(20_000))


@pytest.mark.parametrize("schedule", [Cosine(), VP(), RectifiedFlow()], ids=["cosine", "vp", "rectified-flow"])
def test_training_times_are_uniform_on_the_domain(schedule):
    low, high = schedule.domain
    assert kstest((schedule.draw_t(ROWS).numpy() - low) / (high - low), "uniform").pvalue > 0.01


@pytest.mark.parametrize("law", [(-1.2, 1.2), (0.5, 0.3)])
def test_edm_trains_at_log_normal_noise(law):
    """log σ of 20,000 training times against N(mean, std²), by Kolmogorov's test."""
    schedule = EDM(mean=law[0], std=law[1])
    log_sigma = schedule(schedule.draw_t(ROWS))[1].log().numpy()
    assert kstest(log_sigma, norm(*law).cdf).pvalue > 0.01


@pytest.mark.parametrize("law", [(0.0, 1.0), (-0.5, 0.7)])
def test_rectified_flow_trains_at_logit_normal_times(law):
    t = RectifiedFlow(logit_normal=law).draw_t(ROWS).numpy()
    assert kstest(np.log(t / (1 - t)), norm(*law).cdf).pvalue > 0.01


@pytest.mark.parametrize("mean", [-40.0, 40.0])
def test_times_that_would_leave_the_domain_stay_at_its_end(mean):
    for schedule in (RectifiedFlow(logit_normal=(mean, 1.0)), EDM(mean=mean)):
        assert (schedule.draw_t(ROWS) == schedule.domain[mean > 0]).all()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (VP, {"beta_min": 0.0}, "vp needs 0 < beta_min"),
        (VP, {"beta_min": 5.0, "beta_max": 1.0}, "vp needs 0 < beta_min"),
        (VP, {"beta_max": 2000.0}, "vp needs 0 < beta_min"),
        (VP, {"beta_max": float("nan")}, "vp needs 0 < beta_min"),
        (EDM, {"sigma_min": 0.0}, "edm needs 0 < sigma_min"),
        (EDM, {"sigma_max": 0.001}, "edm needs 0 < sigma_min"),
        (EDM, {"sigma_max": float("inf")}, "edm needs 0 < sigma_min"),
        (EDM, {"rho": -7.0}, "edm needs 0 < sigma_min"),
        (EDM, {"std": 0.0}, "edm draws times from a normal law"),
        (EDM, {"mean": float("nan")}, "edm draws times from a normal law"),
        (RectifiedFlow, {"logit_normal": (0.0, -1.0)}, "rectified-flow draws times from a normal law"),
    ],
)
def test_another_continuous_schedule_is_refused(make, options, message):
    with pytest.raises(CbdmError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


# Samplers under the schedules, on the default grid

NEW = {"rectified-flow": RectifiedFlow(), "vp": VP(), "edm": EDM()}
MEANS, DEVIATIONS, SHARES = np.array([-1.0, 0.2, 1.5]), np.array([0.5, 0.3, 0.6]), np.array([0.5, 0.3, 0.2])


@pytest.mark.parametrize(
    ("sampler", "quantile", "mean", "variance"),
    [(DDIM, 0.01, 0.003, 0.07), (DPMSolverPP2M, 0.002, 0.003, 0.005), (Heun, 0.002, 0.003, 0.005)],
    ids=["ddim", "dpm++2m", "heun"],
)
@pytest.mark.parametrize("schedule", NEW.values(), ids=NEW)
def test_a_mixture_is_reached_quantile_by_quantile(schedule, sampler, quantile, mean, variance):
    """In one dimension the flow keeps the order, so the u-quantile of the noise must end at that of the data.

    100 steps, 400 quantiles, no Monte Carlo: sup |F(x) − u| and the moments to the written tolerances. They hold the
    solver's error and what the start leaves out (p_T is taken as N(0, α_T² + σ_T²)).
    """

    def as_tensor(values):
        return torch.tensor(values)[:, None]

    oracle = GaussianMixtureOracle(
        as_tensor(MEANS), as_tensor(DEVIATIONS**2)[..., None], torch.tensor(SHARES), schedule
    )
    u = (np.arange(400) + 0.5) / 400
    c, draws = Condition.of(torch.zeros(400, dtype=torch.long)).null(), Draws(0, 0, torch.arange(400))
    x_T = as_tensor(norm.ppf(u) * np.hypot(*at_time(schedule, schedule.domain[1])))
    x = sampler(schedule).sample(oracle, c, (1,), steps=100, draws=draws, x_T=x_T, dtype=torch.float64)[:, 0].numpy()
    assert abs(norm.cdf((x[:, None] - MEANS) / DEVIATIONS) @ SHARES - u).max() < quantile
    true_mean = SHARES @ MEANS
    true_variance = SHARES @ (DEVIATIONS**2 + MEANS**2) - true_mean**2
    assert x.mean() == pytest.approx(true_mean, abs=mean) and x.var() == pytest.approx(true_variance, abs=variance)


MEAN, SPREAD = 0.7, 0.3


def gaussian_flow(schedule, x_T, t):
    """The probability flow of N(μ, s²): x_t = α_t μ + (x_T − α_T μ)·√((α_t² s² + σ_t²)/(α_T² s² + σ_T²))."""
    (alpha, sigma), (alpha_T, sigma_T) = at_time(schedule, t), at_time(schedule, schedule.domain[1])
    ratio = np.hypot(alpha * SPREAD, sigma) / np.hypot(alpha_T * SPREAD, sigma_T)
    return alpha * MEAN + (x_T - alpha_T * MEAN) * ratio


def one_gaussian(schedule):
    one = torch.ones(1, 1, dtype=torch.float64)
    return GaussianMixtureOracle(one * MEAN, one[None] * SPREAD**2, torch.ones(1), schedule)


def test_the_velocity_of_rectified_flow_is_the_expected_difference_of_noise_and_data():
    """dx/dt = ε̂ − x̂_0, integrated by scipy from 0.999 to 0.001, ends where the closed form says, to 1e-8."""
    schedule = RectifiedFlow()
    oracle, c = one_gaussian(schedule), Condition.of([0] * 5)

    def velocity(t, x):
        x_t = torch.tensor(x)[:, None]
        eps_hat = oracle(x_t, torch.full((5,), t, dtype=torch.float64), c)
        return (eps_hat - (x_t - t * eps_hat) / (1 - t))[:, 0].numpy()

    high, low = schedule.domain[::-1]
    x_T = np.linspace(-2, 2, 5)
    x = solve_ivp(velocity, (high, low), x_T, rtol=1e-11, atol=1e-11, method="DOP853").y[:, -1]
    np.testing.assert_allclose(x, gaussian_flow(schedule, x_T, low), atol=1e-8)


@pytest.mark.parametrize(
    ("sampler", "tolerance"), [(DDIM, 0.01), (DPMSolverPP2M, 1e-3), (Heun, 1e-3)], ids=["ddim", "dpm++2m", "heun"]
)
@pytest.mark.parametrize("schedule", NEW.values(), ids=NEW)
def test_one_gaussian_follows_the_closed_form_and_meets_it_with_more_steps(schedule, sampler, tolerance):
    """Each start ends on its own point of N(μ, s²), not only the crowd on its moments: 400 steps, and 4 times fewer."""
    errors = []
    start = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * at_time(schedule, schedule.domain[1])[1]
    for steps in (100, 400):
        x = sampler(schedule).sample(
            one_gaussian(schedule),
            Condition.of([0] * 5),
            (1,),
            steps=steps,
            draws=ROWS[:5],
            x_T=start,
            dtype=torch.float64,
        )
        errors.append(float((x - gaussian_flow(schedule, start, 0.0)).abs().max()))
    assert errors[1] < tolerance and errors[1] < 0.35 * errors[0], errors


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (Linear, {"steps": 1000, "beta_1": 1e-4, "beta_T": 0.02}),  # Ho et al. 2020
        (VP, {"beta_min": 0.1, "beta_max": 20.0}),  # Song et al. 2021
        (EDM, {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0, "mean": -1.2, "std": 1.2}),  # Karras et al. 2022
    ],
)
def test_defaults_are_the_published_values(schedule, published):
    found = {name: p.default for name, p in inspect.signature(schedule).parameters.items()}
    assert found == published


def test_what_is_too_much_is_refused_at_its_bound():
    assert VP(beta_min=40, beta_max=60).beta_max == 60
    with pytest.raises(CbdmError, match="a sum of at most 100"):
        VP(beta_min=40, beta_max=60.001)
    with pytest.raises(CbdmError, match="steps"):
        Linear(steps=10**7 + 1)

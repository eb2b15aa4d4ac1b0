"""Samplers of other libraries ask our networks and end where ours do, to 1e-10 in float64."""

import importlib
import itertools

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from cbdm import DDIM, EDM, Condition, Cosine, DPMSolverPP2M, Draws, GaussianMixtureOracle, Heun, Linear, RectifiedFlow
from cbdm_core.errors import CbdmError
from cbdm_core.networks.interop import KDenoiser, VarianceKept, alphas_bar, time_of_noise, with_our_noise
from cbdm_core.schedules import at_time, uniform_times

SCHEDULES = [Linear(steps=1000), Cosine(), RectifiedFlow(), EDM()]
NAMES = ["linear", "cosine", "flow", "edm"]
C = Condition.of([0, 3, 2, 1])
DRAWS = Draws(0, 0, torch.arange(4))
NOISE = DRAWS.normal("x_T", 2, dtype=torch.float64)


def ours(sampler, oracle, steps, times=None):
    return sampler.sample(oracle, C, (2,), steps=steps, draws=DRAWS, dtype=torch.float64, times=times)


def start(denoiser, schedule, sigmas):
    """x̄ at the first level of the noise that our samplers start from."""
    alpha_T, sigma_T = at_time(schedule, schedule.domain[1])
    return NOISE * (alpha_T**2 + sigma_T**2) ** 0.5 / alpha_T


def euler(model, x, sigmas, **extra):
    """Euler's rule in σ̄, in the convention of k-diffusion."""
    for now, after in itertools.pairwise(sigmas):
        x = x + (after - now) * (x - model(x, now.expand(len(x)), **extra)) / now
    return x


def heun(model, x, sigmas, **extra):
    for now, after in itertools.pairwise(sigmas):
        slope = (x - model(x, now.expand(len(x)), **extra)) / now
        moved = x + (after - now) * slope
        if after > 0:
            slope = (slope + (moved - model(moved, after.expand(len(x)), **extra)) / after) / 2
        x = x + (after - now) * slope
    return x


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
@pytest.mark.parametrize(("theirs", "sampler"), [(euler, DDIM), (heun, Heun)])
def test_rules_in_the_convention_of_k_diffusion_end_where_ours_do(schedule, theirs, sampler):
    oracle = GaussianMixtureOracle.ring(schedule)
    denoiser = KDenoiser(oracle, schedule)
    sigmas = denoiser.sigmas(20)
    x = theirs(denoiser, start(denoiser, schedule, sigmas), sigmas, c=C)
    torch.testing.assert_close(x, ours(sampler(schedule), oracle, 20), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "sampler"), [("sample_euler", DDIM), ("sample_heun", Heun), ("sample_dpmpp_2m", DPMSolverPP2M)]
)
def test_k_diffusion_itself_ends_where_ours_do(name, sampler):
    sampling = pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule)
    denoiser = KDenoiser(oracle, schedule)
    sigmas, run = denoiser.sigmas(20), getattr(sampling, name)
    with torch.no_grad():
        x = run(denoiser, start(denoiser, schedule, sigmas), sigmas, extra_args={"c": C}, disable=True)
    torch.testing.assert_close(x, ours(sampler(schedule), oracle, 20), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_a_noise_level_finds_its_time(schedule):
    t = torch.linspace(*schedule.domain, 37, dtype=torch.float64)
    alpha_t, sigma_t = schedule(t)
    torch.testing.assert_close(time_of_noise(schedule, sigma_t / alpha_t), t, atol=1e-12, rtol=0)
    beyond = time_of_noise(schedule, torch.tensor([0.0, 1e12], dtype=torch.float64))
    torch.testing.assert_close(beyond, torch.tensor(schedule.domain, dtype=torch.float64), atol=1e-12, rtol=0)


def by_diffusers(scheduler, schedule, steps):
    oracle = GaussianMixtureOracle.ring(schedule)
    model = VarianceKept(oracle, schedule)
    scheduler.set_timesteps(steps)
    x = NOISE
    for i in scheduler.timesteps:
        x = scheduler.step(model(x, i, C), i, x).prev_sample
    return oracle, x


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_ddim_of_diffusers_ends_where_ours_does(schedule):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    oracle, x = by_diffusers(with_our_noise(scheduler, schedule), schedule, 20)
    times = uniform_times(schedule, 20)
    torch.testing.assert_close(x, ours(DDIM(schedule), oracle, 20, times), atol=1e-10, rtol=1e-10)


def test_the_table_of_linear_is_the_published_one():
    table = DDIMScheduler(beta_start=1e-4, beta_end=0.02).alphas_cumprod
    torch.testing.assert_close(alphas_bar(Linear()).float(), table, atol=1e-7, rtol=1e-5)


def test_the_solver_of_diffusers_comes_as_near_to_the_truth_as_ours():
    """Its float32 table of log-SNRs and its own last step do not allow the same digits; both are near the limit."""
    schedule = Linear(steps=1000)
    scheduler = DPMSolverMultistepScheduler(timestep_spacing="trailing", algorithm_type="dpmsolver++")
    oracle, x = by_diffusers(scheduler, schedule, 50)
    truth = ours(Heun(schedule), oracle, 1000)
    assert float((x - truth).abs().max()) < 3e-2
    assert float((ours(DPMSolverPP2M(schedule), oracle, 50) - truth).abs().max()) < 3e-2


def test_a_scheduler_without_a_table_is_refused():
    flow = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler()
    with pytest.raises(CbdmError, match="alphas_cumprod"):
        with_our_noise(flow, Cosine())

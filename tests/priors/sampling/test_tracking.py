"""Posterior weights tracked along a path, held to the Gaussian mixture whose class probabilities are the law."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.guidance import ClassifierFreeGuidance, LinearInTime
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.process import eps_to_x0
from cbdm_core.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from cbdm_core.schedules import at_time, uniform_times
from cbdm_priors.laws.counts import Fixed, Uniform
from cbdm_priors.sampling.tracking import TrackedWeights, kernel_log_likelihood
from tests.priors.oracles import (
    COUNTS,
    ORACLE,
    SCHEDULE,
    TRAINING,
    UNIFORM,
    Asked,
    FixedMean,
    f64,
    nobody,
    times,
    under,
)

SAMPLERS = {
    "ddim": DDIM(SCHEDULE),
    "eta 0.2": DDIM(SCHEDULE, eta=0.2),
    "eta 1": DDIM(SCHEDULE, eta=1.0),
    "ancestral": Ancestral(SCHEDULE),
    "2m": DPMSolverPP2M(SCHEDULE),
    "heun": Heun(SCHEDULE),
}


# Tracked weights


def walk(tracker, oracle, steps, rows):
    """(s, x_s, memory) along the path that the tracker makes, without the last point."""
    draws, grid = Draws(0, 0, torch.arange(rows)), uniform_times(SCHEDULE, steps)
    x, memory = draws.normal("x_T", oracle.means.shape[1], dtype=torch.float64), None
    for i, (t, s) in enumerate(pairwise(grid[:-1])):
        x, memory = tracker.step(oracle, x, t, s, nobody(rows), memory, draws=draws.at(i))
        yield s, x, memory


def gaps(tracker, law, oracle=ORACLE, *, steps, rows=200, every=1):
    """(steps,) mean over rows and classes of |w^π − π(y|x_s)| along the path, at each update."""
    truth = under(law, oracle)
    path = list(walk(tracker, oracle, steps, rows))[every - 1 :: every]
    return torch.stack(
        [(tracker.weights(memory) - truth.class_posterior(x, times(s, rows))).abs().mean() for s, x, memory in path]
    )


@pytest.mark.parametrize("law", [UNIFORM, TRAINING, Fixed(COUNTS, 0, 1, 2, 0)], ids=["uniform", "training", "fixed"])
@pytest.mark.parametrize(("name", "steps"), [*((name, 20) for name in SAMPLERS), ("eta 0.2", 50), ("eta 1", 200)])
def test_tracked_weights_are_the_posterior(law, name, steps):
    """Mean |Δw| ≤ 0.006 over the path and ≤ 0.01 at its worst time, for every sampler, 20 to 200 steps."""
    gap = gaps(TrackedWeights(SAMPLERS[name], law, TRAINING), law, steps=steps)
    assert gap.mean() <= 0.006 and gap.max() <= 0.01, gap


@pytest.mark.parametrize("name", ["ddim", "eta 1"])
def test_the_update_of_several_steps_is_the_kernel_over_all_of_them(name):
    """50 steps, updated at every 5th, are as good as 10 steps: to 0.01. The last steps' kernels alone are not."""
    tracker = TrackedWeights(SAMPLERS[name], UNIFORM, TRAINING, every=5)
    assert gaps(tracker, UNIFORM, steps=50, every=5).max() <= 0.01

    path, total, dropped = list(walk(tracker, ORACLE, 50, 200)), 0.0, []
    for i, ((t, x_t, _), (s, x_s, _)) in enumerate(pairwise(path), start=1):
        if i % 5 == 4:
            predictions = ORACLE.all_classes(x_t, times(t, 200))
            total = total + kernel_log_likelihood(SCHEDULE, x_s, x_t, predictions, s, t)
            dropped.append((torch.softmax(total, 1) - under(UNIFORM).class_posterior(x_s, times(s, 200))).abs().mean())
    assert max(dropped) > 0.1


def test_weights_stand_still_between_updates():
    tracker = TrackedWeights(DDIM(SCHEDULE), UNIFORM, TRAINING, every=3)
    w = torch.stack([tracker.weights(memory) for _, _, memory in walk(tracker, ORACLE, 10, 4)])
    moved = (w[1:] != w[:-1]).any(-1).all(-1)
    assert moved.tolist() == [False, True, False, False, True, False, False, True]


def test_the_samplers_own_variance_is_wrong_where_it_is_not_ancestral():
    """At η = 0.2 it is η² of the ancestral one, which is to divide L by η²: weights far too sure, |Δw| > 0.15."""
    toy = GaussianMixtureOracle(f64([-1.0], [1.0]), f64([[0.25]], [[0.25]]), f64(0.5, 0.5), SCHEDULE)
    law = Uniform([1, 1])
    for steps in (20, 50, 200):
        path = list(walk(TrackedWeights(DDIM(SCHEDULE, eta=0.2), law, law), toy, steps, 200))
        gap = []
        for s, x, memory in path:
            own = torch.softmax(memory.log_likelihood / 0.2**2, 1)
            gap.append(float((own - toy.class_posterior(x, times(s, 200))).abs().mean()))
        assert sum(gap) / len(gap) > 0.15
        assert gaps(TrackedWeights(DDIM(SCHEDULE, eta=0.2), law, law), law, toy, steps=steps).mean() < 0.01


def test_classes_of_unequal_width_need_the_ancestral_noise():
    """In 10 dimensions with variances 0.1 and 1: η = 1 tends to the posterior with the steps, η = 0 does not."""
    means, eye = torch.zeros(2, 10, dtype=torch.float64), torch.eye(10, dtype=torch.float64)
    means[1, 0] = 1.5
    toy = GaussianMixtureOracle(means, torch.stack([0.1 * eye, eye]), f64(0.5, 0.5), SCHEDULE)
    law = Uniform([1, 1])

    def gap(eta, steps):
        return float(gaps(TrackedWeights(DDIM(SCHEDULE, eta=eta), law, law), law, toy, steps=steps, rows=100).mean())

    assert gap(1.0, 200) < 0.6 * gap(1.0, 50) < 0.6 * 0.03
    assert gap(0.0, 200) > 0.1


@pytest.mark.parametrize("name", ["ddim", "ancestral", "2m"])
@pytest.mark.parametrize("law", [UNIFORM, Fixed(COUNTS, 0.1, 0.0, 0.3, 0.6)], ids=["uniform", "fixed"])
def test_samples_have_the_classes_of_the_law(name, law):
    """1,600 samples of a network trained on 100 : 30 : 10 : 3: each class's share to 4 standard errors."""
    draws = Draws(1, 0, torch.arange(1600))
    tracker = TrackedWeights(SAMPLERS[name], law, TRAINING)
    x = tracker.sample(ORACLE, nobody(1600), (2,), steps=40, draws=draws, dtype=torch.float64)
    nearest = torch.cdist(x, ORACLE.means).argmin(1)
    share = torch.bincount(nearest, minlength=4) / 1600
    # The classes overlap a little: exact data are counted in the same way.
    exact = under(law).sample(nobody(40_000), draws=Draws(2, 0, torch.arange(40_000)))
    expected = torch.bincount(torch.cdist(exact, ORACLE.means).argmin(1), minlength=4) / 40_000
    error = 4 * (expected * (1 - expected) * (1 / 1600 + 1 / 40_000)).sqrt()
    assert ((share - expected).abs() <= error + 1e-3).all(), (share, expected)


class _Reference:
    """The weights by hand: L from the kernel written out, w ∝ π e^{L/T}."""

    def __init__(self, temperature=1.0):
        self.log_l, self.temperature = torch.zeros(3, 4, dtype=torch.float64), temperature

    def w(self, law):
        return torch.softmax(law.probs.log() + self.log_l / self.temperature, 1)

    def update(self, x_s, x_t, s, t):
        (a_s, b_s), (a_t, b_t) = at_time(SCHEDULE, s), at_time(SCHEDULE, t)
        between = b_t**2 - (a_t / a_s) ** 2 * b_s**2
        for y in range(4):
            e = ORACLE(x_t, times(t, 3), Condition.of(torch.full((3,), y)))
            x_0 = eps_to_x0(e, x_t, a_t, b_t)
            mean = a_t / a_s * b_s**2 / b_t**2 * x_t + a_s * between / b_t**2 * x_0
            self.log_l[:, y] -= (x_s - mean).square().sum(1) / (2 * between * b_s**2 / b_t**2)


class GuidedByHand(ScoreNetwork):
    """ε_c + ω(t)(ε_c − ε_∅ − Σ_y (w^π_y − w^q_y) ε̂_y) with weights that are given."""

    def __init__(self, network, change, omega):
        super().__init__()
        self.network, self.change, self.omega = network, change, omega

    def forward(self, x_t, t, c):
        null = self.network(x_t, t, c.null()) + (self.change[..., None] * ORACLE.all_classes(x_t, t)).sum(1)
        e_c = self.network(x_t, t, c)
        return e_c + self.omega(t)[:, None] * (e_c - null)


def by_level(t):
    """A law of the batches that is uniform at high noise and the training law at low."""
    return UNIFORM if t >= 0.5 else TRAINING


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize(("mode", "training"), [("mixture", TRAINING), ("null", TRAINING), ("null", by_level)])
def test_each_step_is_the_inner_samplers_with_the_weights_at_hand(name, mode, training):
    """Also at a second evaluation, and with the inner sampler's own memory; the weights by the kernel written out."""
    sampler, omega, network = SAMPLERS[name], LinearInTime(2.0, 0.5), Asked(error=0.1)
    tracker = TrackedWeights(
        sampler, UNIFORM, training, temperature=2.0, mode=mode, omega=omega if mode == "null" else None, chunk=5
    )
    draws, c = Draws(3, 0, torch.arange(3)), Condition.of([3, 0, 1])
    hand, x = _Reference(2.0), draws.normal("start", 2, dtype=torch.float64)
    memory = inner = None
    for i, (t, s) in enumerate(pairwise([0.9, 0.7, 0.4, 0.1, 0.0])):
        weights = hand.w(UNIFORM)
        by_hand = FixedMean(ORACLE, weights)
        if mode == "null":
            by_hand = GuidedByHand(network, weights - hand.w(training if training is TRAINING else training(t)), omega)
        expected, inner = sampler.step(by_hand, x, t, s, c, inner, draws=draws.at(i))
        x_s, memory = tracker.step(network, x, t, s, c, memory, draws=draws.at(i))
        torch.testing.assert_close(x_s, expected, rtol=0, atol=1e-9)
        if s > 0:
            hand.update(x_s, x, s, t)
        torch.testing.assert_close(tracker.weights(memory), hand.w(UNIFORM), rtol=0, atol=1e-9)
        x = x_s


def test_null_mode_with_one_law_is_plain_guidance():
    """Bit for bit, at an interval too."""
    draws, c = Draws(0, 0, torch.arange(6)), Condition.of(torch.arange(6) % 4)
    network = Asked(error=0.1)
    tracker = TrackedWeights(DDIM(SCHEDULE, eta=0.5), TRAINING, TRAINING, mode="null", omega=1.5, interval=(0.2, 0.8))
    guided = ClassifierFreeGuidance(network, 1.5, interval=(0.2, 0.8), null=network)
    options = {"steps": 12, "draws": draws, "dtype": torch.float64}
    assert torch.equal(tracker.sample(network, c, (2,), **options), tracker.sampler.sample(guided, c, (2,), **options))


@pytest.mark.parametrize("temperature", [1e12, math.inf])
def test_infinite_temperature_leaves_the_law(temperature):
    tracker = TrackedWeights(DDIM(SCHEDULE), UNIFORM, TRAINING, temperature=temperature)
    for _, _, memory in walk(tracker, ORACLE, 10, 4):
        torch.testing.assert_close(tracker.weights(memory), UNIFORM.probs.expand(4, 4), rtol=0, atol=1e-9)


def test_top_k_keeps_the_largest_weights():
    """One of them is 1; two are the full weights cut and divided by their sum; all of them change nothing."""
    law = Fixed(COUNTS, 0.4, 0.3, 0.2, 0.1)
    full = TrackedWeights(DDIM(SCHEDULE), law, TRAINING)
    for _, _, memory in walk(full, ORACLE, 8, 50):
        w = full.weights(memory)
        for k in (1, 2, 4):
            kept = w * (w.argsort(1, descending=True).argsort(1) < k)
            cut = TrackedWeights(DDIM(SCHEDULE), law, TRAINING, top_k=k).weights(memory)
            torch.testing.assert_close(cut, kept / kept.sum(1, keepdim=True), rtol=1e-12, atol=1e-15)


def test_the_clip_bounds_x_0_in_the_update():
    x_t, x_s = f64([3.0, -1.0]), f64([2.0, 0.0])
    e = ORACLE.all_classes(x_t, times(0.6, 1))
    alpha_t, sigma_t = at_time(SCHEDULE, 0.6)
    clipped = (x_t[:, None] - alpha_t * eps_to_x0(e, x_t[:, None], alpha_t, sigma_t).clamp(-1, 1)) / sigma_t
    by_hand = kernel_log_likelihood(SCHEDULE, x_s, x_t, clipped, 0.5, 0.6)
    torch.testing.assert_close(kernel_log_likelihood(SCHEDULE, x_s, x_t, e, 0.5, 0.6, clip=1.0), by_hand)
    assert (kernel_log_likelihood(SCHEDULE, x_s, x_t, e, 0.5, 0.6) - by_hand).abs().max() > 0.1
    trackers = [TrackedWeights(DDIM(SCHEDULE), UNIFORM, TRAINING, clip=clip) for clip in (None, 1.0, 1e3)]
    free, tight, wide = (torch.stack([t.weights(m) for _, _, m in walk(t, ORACLE, 8, 20)]) for t in trackers)
    assert (free - tight).abs().max() > 0.01 and torch.equal(free, wide)


# As a sampler


def settings():
    null = {"mode": "null", "omega": 1.0}
    return [{}, {"every": 3, "top_k": 2}, null, {**null, "every": 2, "top_k": 1}]


@pytest.mark.parametrize("name", ["eta 0.2", "2m", "heun"])
@pytest.mark.parametrize("options", settings(), ids=str)
def test_a_sample_is_a_function_of_its_own_draws(name, options):
    tracker = TrackedWeights(SAMPLERS[name], UNIFORM, TRAINING, **options)

    def sampled(rows, seed=0):
        draws, c = Draws(seed, 0, torch.as_tensor(rows)), Condition.of(torch.as_tensor(rows) % 4)
        return tracker.sample(ORACLE, c, (2,), steps=7, draws=draws, dtype=torch.float64)

    whole = sampled(range(9))
    assert torch.equal(sampled(range(9)), whole)
    assert (sampled(range(9), seed=1) != whole).all()
    for rows in ([4], [8, 0, 3]):
        torch.testing.assert_close(sampled(rows), whole[rows], rtol=1e-9, atol=1e-9)


class AsImages(ScoreNetwork):
    """The oracle over points written as (1, 2, 1) images."""

    def forward(self, x_t, t, c):
        return ORACLE(x_t[:, 0, :, 0], t, c)[:, None, :, None]


@pytest.mark.parametrize("options", settings(), ids=str)
def test_images_are_sampled_as_vectors_are(options):
    """The same numbers in another shape; and in float32 to 1e-3, for L is summed in float64."""
    tracker = TrackedWeights(DDIM(SCHEDULE, eta=0.5), UNIFORM, TRAINING, **options)
    draws, c = Draws(0, 0, torch.arange(8)), Condition.of(torch.arange(8) % 4)
    flat = tracker.sample(ORACLE, c, (2,), steps=12, draws=draws, dtype=torch.float64)
    image = tracker.sample(AsImages(), c, (1, 2, 1), steps=12, draws=draws, dtype=torch.float64)
    torch.testing.assert_close(image[:, 0, :, 0], flat, rtol=0, atol=1e-10)
    single = tracker.sample(AsImages(), c, (1, 2, 1), steps=12, draws=draws)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"mode": "null", "omega": 1.0}], ids=str)
@pytest.mark.parametrize(("name", "again"), [("ddim", 0), ("2m", 0), ("heun", 1)])
def test_the_cost_is_as_it_says(name, again, options):
    """Rows asked per sample in a step that updates (its `evaluations`), and in one that does not."""
    law, guided = (Fixed(COUNTS, 0, 0.5, 0.2, 0.3), 0) if not options else (UNIFORM, 2)
    seen = 4 if options else 3
    for k, kept in ((None, seen), (1, 1)):
        tracker = TrackedWeights(SAMPLERS[name], law, TRAINING, top_k=k, every=2, **options)
        assert (tracker.order, tracker.stochastic) == (SAMPLERS[name].order, False)
        most, network = kept if k is None or not options else 2, Asked()
        x, memory, costs = f64([0.3, 1.0], [2.0, -1.0]), None, []
        for t, s in pairwise([0.9, 0.7, 0.5]):
            before = network.rows
            x, memory = tracker.step(network, x, t, s, Condition.of([1, 2]), memory, draws=Draws(0, 0, torch.arange(2)))
            costs.append((network.rows - before) / 2)
        assert tracker.evaluations == seen + guided + again * (most + guided)
        assert costs[0] <= tracker.evaluations and costs[1] <= (1 + again) * (most + guided)
        if k is None or not options:
            assert costs == [tracker.evaluations, (1 + again) * (kept + guided)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature of tracked weights is above 0, got 0"),
        ({"temperature": -1.0}, "above 0, got -1"),
        ({"temperature": math.nan}, "above 0, got nan"),
        ({"top_k": 0}, "top_k is from 1 to the 4 classes, or left out, got 0"),
        ({"top_k": 5}, "top_k is from 1 to the 4 classes, or left out, got 5"),
        ({"every": 0}, "m ≥ 1, got 0"),
        ({"clip": 0.0}, "clip must be a bound above 0"),
        ({"mode": "nul"}, "did you mean 'null'"),
        ({"mode": "null"}, "needs an ω"),
        ({"omega": 1.0}, "needs an ω"),
        ({"interval": (0.1, 0.5)}, "needs an ω"),
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(options, message):
    with pytest.raises(CbdmError, match=message):
        TrackedWeights(DDIM(SCHEDULE), UNIFORM, TRAINING, **options)


def test_a_guided_network_and_a_step_to_0_are_refused():
    x, c, draws = torch.zeros(1, 2, dtype=torch.float64), Condition.of([0]), Draws(0, 0, torch.arange(1))
    with pytest.raises(CbdmError, match="need the plain network"):
        TrackedWeights(DDIM(SCHEDULE), UNIFORM, TRAINING).step(
            ClassifierFreeGuidance(ORACLE, 1.0), x, 0.5, 0.4, c, None, draws=draws
        )
    with pytest.raises(CbdmError, match="0 < s < t"):
        kernel_log_likelihood(SCHEDULE, x, x, x[:, None], 0.0, 0.5)

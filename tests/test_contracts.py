"""One suite for each interface, run over its registry: a new class is tested by being registered.

A name that needs arguments to be built wants an entry in `EXAMPLES` of `tests/examples.py`; the failure says so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from cbdm import ADJUSTMENTS, PRIORS, ClassBalancing, Null, Uniform, make_law
from cbdm_core.adjustment import DenoisingLoss, PriorAdjustment
from cbdm_core.conditions import Condition, Vectors
from cbdm_core.data.dataset import to_uint8
from cbdm_core.data.sources import DATASETS
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import LOSS_WEIGHTS
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.objective import Objective
from cbdm_core.priors import ConditionPrior, LabelPrior
from cbdm_core.process import Process
from cbdm_core.samplers import SAMPLERS, Sampler
from cbdm_core.schedules import SCHEDULES, Cosine, Linear, uniform_times
from tests.examples import CLASSES, COUNTS, EXAMPLES, by_default, example

GIVEN = torch.tensor([0, 1, 3, 4, 0, 1, 0, 3])
PRESENT = torch.tensor([True, True, False, True, True, True, False, True])


def draws_of(rows: int | Tensor, *, step: int = 0, seed: int = 5) -> Draws:
    return Draws(seed, step, torch.arange(rows) if isinstance(rows, int) else rows)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_example_is_registered():
    """An entry that outlived its class would hide that nothing tests it."""
    registries: dict[str, Mapping[str, Any]] = {
        "schedule": SCHEDULES,
        "sampler": SAMPLERS,
        "loss weight": LOSS_WEIGHTS,
        "network": NETWORKS,
        "law": PRIORS,
        "adjustment": ADJUSTMENTS,
        "data set": DATASETS,
    }
    assert registries.keys() == EXAMPLES.keys()
    for kind, names in EXAMPLES.items():
        assert set(names) <= set(registries[kind]), kind


# Schedules


@pytest.fixture(params=list(SCHEDULES))
def schedule(request):
    return by_default("schedule", request.param, registry=SCHEDULES)


class TestSchedules:
    def test_finite_and_not_negative_on_all_times(self, schedule):
        for value in schedule(torch.linspace(0, 1, 4001, dtype=torch.float64)):
            assert torch.isfinite(value).all() and (value >= 0).all()

    def test_all_signal_at_the_start(self, schedule):
        alpha_0, sigma_0 = schedule(torch.tensor([0.0], dtype=torch.float64))
        assert float(alpha_0) == 1 and float(sigma_0) == 0

    def test_log_snr_falls_on_the_domain(self, schedule):
        low, high = schedule.domain
        assert 0 < low < high <= 1
        log_snr = schedule.log_snr(torch.linspace(low, high, 4001, dtype=torch.float64))
        assert torch.isfinite(log_snr).all() and (log_snr.diff() < 0).all()

    def test_training_times_lie_in_the_domain_and_fill_it(self, schedule):
        t, (low, high) = schedule.draw_t(draws_of(20_000)), schedule.domain
        assert t.shape == (20_000,) and t.dtype == torch.float64
        assert (t >= low).all() and (t <= high).all()
        # Not to the last hundredth: a normal law of log σ (edm) leaves the ends nearly untrained, as its paper does.
        # That uniform times are uniform, and the others what they say, is tested in core/test_schedules.py.
        assert t.min() < low + 0.15 * (high - low) and t.max() > high - 0.15 * (high - low)

    def test_training_times_are_a_function_of_the_draws(self, schedule):
        rows = torch.tensor([7, 3, 900_000])
        t = schedule.draw_t(draws_of(rows))
        assert torch.equal(schedule.draw_t(draws_of(rows)), t)
        assert torch.equal(schedule.draw_t(draws_of(rows)[torch.tensor([2, 0])]), t[[2, 0]])
        assert not torch.equal(schedule.draw_t(draws_of(rows, step=1)), t)

    def test_shape_is_that_of_the_times_and_each_time_its_own(self, schedule):
        t = torch.tensor([[0.1, 0.9], [0.5, 0.3]], dtype=torch.float64)
        for whole, alone in zip(schedule(t), schedule(t[1, 0]), strict=True):
            assert whole.shape == (2, 2) and alone.shape == () and float(whole[1, 0]) == float(alone)

    def test_times_in_float32_are_nearly_as_good(self, schedule):
        t = torch.linspace(*schedule.domain, 101, dtype=torch.float64)
        for rough, exact in zip(schedule(t.float()), schedule(t), strict=True):
            torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=1e-5)


# Networks


def a_unet(*shape: int, **options: Any) -> ScoreNetwork:
    settings = {"width": 8, "groups": 4, "multipliers": (1, 2), "attention": (1,), "dropout": 0.0, **options}
    return NETWORKS["unet"](shape, CLASSES, **settings)


# The U-Net takes shapes and settings that one example does not show.
UNETS = {
    "unet, 1 axis": lambda: a_unet(2, 12, heads=2),
    "unet, blocks of 2": lambda: a_unet(1, 8, 4, blocks=2),
    "unet, 3 axes": lambda: a_unet(2, 4, 2, 6, attention=(0,), time_steps=50),
    "unet, 3 levels": lambda: a_unet(3, 8, 8, multipliers=(1, 2, 1), attention=()),
}


def network_maker(name: str) -> Any:
    return UNETS[name] if name in UNETS else example("network", name)


@pytest.fixture(scope="module", params=[*NETWORKS, *UNETS])
def network(request) -> ScoreNetwork:
    """In float64 and eval mode, every parameter random: a fresh U-Net is silent and would pass anything."""
    network: ScoreNetwork = network_maker(request.param)().double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def a_batch(network: ScoreNetwork) -> tuple[Tensor, Tensor, Condition]:
    x_t = normal(len(GIVEN), *network.shape)
    t = torch.linspace(0.05, 0.95, len(GIVEN), dtype=torch.float64)
    return x_t, t, Condition(GIVEN, PRESENT)


@torch.no_grad()
def said(network: ScoreNetwork, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
    return network(x_t, t, c)


class TestNetworks:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_output_has_the_shape_and_dtype_of_x_t(self, network, dtype):
        x_t, t, c = a_batch(network)
        try:
            out = said(network.to(dtype), x_t.to(dtype), t, c)
        finally:
            network.double()
        assert out.shape == x_t.shape and out.dtype == dtype and torch.isfinite(out).all()

    def test_the_label_of_a_null_row_has_no_influence(self, network):
        x_t, t, c = a_batch(network)
        out = said(network, x_t, t, c)
        for value in ((GIVEN + 1) % CLASSES, torch.full_like(GIVEN, -1), torch.full_like(GIVEN, 10**9)):
            assert torch.equal(said(network, x_t, t, c.with_value(torch.where(PRESENT, GIVEN, value))), out)

    def test_what_is_shown_has_influence(self, network):
        """On each row on its own: the label, whether it is shown, the time and x_t."""
        x_t, t, _ = a_batch(network)
        shown = Condition.of(GIVEN)
        out = said(network, x_t, t, shown)
        changes = {
            "label": said(network, x_t, t, shown.with_value((GIVEN + 1) % CLASSES)),
            "null": said(network, x_t, t, shown.null()),
            "time": said(network, x_t, t.flip(0), shown),
            "x_t": said(network, x_t + 0.1 * normal(*x_t.shape, seed=2), t, shown),
        }
        for what, other in changes.items():
            assert ((out - other).flatten(1).abs().amax(1) > 1e-6).all(), what

    def test_rows_do_not_meet(self, network):
        x_t, t, c = a_batch(network)
        out = said(network, x_t, t, c)
        rows = torch.tensor([5, 2])
        torch.testing.assert_close(said(network, x_t[rows], t[rows], c[rows]), out[rows], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(said(network, x_t[:1], t[:1], c[:1]), out[:1], rtol=1e-10, atol=1e-10)

    def test_no_rows_are_a_batch(self, network):
        """Of a fraction of the rows a process may have none, and asks with the others where the network is spread."""
        x_t, t, c = a_batch(network)
        assert said(network, x_t[:0], t[:0], c[:0]).shape == (0, *network.shape)

    @pytest.mark.parametrize("damage", ["x_t", "t", "c", "label", "float label"])
    def test_what_does_not_fit_is_refused(self, network, damage):
        x_t, t, c = a_batch(network)
        if damage == "x_t":
            x_t = x_t[..., :-1]
        elif damage == "t":
            t = t[:-1]
        elif damage == "c":
            c = c[:-1]
        elif damage == "label":
            c = Condition.of(torch.full_like(GIVEN, CLASSES))
        else:
            c = Condition.of(GIVEN.double())
        with pytest.raises(CbdmError) as caught:
            said(network, x_t, t, c)
        assert "\n" not in str(caught.value)

    def test_every_parameter_learns(self, network):
        """Distributed training waits for the gradient of each of them, in a batch dropped whole too."""
        x_t, t, c = a_batch(network)
        for condition in (c, c.null()):
            network.zero_grad(set_to_none=True)
            network(x_t, t, condition).square().sum().backward()
            assert all(p.grad is not None for p in network.parameters())
        network.zero_grad(set_to_none=True)
        network(x_t, t, c).square().sum().backward()
        silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not silent

    def test_features_come_with_the_same_prediction(self, network):
        if type(network).with_features is ScoreNetwork.with_features:
            pytest.skip("has no features to give")
        x_t, t, c = a_batch(network)
        with torch.no_grad():
            eps_hat, features = network.with_features(x_t, t, c)
        assert torch.equal(eps_hat, said(network, x_t, t, c))
        assert features.shape == (len(x_t), network.num_features) and torch.isfinite(features).all()
        assert (features.std(0) > 0).any(), "features that are the same on every row say nothing"

    def test_two_of_one_seed_are_the_same(self, network, request):
        build = network_maker(request.node.callspec.params["network"])
        torch.manual_seed(3)
        one = build()
        torch.manual_seed(3)
        two = build()
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# Samplers


class PointMass(ScoreNetwork):
    """The exact ε̂ of data that are all `target`, (x_t − α_t target)/σ_t, the class label added; it counts its calls."""

    def __init__(self, schedule: Any, target: float = 0.7) -> None:
        super().__init__()
        self.schedule, self.target, self.calls = schedule, target, 0

    def forward(self, x_t, t, c):
        self.calls += 1
        alpha_t, sigma_t = (v[:, None] for v in self.schedule(t))
        return (x_t - alpha_t * (self.target + c.value[:, None])) / sigma_t


class Rough(ScoreNetwork):
    """A smooth ε̂ that no solver integrates exactly."""

    def forward(self, x_t, t, c):
        return torch.tanh(x_t) + 0.1 * c.value[:, None] + torch.sin(3 * t)[:, None]


@pytest.fixture(params=list(SAMPLERS))
def sampler_name(request) -> str:
    return request.param


def sampler_for(name: str, schedule: Any) -> Sampler:
    return by_default("sampler", name, schedule, registry=SAMPLERS)


def sampled(sampler: Sampler, draws: Draws, *, network: ScoreNetwork | None = None, **options: Any) -> Tensor:
    c = Condition.of(draws.rows % CLASSES)
    settings = {"steps": 7, "dtype": torch.float64, **options}
    return sampler.sample(network or Rough(), c, (3,), draws=draws, **settings)


class TestSamplers:
    def test_says_its_order_and_its_cost(self, sampler_name):
        sampler = sampler_for(sampler_name, Cosine())
        assert sampler.order >= 1 and sampler.evaluations >= 1 and isinstance(sampler.stochastic, bool)
        network, steps = PointMass(Cosine()), 9
        sampled(sampler, draws_of(2), network=network, steps=steps)
        assert sampler.evaluations * (steps - 1) < network.calls <= sampler.evaluations * steps

    @pytest.mark.parametrize("schedule", [Cosine(), Linear(steps=40)], ids=["cosine", "linear"])
    @pytest.mark.parametrize("steps", [1, 2, 8])
    def test_data_that_are_one_point_are_reached(self, sampler_name, schedule, steps):
        """x̂_0 is the same everywhere, so that the last step, to t = 0, must end on it."""
        sampler = sampler_for(sampler_name, schedule)
        x = sampled(sampler, draws_of(6), network=PointMass(schedule), steps=steps)
        expected = (0.7 + torch.arange(6) % CLASSES).double()[:, None].expand(6, 3)
        torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)

    def test_is_a_function_of_the_draws(self, sampler_name):
        sampler = sampler_for(sampler_name, Cosine())
        x = sampled(sampler, draws_of(5))
        assert torch.equal(sampled(sampler, draws_of(5)), x) and torch.isfinite(x).all()
        assert (sampled(sampler, draws_of(5, seed=6)) != x).all()

    def test_noise_is_drawn_on_the_way_only_if_it_says_so(self, sampler_name):
        sampler = sampler_for(sampler_name, Cosine())
        x_T = normal(5, 3)
        one, two = (sampled(sampler, draws_of(5, seed=seed), x_T=x_T) for seed in (1, 2))
        assert torch.equal(one, two) != sampler.stochastic

    def test_a_sample_does_not_depend_on_its_batch(self, sampler_name):
        sampler = sampler_for(sampler_name, Cosine())
        whole = sampled(sampler, draws_of(9))
        for rows in ([4], [8, 0, 3]):
            assert torch.equal(sampled(sampler, draws_of(torch.tensor(rows))), whole[rows])

    def test_a_uniform_grid_is_the_default(self, sampler_name):
        schedule = Linear(steps=40)
        sampler = sampler_for(sampler_name, schedule)
        grid = uniform_times(schedule, 7)
        assert torch.equal(sampled(sampler, draws_of(3), times=grid), sampled(sampler, draws_of(3)))
        assert not torch.equal(sampled(sampler, draws_of(3), times=[1.0, 0.3, 0.1, 0.0]), sampled(sampler, draws_of(3)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, "steps must be 1 or more, got 0"),
            ({"times": [0.5]}, "must decrease strictly"),
            ({"times": [0.5, 0.5, 0.0]}, "must decrease strictly"),
            ({"times": [0.1, 0.9]}, "must decrease strictly"),
        ],
    )
    def test_a_grid_that_is_none_is_refused(self, sampler_name, options, message):
        with pytest.raises(CbdmError, match=message):
            sampled(sampler_for(sampler_name, Cosine()), draws_of(2), **options)

    def test_conditions_and_draws_of_other_lengths_are_refused(self, sampler_name):
        with pytest.raises(CbdmError, match="3 conditions for 2 rows of draws"):
            sampler_for(sampler_name, Cosine()).sample(
                Rough(), Condition.of([0, 1, 2]), (3,), steps=2, draws=draws_of(2)
            )


# Laws


@pytest.fixture(params=list(PRIORS))
def law_name(request) -> str:
    return request.param


def law_for(name: str) -> ConditionPrior:
    """The example of a law, or what its name alone makes."""
    similarity = -normal(CLASSES, CLASSES).square().masked_fill(torch.tensor(COUNTS) == 0, math.inf)
    return make_law(EXAMPLES["law"].get(name, name), COUNTS, conditions=normal(40, 2, seed=3), similarity=similarity)


def over_vectors(law_name: str) -> bool:
    return PRIORS[law_name].made_from == "conditions"


def labels(rows: int) -> Condition:
    present = torch.arange(rows) % 3 > 0
    return Condition(GIVEN.repeat(rows // len(GIVEN) + 1)[:rows], present, normal(rows, 2))


def conditions(law_name: str, rows: int) -> Condition:
    """Labels, or vectors for a law over them."""
    c = labels(rows)
    return c.with_value(normal(rows, 2, seed=4)) if over_vectors(law_name) else c


class TestLaws:
    def test_draws_are_a_function_of_the_draws(self, law_name):
        law, c, draws = law_for(law_name), conditions(law_name, 64), draws_of(64)
        one, two = law.sample(c, draws=draws), law(c, draws)
        assert torch.equal(one.value, two.value) and torch.equal(one.present, two.present)
        rows = torch.tensor([9, 4, 63])
        part = law.sample(c[rows], draws=draws[rows])
        assert torch.equal(part.value, one.value[rows]) and torch.equal(part.present, one.present[rows])

    @pytest.mark.parametrize("rows", [1, 0])
    def test_one_row_is_a_batch_and_so_is_none(self, law_name, rows):
        """Of a fraction of the rows a process may have none."""
        other = law_for(law_name).sample(conditions(law_name, rows), draws=draws_of(rows))
        assert len(other) == rows
        assert other.value.shape == ((rows, 2) if over_vectors(law_name) else (rows,))
        assert other.value.dtype == (torch.float64 if over_vectors(law_name) else torch.long)

    def test_a_row_that_is_not_shown_stays_so_and_augmentation_is_kept(self, law_name):
        c = conditions(law_name, 64)
        other = law_for(law_name).sample(c, draws=draws_of(64))
        assert not (other.present & ~c.present).any() and torch.equal(other.augment, c.augment)

    def test_a_class_without_images_is_never_drawn(self, law_name):
        if over_vectors(law_name):
            pytest.skip("draws no class")
        other = law_for(law_name).sample(labels(20_000), draws=draws_of(20_000))
        assert (torch.tensor(COUNTS)[other.value] > 0).all()

    def test_draws_follow_the_probabilities(self, law_name):
        law = law_for(law_name)
        if not isinstance(law, LabelPrior):
            pytest.skip("has no table of probabilities")
        drawn = law.sample(labels(20_000), draws=draws_of(20_000)).value
        probs = law.probs.numpy()
        seen, alive = torch.bincount(drawn, minlength=CLASSES).numpy(), probs > 0
        assert seen[~alive].sum() == 0
        assert chisquare(seen[alive], 20_000 * probs[alive]).pvalue > 1e-3

    def test_probabilities_entropy_and_divergence_agree(self, law_name):
        law = law_for(law_name)
        if not isinstance(law, LabelPrior):
            pytest.skip("has no table of probabilities")
        assert law.probs.shape == (CLASSES,) and law.probs.dtype == torch.float64
        assert float(law.probs.sum()) == pytest.approx(1, abs=1e-12)
        uniform = Uniform(COUNTS)  # KL(π ‖ uniform over the k classes there are) = log k − H(π)
        assert float(law.kl(uniform)) == pytest.approx(math.log(4) - float(law.entropy()), abs=1e-12)
        assert float(law.kl(law)) == 0

    def test_a_list_of_conditions_is_what_it_draws(self, law_name):
        """Frequencies of 20,000 draws for one condition against the list's probabilities."""
        law, c = law_for(law_name), conditions(law_name, 1)
        c = Condition.of(c.value.expand(20_000, *c.value.shape[1:]))
        if not law.finite:
            with pytest.raises(CbdmError, match="has no list of conditions"):
                law.atoms(c)
            return
        values, probs = law.atoms(c)
        probs = probs[0] if probs.ndim == 2 else probs
        assert float(probs.sum()) == pytest.approx(1, abs=1e-12) and len(values) == len(probs)
        drawn = law.sample(c, draws=draws_of(20_000)).value.reshape(20_000, 1, -1)
        index = (drawn == values.reshape(1, len(values), -1)).all(-1).double().argmax(1)
        seen, alive = torch.bincount(index, minlength=len(values)).numpy(), probs.numpy() > 0
        assert seen[~alive].sum() == 0 and chisquare(seen[alive], 20_000 * probs.numpy()[alive]).pvalue > 1e-3

    def test_learns_nothing_it_was_not_asked_to(self, law_name):
        """`observe` may change a law that learns; it must not break the sampling of any."""
        law, c = law_for(law_name), conditions(law_name, 16)
        before = law.sample(c, draws=draws_of(16))
        law.observe(c, torch.arange(16.0))
        if not law.learns:
            assert torch.equal(law.sample(c, draws=draws_of(16)).value, before.value)
        assert len(law.sample(c, draws=draws_of(16))) == 16


# Adjustments


@pytest.fixture(params=list(ADJUSTMENTS))
def adjustment_name(request) -> str:
    return request.param


@pytest.fixture(params=list(PRIORS))
def any_law(request) -> str:
    return request.param


def objective_for(
    name: str | None, law: str = "uniform", *, neutral: bool = False, twice: bool = False, **options: Any
):
    """An objective with the adjustment of that name under the law of that name; None is the denoising loss alone.

    A law over vectors has a network over vectors; adjustments that count classes are skipped under it, and so is a law
    without probabilities where the adjustment asks for them.
    """
    torch.manual_seed(2)
    vectors = over_vectors(law)
    network = NETWORKS["mlp"]((6,), Vectors(2) if vectors else CLASSES)
    adjustment: PriorAdjustment = DenoisingLoss()
    for _ in range(0 if name is None else 1 + twice):
        assert name is not None
        parameters = inspect.signature(ADJUSTMENTS[name]).parameters
        if vectors and {"counts", "training"} & parameters.keys():
            pytest.skip("counts classes")
        if "LabelPrior" in str(parameters.get("target", "")) and not isinstance(law_for(law), LabelPrior):
            pytest.skip("needs a law with probabilities")
        build = example("adjustment", name)
        adjustment = build[1](adjustment, network) if neutral else build[0](adjustment, law_for(law), network)
    return Objective(Process(Linear(steps=50)), network, adjustment, **{"drop": 0.25, **options})


def losses(
    objective: Objective, rows: int = 8, dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> dict[str, Tensor]:
    vectors = isinstance(objective.network.condition, Vectors)
    c = Condition.of(normal(8, 2, seed=6)[:rows].to(dtype) if vectors else GIVEN[:rows])
    return objective.to(dtype)(scale * normal(rows, 6).to(dtype), c, draws_of(rows))


def gradient(objective: Objective, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    objective.zero_grad(set_to_none=True)
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


class TestAdjustments:
    @pytest.mark.parametrize("rows", [8, 1])
    def test_losses_and_gradients_are_finite_under_every_law(self, adjustment_name, any_law, rows):
        """With an empty class among the counts, in float64."""
        objective = objective_for(adjustment_name, any_law)
        terms = losses(objective, rows)
        for name, term in terms.items():
            assert term.shape == (rows,) and term.dtype == torch.float64 and torch.isfinite(term).all(), name
        grads = gradient(objective, terms).values()
        assert grads and all(torch.isfinite(g).all() for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)

    def test_every_parameter_has_a_gradient(self, adjustment_name, any_law):
        """Distributed training waits for it, in a batch dropped whole too."""
        for drop in (0.0, 1.0):
            objective = objective_for(adjustment_name, any_law, drop=drop)
            assert gradient(objective, losses(objective)).keys() == dict(objective.named_parameters()).keys()

    def test_keeps_the_denoising_term(self, adjustment_name, any_law):
        assert "denoising" in losses(objective_for(adjustment_name, any_law))

    def test_reduced_precision(self, adjustment_name, any_law):
        exact = losses(objective_for(adjustment_name, any_law), dtype=torch.float32)
        objective = objective_for(adjustment_name, any_law)  # anew: what a step changes must not differ
        with torch.autocast("cpu", torch.bfloat16):
            terms = losses(objective, dtype=torch.float32)
        for name, term in terms.items():
            assert term.dtype == torch.float32, f"{name} is summed in {term.dtype}"
            torch.testing.assert_close(term, exact[name], rtol=0.1, atol=0.02)
        grads = gradient(objective, terms).values()
        assert all(torch.isfinite(g).all() for g in grads) and any(g.abs().sum() > 0 for g in grads)

    def test_a_batch_dropped_whole(self, adjustment_name, any_law):
        objective = objective_for(adjustment_name, any_law, drop=1.0)
        terms = losses(objective)
        assert all(torch.isfinite(term).all() for term in terms.values())
        assert all(torch.isfinite(g).all() for g in gradient(objective, terms).values())

    def test_is_a_function_of_the_draws_and_its_state(self, adjustment_name, any_law):
        one, two = (losses(objective_for(adjustment_name, any_law)) for _ in range(2))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)

    def test_its_state_goes_on_bit_for_bit(self, adjustment_name, any_law):
        """What a step changes is in the state dict, so that a checkpoint resumes exactly."""
        one, two = (objective_for(adjustment_name, any_law) for _ in range(2))
        losses(one)
        two.to(torch.float64).load_state_dict(one.state_dict())
        a, b = losses(one), losses(two)
        assert all(torch.equal(a[k], b[k]) for k in a)

    @pytest.mark.gpu
    def test_says_the_same_on_a_gpu(self, adjustment_name, any_law):
        objective = objective_for(adjustment_name, any_law)
        here = losses(objective)
        objective = objective_for(adjustment_name, any_law).to(torch.float64).to("cuda")
        vectors = isinstance(objective.network.condition, Vectors)
        c = Condition.of(normal(8, 2, seed=6) if vectors else GIVEN).to("cuda")
        draws = draws_of(torch.arange(8, device="cuda"))
        there = objective(normal(8, 6).to("cuda"), c, draws)
        for name, term in here.items():
            torch.testing.assert_close(there[name].cpu(), term, rtol=1e-8, atol=1e-10)

    def test_at_no_strength_it_is_the_inner_one_bit_for_bit(self, adjustment_name):
        plain, neutral = objective_for(None), objective_for(adjustment_name, neutral=True)
        ours, inner = losses(neutral), losses(plain)
        assert ours.keys() == inner.keys() and all(torch.equal(ours[k], inner[k]) for k in inner)
        theirs = gradient(plain, inner)
        mine = gradient(neutral, ours)
        assert all(torch.equal(mine[name], grad) for name, grad in theirs.items())

    def test_a_term_of_its_own_may_stand_once(self, adjustment_name):
        added = losses(objective_for(adjustment_name)).keys() - {"denoising"}
        twice = objective_for(adjustment_name, twice=True)
        if added:
            with pytest.raises(CbdmError, match="is there already"):
                losses(twice)
        else:  # it changes the terms there are, and may do so twice
            assert losses(twice).keys() == {"denoising"}

    def test_changes_something_at_full_strength(self, adjustment_name):
        total, plain = (  # data so close together that the noise can confuse them
            torch.stack(list(losses(objective_for(name), scale=0.05).values())).sum(0)
            for name in (adjustment_name, None)
        )
        assert not torch.allclose(total, plain)

    def test_inner_is_what_was_wrapped_and_its_weight_is_asked(self, adjustment_name):
        inner = DenoisingLoss(by_default("loss weight", "min-snr", registry=LOSS_WEIGHTS))
        network = example("network", "mlp")()
        outer = example("adjustment", adjustment_name)[0](inner, Uniform(COUNTS), network)
        assert outer.inner is inner
        step = Process(Linear(steps=50)).denoise(network.double(), normal(8, 6), Condition.of(GIVEN), draws_of(8))
        assert torch.equal(outer.loss_weight(step), inner.loss_weight(step))


# Loss weights


@pytest.fixture(params=list(LOSS_WEIGHTS))
def loss_weight(request):
    return by_default("loss weight", request.param, registry=LOSS_WEIGHTS)


class TestLossWeights:
    def test_finite_and_positive_on_every_schedule(self, loss_weight):
        for name in SCHEDULES:
            schedule = by_default("schedule", name, registry=SCHEDULES)
            t = torch.linspace(*schedule.domain, 201, dtype=torch.float64)
            for dtype in (torch.float64, torch.float32):
                weight = loss_weight(*(v.to(dtype) for v in schedule(t)))
                assert weight.shape == t.shape and weight.dtype == dtype
                assert torch.isfinite(weight).all() and (weight > 0).all(), name

    def test_is_the_factor_of_the_denoising_term(self, loss_weight):
        step = Process(Linear(steps=50)).denoise(
            example("network", "mlp")().double(), normal(8, 6), Condition.of(GIVEN), draws_of(8)
        )
        expected = loss_weight(step.alpha_t[:, 0], step.sigma_t[:, 0]) * DenoisingLoss()(step)["denoising"]
        torch.testing.assert_close(DenoisingLoss(loss_weight)(step)["denoising"], expected, rtol=1e-14, atol=0)


# Data sets


@pytest.fixture(scope="module", params=list(DATASETS))
def dataset(request, tmp_path_factory):
    return example("data set", request.param)(tmp_path_factory.mktemp(request.param))


class TestDatasets:
    def test_examples_are_finite_and_fit_the_networks(self, dataset):
        x = dataset.model_input()
        assert x.shape == (len(dataset), *dataset.shape) and x.dtype == torch.float32 and torch.isfinite(x).all()
        assert x.std() > 0.01
        if dataset.is_images:
            assert dataset.x.dtype == torch.uint8 and x.min() >= -1 and x.max() <= 1

    def test_bytes_survive_the_round_trip(self, dataset):
        if not dataset.is_images:
            pytest.skip("holds vectors")
        assert torch.equal(to_uint8(dataset.model_input()), dataset.x[:])

    def test_labels_count_up_to_the_classes(self, dataset):
        counts = dataset.counts()
        assert dataset.y.dtype == torch.long and counts.shape == (dataset.num_classes,)
        assert counts.tolist() == [int((dataset.y == c).sum()) for c in range(dataset.num_classes)]
        assert int(counts.sum()) == len(dataset) and (counts > 0).all()
        assert len(set(dataset.class_names)) == dataset.num_classes

    def test_rows_are_taken_together_with_their_labels(self, dataset):
        rows = torch.tensor([len(dataset) - 1, 0])
        part = dataset[rows]
        assert torch.equal(part.x[:], dataset.x[rows]) and torch.equal(part.y, dataset.y[rows])
        assert part.class_names == dataset.class_names
        assert torch.equal(dataset.model_input(rows), dataset.model_input()[rows])
        assert torch.equal(part.condition_values(), dataset.condition_values()[rows])

    def test_two_of_the_same_are_the_same_and_the_hash_sees_a_change(self, dataset, request, tmp_path):
        again = example("data set", request.node.callspec.params["dataset"])(tmp_path)
        assert again.content_hash() == dataset.content_hash()
        order = torch.arange(len(dataset))
        assert dataset[order].content_hash() == dataset.content_hash()
        assert dataset[order.flip(0)].content_hash() != dataset.content_hash()
        assert replace(dataset, y=dataset.y.flip(0)).content_hash() != dataset.content_hash()
        if dataset.condition is not None:
            changed = replace(dataset, condition=dataset.condition.flip(0))
            assert changed.content_hash() != dataset.content_hash()

    def test_what_a_law_and_a_schedule_need_is_there(self, dataset):
        """A step of training runs on it as it is, unless its shape is for no network of ours."""
        network = NETWORKS["mlp" if len(dataset.shape) == 1 else "unet"](dataset.shape, dataset.space)
        rows = torch.arange(min(len(dataset), 8))
        text = "uniform" if dataset.condition is None else "bank"
        law = make_law(text, dataset.counts(), conditions=dataset.condition)
        objective = Objective(Process(Cosine()), network, ClassBalancing(DenoisingLoss(), law))
        terms = objective(dataset.model_input(rows), Condition.of(dataset.condition_values(rows)), draws_of(rows))
        assert all(torch.isfinite(term).all() for term in terms.values())


def test_a_name_without_an_example_says_where_to_add_one():
    with pytest.raises(pytest.fail.Exception, match=r"add an example to EXAMPLES\['network'\] of tests/examples\.py$"):
        example("network", "newcomer")


def test_null_law_is_the_one_that_hides():
    assert not Null(COUNTS).sample(labels(4), draws=draws_of(4)).present.any()

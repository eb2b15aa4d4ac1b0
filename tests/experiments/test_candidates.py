"""The further candidates: closed forms, what must change nothing bit for bit, and the page held to the result."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.data.augment import Augment
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.metrics.pooled_gaussian import PooledGaussian
from cbdm_core.networks.mlp import MLP
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine

ROOT = Path(__file__).parents[2]
COUNTS = torch.tensor([40, 12, 3])
SPREAD, SIZE = 0.7, 4
SCHEDULE = Cosine()


@pytest.fixture(scope="module")
def parts(programs):
    return importlib.import_module("candidate_parts")


@pytest.fixture(scope="module")
def candidates(programs):
    return importlib.import_module("candidates")


@pytest.fixture(scope="module")
def toy():
    """Images of three classes in R⁴ with labels, and dense (means, Σ_w) worked out by their definitions."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(COUNTS)
    mix = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    centres = torch.randn(3, SIZE, generator=generator, dtype=torch.float64)
    x = centres[y] + torch.randn(len(y), SIZE, generator=generator, dtype=torch.float64) @ mix
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    away = x - means[y]
    return x, y, means, away.T @ away / (len(y) - 3)


@pytest.fixture(scope="module")
def pooled(parts, toy):
    return parts.narrowed(PooledGaussian.of(toy[0], toy[1], 3), SPREAD)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MLP((SIZE,), 3, width=16)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval().requires_grad_(False)


@pytest.fixture
def asked():
    """(x_t, t, c) of every class at low and at high noise."""
    y = torch.arange(3).repeat(4)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9]).double().repeat_interleave(3)
    return torch.randn(12, SIZE, generator=torch.Generator().manual_seed(1)), t, Condition.of(y)


def test_the_target_is_the_regression_of_the_noise(pooled, toy):
    """Least squares over a product design whose moments are exactly x̄_c, vΣ_w, 0 and I; float64, 1e-9."""
    _, _, means, within = toy
    root = torch.linalg.cholesky(SPREAD * within) * math.sqrt(SIZE)
    ends = math.sqrt(SIZE) * torch.cat([torch.eye(SIZE), -torch.eye(SIZE)]).double()
    x_0 = means[1] + torch.cat([root.T, -root.T])
    eps = ends.repeat(len(x_0), 1)
    alpha_t, sigma_t = SCHEDULE(torch.tensor([0.6]).double())
    x_t = alpha_t * x_0.repeat_interleave(len(ends), 0) + sigma_t * eps
    slope = torch.linalg.lstsq(x_t - alpha_t * means[1], eps).solution
    found = pooled.eps(x_t, torch.ones(len(x_t), dtype=torch.long), *(v.expand(len(x_t)) for v in (alpha_t, sigma_t)))
    torch.testing.assert_close(found, (x_t - alpha_t * means[1]) @ slope, rtol=1e-9, atol=1e-9)


def test_class_guidance_is_the_gradient_of_the_posterior(parts, pooled, toy):
    """−σ ∇ log r_c by autograd over dense Gaussians; float64, 1e-9. An empty class has no part in it."""
    _, _, means, within = toy
    law, y = COUNTS.double() / COUNTS.sum(), torch.tensor([0, 1, 2, 2])
    alpha_t, sigma_t = SCHEDULE(torch.tensor([0.2, 0.5, 0.7, 0.95]).double())
    x_t = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    logs = []
    for row in range(4):
        covariance = alpha_t[row] ** 2 * SPREAD * within + sigma_t[row] ** 2 * torch.eye(SIZE).double()
        of_class = [torch.distributions.MultivariateNormal(alpha_t[row] * mean, covariance) for mean in means]
        joint = torch.stack([p.log() + d.log_prob(x_t[row]) for p, d in zip(law, of_class, strict=True)])
        logs.append(joint.log_softmax(0)[y[row]])
    (gradient,) = torch.autograd.grad(torch.stack(logs).sum(), x_t)
    expected = -sigma_t[:, None] * gradient
    found = parts.class_guidance(pooled, law, x_t.detach(), y, (alpha_t, sigma_t))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    wider = replace(pooled, means=torch.cat([pooled.means[:1] * math.nan, pooled.means]))
    shifted = torch.cat([torch.zeros(1).double(), law])
    found = parts.class_guidance(wider, shifted, x_t.detach(), y + 1, (alpha_t, sigma_t))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_analytic_guidance_touches_rare_rows_at_high_noise_only(parts, pooled, network, asked):
    def guided(weight):
        options = {"weight": weight, "t0": 0.4, "below": 20}
        return parts.AnalyticGuidance(network, pooled, COUNTS, SCHEDULE, **options)(*asked)

    x_t, t, c = asked
    plain = network(*asked)
    assert torch.equal(guided(0.0), plain)
    touched = (COUNTS[c.value] < 20) & (t >= 0.4)
    assert torch.equal(guided(1.0)[~touched], plain[~touched]) and touched.sum() == 4
    rows = parts.class_guidance(
        pooled, COUNTS / COUNTS.sum().double(), x_t[touched], c.value[touched], SCHEDULE(t[touched])
    )
    torch.testing.assert_close(guided(0.5)[touched], plain[touched] + 0.5 * rows, rtol=1e-5, atol=1e-5)


def test_guidance_by_rarity_is_plain_at_power_0_and_for_the_most_common(parts, network, asked):
    x_t, t, c = asked
    plain = ClassifierFreeGuidance(network, 1.5)(*asked)
    assert torch.equal(parts.RarityGuidance(network, 1.5, COUNTS, power=0.0, t1=2.0)(*asked), plain)
    below = parts.RarityGuidance(network, 1.5, COUNTS, power=0.5, t1=0.4)(*asked)
    same = (c.value == 0) | (t >= 0.4)
    assert torch.equal(below[same], plain[same])
    eps_c, eps_null = network(*asked), network(x_t, t, c.null())
    omega = 1.5 * (COUNTS[c.value] / 40.0).sqrt()[:, None]
    everywhere = parts.RarityGuidance(network, 1.5, COUNTS, power=0.5, t1=2.0)(*asked)
    torch.testing.assert_close(everywhere, eps_c + omega * (eps_c - eps_null), rtol=1e-5, atol=1e-5)


def test_autoguidance_is_plain_at_weight_0_and_leads_away_from_the_earlier(parts, network, asked):
    torch.manual_seed(1)
    early = MLP((SIZE,), 3, width=16).eval().requires_grad_(False)
    for omega in (0.0, 1.5):
        plain = ClassifierFreeGuidance(network, omega)(*asked)
        assert torch.equal(parts.AutoGuidance(network, omega, early, weight=0.0)(*asked), plain)
        away = parts.AutoGuidance(network, omega, early, weight=2.0)(*asked)
        torch.testing.assert_close(away, plain + 2 * (network(*asked) - early(*asked)), rtol=1e-5, atol=1e-5)


def test_shrinkage_has_its_optimum_between_the_noise_and_the_target(parts, pooled, network):
    """At (ε + λ_c ε_L,c)/(1 + λ_c) the gradient is 0, with λ_c = cap·min(1, a/n_c) above t_0 and 0 below."""
    y = torch.arange(3).repeat(4)
    c = Condition(y, torch.arange(12) != 11)
    x_0 = torch.randn(12, SIZE, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.1, 0.3, 0.5, 0.9]).double().repeat_interleave(3)
    step = Process(SCHEDULE).denoise(network, x_0, c, Draws(0, 0, torch.arange(12)), t)
    strength = 2.0 * torch.tensor([5 / 40, 5 / 12, 1.0])[y] * (t >= 0.4) * c.present
    target = pooled.eps(step.x_t, y, step.alpha_t.flatten(), step.sigma_t.flatten())
    weight = strength.float()[:, None]
    best = ((step.eps + weight * target) / (1 + weight)).requires_grad_()
    shrinkage = parts.Shrinkage(DenoisingLoss(), pooled, COUNTS, cap=2.0, a=5.0, t0=0.4)
    terms = shrinkage(replace(step, eps_hat=best))
    (gradient,) = torch.autograd.grad(sum(terms.values()).sum(), best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    assert torch.equal(terms["shrinkage"] == 0, strength == 0)
    assert list(parts.Shrinkage(DenoisingLoss(), pooled, COUNTS, cap=0.0, a=5.0, t0=0.4)(step)) == ["denoising"]


def test_rare_rows_are_augmented_and_told_and_all_others_stay(parts):
    """With probability min(1, a/n_c): all rows of 4 images' classes, an eighth of those of 32; 5 σ of 4,000 coins."""
    data = Dataset(
        torch.randint(0, 256, (36, 1, 6, 6), dtype=torch.uint8), torch.tensor([0] * 32 + [1] * 4), ("a", "b")
    )
    options = {"seed": 3, "weights": resampling_weights(data.y, torch.tensor([0.5, 0.5]))}
    plain = Batches(data, 400, **options).at(7)
    everywhere = Batches(data, 400, **options, augment=Augment(1.0, ("translate",))).at(7)
    rare = {**options, "augment": Augment(1.0, ("translate",)), "counts": data.counts(), "a": 4.0}
    batch = parts.RareAugmented(data, 400, **rare).at(7)
    told = batch.augment.ne(0).any(1)
    assert torch.equal(batch.y, plain.y) and told[batch.y == 1].all()
    assert torch.equal(batch.x_0[~told], plain.x_0[~told])
    assert torch.equal(batch.x_0[told], everywhere.x_0[told]) and torch.equal(
        batch.augment[told], everywhere.augment[told]
    )
    common = torch.cat(
        [b.augment.ne(0).any(1)[b.y == 0] for b in map(parts.RareAugmented(data, 400, **rare).at, range(20))]
    )
    assert float(common.double().mean()) == pytest.approx(1 / 8, abs=5 * math.sqrt(7 / 64 / len(common)))
    ranks = [parts.RareAugmented(data, 400, **rare).at(7, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat([b.x_0 for b in ranks]), batch.x_0)


def test_a_setting_is_chosen_by_the_tail_fid_at_equal_recall(candidates):
    """e^{10 (recall − ½)} times a factor: the mean log ratio is that of the factors over both lengths."""

    def curves(*factors):
        made = {}
        for length, factor in zip(candidates.LENGTHS, factors, strict=True):
            rows = {
                omega: {"tail recall": [r], "tail fid": [f * math.exp(10 * (r - 0.5))], "tail copies": [0.0]}
                for omega, r, f in (("0", 0.96, factor), ("1", 0.7, factor))
            }
            made[str(length)] = rows
        return made

    methods = {"ddpm": curves(1.0, 1.0), "analytic:0.5@0.4": curves(0.5, 1.5), "analytic:1@0.4": curves(0.9, 0.7)}
    methods |= {row: curves(2.0, 2.0) for s in candidates.SETTINGS.values() for row in s if row not in methods}
    methods["rarity:0.5@0.4"] = curves(1.9, 2.0)
    taken = candidates.chosen({"choice": {"methods": methods}})
    assert candidates.change(methods, "analytic:1@0.4", 1000) == pytest.approx(math.log(0.9))
    assert taken[:2] == ("analytic:1@0.4", "rarity:0.5@0.4")  # √0.63 < √0.75


def test_what_is_added_to_other_batches_is_told_at_equal_omega(candidates):
    """Each minus its own batches: were it minus DDPM, others, or another ω, a seed or the mean would show."""

    def curves(base, added=0.0):
        rows = {}
        for omega, factor in (("0", 1.0), ("1", 7.0)):
            values = [factor * base + seed + added * (1 + seed) for seed in range(3)]
            rows[omega] = dict.fromkeys(("fid", "tail fid", "tail recall", "tail copies"), values)
        return {"1000": rows}

    methods = {
        "ddpm": curves(10.0), "resample:uniform": curves(20.0), "resample:uniform@0.2": curves(40.0),
        "shrinkage:4": curves(10.0, 5.0), "split+shrinkage:4": curves(40.0, 3.0), "augment:0.3": curves(20.0, -0.25),
    }  # fmt: skip
    lines = candidates.added_table({"methods": methods}).splitlines()[2:]
    # Of (1, 2, 3) times what is added the mean is 2 and the half-width 4.303/√3, Student's t of two degrees.
    assert [line.split(" | ")[:4] for line in lines] == [
        [f"| `{row}`", "1000", omega, told]
        for row, told in (("split+shrinkage:4", "+6.00 ± 7.45"), ("augment:0.3", "−0.50 ± 0.62"))
        for omega in ("0", "1")
    ]


@pytest.mark.slow
def test_at_strength_0_the_candidates_on_its_batches_are_the_plain_model(candidates, tmp_path, monkeypatch):
    """Judged under each, the same figures as DDPM's, and others at strength 1.

    Forty steps: after four the condition changes ε̂ by 10⁻⁴, which no pixel shows.
    """
    runs = importlib.import_module("candidate_runs")
    monkeypatch.setattr(runs, "SETTINGS", ("evaluation.per_class=8", "sampling.steps=5"))
    for name, value in {"LENGTHS": (40,), "EARLY": {40: 20}, "OMEGAS": ("1",), "IMPLIED": ()}.items():
        monkeypatch.setattr(runs, name, value)

    def readings(row):
        trained = runs.Trained(runs.trained_as(row), 0)
        trained.train(tmp_path)
        file = trained.judge(tmp_path, row)
        assert trained.judge(tmp_path, row) == file
        return json.loads(file.read_text())["readings"]

    plain = readings("ddpm")
    assert [(r["steps"], r["omega"]) for r in plain] == [(40, "1")]
    for row in ("split+shrinkage:0", "split+shrinkage:1"):
        training = runs.Trained(row, 0)
        assert training.experiment.batches.levels is not None  # balanced at high noise, and no other loss at 0
        assert training.experiment.objective.adjustment.strength == float(row[-1])
    levels = {"analytic": "@0.4", "rarity": "", "autoguidance": "", "shrinkage": ""}
    for kind, level in levels.items():
        none, some = readings(f"{kind}:0{level}"), readings(f"{kind}:1{level}")
        assert none == plain and some != plain, kind


@pytest.fixture(scope="module")
def result(candidates):
    return json.loads(candidates.RESULT.read_text(encoding="utf-8"))


def test_the_frozen_settings_are_those_of_the_choice(candidates, result):
    assert candidates.chosen(result) == candidates.FROZEN


def test_without_guidance_the_training_is_that_of_the_tails_experiment(result):
    """At ω = 0 guidance by rarity is the plain model: the same figures, so that the readings are paired."""
    judged = result["sampling"]["methods"]
    row = next(name for name in judged if name.startswith("rarity"))
    for length, by_omega in judged[row].items():
        for score, values in by_omega["0"].items():
            assert values == pytest.approx(judged["ddpm"][length]["0"][score], rel=1e-4, abs=1e-4)


def test_the_page_holds_the_tables_of_the_candidates(candidates, result):
    page = (ROOT / "docs" / "noise-levels-further.md").read_text(encoding="utf-8")
    for table in candidates.page(result).split("\n\n"):
        assert table in page, "python experiments/candidates.py --print, and put the tables in the page"

"""Another law while sampling: `--unconditional --prior`, `--guidance-prior`, and that a trained model follows it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cbdm import (
    Batches,
    Dataset,
    DenoisingLoss,
    Objective,
    Process,
    TrackedWeights,
    Training,
    TrainSettings,
    TrainState,
    Uniform,
    generate,
    load_run,
    train,
)
from cbdm_cli.config import validated
from cbdm_cli.resolve import with_sampling
from cbdm_cli.sampling import solver
from cbdm_core.data.dataset import to_uint8
from cbdm_core.loss_weights import VWeight
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.predicts import Predicts
from cbdm_core.run_config import read_config
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import Cosine
from tests.cli.tiny import TINY, trained_once

# A high rate, so that the labels show after a few steps.
OPTIONS = [*TINY, "--set", "evaluation.per_class=2", "--set", "training.learning_rate=1e-2", "--set",
           "training.ema_decay=0.5"]  # fmt: skip
ONLY_9 = "fixed:0,0,0,0,0,0,0,0,0,1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_once(tmp_path_factory, *OPTIONS)


def images(file):
    return np.load(file, allow_pickle=False)["images"].astype(int)


def drawn(folder, told, *, prior=None, **options):
    """float32 samples as the command draws them, before they are rounded to pixels."""
    loaded = load_run(folder)
    config = with_sampling(validated(loaded.config), options)
    network, sampler = solver(config, loaded.network, loaded.schedule, prior)
    x = generate(network, sampler, told, loaded.shape, steps=config.sampling.steps, seed=config.seed)
    return torch.cat(list(x))


def test_unconditional_samples_are_those_of_tracked_weights(run, trained):
    """By default under the uniform law, with 100 steps of ddim with η = 1."""
    code, out, err = run("sample", trained, "--unconditional", "--n", 4, "--format", "npz", "--out", "u.npz")
    assert code == 0 and "under the law uniform" in " ".join((out + err).split()), err
    loaded = load_run(trained)
    counts = loaded.counts
    sampler = TrackedWeights(DDIM(loaded.schedule, eta=1.0), Uniform(counts), Training(counts))
    nothing = torch.zeros(4, dtype=torch.long)
    x = torch.cat(list(generate(loaded.network, sampler, nothing, loaded.shape, steps=100, seed=0)))
    assert abs(images("u.npz") - to_uint8(x)[:, 0].int().numpy()).max() <= 1  # a grey level of rounding
    assert np.load("u.npz")["class_names"].tolist() == ["law uniform"]


def test_a_law_of_one_class_draws_that_class(run, trained):
    """Then the mixture is the class's own prediction: ddim with η = 1 and label 9, without guidance."""
    options = ["--unconditional", "--steps", 6, "--n", 5, "--format", "npz"]
    assert run("sample", trained, *options, "--prior", ONLY_9, "--out", "nine.npz")[0] == 0
    assert run("sample", trained, *options, "--prior", "training", "--out", "all.npz")[0] == 0
    loaded = load_run(trained)
    nines = torch.full((5,), 9)
    eta_1 = DDIM(loaded.schedule, eta=1.0)
    x = torch.cat(list(generate(loaded.network, eta_1, nines, loaded.shape, steps=6, seed=0)))
    expected = to_uint8(x)[:, 0].int().numpy()
    assert abs(images("nine.npz") - expected).max() <= 1
    assert abs(images("all.npz") - expected).max() > 5


def test_an_unconditional_sample_does_not_depend_on_its_batch(run, trained):
    for n in (7, 3):
        options = ["--n", n, "--steps", 4, "--format", "npz", "--out", f"{n}.npz"]
        assert run("sample", trained, "--unconditional", "--prior", "power:0.5", *options)[0] == 0
    assert abs(images("7.npz")[:3] - images("3.npz")).max() <= 1


def test_tracking_options_reach_the_sampler(run, trained):
    config = with_sampling(
        validated(read_config(trained)),
        {"temperature": 3.0, "top_k": 2, "every": 4, "sampler": "ddim", "options": {"eta": 1.0, "clip": 1.5}},
    )
    loaded = load_run(trained)
    for prior, guidance in (("uniform", None), (None, "uniform")):
        given = with_sampling(config, {"guidance_prior": guidance})
        sampler = solver(given, loaded.network, loaded.schedule, prior)[1]
        assert (sampler.temperature, sampler.top_k, sampler.every) == (3.0, 2, 4)
        # |x̂_0| is bounded in the update of the weights as in the step.
        assert (sampler.sampler.eta, sampler.sampler.clip, sampler.clip) == (1.0, 1.5, 1.5)
    options = ["--unconditional", "--steps", 8, "--n", 5, "--format", "npz"]
    assert run("sample", trained, *options, "--out", "plain.npz")[0] == 0
    seen = [images("plain.npz")]
    for number, words in enumerate((["--temperature", 50], ["--top-k", 1], ["--track-every", 8])):
        code, _, err = run("sample", trained, *options, *words, "--out", f"{number}.npz")
        assert code == 0, err
        seen.append(images(f"{number}.npz"))
    assert len({array.tobytes() for array in seen}) == 4


def test_guidance_from_the_training_null_is_plain_guidance(trained):
    """w^π = w^q: ε_∅ is the network's own, to float32 rounding; under the uniform law it is another."""
    told = torch.arange(10)
    for sampler in ("dpm++2m", "heun"):
        plain = drawn(trained, told, sampler=sampler, steps=6)
        same = drawn(trained, told, sampler=sampler, steps=6, guidance_prior="training")
        torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)
        other = drawn(trained, told, sampler=sampler, steps=6, guidance_prior="uniform")
        assert (other - plain).abs().max() > 1e-2
        # Without guidance the null is not asked.
        free = drawn(trained, told, sampler=sampler, steps=6, omega="0", guidance_prior="uniform")
        torch.testing.assert_close(
            free, drawn(trained, told, sampler=sampler, steps=6, omega="0"), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("part", ["resample", "pure"])
def test_the_null_of_a_run_is_that_of_the_law_its_batches_follow(trained, part):
    """A run on uniform batches has learned the null of the uniform law, so that one changes nothing."""
    loaded = load_run(trained)
    config = validated(loaded.config)
    facts = config.facts.model_copy(update={"laws": {part: "uniform"}})
    for guidance, same in (("uniform", True), ("training", False)):
        given = with_sampling(config.model_copy(update={"facts": facts}), {"guidance_prior": guidance})
        sampler = solver(given, loaded.network, loaded.schedule)[1]
        assert torch.equal(sampler.log_pi, sampler.log_q) == same
        torch.testing.assert_close(sampler.log_q.exp(), torch.full((10,), 0.1, dtype=torch.float64))


def test_a_guided_sample_under_another_null(run, trained):
    options = ["--labels", "3,7,9", "--steps", 6, "--format", "npz"]
    assert run("sample", trained, *options, "--out", "plain.npz")[0] == 0
    assert run("sample", trained, *options, "--guidance-prior", "uniform", "--out", "other.npz")[0] == 0
    expected = drawn(trained, torch.tensor([3, 7, 9]), steps=6, guidance_prior="uniform")
    assert abs(images("other.npz") - to_uint8(expected)[:, 0].int().numpy()).max() <= 1
    assert abs(images("other.npz") - images("plain.npz")).max() > 1


def test_an_evaluation_says_which_null_it_was_guided_from(run, trained):
    code, out, err = run("evaluate", trained, "--guidance-prior", "power:0.5", "--omega", "0.5,1")
    assert code == 0, err
    for omega in ("0.5", "1"):
        told = json.loads((trained / f"evaluation-omega-{omega}-null-power-0.5-dpm++2m-2-n2.json").read_text())
        assert (told["guidance_prior"], told["omega"]) == ("power:0.5", omega)
    assert run("evaluate", trained)[0] == 0
    plain = json.loads((trained / "evaluation-omega-1-dpm++2m-2-n2.json").read_text())
    assert plain["guidance_prior"] is None and plain["overall"] != told["overall"]
    code, out, _ = run("evaluate", trained, "--guidance-prior", "uniform")
    assert code == 0 and "from the null of uniform" in out


def test_a_run_may_be_configured_to_guide_so(run, tmp_path):
    options = ["--set", "sampling.guidance_prior=uniform", "--set", "sampling.tracking.top_k=3"]
    code, out, err = run("train", "--steps", 1, *OPTIONS, *options, "--out", "r")
    assert code == 0 and "from the null of uniform" in out, err
    assert json.loads((tmp_path / "r" / "evaluation.json").read_text())["guidance_prior"] == "uniform"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--unconditional", "--omega", "1"], "leave out --labels, --condition, --omega"),
        (["--unconditional", "--labels", "3"], "leave out --labels"),
        (["--unconditional", "--condition", "1,1"], "leave out --labels"),
        (["--unconditional", "--guidance-prior", "uniform"], "leave out --labels"),
        (["--unconditional", "--n", "0"], "--n must be 1 or more, got 0"),
        (["--unconditional", "--n", "-1"], "--n must be 1 or more, got -1"),
        (["--unconditional", "--prior", "null"], "no probabilities to sample under"),
        (["--unconditional", "--prior", "unifrm"], "did you mean 'uniform'?"),
        (["--unconditional", "--prior", "affinity"], "made from the training set's similarity"),
        (["--unconditional", "--prior", "fixed:1,1"], "one number per class, 10"),
        (["--unconditional", "--temperature", "0"], "sampling.tracking.temperature = 0.0"),
        (["--unconditional", "--top-k", "0"], "sampling.tracking.top_k = 0"),
        (["--unconditional", "--top-k", "11"], "top_k is from 1 to the 10 classes"),
        (["--unconditional", "--track-every", "0"], "sampling.tracking.every = 0"),
        (["--prior", "uniform"], "are --labels uniform"),
        (["--temperature", "2"], "need --guidance-prior LAW or --unconditional"),
        (["--top-k", "2"], "need --guidance-prior LAW or --unconditional"),
        (["--track-every", "2"], "need --guidance-prior LAW or --unconditional"),
        (["--guidance-prior", "null"], "no probabilities to sample under"),
        (["--guidance-prior", "trainig"], "did you mean 'training'?"),
        (["--condition", "1,1"], "this run is told labels; use --labels"),
    ],
)
def test_a_combination_without_a_meaning_is_refused(refused, trained, tmp_path, arguments, words):
    options = ["--format", "folder", "--out", tmp_path / "s"]
    assert words in refused("sample", trained, *arguments, *options)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_a_null_that_is_none_is_refused_before_work(refused, trained, tmp_path):
    assert "no probabilities" in refused("evaluate", trained, "--guidance-prior", "null")
    assert "no probabilities" in refused("train", "--set", "sampling.guidance_prior=null", "--out", "r")
    assert "top_k" in refused(
        "train", "--set", "sampling.guidance_prior=uniform", "--set", "sampling.tracking.top_k=11"
    )
    assert not Path("r").exists() and not Path("runs").exists()


def test_a_trained_model_samples_under_the_law_that_it_is_asked_for():
    """600 unconditional samples of a model of four separated classes of 600, 200, 60 and 20 examples.

    Under the training law and under the uniform one, the frequency of each class (by the nearest mean) is within its
    95 % Wilson interval of the law, give or take 0.02 for a model of 400 steps; the two intervals of each rare class
    lie apart.
    """
    counts = torch.tensor([600, 200, 60, 20])
    means = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    y = torch.repeat_interleave(torch.arange(4), counts)
    x = means[y] + 0.15 * torch.randn(len(y), 2, generator=torch.Generator().manual_seed(0))
    data, schedule = Dataset(x, y, tuple("abcd")), Cosine()
    torch.manual_seed(1)
    network = Predicts(MLP((2,), 4, width=64, depth=2), "v", schedule)
    settings = TrainSettings(seed=1, learning_rate=2e-3, warmup=50, ema_decay=0.99)
    state = TrainState.start(Objective(Process(schedule), network, DenoisingLoss(VWeight())), settings)
    list(train(state, Batches(data, 256, seed=1), steps=400))
    intervals = {}
    for law in (Training(counts), Uniform(counts)):
        sampler = TrackedWeights(DDIM(schedule, eta=1.0), law, Training(counts))
        nothing = torch.zeros(600, dtype=torch.long)
        drawn = torch.cat(list(generate(state.ema.eval(), sampler, nothing, (2,), steps=50, seed=1, batch_size=600)))
        distance, nearest = torch.cdist(drawn, means).min(1)
        assert (distance > 0.75).double().mean() < 0.02  # five standard deviations: samples are of a class
        seen = torch.bincount(nearest, minlength=4).tolist()
        found = [binomtest(k, 600).proportion_ci(0.95, method="wilson") for k in seen]
        for probability, interval in zip(law.probs.tolist(), found, strict=True):
            assert interval.low - 0.02 <= probability <= interval.high + 0.02, (type(law).__name__, seen)
        intervals[type(law)] = found
    for rare in (2, 3):
        assert intervals[Training][rare].high < intervals[Uniform][rare].low

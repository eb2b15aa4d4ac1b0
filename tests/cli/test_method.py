"""Every method by its name: training, resume, what `load_run` gives back, several processes, mistakes."""

import json
import tomllib

import pytest
import torch
from safetensors.torch import load_file

from cbdm import (
    ADJUSTMENTS,
    Affinity,
    ClassBalancing,
    ClassReweighting,
    Condition,
    DenoisingLoss,
    ScoreNetwork,
    feature_similarity,
    load_run,
    train,
)
from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config
from cbdm_core.checkpoint import latest_checkpoint, load_checkpoint
from cbdm_core.distributed import World
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.experts import experts_off, has_experts
from cbdm_core.run_config import read_config
from tests.cli.tiny import TINY, fingerprint

QUICK = [*TINY, "--set", "evaluation.per_class=2"]
ONLY_TRAIN = [*QUICK, "--no-evaluate"]  # what is judged here is what was learned
ALONE = World(0, 1, torch.device("cpu"))
TERMS = {
    "cbdm": "balancing",
    "shrink": "shrinkage",
    "coral": "coral",
    "ccua": "ccua",
    "diffrop": "diffrop",
    "capacity": "capacity",
}


def settings(*pairs):
    return [word for pair in pairs for word in ("--set", pair)]


def made(method, *pairs, preset="digits-lt"):
    """What the command line would train, without the command."""
    quick = [word for word in QUICK if word != "--set"]
    return assemble(validated(load_config(preset, None, [f"method.parts='{method}'", *quick, *pairs])))


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain():
    """Averaged weights after two steps of ddpm, which every method must leave behind."""
    experiment = made("ddpm")
    state = experiment.start(ALONE)
    list(train(state, experiment.batches, steps=2))
    return state.ema.state_dict()


COMPOSED = ["cbdm:learned+t2h", "coral+cbdm:null", "capacity+shrink:uniform"]


@pytest.mark.parametrize("method", [*ADJUSTMENTS, *COMPOSED])
def test_every_method_trains_and_changes_what_is_learned(run, tmp_path, plain, method):
    # One bin, or two steps would not see the same class at the same time twice.
    one_bin = settings("method.options.shrink.bins=1") if "shrink" in method else []
    code, _, err = run("train", "--steps", 2, "--method", method, *ONLY_TRAIN, *one_bin, "--out", "r")
    assert code == 0, err
    names = [part.partition(":")[0] for part in method.split("+")]
    expected = {"denoising", *(TERMS[name] for name in names if name in TERMS)}
    records = records_of(tmp_path / "r")
    assert [set(record["terms"]) for record in records] == [expected, expected]
    loaded = load_run(tmp_path / "r").network.state_dict()
    assert loaded.keys() == plain.keys()
    assert any(not torch.equal(value, plain[name]) for name, value in loaded.items())
    assert [p.name for p in (tmp_path / "r").glob("law-*.svg")] == ["law-balancing.svg"] * ("learned" in method)


RARE = ("method.options.coral.bank=2", "method.options.coral.rare=200")  # so that every class has a memory
STATEFUL = {
    "cbdm:learned:0.1,0.5": ([], "log_pi"),
    "shrink:uniform": (["method.options.shrink.bins=2"], "distance"),
    "coral": (RARE, "memory"),
    "capacity": ([], "parametrizations.weight.0.A"),
}


@pytest.mark.parametrize("method", STATEFUL)
def test_resume_continues_the_state_of_a_method_bit_by_bit(run, tmp_path, method):
    pairs, state = STATEFUL[method]
    options = ["--method", method, *ONLY_TRAIN, *settings(*pairs)]
    assert run("train", "--steps", 4, *options, "--out", "whole")[0] == 0
    assert run("train", "--steps", 2, *options, "--out", "parts")[0] == 0
    before = load_file(tmp_path / "parts" / "checkpoints" / "step-00000002" / "model.safetensors")
    assert run("train", "--resume", "parts", "--steps", 4, "--no-evaluate")[0] == 0
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    after = load_file(tmp_path / "parts" / "checkpoints" / "step-00000004" / "model.safetensors")
    kept = [name for name in after if name.endswith(state)]
    assert kept and any(not torch.equal(before[name], after[name]) for name in kept), "the state did not move"
    files = ["metrics.jsonl", "config.toml", *(["law-balancing.svg"] if "learned" in method else [])]
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("cbdm:learned:0.1,0.5", {"cbdm": "balancing"}),
        ("coral+cbdm:learned:0.1,0.5", {"cbdm": "balancing"}),
        ("cbdm:learned:0.1,0.5+diffrop:learned:0.1,2", {"cbdm": "balancing", "diffrop": "diffrop"}),
        ("diffrop:learned:0.1,2+cbdm:learned:0.1,0.5", {"cbdm": "balancing", "diffrop": "diffrop"}),
    ],
)
def test_load_run_gives_back_each_law_as_it_was_learned(run, tmp_path, method, terms):
    """The probabilities are those of the last line of metrics.jsonl, to the last digit, and no longer those of n."""
    assert run("train", "--steps", 3, "--method", method, *ONLY_TRAIN, "--out", "r")[0] == 0
    last, loaded = records_of(tmp_path / "r")[-1], load_run(tmp_path / "r")
    assert last["step"] == loaded.step == 3 and last["laws"].keys() == {*terms.values()}
    for part, term in terms.items():
        assert loaded.laws[part].probs.tolist() == last["laws"][term]
        assert (loaded.laws[part].probs - loaded.laws["training"].probs).abs().max() > 1e-4
    if len(terms) == 2:
        assert last["laws"]["balancing"] != last["laws"]["diffrop"]


def test_the_same_learned_law_draws_the_same_picture(run, tmp_path):
    for name in ("a", "b"):
        assert run("train", "--steps", 3, "--method", "cbdm:learned", *ONLY_TRAIN, "--out", name)[0] == 0
    one, two = ((tmp_path / name / "law-balancing.svg").read_bytes() for name in ("a", "b"))
    assert one == two and one.count(b"<path") > 10  # a curve for each of ten classes


def test_a_capacity_run_loads_as_a_plain_network_that_says_the_same(run, tmp_path):
    """W_g + B·A in place of the experts: outputs agree to 1e-5 in float32, and the experts did count."""
    pairs = settings("training.learning_rate=1e-2", "training.ema_decay=0.5")
    assert run("train", "--steps", 4, "--method", "capacity", *ONLY_TRAIN, *pairs, "--out", "r")[0] == 0
    merged = load_run(tmp_path / "r").network
    experiment = assemble(validated({**read_config(tmp_path / "r"), "facts": None}))
    state = load_checkpoint(latest_checkpoint(tmp_path / "r" / "checkpoints"), experiment.start(ALONE))
    with_experts = state.ema.eval()
    assert has_experts(with_experts) and not has_experts(merged)
    x_t, t = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1, 10)
    c = Condition.of(torch.arange(10))
    said = with_experts(x_t, t, c)
    torch.testing.assert_close(merged(x_t, t, c), said, atol=1e-5, rtol=1e-5)
    with experts_off(with_experts):
        assert (with_experts(x_t, t, c) - said).abs().max() > 1e-3


def test_load_run_rebuilds_the_affinity_of_features(run, tmp_path):
    assert run("train", "--steps", 1, "--method", "cbdm:affinity:0.5", *ONLY_TRAIN, "--out", "r")[0] == 0
    data = made("ddpm").data
    expected = Affinity(feature_similarity(data.model_input().flatten(1), data.y, 10), 0.5).table
    torch.testing.assert_close(load_run(tmp_path / "r").laws["cbdm"].table, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("draws", "forwards"), [("1", 2), ("all", 11), ("3", 4)])
def test_options_of_a_part_reach_it(draws, forwards):
    """Counted in forward passes of one step: the batch's own, and one for each other condition."""
    experiment = made("cbdm:uniform", f"method.options.cbdm.draws={draws}", "method.gamma=0.5")
    calls = []
    experiment.objective.network.register_forward_hook(lambda *_: calls.append(1))
    list(train(experiment.start(ALONE), experiment.batches, steps=1))
    assert len(calls) == forwards and experiment.objective.adjustment.gamma == 0.5


def test_a_strength_stands_with_its_part(refused):
    """τ of the method as a whole goes to the part that reads it; options of 0.1 and of today mean the same."""
    outer = made("cbdm+shrink", "method.tau=2", "method.options.shrink.strength=4").objective.adjustment
    assert (outer.tau, outer.inner.strength) == (2, 4)
    assert made("cbdm", "method.options.cbdm.tau=3").objective.adjustment.tau == 3
    assert made("cbdm", "method.cbdm.tau=3", "method.cbdm.gamma=0").objective.adjustment.gamma == 0
    assert "no part of method 'coral' reads it" in refused("train", "--method", "coral", "--tau", 2)


def test_two_parts_with_one_law_each_ask_which_is_meant(refused):
    line = refused("train", "--method", "cbdm+shrink", "--prior", "uniform")
    assert "the parts cbdm, shrink each take a law" in line and "cbdm:uniform+shrink:LAW" in line


def test_the_igd_preset_is_the_parts_it_says():
    experiment = made("reweight:uniform+cbdm:uniform+pure:training", preset="digits-igd")
    outer = experiment.objective.adjustment
    assert [type(part) for part in (outer, outer.inner, outer.inner.inner)] == [
        ClassReweighting, ClassBalancing, DenoisingLoss,
    ]  # fmt: skip
    balancing = outer.inner
    assert (balancing.tau, balancing.gamma, balancing.draws) == (1.0, 0.0, "all")
    counts = experiment.data.counts()
    torch.testing.assert_close(balancing.target.probs, torch.full((10,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(experiment.batches.pure, counts / counts.sum().double())
    # π/q ∝ 1/n_y, where q is what the classes of batches are drawn from
    torch.testing.assert_close(outer.weights * counts, torch.full((10,), float(counts.sum()) / 10))
    assert all(len(experiment.batches.at(step).y.unique()) == 1 for step in range(20))


def test_options_of_a_preset_go_with_the_part_that_method_replaces(run, tmp_path):
    code, _, err = run("train", "digits-igd", "--method", "coral", "--steps", 1, *ONLY_TRAIN, "--out", "r")
    assert code == 0, err
    method = tomllib.loads((tmp_path / "r" / "config.toml").read_text())["method"]
    assert [entry["part"] for entry in method] == ["coral"] and "draws" not in method[0]
    code, out, _ = run("train", "digits-igd", "--method", "cbdm:training", "--dry-run", *QUICK)
    assert code == 0 and 'draws = "all"' in out


class Featureless(ScoreNetwork):
    """A network that has no inner features to give."""

    def __init__(self, shape, condition):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x_t, t, c):
        return self.linear(x_t)


def test_coral_refuses_a_network_without_features(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS.builtin, "featureless", f"{__name__}:Featureless")
    arguments = ["train", "--method", "coral", "--set", "network.name=featureless"]
    assert "part 'coral' needs inner features, and Featureless has none" in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (settings("method.options.cbdm.drawz=2"), "did you mean 'draws'?"),
        (["--method", "coral", *settings("method.options.coral.bnak=2")], "did you mean 'bank'?"),
        (settings("method.options.shrink.cap=2"), "method.shrink: 'cbdm:null' has no such part"),
        (["digits-igd", "--method", "coral", *settings("method.options.cbdm.draws=1")], "has no such part"),
        (settings("method.options.cbdm=3"), "method.options.cbdm = 3"),
        (settings("method.options=['a']"), "method.options = ['a']: options of a part are written method.PART.NAME"),
        (settings("method.parts=['cbdm']"), "method.parts = ['cbdm']: write a text such as 'cbdm:null'"),
        (settings("method.options.cbdm.draws=0"), "draws must be 1, 2, 3, … or \"all\", got 0"),
        (settings("method.options.cbdm.fraction=0"), "fraction of rows must lie in (0, 1], got 0"),
        (settings("method.options.cbdm.dropout=some"), "allowed: independent, shared"),
        (settings("method.time_weight=lnear"), "did you mean 'linear'?"),
        (["--method", "shrink", *settings("method.options.shrink.cap=-2")], "cap > 0"),
        (["--method", "coral", *settings("method.options.coral.temperature=0")], "temperature of coral"),
        (["--method", "coral", *settings("method.options.coral.bank=abc")], "cannot be made from {'bank': 'abc'}"),
        (["--method", "capacity", *settings("method.options.capacity.rank_ratio=2")], "rank ratio"),
        (["--method", "t2h", *settings("method.options.t2h.window=[0.9,0.1]")], "low before high"),
        (["--method", "t2h", *settings("method.options.t2h.null_direction=h2")], "did you mean 'h2t'?"),
        (["--method", "cbdm:learned:0"], "temperature > 0"),
        (["--method", "t2h:uniform"], "takes no law"),
        (["--method", "t2h", "--prior", "uniform"], "no part that takes a law"),
        (["--method", "resample+pure"], "both say how batches are drawn; keep one"),
        (["--method", "resample:learned"], "reads its law once"),
        (["--method", "pure:learned"], "reads its law once"),
        (["--method", "reweight:learned"], "reads its law once"),
        (["--method", "cbdm:knn"], "made from the training set's conditions"),
        (["digits-pose", "--method", "cbdm:gaussian", *settings("method.options.cbdm.draws=all")], "Gaussian has none"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_method_is_one_clear_line(refused, tmp_path, arguments, words):
    assert words in refused("train", *arguments)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"

"""A run's folder, written here by hand, and what is built of its configuration."""

import pytest
import torch
from safetensors.torch import save_file

from cbdm import (
    Batches,
    ClassBalancing,
    Dataset,
    DenoisingLoss,
    Objective,
    Predicts,
    Process,
    TrainSettings,
    TrainState,
    load_run,
    train,
)
from cbdm_core.checkpoint import save_checkpoint
from cbdm_core.conditions import Classes, Vectors
from cbdm_core.errors import CbdmError
from cbdm_core.networks.mlp import MLP
from cbdm_core.priors import make_law
from cbdm_core.run import LAW_DATA, build_network, build_schedule, part_names
from cbdm_core.run_config import read_config

COUNTS = [6, 3, 1]
UNET = {"name": "unet", "options": {"time_steps": 500, "width": 8, "groups": 4, "attention": [], "multipliers": [1]}}
CONFIG = """
[schedule]
name = "cosine"
[schedule.options]
s = 0.01
[network]
name = "mlp"
predicts = "v"
[network.options]
width = 8
depth = 1
[facts]
counts = [6, 3, 1]
shape = [2]
class_names = ["a", "b", "c"]
laws = { cbdm = "learned" }
[[method]]
part = "cbdm"
law = "learned"
"""


@pytest.fixture
def folder(tmp_path):
    """A run of two steps whose averages and learned law are not what they started as."""
    (tmp_path / "config.toml").write_text(CONFIG)
    config = read_config(tmp_path)
    schedule = build_schedule(config["schedule"])
    network = build_network(config["network"], (2,), Classes(3), schedule)
    adjustment = ClassBalancing(DenoisingLoss(), make_law("learned", COUNTS))
    state = TrainState.start(Objective(Process(schedule), network, adjustment), TrainSettings())
    with torch.no_grad():
        for tensor in (*state.ema.parameters(), adjustment.target.loss):
            tensor.add_(0.25)
    state.step = 2
    save_checkpoint(tmp_path / "checkpoints", state)
    return tmp_path, state


def test_a_run_is_its_averages_its_laws_and_its_facts(folder):
    path, state = folder
    run = load_run(path)
    assert (run.step, run.class_names, run.shape, run.counts.tolist()) == (2, ("a", "b", "c"), (2,), COUNTS)
    assert run.space == Classes(3) and run.law_data == {} and run.schedule.s == 0.01
    assert not run.network.training and not any(p.requires_grad for p in run.network.parameters())
    for name, value in state.ema.state_dict().items():
        assert torch.equal(run.network.state_dict()[name], value), name
    torch.testing.assert_close(run.laws["training"].probs, torch.tensor([0.6, 0.3, 0.1]).double())
    for name, value in state.objective.adjustment.target.state_dict().items():
        assert torch.equal(run.laws["cbdm"].state_dict()[name], value), name


def test_the_network_of_a_run_is_trained_on(folder):
    path, _ = folder
    network = load_run(path).network
    before = [p.clone() for p in network.parameters()]
    data = Dataset(torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3, tuple("abc"))
    state = TrainState.start(Objective(Process(load_run(path).schedule), network, DenoisingLoss()), TrainSettings())
    (record,) = train(state, Batches(data, 6, seed=0), steps=1)
    assert record.step == 1 and any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not any(p.requires_grad for p in load_run(path).network.parameters())


def test_what_a_law_was_made_from_is_read_beside_it(folder):
    path, _ = folder
    text = CONFIG.replace('laws = { cbdm = "learned" }', 'laws = { cbdm = "affinity:2" }')
    (path / "config.toml").write_text(text)
    similarity = torch.arange(9.0).reshape(3, 3).double()
    for name in ("similarity.cbdm", "similarity"):  # the second is that of version 0.1
        save_file({name: similarity}, path / LAW_DATA)
        torch.testing.assert_close(load_run(path).laws["cbdm"].table, torch.softmax(similarity / 2, 1))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "config.toml").unlink(), "is no run folder: it has no config.toml"),
        (lambda path: (path / "config.toml").write_text("= 3"), "cannot be read: "),
        (lambda path: (path / "config.toml").write_bytes(b"\xff"), "cannot be read: "),
        (lambda path: (path / "config.toml").write_text(f"n = {'9' * 5000}"), "cannot be read: "),
        (lambda path: (path / "config.toml").write_text("[network]"), "it lacks schedule, facts"),
        (
            lambda path: (path / "config.toml").write_text(CONFIG.replace("counts = [6, 3, 1]\n", "")),
            "is no run's configuration: 'counts'; restore it",
        ),
        (
            lambda path: (path / "config.toml").write_text(CONFIG.replace("width = 8", "width = 16")),
            "holds the weights of another network",
        ),
        (lambda path: (path / "checkpoints/step-00000002").rename(path / "gone"), "no checkpoint in "),
    ],
)
def test_what_is_no_run_is_refused(folder, harm, words):
    harm(folder[0])
    with pytest.raises(CbdmError, match=words):
        load_run(folder[0])


def test_a_network_is_wrapped_by_what_it_predicts():
    schedule = build_schedule({"name": "cosine"})
    plain = build_network({"name": "mlp", "options": {"width": 8}}, (2,), Vectors(3), schedule)
    assert type(plain) is MLP and plain.condition == Vectors(3)
    wrapped = build_network({"name": "mlp", "predicts": "edm", "sigma_data": 0.7}, (2,), Classes(4), schedule)
    assert isinstance(wrapped, Predicts) and (wrapped.what, wrapped.sigma_data) == ("edm", 0.7)
    assert wrapped.schedule is schedule


@pytest.mark.parametrize(("schedule", "words"), [("cosine", "has no table"), ("linear", "has 1000")])
@pytest.mark.parametrize("config", [{"name": "mlp", "options": {"time_steps": 500}}, UNET], ids=["mlp", "unet"])
def test_a_table_of_times_is_the_schedules(config, schedule, words):
    with pytest.raises(CbdmError, match=f"embeds a table of 500 steps and the schedule {words}"):
        build_network(config, (1, 8, 8) if config is UNET else (2,), Classes(4), build_schedule({"name": schedule}))


def test_parts_are_a_list_and_were_a_text():
    assert part_names({"method": [{"part": "t2h"}, {"part": "cbdm", "law": "null"}]}) == ["t2h", "cbdm"]
    assert part_names({"method": {"parts": "t2h+cbdm:null"}}) == ["t2h", "cbdm"]
    assert part_names({"method": {"parts": "ddpm"}}) == part_names({}) == []

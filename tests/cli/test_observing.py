"""What a training leaves while it runs: grids from one noise, averages, a log; and that looking changes nothing."""

import io
import json
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cbdm_cli import observing, scoring
from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config
from cbdm_core.distributed import World
from tests.cli.tiny import TINY, fingerprint

STILL = [*TINY, "--set", "training.learning_rate=1e-12", "--set", "training.ema_decay=0.0"]


@pytest.fixture
def watched(run):
    """A run of 4 steps whose weights stand still, with a grid at every other step."""
    looks = ["--set", "training.sample_every=2", "--set", 'training.averages=["decay:0.9"]']
    looks += ["--log", "tensorboard"]  # which must change nothing either
    code, out, err = run("train", "--steps", 4, *STILL, *looks, "--out", "r")
    assert code == 0, (out, err)
    return "r"


def test_a_look_changes_nothing_and_has_the_same_noise(watched, run, tmp_path):
    """Weights that stand still give the same grid twice; and those of a run without grids and log are the same."""
    grids = sorted((tmp_path / "r" / "grids").iterdir())
    assert [g.name for g in grids] == ["step-00000002.png", "step-00000004.png"]
    first, second = (np.asarray(Image.open(g)).astype(int) for g in grids)
    assert np.abs(first - second).max() <= 1 and first.std() > 10
    assert run("train", "--steps", 4, *STILL, "--set", 'training.averages=["decay:0.9"]', "--out", "plain")[0] == 0
    assert fingerprint(tmp_path / "plain") == fingerprint(tmp_path / "r")
    assert not (tmp_path / "plain" / "grids").exists() and not (tmp_path / "plain" / "tensorboard").exists()


def test_tensorboard_reads_the_numbers_of_the_run(run, tmp_path):
    """Every number of `metrics.jsonl`, at its step and in float32, under its name, by TensorBoard's own reader.

    The run goes on once: a step that was done before is there once too.
    """
    events = import_module("tensorboard.backend.event_processing.event_accumulator")
    log = ["--log", "tensorboard"]
    assert run("train", "--steps", 4, *TINY, "--set", "training.sample_every=2", *log, "--out", "r")[0] == 0
    assert run("train", "--resume", "r", "--steps", 6, *log)[0] == 0
    read = events.EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    read.Reload()
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    wanted = {}
    for record in records:
        plain = {name: record[name] for name in ("loss", "grad_norm", "learning_rate")}
        tables = {f"{of}/{name}": value for of in ("terms", "groups") for name, value in record[of].items()}
        for name, value in (plain | tables).items():
            wanted.setdefault(name, {})[record["step"]] = value
    assert set(read.Tags()["scalars"]) == set(wanted) and {"terms/balancing", "groups/tail"} <= set(wanted)
    for name, by_step in wanted.items():
        there = read.Scalars(name)
        assert [e.step for e in there] == list(by_step)
        assert [e.value for e in there] == pytest.approx(list(by_step.values()), rel=1e-6)
    assert [e.step for e in read.Images("samples")] == [2, 4, 6]
    picture = Image.open(io.BytesIO(read.Images("samples")[0].encoded_image_string))
    grid = Image.open(tmp_path / "r" / "grids" / "step-00000002.png").convert("RGB")
    assert np.array_equal(np.asarray(picture), np.asarray(grid))


def test_a_run_with_other_optimiser_and_averages_resumes_to_the_bit(run, tmp_path):
    options = ["--set", "training.optimiser.name=adam", "--set", "training.optimiser.options.betas=[0.8, 0.9]"]
    options += ["--set", 'training.averages=["power:0.1", "decay:0.5"]', "--set", "training.snapshot_every=2"]
    options += ["--set", "training.accumulate=2", "--set", "training.checkpointing=true"]
    assert run("train", "--steps", 4, *TINY, *options, "--out", "whole")[0] == 0
    assert run("train", "--steps", 2, *TINY, *options, "--out", "cut")[0] == 0
    assert run("train", "--resume", "cut", "--steps", 4)[0] == 0
    whole = fingerprint(tmp_path / "whole")
    assert whole == fingerprint(tmp_path / "cut") and "averages.safetensors" in whole
    stored = sorted(p.name for p in (tmp_path / "cut" / "averages").iterdir())
    assert stored == ["step-00000002.safetensors", "step-00000004.safetensors"]


def test_a_service_is_given_records_and_pictures(run, monkeypatch):
    calls = []
    fake = SimpleNamespace(
        init=lambda **options: calls.append(("init", options["name"], options["config"]["training.steps"])),
        log=lambda values, step: calls.append(("log", step, sorted(values))),
        finish=lambda: calls.append(("finish",)),
        Image=lambda path: path,
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    looks = ["--set", "training.sample_every=2", "--log", "trackio"]
    assert run("train", "--steps", 2, *STILL, *looks, "--out", "r")[0] == 0
    assert calls[0] == ("init", "r", 2) and calls[-1] == ("finish",)
    assert [c[1] for c in calls[1:-1]] == [1, 2, 2] and calls[-2][2] == ["samples"]
    assert {"loss", "terms/denoising", "learning_rate"} <= set(calls[1][2])


def test_mistakes_are_refused_before_a_folder_is_made(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'cbdm[wandb]'" in refused("train", *TINY, "--out", "r", "--log", "wandb")
    assert "did you mean 'tensorboard'" in refused("train", *TINY, "--out", "r", "--log", "tensorbord")
    for setting, words in {
        "training.optimiser.name=adamx": "adamw",
        "training.optimiser.options.momentum=0.9": "momentum",
        "training.optimiser.options.weight_decay=0.1": "training.weight_decay",
        "training.lr_schedule.name=cosin": "cosine",
        'training.averages=["power:0.5"]': "0.288",
    }.items():
        assert words in refused("train", *TINY, "--out", "r", "--set", setting)
    coupled = ["--method", "coral", "--set", "training.accumulate=2"]
    assert "compares the rows" in refused("train", *TINY, "--out", "r", *coupled)
    vectors = ["--method", "capacity", "--set", "training.checkpointing=true"]
    assert "experts" in refused("train", *TINY, "--out", "r", *vectors)
    spread = ["--set", "training.shard=true"]
    assert "there is 1: start it under torchrun" in refused("train", *TINY, "--out", "r", *spread)
    assert "compile = True" in refused("train", *TINY, "--out", "r", *spread, "--set", "training.compile=true")
    assert not (tmp_path / "r").exists()


def test_every_process_draws_and_the_leader_alone_writes(monkeypatch, tmp_path):
    """As on the second of two processes: both pictures and scores ask all processes for their share of the samples."""
    options = [*TINY[1::2], "training.sample_every=1", "training.score_every=1"]
    experiment = assemble(validated(load_config("digits-lt", None, options)))
    second, drawn = World(1, 2, torch.device("cpu")), []
    state = experiment.start(World(0, 1, torch.device("cpu")))
    state.world = second

    def draw(config, network, schedule, conditions, shape, device, name, *, world):
        drawn.append((name, world))
        return torch.zeros(len(conditions), *shape)

    monkeypatch.setattr(observing, "drawn_with_bar", draw)
    monkeypatch.setattr(scoring, "drawn_with_bar", draw)
    monkeypatch.setattr(scoring, "largest_over_ranks", lambda value, world: value)
    observer = observing.Observer(experiment, state, tmp_path, None)
    observer.see(SimpleNamespace(step=1))
    observer.close()
    assert drawn == [("grid", second), ("scores", second)]
    assert list(tmp_path.iterdir()) == []

"""Many samples: streams that are stopped and gone on with, bounded memory, time told before, and the bar."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm import load_run
from cbdm_cli import render
from cbdm_cli.config import validated
from cbdm_cli.locking import held
from cbdm_cli.resolve import with_sampling
from cbdm_cli.sampling import drawn_in_batches
from cbdm_core.generation import generate_stepwise
from cbdm_core.run_config import read_config
from cbdm_core.samplers import DDIM
from tests.cli.tiny import TINY, trained_once

# A process measured by a small parent: of a large one it would inherit the peak.
PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "cbdm_cli", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_once(tmp_path_factory, *TINY)


def peak(*arguments):
    """The most bytes that the command had in memory at a time, in a process of its own."""
    asked = [sys.executable, "-c", PEAK, *map(str, arguments)]
    return int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def test_a_stream_that_was_stopped_goes_on_and_ends_as_it_would_have(run, trained, monkeypatch):
    """Shards that were written are not drawn again, and all bytes are those of a drawing without a stop."""
    from cbdm_cli import sample_files

    asked = ["sample", trained, "--n", 25, "--format", "shards", "--shard-size", 10, "--steps", 2]
    assert run(*asked, "--out", "whole")[0] == 0
    write, written = sample_files._write_shard, []

    def stops(target, drawn):
        if drawn.first == 20:
            raise KeyboardInterrupt
        written.append(drawn.first)
        write(target, drawn)

    monkeypatch.setitem(sample_files.STREAMS, "shards", stops)
    run(*asked, "--out", "cut")

    def goes_on(target, drawn):
        written.append(drawn.first)
        write(target, drawn)

    monkeypatch.setitem(sample_files.STREAMS, "shards", goes_on)
    code, out, _ = run(*asked, "--out", "cut")
    assert code == 0 and "25 samples (20 of them from before)" in out and written == [0, 10, 20]
    parts = []
    for whole in sorted(Path("whole").glob("*.npz")):
        one, other = np.load(whole), np.load(Path("cut") / whole.name)
        assert all(np.array_equal(one[key], other[key]) for key in one.files)
        parts.append(one)
    assert [len(part["images"]) for part in parts] == [10, 10, 5]
    assert run("sample", trained, "--n", 25, "--format", "npz", "--steps", 2, "--out", "all.npz")[0] == 0
    every = np.load("all.npz")
    assert np.abs(every["images"].astype(int) - np.concatenate([p["images"] for p in parts])).max() <= 1
    assert np.array_equal(every["labels"], np.concatenate([p["labels"] for p in parts]))


@pytest.mark.slow
def test_shards_of_eight_times_the_samples_take_no_more_memory(run, tmp_path):
    """The peaks of processes that draw 5 and 40 shards of 10 vectors of 256 KiB, of which all are 105 MB."""
    x = np.random.default_rng(0).normal(size=(8, 65_536)).astype(np.float32)
    np.savez(tmp_path / "wide.npz", images=x, labels=np.arange(8) % 2)
    trained = ["train", "--data", "wide.npz", "--steps", 1, "--batch-size", 2, "--no-evaluate", "--out", "r"]
    assert run(*trained, "--set", "network.options={width=8, depth=1}")[0] == 0
    options = ["--format", "shards", "--shard-size", 10, "--steps", 1, "--omega", 0]
    few, many = (peak("sample", "r", "--n", n, *options, "--out", str(n)) for n in (50, 400))
    assert len(list(Path("400").glob("*.npz"))) == 40
    assert many - few < 40e6


def test_a_folder_stopped_within_its_first_shard_is_gone_on_with(run, trained, monkeypatch):
    from cbdm_cli import sample_files

    asked = ["sample", trained, "--n", 6, "--format", "folder", "--steps", 2, "--out", "cut"]
    write = sample_files._write_folder

    def stops(target, drawn):
        write(target, replace(drawn, x=drawn.x[:2], labels=drawn.labels[:2]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(sample_files.STREAMS, "folder", stops)
        run(*asked)
    assert len(list(Path("cut").glob("*/*.png"))) == 2
    assert run(*asked)[0] == 0
    assert len(list(Path("cut").glob("*/*.png"))) == 6


def test_one_process_at_a_time_writes_into_a_stream(refused, trained):
    Path("s").mkdir()
    with held(Path("s"), "cbdm sample"):
        assert "already runs in s" in refused("sample", trained, "--n", 2, "--format", "folder", "--out", "s")


@pytest.mark.parametrize(
    "content",
    [
        *["[]", "[" * 9999, '{"done": 2, "request": null}', '{"done": 2, "request": []}'],
        *[f'{{"done": {done}, "request": {{"n": 4}}}}' for done in ("1e999", -2, 5, 10**30)],
    ],
)
def test_a_damaged_list_of_what_is_done_is_one_line(refused, trained, content):
    Path("s").mkdir()
    Path("s", ".sampling.json").write_text(content)
    assert ".sampling.json cannot be read" in refused("sample", trained, "--n", 4, "--format", "folder", "--out", "s")


def test_another_request_does_not_go_on_with_a_stream(run, refused, trained):
    asked = ["sample", trained, "--n", 4, "--format", "folder", "--shard-size", 2]
    assert run(*asked, "--steps", 2, "--out", "s")[0] == 0
    assert len(list(Path("s").glob("*/*.png"))) == 4
    assert "sampling.steps = 2, not 3" in refused(*asked, "--steps", 3, "--out", "s")
    assert "--shard-size" in refused("sample", trained, "--format", "shards", "--shard-size", 0)


def test_the_time_is_estimated_before_work(run, trained, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = run("sample", trained, "--n", 1200, "--steps", 3, "--dry-run", "--precision", "bf16")
    assert (
        code == 0 and "would draw 1,200 samples" in out and "3 batches of 500" in out and "nothing was written" in out
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_the_bar_moves_at_every_solver_step(trained):
    loaded = load_run(trained)
    network, sampler = loaded.network, DDIM(loaded.schedule)
    nothing = torch.zeros(5, dtype=torch.long)
    moves = list(generate_stepwise(network, sampler, nothing, loaded.shape, steps=3, seed=0, batch_size=3))
    assert [m is None for m in moves] == [True, True, True, False] * 2 and [len(moves[3]), len(moves[7])] == [3, 2]


@pytest.mark.parametrize(("first", "moves"), [(0, 6), (1, 6), (2, 3), (4, 3)])
def test_the_bar_ends_where_its_total_is(trained, monkeypatch, first, moves):
    """Five samples by three at a time and three steps; the last batch is smaller."""
    bars, progress = [], render.progress
    monkeypatch.setattr(render, "progress", lambda shown: bars.append(progress(shown)) or bars[-1])
    loaded = load_run(trained)
    config = with_sampling(validated(read_config(trained)), {"steps": 3, "batch_size": 3})
    asked = config, loaded.network, loaded.schedule, torch.zeros(5, dtype=torch.long), loaded.shape, torch.device("cpu")
    assert sum(len(x) for x in drawn_in_batches(*asked, first=first)) == 5 - first
    ((task,),) = (bar.tasks for bar in bars)
    assert task.completed == task.total == moves

"""The command line under torchrun: two processes train, resume and draw as one does."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.cli.tiny import TINY, cbdm, fingerprint, shared_classifiers

# Dropout's masks are each rank's own, so without it the losses are the same but for the order of summation.
OPTIONS = [*TINY, "--set", "network.options.dropout=0.0", "--set", "training.sample_every=2"]
OPTIONS += ["--set", "sampling.batch_size=30", "--method", "coral+cbdm:uniform"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cbdm_cli"]


def two_processes(*arguments, cwd, env):
    done = subprocess.run(
        [*LAUNCH, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def stopped_once(begun, *arguments, cwd, env):
    """Send SIGTERM to torchrun as soon as `begun` is there; gives what was printed on standard error."""
    job = subprocess.Popen(
        [*LAUNCH, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not begun.exists():
        time.sleep(0.005)
    job.send_signal(signal.SIGTERM)
    return job.communicate(timeout=120)[1]


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_with_a_spread_network_look_save_and_judge_as_one(tmp_path, tmp_path_factory):
    """Two steps spread, from other weights, then two in one process; grids, scores and the best are those of one."""
    env = {"CBDM_CACHE": str(shared_classifiers(tmp_path_factory.getbasetemp()))}
    looks = ["--set", "training.score_every=2", "--set", "training.keep_best=fid", "--set", "training.snapshot_every=2"]
    looks += [
        "--set",
        'training.averages=["power:0.1"]',
        "--set",
        "training.keep=9",
        "--set",
        "training.checkpoint_every=2",
    ]
    cbdm("train", "--steps", 2, *OPTIONS, "--no-evaluate", "--out", "first", cwd=tmp_path, check=0, env=env)
    begun = ["train", "--from", "first", *OPTIONS, *looks]
    cbdm(*begun, "--steps", 4, "--out", "one", cwd=tmp_path, check=0, env=env)
    two_processes(*begun, "--steps", 2, "--set", "training.shard=true", "--out", "two", cwd=tmp_path, env=env)
    alone = cbdm("train", "--resume", "two", "--steps", 4, cwd=tmp_path, check=2, env=env)
    assert "start it under torchrun" in alone.stderr
    whole = ["--set", "training.shard=false"]
    cbdm("train", "--resume", "two", *whole, "--steps", 4, cwd=tmp_path, check=0, env=env)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    names = [{str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} for run in (one, two)]
    assert names[0] == names[1] and "checkpoints/step-00000000/model.safetensors" in names[0]
    scores = [[json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [s["step"] for s in scores[1]] == [2, 4]
    for mine, theirs in zip(*scores, strict=True):
        assert mine["scores"]["fid"] == pytest.approx(theirs["scores"]["fid"], rel=1e-2)


@pytest.mark.slow
def test_two_processes_train_resume_and_draw_as_one(tmp_path, tmp_path_factory):
    env = {"CBDM_CACHE": str(shared_classifiers(tmp_path_factory.getbasetemp()))}
    cbdm("train", "--steps", 4, *OPTIONS, "--out", "one", cwd=tmp_path, check=0, env=env)
    two_processes("train", "--steps", 2, *OPTIONS, "--out", "two", cwd=tmp_path, env=env)
    two_processes("train", "--resume", "two", "--steps", 4, cwd=tmp_path, env=env)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    grids = [{p.name: np.asarray(Image.open(p)).astype(int) for p in (run / "grids").iterdir()} for run in (one, two)]
    assert grids[0].keys() == grids[1].keys() == {"step-00000002.png", "step-00000004.png"}
    # Of weights that differ by rounding.
    assert all(np.abs(grids[0][name] - grids[1][name]).max() <= 2 for name in grids[0])
    measured = [json.loads((run / "evaluation.json").read_text()) for run in (one, two)]
    assert measured[0]["nfe"] == measured[1]["nfe"] and measured[0]["n_samples"] == measured[1]["n_samples"]
    asked = ["sample", "one", "--number", 70, "--format", "npz"]
    cbdm(*asked, "--out", "a.npz", cwd=tmp_path, check=0)
    assert "70 samples" in two_processes(*asked, "--out", "b.npz", cwd=tmp_path, env=env)
    a, b = (np.load(tmp_path / name)["images"] for name in ("a.npz", "b.npz"))
    assert np.array_equal(a, b) and len(a) == 70
    streamed = ["sample", "one", "--number", 70, "--format", "shards", "--shard-size", 40]
    cbdm(*streamed, "--out", "a", cwd=tmp_path, check=0)
    two_processes(*streamed, "--out", "b", cwd=tmp_path, env=env)
    shards = [{p.name: p.read_bytes() for p in (tmp_path / name).glob("*.npz")} for name in ("a", "b")]
    assert shards[0] == shards[1] and len(shards[0]) == 2
    cbdm("evaluate", "one", "--omega", 0.5, cwd=tmp_path, check=0, env=env)
    (file,) = one.glob("evaluation-omega-0.5*.json")
    alone = json.loads(file.read_text())
    file.unlink()
    two_processes("evaluate", "one", "--omega", 0.5, cwd=tmp_path, env=env)
    assert json.loads(file.read_text()) == alone


@pytest.mark.slow
def test_the_papers_preset_that_two_processes_stop_and_resume_ends_bit_for_bit_the_same(cifar_roots, tmp_path):
    """With its dropout, at a tiny width, on files in CIFAR's format."""
    texts = [f"data.options.root='{cifar_roots['cifar10lt']}'", "data.options.verify=false", "data.imbalance=0.25"]
    texts += [f"network.options.{text}" for text in ("width=8", "groups=4", "multipliers=[1, 2]", "blocks=1")]
    texts += ["training.batch_size=8", "training.checkpoint_every=3", "training.log_every=1", "training.warmup=2"]
    asked = ["train", "cifar10lt-cbdm", *(word for text in texts for word in ("--set", text))]
    asked += ["--steps", 40, "--no-evaluate"]
    two_processes(*asked, "--out", "whole", cwd=tmp_path, env={})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    begun = cut / "checkpoints" / "step-00000003"
    assert "stopped by SIGTERM, saved at step" in stopped_once(begun, *asked, "--out", "cut", cwd=tmp_path, env={})
    assert not (cut / "checkpoints" / "step-00000040").exists()
    two_processes("train", "--resume", "cut", "--no-evaluate", cwd=tmp_path, env={})
    assert fingerprint(cut) == fingerprint(whole) and losses(cut) == losses(whole) and len(losses(cut)) == 40

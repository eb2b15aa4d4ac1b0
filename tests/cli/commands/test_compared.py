"""Real comparisons by `cbdm compare`: finished, cut short, extended and damaged."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from cbdm_cli.run_folder import COMPARISON_FILE, read_records
from cbdm_cli.study.job import config_of
from cbdm_cli.study.plan import READINGS, Variant, load_plan, readings_of, run_folder
from cbdm_cli.study.pool import Child
from cbdm_cli.study.summary import summarise
from tests.cli.tiny import TINY, cbdm, fingerprint, shared_classifiers

METHODS = "ddpm,cbdm:uniform"
SMALL = [*TINY, "--omega", "0,0.5", "--steps", 40]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """The suite's cache, as an environment; two threads, for the jobs to make one of."""
    shared = shared_classifiers(tmp_path_factory.getbasetemp())
    return {"CBDM_CACHE": str(shared), **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, classifiers):
    """A finished comparison of two methods with two seeds at two ω, and what the command said."""
    base = tmp_path_factory.mktemp("compared")
    options = ["--methods", METHODS, "--seeds", 2, "--jobs", 2, *SMALL, "--out", "whole"]
    done = cbdm("compare", *options, cwd=base, env=classifiers, check=0)
    return base / "whole", done


def state(folder, but=()):
    """(time of the last change, hash) of every file below the folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in but)
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files
    }


def test_a_comparison_ends_with_its_table_and_results(whole):
    folder, done = whole
    told = [line.partition(": ")[0] for line in done.stderr.splitlines()]
    assert sorted(told) == ["cbdm:uniform, seed 0", "cbdm:uniform, seed 1", "ddpm, seed 0", "ddpm, seed 1"]
    assert "2 methods × 2 paired seeds" in done.stdout and "comparison: whole" in done.stdout
    results = json.loads((folder / "results.json").read_text())
    assert results == summarise(folder, load_plan(folder)).to_dict() and results["verdict"] in done.stdout
    names = ["ddpm", "ddpm, ω_eff(t)", "ddpm, interval", "cbdm:uniform"]
    assert [row["name"] for row in results["rows"]] == names
    assert all(row["seeds"] == [0, 1] for row in results["rows"])
    for row in results["rows"]:
        assert any(line.split("  ")[1].strip() == row["name"] for line in done.stdout.splitlines() if "  " in line)
        fids = row["values"]["fid"]
        assert row["scores"]["fid"]["mean"] == pytest.approx((fids["0"] + fids["1"]) / 2, rel=1e-12)
        assert row["scores"]["fid"]["mean"] == min(point["fid"] for point in row["curve"])


def test_each_reading_says_how_it_was_made(whole):
    folder, _ = whole
    plan = load_plan(folder)
    for variant in plan.variants:
        for seed in range(2):
            there = run_folder(folder, variant, seed) / READINGS
            fids = []
            for reading in readings_of(plan, variant):
                found = json.loads((there / reading.file).read_text())
                assert (found["omega"], tuple(found["guidance_interval"])) == (reading.omega, reading.interval)
                assert (found["method"], found["seed"], found["training_step"]) == (variant.parts, seed, 40)
                # one call of the network a step: this is the NFE
                assert (found["sampler"], found["sampler_steps"]) == ("dpm++2m", 2)
                assert found["overall"]["n_samples"] == 80 and found["features"].startswith("classifier/")
                fids.append(found["overall"]["fid"])
            assert len(list(there.iterdir())) == len(fids) == len(set(fids)), "each ω must reach the sampler"


def test_the_same_seed_is_the_same_start(whole):
    """The same split, the same initial weights, and so the same loss of the first step, bit for bit."""
    from cbdm_cli.assemble import assemble

    folder, _ = whole
    plan = load_plan(folder)
    starts = []
    for seed in range(2):
        splits, weights, losses = set(), set(), set()
        for variant in plan.variants:
            made = assemble(config_of(plan, variant, seed))
            there = run_folder(folder, variant, seed)
            facts = tomllib.loads((there / "config.toml").read_text())["facts"]
            assert facts["split_hash"] == made.config.facts.split_hash
            splits.add(facts["split_hash"])
            digest = hashlib.sha256()
            for name, value in made.objective.network.state_dict().items():
                digest.update(name.encode() + value.numpy().tobytes())
            weights.add(digest.hexdigest())
            losses.add(read_records(there / "metrics.jsonl")[0]["terms"]["denoising"])
        assert (len(splits), len(weights), len(losses)) == (1, 1, 1)
        starts.append((splits, weights, losses))
    assert all(a != b for a, b in zip(*starts)), "another seed is another start"
    ends = {fingerprint(run_folder(folder, v, seed))["ema.safetensors"] for v in plan.variants for seed in range(2)}
    assert len(ends) == 4, "the methods must have trained differently"


def test_jobs_compute_with_as_many_threads_as_asked(whole):
    folder, _ = whole
    found = [json.loads(file.read_text())["threads"] for file in folder.rglob("environment.json")]
    assert found == [1, 1, 1, 1]


def test_again_nothing_is_trained(run, whole, monkeypatch):
    folder, done = whole

    def launch(*_):
        raise AssertionError("a finished job was started")

    monkeypatch.setattr(Child, "_launch", launch)
    before = state(folder / "runs")
    plan, results = ((folder / name).read_bytes() for name in (COMPARISON_FILE, "results.json"))
    code, out, err = run("compare", folder)
    assert code == 0 and not err and state(folder / "runs") == before
    assert ((folder / COMPARISON_FILE).read_bytes(), (folder / "results.json").read_bytes()) == (plan, results)
    assert json.loads(results)["verdict"] in out


@pytest.mark.slow
def test_killed_in_the_middle_and_extended_it_ends_as_if_it_had_not_been(run, whole, tmp_path, classifiers):
    """One seed, SIGTERM in the second job, then on with two seeds: bit for bit the undisturbed comparison of two."""
    folder, _ = whole
    options = ["--methods", METHODS, "--seeds", 1, "--jobs", 1, *SMALL, "--out", "cut"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "cbdm_cli", "compare", *map(str, options)],
        cwd=tmp_path, env={**os.environ, **classifiers}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    cut = tmp_path / "cut"
    second = cut / "runs" / "cbdm-uniform" / "seed-0"
    while parent.poll() is None and not (second / "metrics.jsonl").exists():
        time.sleep(0.01)
    parent.send_signal(signal.SIGTERM)
    out, err = parent.communicate(timeout=120)
    assert parent.returncode == 128 + signal.SIGTERM, err
    assert "go on with: cbdm compare cut" in out and "ddpm, seed 0: done" in err and not (cut / "results.json").exists()
    first = state(cut / "runs" / "ddpm")
    assert len(list((second / READINGS).glob("*"))) < 2, "the second job was over before it was stopped"

    code, out, err = run("compare", cut, "--seeds", 2, "--jobs", 2)
    assert code == 0, err
    for name in (COMPARISON_FILE, "results.json"):
        assert (cut / name).read_bytes() == (folder / name).read_bytes(), name
    plan = load_plan(cut)
    for variant in plan.variants:
        for seed in range(2):
            ours, theirs = run_folder(cut, variant, seed), run_folder(folder, variant, seed)
            assert fingerprint(ours) == fingerprint(theirs)
            for file in [*theirs.glob(f"{READINGS}/*"), theirs / "metrics.jsonl", theirs / "samples.png"]:
                assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes(), file
    now = state(cut / "runs" / "ddpm")
    assert {name: now[name] for name in first} == first, "a finished run is left as it was"


@pytest.mark.slow
def test_a_job_that_fails_is_told_and_the_others_finish(run, whole, tmp_path):
    """A method is added whose first run is damaged: the old runs stay as they were, its second seed is judged."""
    folder = tmp_path / "more"
    shutil.copytree(whole[0], folder)
    added = Variant(name="cbdm:null", parts="cbdm:null")
    damaged = run_folder(folder, added, 0)
    (damaged / "checkpoints" / "step-00000004").mkdir(parents=True)
    (damaged / "config.toml").write_text("seed = [")
    old = state(folder / "runs", but=["config.toml"])

    code, out, err = run("compare", folder, "--add", "cbdm:null", "--jobs", 2)
    lines = err.splitlines()
    assert code == 2 and [line for line in lines if line.startswith("cbdm: ")] == lines[-1:], err
    log = damaged.parent / "seed-0.log"
    assert lines[-1].startswith("cbdm: 1 of 6 jobs failed, first cbdm:null seed 0: ")
    assert "config.toml" in lines[-1] and str(log) in lines[-1] and "config.toml" in log.read_text()
    assert any(line.startswith("cbdm:null, seed 1: done") for line in lines)
    assert "3 methods × 2 paired seeds" in out and "No verdict: 1 paired seed," in out
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert rows["cbdm:null"]["seeds"] == [1] and rows["cbdm:uniform"]["seeds"] == [0, 1]
    now = state(folder / "runs", but=["config.toml"])
    assert {name: now[name] for name in old} == old
    assert [v.name for v in load_plan(folder).variants] == ["ddpm", "cbdm:uniform", "cbdm:null"]

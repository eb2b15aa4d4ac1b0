"""`cbdm train`: the run folder, resume, signals, a full disk."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from cbdm import load_run
from cbdm_cli import render
from cbdm_cli.config import validated
from cbdm_core import training
from cbdm_core.run_config import read_config
from tests.cli.tiny import TINY, UNJUDGED, cbdm, fingerprint, one_line


def test_a_run_leaves_everything_a_reader_needs(run, tmp_path):
    code, out, err = run("train", "--steps", 8, *TINY)
    assert code == 0, err
    folder = tmp_path / "runs" / "digits-lt-001"
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "config.toml", "environment.json", "metrics.jsonl", "checkpoints", "samples.png", "loss.svg", "evaluation.json",
    }  # fmt: skip
    assert "ω = 1" in out and "class 9" in out and "tail" in out
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["facts"]["counts"] == [174, 112, 72, 47, 30, 19, 12, 8, 5, 3]
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["omega"] == "1" and len(result["classes"]) == 10
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 9))
    assert set(records[0]["terms"]) == {"denoising", "balancing"}


def test_runs_are_numbered_and_a_folder_in_use_is_refused(run, refused, tmp_path):
    assert run("train", "--steps", 1, *TINY)[0] == 0
    assert run("train", "--steps", 1, *TINY)[0] == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["digits-lt-001", "digits-lt-002"]
    line = refused("train", "--steps", 1, *TINY, "--out", "runs/digits-lt-001")
    assert "not empty" in line and "--resume" in line


def test_the_same_command_gives_the_same_bytes(run, tmp_path):
    for name in ("a", "b"):
        assert run("train", "--steps", 3, *TINY, "--out", name)[0] == 0
    for file in ("config.toml", "metrics.jsonl", "samples.png", "loss.svg", "evaluation.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


@pytest.mark.parametrize(
    ("method", "precision"), [("cbdm:null", "fp32"), ("cbdm:training+resample:uniform", "fp32"), ("cbdm:null", "bf16")]
)
def test_resume_is_bit_identical_to_an_uninterrupted_run(run, tmp_path, method, precision):
    assert run("train", "--steps", 8, "--method", method, "--precision", precision, *TINY, "--out", "whole")[0] == 0
    assert run("train", "--steps", 3, "--method", method, "--precision", precision, *UNJUDGED, "--out", "parts")[0] == 0
    assert run("train", "--resume", "parts", "--steps", 8)[0] == 0
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    for file in ("metrics.jsonl", "samples.png", "config.toml"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_saves_first_and_resume_completes_identically(run, tmp_path, cache, number):
    assert run("train", "--steps", 60, *UNJUDGED, "--out", "whole")[0] == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "cbdm_cli", "train", "--steps", "60", *TINY, "--out", "cut off"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = tmp_path / "cut off" / "metrics.jsonl"
    while child.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        pass
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    assert "saved at step" in err
    again = shlex.split(err.strip().rpartition("continue with: cbdm ")[2])
    assert again == ["train", "--resume", "cut off"] and run(*again, "--no-evaluate")[0] == 0
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "cut off")


def test_a_disk_that_fills_leaves_the_earlier_checkpoint(run, tmp_path, cache):
    assert run("train", "--steps", 4, *UNJUDGED, "--out", "full")[0] == 0
    before = fingerprint(tmp_path / "full")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    line = one_line(cbdm("train", "--resume", "full", "--steps", 8, cwd=tmp_path, before=limit))
    assert "cannot write" in line and "intact" in line
    assert fingerprint(tmp_path / "full") == before
    assert not list((tmp_path / "full").rglob(".writing-*"))
    assert run("train", "--resume", "full", "--steps", 8, "--no-evaluate")[0] == 0


def test_no_space_is_told_with_the_mend(run, refused, tmp_path, monkeypatch):
    import errno

    import cbdm_core.checkpoint as checkpoint

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    line = refused("train", "--steps", 1, *TINY, "--out", "here")
    assert "the disk is full" in line and "--out" in line
    assert (tmp_path / "here" / "metrics.jsonl").read_text()


def test_a_diverging_loss_names_step_labels_and_the_last_good_checkpoint(refused, tmp_path):
    line = refused(
        "train", "--steps", 60, *TINY, "--out", "nan", "--set", "training.learning_rate=1e30",
        "--set", "training.checkpoint_every=1",
    )  # fmt: skip
    assert "batch labels [" in line and " at step " in line and "nan/checkpoints/step-" in line
    good = sorted((tmp_path / "nan" / "checkpoints").iterdir())[-1]
    assert str(good.name) in line


def test_resume_with_another_configuration_is_refused(run, refused):
    assert run("train", "--steps", 2, *UNJUDGED, "--out", "r")[0] == 0
    assert "method.cbdm.tau = 1.0, not 3.0" in refused("train", "--resume", "r", "--tau", 3)
    assert "method = 'cbdm:null', not 'ddpm'" in refused("train", "--resume", "r", "--method", "ddpm")
    line = refused("train", "mixture-lt", "--resume", "r")
    assert "was trained with data" in line and "leave out what sets it, which a preset does too" in line
    assert "2 steps done already" in refused("train", "--resume", "r", "--steps", 1)
    assert "leave out --out" in refused("train", "--resume", "r", "--out", "x")
    assert "no run folder" in refused("train", "--resume", "nowhere")
    # Runs of before it was a setting have not said it, and it changes nothing of the training.
    code, _, err = run("train", "--resume", "r", "--set", "training.fine_tunes=true", "--steps", 3, "--no-evaluate")
    assert code == 0, err


def test_a_run_of_version_0_1_goes_on_bit_for_bit(run, tmp_path):
    for name in ("new", "old"):
        assert run("train", "--steps", 2, *UNJUDGED, "--tau", 0.5, "--out", name)[0] == 0
    file = tmp_path / "old" / "config.toml"
    table = tomllib.loads(file.read_text())
    options = {"cbdm": {"draws": 1, "fraction": 1.0}}
    table["method"] = {"parts": "cbdm:null", "tau": 0.5, "gamma": 0.25, "time_weight": "linear", "options": options}
    file.write_text(tomli_w.dumps(table))
    for name in ("new", "old"):
        assert run("train", "--resume", name, "--steps", 4, "--no-evaluate")[0] == 0
    assert fingerprint(tmp_path / "old") == fingerprint(tmp_path / "new")
    assert load_run(tmp_path / "old").laws.keys() == {"training", "cbdm"}


@pytest.mark.parametrize("bars", [False, True])
def test_the_log_of_a_job_says_how_far_it_is(run, tmp_path, monkeypatch, bars):
    """A line for each checkpoint where no bar is seen, none without steps; the loss is that of the records."""
    monkeypatch.setattr(render, "has_bars", lambda: bars)
    every = [f"--set=training.{name}=2" for name in ("checkpoint_every", "log_every")]
    assert run("train", "--steps", 4, *UNJUDGED, *every, "--out", "r 1")[0] == 0
    code, out, err = run("train", "--resume", "r 1", "--steps", 6, "--no-evaluate")
    assert code == 0 and (bars or err == ""), err
    loss = json.loads((tmp_path / "r 1" / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    told = ["training from step 4 to 6; to look on: cbdm watch 'r 1'", f"step 6 of 6 saved, loss {loss:.4f}"]
    assert out.splitlines()[: 0 if bars else 2] == ([] if bars else told)
    assert ("saved" in out) is not bars
    code, out, _ = run("train", "--resume", "r 1", "--no-evaluate")
    assert code == 0 and "training from" not in out


def test_dry_run_writes_nothing(run, tmp_path):
    code, out, _ = run("train", "--dry-run", "--steps", 8, *TINY)
    assert code == 0 and "nothing was written" in out and "GFLOP" in out and 'part = "cbdm"\nlaw = "null"' in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "nfe"), [([], 4), (["sampling.omega='0'"], 2), (["sampling.interval=[0,0.6]"], 3)])
def test_dry_run_tells_the_evaluations_that_a_run_then_takes(run, tmp_path, options, nfe):
    """Guidance doubles them, at ω = 0 it does not, and of steps at t = 1 and 0.5 the interval guides the second."""
    words = ["train", "--steps", 1, *TINY, *(word for text in options for word in ("--set", text))]
    code, out, _ = run(*words, "--dry-run")
    assert code == 0 and f"evaluation: 80 samples of {nfe} network evaluations each: " in out
    assert run(*words, "--out", "r")[0] == 0
    assert json.loads((tmp_path / "r" / "evaluation.json").read_text())["nfe"] == nfe


def test_dry_run_without_evaluation_tells_no_time_of_it(run):
    code, out, _ = run("train", "--steps", 1, "--dry-run", "--no-evaluate", *TINY)
    assert code == 0 and "all steps: " in out and "evaluation: " not in out


def test_methods_and_laws_reach_the_run(run, tmp_path):
    for number, (options, parts) in enumerate([
        (["--method", "ddpm"], "ddpm"),
        (["--prior", "training"], "cbdm:training"),
        (["--prior", "power:0.5", "--tau", "0.3", "--gamma", "0"], "cbdm:power:0.5"),
        (["--method", "cbdm:training+resample:uniform"], "cbdm:training+resample:uniform"),
        (["--method", "reweight", "--prior", "balanced:0.999"], "reweight:balanced:0.999"),
        (["--method", "resample"], "resample"),
    ]):  # fmt: skip
        code, out, err = run("train", "--steps", 1, *UNJUDGED, *options, "--out", f"m{number}")
        assert code == 0, err
        assert validated(read_config(tmp_path / f"m{number}")).method_text == parts
    assert load_run(tmp_path / "m5").laws["resample"].probs.max() < 0.11


def test_load_run_gives_the_averaged_network_and_its_laws(run, tmp_path):
    assert run("train", "--steps", 2, *UNJUDGED, "--out", "r")[0] == 0
    loaded = load_run(tmp_path / "r")
    assert loaded.step == 2 and loaded.shape == (1, 8, 8) and set(loaded.laws) == {"training", "cbdm"}
    assert loaded.schedule.domain == (0.001, 1.0) and loaded.config["seed"] == 0

    ema = load_file(tmp_path / "r" / "checkpoints" / "step-00000002" / "ema.safetensors")
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, ema[name])


def test_a_third_party_law_is_found_by_name(tmp_path, cache):
    package = tmp_path / "site"
    info = package / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cbdm.priors]\ntheirs = theirs_law:Squared\n")
    (package / "theirs_law.py").write_text(
        "from cbdm import CountLaw\n\n\nclass Squared(CountLaw):\n"
        "    def log_weights(self, counts):\n        return 2 * counts.log()\n"
    )
    env = {"PYTHONPATH": str(package)}
    cbdm("train", "--prior", "theirs", "--steps", 1, *UNJUDGED, "--out", "r", cwd=tmp_path, env=env, check=0)
    assert tomllib.loads((tmp_path / "r" / "config.toml").read_text())["facts"]["laws"] == {"cbdm": "theirs"}
    table = cbdm("priors", "--law", "theirs", cwd=tmp_path, env=env, check=0).stdout
    assert "theirs" in table


def test_the_penalty_of_the_guide_is_a_part_of_a_method(tmp_path, cache):
    """Registered as the guide says; the same without `needs` is told what it lacks."""
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "own-parts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    penalty = next(block for block in blocks if "class ToLaw" in block).partition("\nrows = ")[0]
    info = tmp_path / "site" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cbdm.adjustments]\nto_law = mine:ToLaw\nbare = mine:Bare\n")
    bare = "\n\nclass Bare(ToLaw):\n    needs = ()\n"
    (info.parent / "mine.py").write_text(f"import torch\n{penalty}{bare}", encoding="utf-8")
    paths = filter(None, (str(info.parent), os.environ.get("PYTHONPATH")))
    told = {"cwd": tmp_path, "env": {"PYTHONPATH": os.pathsep.join(paths)}}
    method = ("--method", "to_law:uniform", "--set", "method.to_law.strength=0.5")
    cbdm("train", *method, "--steps", 1, *UNJUDGED, "--out", "r", check=0, **told)
    assert tomllib.loads((tmp_path / "r" / "config.toml").read_text())["method"][0]["strength"] == 0.5
    for text in ("bare", "bare:uniform"):
        refused = cbdm("train", "--method", text, "--steps", 1, *UNJUDGED, "--out", "r2", check=2, **told).stderr
        assert 'needs = ("target",)' in refused.replace("'", '"')


def test_vectors_train_too(run, tmp_path):
    code, out, err = run(
        "train", "mixture-lt", "--steps", 3, "--out", "v", "--set", "data.options.per_class=50", "--set",
        "data.imbalance=0.1", "--set", "evaluation.per_class=10", "--set", "sampling.steps=2",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "v" / "samples.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_mixture_preset_ends_near_its_data(run, tmp_path):
    """A network that says ε under the cosine schedule would end at a distance of thousands."""
    code, _, err = run("train", "mixture-lt", "--steps", 300, "--out", "m", "--set", "evaluation.per_class=50")
    assert code == 0, err
    assert json.loads((tmp_path / "m" / "evaluation.json").read_text())["overall"]["fid"] < 100


def test_torchrun_trains_one_run_as_one_process_does(run, tmp_path, cache):
    """Two ranks over gloo write one folder; without dropout only the order of summation differs."""
    options = [*TINY, "--steps", "3", "--set", "network.options.dropout=0"]
    assert run("train", *options, "--out", "one")[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cbdm_cli"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "train", *options, "--out", "two"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-5) and len(two) == 3
    assert (tmp_path / "two" / "evaluation.json").exists()


def test_training_alone_is_judged_later_with_the_same_numbers(run, tmp_path):
    """`--no-evaluate` leaves weights, records and curves; going on then finds what a whole run finds."""
    assert run("train", "--steps", 3, *TINY, "--out", "whole")[0] == 0
    code, out, _ = run("train", "--steps", 3, *TINY, "--out", "bare", "--no-evaluate")
    assert code == 0 and out.count("run folder:") == 1 and "to sample and judge it: cbdm train --resume bare" in out
    bare = tmp_path / "bare"
    assert (bare / "loss.svg").exists() and not (bare / "evaluation.json").exists()
    assert not (bare / "samples.png").exists()
    assert "finished, not evaluated" in run("watch", "bare")[1]
    assert run("train", "--resume", "bare")[0] == 0
    assert (bare / "samples.png").read_bytes() == (tmp_path / "whole" / "samples.png").read_bytes()
    whole, later = ((tmp_path / name / "evaluation.json").read_text() for name in ("whole", "bare"))
    assert whole == later and "finished and evaluated" in run("watch", "bare")[1]


def test_what_judges_on_the_way_is_looked_for_without_an_evaluation_too(refused, tmp_path):
    asked = ["--set", "training.score_every=1", "--set", "evaluation.features=nonsense"]
    assert "nonsense" in refused("train", "--steps", 3, *TINY, *asked, "--no-evaluate", "--out", "r")
    assert not (tmp_path / "r").exists()


def test_a_name_of_a_launch_may_be_used_again(run, tmp_path, monkeypatch):
    """A run of the same name is gone on with where it has the same settings and no end, and is left alone else."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "nightly")
    asked = ["train", "--steps", 2, *TINY]
    for seed, number in ((0, 1), (1, 2), (0, 3)):
        assert run(*asked, "--seed", seed)[0] == 0
        assert (tmp_path / "runs" / f"digits-lt-{number:03d}" / "evaluation.json").exists()
    (tmp_path / "runs" / "digits-lt-003" / "evaluation.json").unlink()
    assert run(*asked)[0] == 0
    assert (tmp_path / "runs" / "digits-lt-003" / "evaluation.json").exists()
    assert not (tmp_path / "runs" / "digits-lt-004").exists()


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_runs_the_command(tmp_path):
    root = Path(__file__).parents[3]
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt"]
    subprocess.run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "dist", root], check=True)
    subprocess.run([*pip, *(tmp_path / "dist").glob("*.whl")], check=True)
    (tmp_path / "empty").mkdir()
    command = [tmp_path / "venv" / "bin" / "cbdm", "train", "--steps", "20"]
    done = subprocess.run(
        command, cwd=tmp_path / "empty", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "runs" / "digits-lt-001" / "evaluation.json").exists()


@pytest.mark.gpu
def test_the_main_job_runs_on_a_gpu(run, tmp_path):
    assert run("train", "--steps", 4, "--device", "cuda", "--precision", "bf16", *TINY, "--out", "gpu")[0] == 0
    assert json.loads((tmp_path / "gpu" / "environment.json").read_text())["device"].startswith("cuda")


def test_an_augmented_run_resumes_bit_identically_and_samples(run, tmp_path):
    augmented = ("--set", "data.augment=0.5", "--set", "data.augment_parts=['flip_x', 'scale', 'rotate']")
    for out, steps in (("whole", 4), ("parts", 2)):
        assert run("train", "--steps", steps, *TINY, *augmented, "--out", out)[0] == 0
    assert run("train", "digits-lt", "--resume", "parts", "--steps", 4, *TINY, *augmented)[0] == 0
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    assert read_config(tmp_path / "whole")["network"]["options"]["augmentations"] == 4
    assert load_run(tmp_path / "whole").network.state_dict()["augment.project.weight"].any()
    assert run("sample", "whole", "--n", 2, "--steps", 2)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mixture-lt",), "takes no augmentation vector"),
        (("digits-lt", "--set", "network.options.augmentations=3"), "told in 9 numbers"),
        (("digits-lt", "--set", "data.augment_parts=['hue']"), "needs 3 channels"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused(refused, arguments, words):
    assert words in refused("train", *arguments, "--set", "data.augment=0.1")


@pytest.mark.parametrize(
    ("tf32", "determinism", "switches"),
    [
        ("true", "off", (True, True, False, True, False)),
        ("false", "cudnn", (False, False, True, False, False)),
        ("false", "full", (False, False, True, False, True)),
    ],
)
def test_the_switches_of_numbers_stand_inside_a_step(run, monkeypatch, tf32, determinism, switches):
    cudnn, matmul, found, step = torch.backends.cudnn, torch.backends.cuda.matmul, [], training._backward

    def looked_at(*arguments):
        strict = torch.are_deterministic_algorithms_enabled()
        found.append((cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark, strict))
        return step(*arguments)

    monkeypatch.setattr(training, "_backward", looked_at)
    asked = ["--set", f"training.tf32={tf32}", "--set", f"training.determinism={determinism}"]
    code, _, err = run("train", "--steps", 2, *UNJUDGED, *asked)
    assert code == 0 and found == [switches] * 2, err

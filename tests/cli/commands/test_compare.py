"""`cbdm compare` without training: mistakes, which jobs are begun and when, and signals."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cbdm_cli.commands import compare
from cbdm_cli.config import validated
from cbdm_cli.locking import LOCK, held
from cbdm_cli.overlay import load_config
from cbdm_cli.run_folder import COMPARISON_FILE
from cbdm_cli.study import pool
from cbdm_cli.study.job import config_of, job_command
from cbdm_cli.study.plan import (
    READINGS,
    Plan,
    Variant,
    load_plan,
    readings_of,
    run_folder,
    save_plan,
    variants_of,
)
from cbdm_cli.study.pool import Child
from cbdm_core.errors import CbdmError
from tests.cli.tiny import TINY

# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--omega", "0.5"], "--one-omega if you mean it"),
        (["--omega", "0.5,0.5"], "--one-omega if you mean it"),
        (["--omega", "much,1"], "allowed are a number"),
        (["--omega", "nan,1"], "allowed are a number"),
        (["--set", "training.fine_tunes=true"], "training.fine_tunes is true for digits-lt"),
        (["--methods", "ddpm,cbmd"], "did you mean 'cbdm'?"),
        (["--methods", "ddpm,cbdm:unifrom"], "did you mean 'uniform'?"),
        (["--methods", "ddpm,ddpm"], "'ddpm' twice"),
        (["--methods", "ddpm,cbdm,cbdm:null", "--priors", "null"], "'cbdm:null' twice"),
        (["--methods", "ddpm", "--priors", "null"], "no method leaves its law open"),
        (["--methods", "ddpm,shrink", "--tau", "1"], "no method has that part"),
        (["--priors", "fixed:0.5,0.5"], "one number per class, 10"),
        (["--tau", "0.1,x"], "strengths are numbers"),
        (["--tau", "0.1,-1"], "tau must be a number of 0 or more, got -1.0"),
        (["--tau", "nan"], "tau must be a number of 0 or more, got nan"),
        (["--seeds", "0"], "--seeds 0: it must be 1 or more"),
        (["--steps", "0"], "--steps 0: it must be 1 or more"),
        (["--jobs", "0"], "--jobs 0 --threads 1: both must be 1 or more"),
        (["--threads", "-1"], "--jobs 2 --threads -1: both must be 1 or more"),
        (["--jobs", "many"], "Invalid value for '--jobs'"),
        (["--add", "cbdm"], "goes with the folder of a comparison"),
        (["--data", "gone.npz"], "gone.npz is not there"),
        (["--data", ""], "the path of the data is empty"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--set", "training.step=3"], "did you mean 'steps'?"),
        (["--set", "sampling.sampler=dimm"], "did you mean 'ddim'?"),
        (["--set", "network.options.groups=7"], "not divisible"),
        (["--set", "evaluation.features=clasifier"], "did you mean 'classifier'?"),
        (["--set", "evaluation.features=torchscript:no.pt"], "no.pt"),
        (["--set", "evaluation.features=no_such:map"], "No module named 'no_such'"),
        (["--set", "evaluation.reference=held-out", "--set", "data.profile=none"], "training has seen every example"),
        (["digit-lt"], "did you mean 'digits-lt'?"),
        (["nowhere/here"], "mixture-lt; or the folder of a comparison, to go on with it"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(refused, tmp_path, arguments, words):
    assert words in refused("compare", *arguments)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_a_path_that_is_no_comparison_is_told_how(refused, run, tmp_path):
    """The command that a file of data is told plans a comparison of them; a run is no comparison."""
    labels = np.arange(40) % 2
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 1, 8, 8), np.uint8), labels=labels)
    told = refused("compare", "a.npz")
    assert "a.npz is neither a preset nor the folder of a comparison: methods are compared on data of your own" in told
    command = shlex.split(told.partition("by cbdm ")[2])
    options = ["--methods", "ddpm,cbdm", "--launcher", "commands", "--out", "c"]
    assert run(*command, *options)[1].startswith("# 10 of 10 jobs are open")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.toml").touch()
    assert "it is a run; a comparison trains its own" in refused("compare", "r")


def test_data_of_ones_own_are_compared_on_what_suits_them_or_on_a_preset(run, tmp_path, monkeypatch):
    """The plan holds all that its jobs need, wherever they are run; settings and steps go before what suits."""
    labels = np.arange(40) % 4 // 3
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 1, 8, 8), np.uint8), labels=labels)
    common = ["--methods", "ddpm,cbdm", "--launcher", "commands", "--data", "a.npz"]
    options = [*common, "--steps", 30, "--set", "training.batch_size=5", "--set", "network.options.width=16"]
    assert run("compare", *options, "--out", "c")[0] == 0
    assert run("compare", "mixture-lt", *common, "--set", "network.name=unet", "--out", "d")[0] == 0
    plans = [load_plan(tmp_path / name) for name in ("c", "d")]
    assert [plan.preset for plan in plans] == ["custom", "mixture-lt"]
    monkeypatch.chdir("/")
    own, over = (config_of(plan, plan.variants[1], 3) for plan in plans)
    assert own.data.options == over.data.options == {"path": str(tmp_path / "a.npz")}
    assert (own.data.profile, own.evaluation.reference, own.seed) == ("none", "training", 3)
    assert (own.training.steps, own.training.batch_size, own.network.options["width"]) == (30, 5, 16)
    assert own.network.options["multipliers"] == [1, 2] and [part.name for part in own.method] == ["cbdm"]
    assert over.training.steps == validated(load_config("mixture-lt")).training.steps


@pytest.fixture
def planned(tmp_path):
    """The folder `c` of a comparison of which nothing has run yet."""
    (tmp_path / "c").mkdir()
    variants = variants_of(["ddpm", "cbdm:uniform"], [], [])
    settings = tuple(TINY[1::2])
    save_plan(
        tmp_path / "c",
        Plan(preset="digits-lt", settings=settings, steps=40, seeds=2, omegas=("0", "0.5"), variants=variants),
    )
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "9"], "--steps: the comparison c has its own"),
        (["--methods", "ddpm"], "--methods: the comparison c has its own"),
        (["--omega", "0,1"], "--omega: the comparison c has its own"),
        (["--set", "seed=1"], "--set: the comparison c has its own"),
        (["--out", "d"], "--out: the comparison c has its own"),
        (["--data", "a.npz"], "--data: the comparison c has its own"),
        (["--seeds", "1"], "--seeds 1: the comparison has 2 already"),
        (["--seeds", "0"], "--seeds 0: the comparison has 2 already"),
        (["--add", "ddpm"], "'ddpm' twice"),
        (["--add", "cbmd"], "did you mean 'cbdm'?"),
        (["--add", "cbdm:unifrom"], "did you mean 'uniform'?"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_a_mistake_in_going_on_changes_nothing(refused, planned, arguments, words):
    before = (planned / COMPARISON_FILE).read_bytes()
    assert words in refused("compare", "c", *arguments)
    assert [p.name for p in planned.iterdir()] == [COMPARISON_FILE]
    assert (planned / COMPARISON_FILE).read_bytes() == before
    assert [p.name for p in planned.parent.iterdir()] == ["c"]


def test_a_comparison_that_fine_tunes_is_gone_on_with(run, planned):
    """It is not begun, but one that was there before goes on as it was asked for."""
    plan = load_plan(planned)
    save_plan(planned, plan.model_copy(update={"settings": (*plan.settings, "training.fine_tunes=true")}))
    code, out, err = run("compare", "c", "--launcher", "commands")
    assert code == 0 and out.count("cbdm_cli.study.job") == 4, err


def test_two_at_once_in_one_folder(refused, planned):
    """The second is refused in a line while the first is there, also from this process, and not after it has gone."""
    with held(planned, "cbdm compare"):
        assert "cbdm compare already runs in c, as process" in refused("compare", "c", "--add", "t2h")
    with held(planned, "cbdm compare"):
        pass
    assert [p.name for p in planned.iterdir()] == [COMPARISON_FILE]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "; restore it"),
        (b'{"preset": ', "; restore it"),
        (b"\xff\xfe", "; restore it"),
        (b"[]", "is no plan of a comparison"),
        (b'{"preset": "digits-lt", "variants": [{"name": "ddpm"}]}', "variants.0.parts: Field required"),
        (b'{"preset": "digits-lt", "variants": [], "seeds": 0}', "seeds: Input should be greater than or equal to 1"),
        (
            b'{"preset": "digits-lt", "variants": [{"name": "a", "parts": "ddpm"}], "seed": 3}',
            "seed: Extra inputs are not permitted",
        ),
    ],
)
def test_a_damaged_plan_is_named(refused, planned, text, words):
    (planned / COMPARISON_FILE).write_bytes(text)
    line = refused("compare", "c")
    assert words in line and f"c/{COMPARISON_FILE}" in line
    assert (planned / COMPARISON_FILE).read_bytes() == text


def test_a_folder_that_is_no_comparison(tmp_path):
    with pytest.raises(CbdmError, match=r"it has no compare\.json"):
        load_plan(tmp_path)


def test_a_folder_in_use_is_left_alone(refused, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    line = refused("compare", *TINY, "--omega", "0,0.5", "--steps", 40, "--out", "there")
    assert "there is not empty" in line and "--resume" not in line
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["file"]


# The jobs, without training


def test_a_job_that_runs_elsewhere_is_left_to_it(run, planned, monkeypatch):
    """Its lock names a process of another host: it is told so, is neither failed nor waiting, and is not begun."""
    begun = []
    monkeypatch.setattr(Child, "_launch", lambda child, _: begun.append(child.name) or subprocess.Popen(["true"]))
    monkeypatch.setattr(pool, "_POLL", 0.01)
    place = run_folder(planned, load_plan(planned).variants[0], 0)
    place.mkdir(parents=True)
    (place / LOCK).write_text(json.dumps({"host": "node7", "pid": 12, "since": "1"}))
    code, out, err = run("compare", "c")
    told = (
        "1 of 4 jobs are not done yet, ddpm, seed 0 runs elsewhere, as process 12 on node7; after them: cbdm compare c"
    )
    assert code == 0 and told in " ".join(out.split()), out + err
    assert begun == ["cbdm:uniform, seed 0", "ddpm, seed 1", "cbdm:uniform, seed 1"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_seed_by_seed_and_no_more_at_a_time_than_asked(run, planned, monkeypatch, jobs):
    begun, running = [], []

    def launch(child, threads):
        running[:] = [process for process in running if process.poll() is None]
        running.append(subprocess.Popen(["sleep", "0.1"]))
        begun.append((child.name, len(running)))
        return running[-1]

    monkeypatch.setattr(Child, "_launch", launch)
    monkeypatch.setattr(pool, "_POLL", 0.01)
    assert run("compare", "c", "--jobs", jobs)[0] == 0
    assert [name for name, _ in begun] == [
        f"{name}, seed {seed}" for seed in (0, 1) for name in ("ddpm", "cbdm:uniform")
    ]
    assert max(there for _, there in begun) == jobs


def test_readings_are_named_and_not_counted(run, planned, monkeypatch):
    """Another τ has as many readings with other names: a judged model is judged again at those it lacks."""
    plan, begun = load_plan(planned), []
    for variant in plan.variants:
        for seed in range(plan.seeds):
            path = run_folder(planned, variant, seed)
            (path / READINGS).mkdir(parents=True)
            (path / "evaluation.json").write_text("{}")
            for reading in readings_of(plan, variant):
                (path / READINGS / reading.file).write_text('{"overall": {"fid": 1}}')

    def launch(child, threads):
        begun.append(child.name)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(Child, "_launch", launch)
    monkeypatch.setattr(pool, "_POLL", 0.01)
    assert run("compare", "c")[0] == 0 and begun == []
    save_plan(planned, plan.model_copy(update={"settings": (*plan.settings, "method.tau=0.3")}))
    assert run("compare", "c")[0] == 0 and begun == ["ddpm, seed 0", "ddpm, seed 1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_too(run, planned, monkeypatch, number):
    """A job that outlived the comparison would write into a run that the next one continues."""
    children = []

    def launch(child, threads):
        children.append(subprocess.Popen(["sleep", "60"]))
        if len(children) == 2:
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        return children[-1]

    monkeypatch.setattr(Child, "_launch", launch)
    before = signal.getsignal(number)
    code, out, _ = run("compare", "c", "--jobs", 2)
    assert code == 128 + number and "go on with: cbdm compare c" in out
    assert [child.returncode for child in children] == [-signal.SIGTERM, -signal.SIGTERM]
    assert signal.getsignal(number) == before


def test_a_job_that_cannot_be_started_is_told(run, planned):
    (planned / "runs").write_text("in the way")
    code, _, err = run("compare", "c", "--jobs", 2)
    lines = err.splitlines()
    assert code == 2 and len([line for line in lines if "failed: it could not be started" in line]) == 4, err
    assert lines[-1].startswith("cbdm: 4 of 4 jobs failed, first ddpm seed 0: it could not be started")
    assert "go on with: cbdm compare c" in lines[-1] and (planned / "runs").read_text() == "in the way"


@pytest.mark.parametrize("ours", [False, True])
def test_a_job_imports_from_the_current_directory_only_where_its_parent_does(tmp_path, monkeypatch, ours):
    """As `python -m cbdm_cli` does, and the script `cbdm` does not."""
    (tmp_path / "shutil.py").write_text("open('marker', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*([str(tmp_path)] if ours else []), *(p for p in sys.path if p)])
    arguments = job_command(tmp_path / "none", Variant(name="ddpm", parts="ddpm"), 0, "cpu")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (tmp_path / "marker").exists() == ours, done.stderr
    if not ours:
        assert done.returncode == 2 and "none is no comparison" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_folder_called_as_a_preset_is_none_but_with_its_place(asked, run, planned, monkeypatch):
    """The bare name, which is also what stands where nothing is given, is the preset's; the mend has the place too."""
    planned.rename(planned.parent / "digits-lt")
    for arguments in ([], ["digits-lt"]):
        plan, _, _ = asked(*arguments)
        assert [v.name for v in plan.variants] == ["ddpm", "cbdm"] and plan.seeds == 5

    def launch(*_):
        raise OSError("no job in this test")

    monkeypatch.setattr(Child, "_launch", launch)
    for place in ("./digits-lt", "digits-lt/"):
        code, _, err = run("compare", place)
        assert code == 2 and "4 of 4 jobs failed" in err and err.endswith("go on with: cbdm compare ./digits-lt\n"), err


@pytest.mark.parametrize(
    ("done", "seconds", "told"),
    [
        (1.0, 60, "1 of 2 jobs done, about 60 s left"),
        (1.99, 60, "1 of 2 jobs done, about 1 s left"),
        (1.0, 9000, "1 of 2 jobs done, about 2.5 h left"),
        (0.01, 60, "0 of 2 jobs done, time left not known yet"),
        (2.0, 60, "2 of 2 jobs done"),
    ],
)
def test_the_time_left_is_told_in_words_and_not_once_all_is_done(monkeypatch, done, seconds, told):
    monkeypatch.setattr(compare.time, "monotonic", lambda: seconds)
    shares = [min(done, 1.0), max(done - 1, 0.0)]
    jobs = [
        SimpleNamespace(
            child=SimpleNamespace(state="done" if share == 1 else "running"),
            elsewhere=lambda: False,
            progress=lambda share=share: share,
        )
        for share in shares
    ]
    assert compare._time_left(jobs, 0, {id(job): 0.0 for job in jobs}) == told


@pytest.mark.parametrize(
    ("end", "step"),
    [
        ("", 40),
        ('{"step": 50, "lo', 40),
        ("[1]\n", 40),
        ("null\n", 40),
        ("[" * 5000, 40),
        ('{"step": 1e999, "loss": 1.0}\n', 40),
        ('{"step": 50, "loss": 1.0, "laws": {"learned": [' + "0.0123456789, " * 1000 + "0.5]}}\n", 50),
    ],
)
def test_a_jobs_step_is_that_of_its_last_whole_record(tmp_path, end, step):
    (tmp_path / "metrics.jsonl").write_text('{"step": 40, "loss": 1.0}\n' + end)
    assert job_at(tmp_path)._step() == step


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: None])
def test_a_job_without_a_file_of_records_has_done_no_step(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    assert job_at(tmp_path)._step() == 0


def job_at(path):
    ddpm = Variant(name="ddpm", parts="ddpm")
    return compare._Job(ddpm, 0, path, Plan(preset="digits-lt", variants=(ddpm,)), 100, Child("", [], path / "log"))

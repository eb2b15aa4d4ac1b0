"""Kills, orphans, damage and hostile names, with the command itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cbdm_cli.locking import LOCK
from cbdm_cli.study.orphans import PARENT
from cbdm_cli.study.plan import Variant
from cbdm_core.writing import WRITING
from tests.cli.tiny import TINY, cbdm, fingerprint

SMALL = ("train", "mixture-lt", "--steps", 6, *TINY[10:], "--no-evaluate")  # what is drawn is no matter of these


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps, never interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    cbdm(*SMALL, "--out", "r", cwd=folder, check=0)
    return folder / "r"


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def test_a_run_without_a_checkpoint_resumes_from_step_0(run, trained, tmp_path):
    """What a kill before the first checkpoint leaves; it ends as the run that was never stopped."""
    run(*SMALL, "--out", "r")
    for path in (tmp_path / "r").iterdir():
        if path.name not in ("config.toml", "environment.json", "metrics.jsonl"):
            subprocess.run(["rm", "-r", str(path)], check=True)
    (tmp_path / "r" / f"{WRITING}99-config.toml").write_text("half")
    assert run("train", "--resume", "r", "--no-evaluate")[0] == 0
    assert fingerprint(tmp_path / "r") == fingerprint(trained)
    assert not list((tmp_path / "r").glob(f"{WRITING}*")) and not (tmp_path / "r" / LOCK).exists()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, trained, tmp_path):
    subprocess.run(["cp", "-r", str(trained), str(tmp_path / "r")], check=True)
    weights = newest(tmp_path / "r") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    code, out, _ = run("train", "--resume", "r", "--no-evaluate")
    assert code == 0 and "is damaged" in out and "going on from step-00000004 instead" in " ".join(out.split())
    assert fingerprint(tmp_path / "r") == fingerprint(trained)


def test_where_no_checkpoint_is_whole_it_is_refused(refused, trained, tmp_path):
    subprocess.run(["cp", "-r", str(trained), str(tmp_path / "r")], check=True)
    for checkpoint in (tmp_path / "r" / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("[" * 5000)
    assert "no checkpoint in r/checkpoints is whole" in refused("train", "--resume", "r")


def test_strange_names_are_no_checkpoints(run, trained, tmp_path):
    subprocess.run(["cp", "-r", str(trained), str(tmp_path / "r")], check=True)
    (tmp_path / "r" / "checkpoints" / "step-zzz").mkdir()
    assert run("train", "--resume", "r", "--no-evaluate")[0] == 0


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", ".", "..", "", "x" * 65, "a\nb"])
def test_no_name_leads_out_of_the_folder(refused, tmp_path, name):
    (tmp_path / "c.toml").write_text(f"preset = {json.dumps(name)}\n")
    before = sorted(tmp_path.rglob("*"))
    for given in (("--set", f"preset={json.dumps(name)}"), ("--config", "c.toml")):
        assert refused("train", "mixture-lt", *given).startswith("cbdm: preset = ")
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "../..", ".", "...", "/"])
def test_no_variant_leads_out_of_a_comparison(name):
    folder = Variant(name=name, parts="ddpm").folder
    assert folder and "/" not in folder and not folder.startswith(".")


def test_a_whole_table_is_not_replaced_in_silence(refused):
    assert "training is a table; set what stands in it" in refused("train", "--set", "training=3", "--dry-run")


@pytest.mark.parametrize("what", ["fifo", "/dev/zero", "folder"])
def test_no_pipe_or_device_is_read_without_end(refused, tmp_path, what):
    path = what if what.startswith("/") else str(tmp_path / what)
    if what == "fifo":
        os.mkfifo(path)
    if what == "folder":
        (tmp_path / what).mkdir()
    for arguments in (("train", "--config", path), ("import", path, "--out", "o")):
        line = refused(*arguments)
        assert "regular file" in line or "is a folder" in line, line


@pytest.mark.slow
def test_two_cannot_train_in_one_folder(tmp_path):
    """Three starts with the same --out at once: one trains, the others end with a line."""
    command = [sys.executable, "-m", "cbdm_cli", *map(str, SMALL), "--out", "r"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    many = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    ends = [(process.communicate()[1].decode(), process.returncode) for process in many]
    assert sorted(code for _, code in ends) == [0, 2, 2], ends
    assert all(err.count("\n") == 1 for err, code in ends if code), ends


JOB = """
import os, sys, time
from cbdm_cli.study.orphans import end_with_parent
end_with_parent()
print("there", flush=True)
time.sleep(60)
"""
MOTHER = """
import os, subprocess, sys, time
env = {**os.environ, "CBDM_PARENT": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=env)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_job_dies_with_its_parent():
    mother = subprocess.Popen([sys.executable, "-c", MOTHER, JOB], stdout=subprocess.PIPE, text=True)
    lines = [mother.stdout.readline().strip() for _ in range(2)]
    child = int(next(line for line in lines if line.isdecimal()))
    assert "there" in lines
    mother.kill()
    mother.wait()
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the job outlived its parent")


def test_a_job_whose_parent_died_before_it_began_does_not_begin():
    dead = subprocess.Popen(["true"])
    dead.wait()
    done = subprocess.run([sys.executable, "-c", JOB], env={**os.environ, PARENT: str(dead.pid)}, timeout=30)
    assert done.returncode == 128 + signal.SIGTERM

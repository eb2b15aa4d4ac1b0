"""Jobs as lines of shell: they name every open run once, survive the shell, and an array script runs the right one."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from cbdm_cli.locking import LOCK
from cbdm_cli.study.launching import array_script, open_jobs, shell_lines
from cbdm_cli.study.plan import READINGS, Plan, readings_of, run_folder, variants_of
from tests.cli.tiny import TINY, fingerprint


def a_plan():
    return Plan(
        preset="digits-lt", seeds=2, omegas=("0", "1"), variants=variants_of(["ddpm", "cbdm:power:0.5"], [], [])
    )


def test_each_open_run_has_one_job_and_a_finished_one_none(tmp_path):
    plan = a_plan()
    jobs = open_jobs(tmp_path, plan, "cpu")
    assert [job[-3:] for job in jobs] == [
        ["ddpm", "0", "cpu"],
        ["cbdm:power:0.5", "0", "cpu"],
        ["ddpm", "1", "cpu"],
        ["cbdm:power:0.5", "1", "cpu"],
    ]
    done = run_folder(tmp_path, plan.variants[0], 0)
    (done / READINGS).mkdir(parents=True)
    (done / "evaluation.json").write_text("{}")
    assert open_jobs(tmp_path, plan, "cpu") == jobs  # trained, but not judged at each ω
    for reading in readings_of(plan, plan.variants[0]):
        (done / READINGS / reading.file).write_text("{}")
    assert open_jobs(tmp_path, plan, "cpu") == jobs[1:]


def test_a_job_that_a_process_is_at_work_on_is_not_handed_out(tmp_path):
    plan = Plan(preset="digits-lt", seeds=2, omegas=("0",), variants=variants_of(["ddpm"], [], []))
    path = run_folder(tmp_path, plan.variants[0], 0)
    path.mkdir(parents=True)
    (path / LOCK).write_text(json.dumps({"host": "node7", "pid": 12}))
    assert [job[-2] for job in open_jobs(tmp_path, plan, "cpu")] == ["1"]


def test_lines_are_read_back_by_the_shell(tmp_path):
    folder = tmp_path / "a b'c"
    jobs = open_jobs(folder, a_plan(), "cpu")
    for job, line in zip(jobs, shell_lines(jobs, 3), strict=True):
        words = shlex.split(line)
        assert words[: words.index(job[0])] == [
            "cd",
            str(Path.cwd()),
            "&&",
            "OMP_NUM_THREADS=3",
            "MKL_NUM_THREADS=3",
            "OPENBLAS_NUM_THREADS=3",
        ]
        assert words[words.index(job[0]) :] == job


def test_a_task_of_the_array_runs_its_own_job(tmp_path):
    jobs = [["echo", f"job {number}"] for number in range(3)]
    script = array_script(tmp_path, jobs, threads=2, gpus=1)
    assert "#SBATCH --array=0-2\n" in script and "#SBATCH --gres=gpu:1\n" in script
    for number in range(3):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
        done = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"job {number}\n"


@pytest.mark.slow
def test_jobs_run_elsewhere_end_as_those_run_here(run, tmp_path):
    """The lines by a plain shell, then the comparison over them: to the bit what it is with its own processes."""
    asked = [
        "compare",
        *TINY,
        "--methods",
        "ddpm,cbdm",
        "--omega",
        "0,0.5",
        "--steps",
        4,
        "--seeds",
        1,
        "--set",
        "evaluation.features=pixels",
    ]
    code, out, err = run(*asked, "--launcher", "commands", "--out", "there")
    assert code == 0 and not err, err
    first, *lines = out.splitlines()
    assert first == "# 2 of 2 jobs are open; when they have ended: cbdm compare there" and len(lines) == 2
    for line in lines:
        subprocess.run(["bash", "-c", line], cwd="/", check=True, capture_output=True)
    code, out, err = run("compare", "there", "--launcher", "commands")
    assert code == 0 and "each at its best" in out, err
    assert run(*asked, "--jobs", 1, "--out", "here")[0] == 0
    runs = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").glob("runs/*/seed-0"))
    assert len(runs) == 2
    for path in runs:
        assert fingerprint(tmp_path / "here" / path) == fingerprint(tmp_path / "there" / path)


def test_an_array_is_written_for_slurm_and_asks_for_a_gpu_where_there_is_none(run, tmp_path):
    asked = ["compare", *TINY, "--methods", "ddpm,cbdm", "--omega", "0,0.5", "--seeds", 1, "--launcher", "slurm"]
    code, out, _ = run(*asked, "--device", "cuda", "--threads", 4, "--out", "c")
    assert code == 0 and "2 of 2 jobs are open: sbatch c/jobs.sbatch" in out, out
    script = (tmp_path / "c" / "jobs.sbatch").read_text()
    assert "--array=0-1\n" in script and "--gres=gpu:1\n" in script and "--cpus-per-task=4\n" in script
    assert script.count(" cuda ;;") == 2 and (tmp_path / "c" / "logs").is_dir()
    assert run("compare", "c", "--launcher", "slurm", "--device", "cpu")[0] == 0
    assert "--gres" not in (tmp_path / "c" / "jobs.sbatch").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--launcher", "slrum"], "did you mean 'slurm'?"),
        (["--launcher", "slurm", "--device", "tpu"], "unknown device 'tpu'"),
        (["--launcher", "commands", "--device", "cuda:x"], "unknown device 'cuda:x'"),
        (["--launcher", "slurm", "--device", "cuda:3"], "--device cuda:3: Slurm gives each task its own GPU"),
        (["--jobs", 0], "--jobs 0 --threads 1: both must be 1 or more"),
    ],
)
def test_a_launch_that_cannot_be_is_told_in_a_line(refused, tmp_path, arguments, words):
    assert words in refused("compare", *TINY, *arguments)
    assert not [*tmp_path.iterdir()]

"""Jobs as lines of shell: they name every open run once, survive the shell, and an array script runs the right one."""

import os
import shlex
import subprocess

from cbdm_cli.study.launching import array_script, open_jobs, shell_lines
from cbdm_cli.study.plan import READINGS, Plan, readings_of, run_folder, variants_of


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


def test_lines_are_read_back_by_the_shell(tmp_path):
    folder = tmp_path / "a b'c"
    jobs = open_jobs(folder, a_plan(), "cpu")
    for job, line in zip(jobs, shell_lines(jobs, 3), strict=True):
        assert shlex.split(line) == ["OMP_NUM_THREADS=3", *job]


def test_a_task_of_the_array_runs_its_own_job(tmp_path):
    jobs = [["echo", f"job {number}"] for number in range(3)]
    script = array_script(tmp_path, jobs, threads=2, gpus=1)
    assert "#SBATCH --array=0-2\n" in script and "#SBATCH --gres=gpu:1\n" in script
    for number in range(3):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
        done = subprocess.run(["bash"], input=script, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"job {number}\n"

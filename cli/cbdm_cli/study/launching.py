"""The jobs of a comparison as lines that any scheduler runs: the folder is the only thing that they share."""

from __future__ import annotations

import shlex
from pathlib import Path

from cbdm_cli.study.job import job_command
from cbdm_cli.study.plan import Plan, Variant, missing_readings, run_folder

__all__ = ["array_script", "open_jobs", "shell_lines"]


def open_jobs(folder: Path, plan: Plan, device: str) -> list[list[str]]:
    """The command of each job that is not done, by seed and then by variant, so that a part of the list is paired.

    A job trains its run, or goes on with it, and judges it at each reading that is missing; run twice it does nothing.
    """
    return [
        job_command(folder.resolve(), variant, seed, device)
        for seed in range(plan.seeds)
        for variant in plan.variants
        if not _done(folder, plan, variant, seed)
    ]


def _done(folder: Path, plan: Plan, variant: Variant, seed: int) -> bool:
    path = run_folder(folder, variant, seed)
    return (path / "evaluation.json").exists() and not missing_readings(path, plan, variant)


def shell_lines(jobs: list[list[str]], threads: int) -> list[str]:
    """A line of shell for each job, for GNU parallel, a loop, or any scheduler's list of tasks."""
    return [f"OMP_NUM_THREADS={threads} {shlex.join(job)}" for job in jobs]


def array_script(folder: Path, jobs: list[list[str]], threads: int, gpus: int = 0) -> str:
    """A script for `sbatch`, of which task i runs job i; what a task prints goes to FOLDER/logs.

    Args:
        folder: of the comparison, on a disk that all nodes see.
        jobs: of `open_jobs`, one or more.
        threads: cores of each task.
        gpus: of each task.
    """
    place = folder.resolve()
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={shlex.quote(place.name)}",
        f"#SBATCH --array=0-{len(jobs) - 1}",
        f"#SBATCH --cpus-per-task={threads}",
        *([f"#SBATCH --gres=gpu:{gpus}"] if gpus else []),
        f"#SBATCH --output={place}/logs/slurm-%A-%a.log",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(f"{number}) {line} ;;" for number, line in enumerate(shell_lines(jobs, threads))),
        "esac",
    ]
    return "\n".join(lines) + "\n"

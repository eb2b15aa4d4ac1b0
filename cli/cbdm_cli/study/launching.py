"""How the jobs of a comparison are started, here or as lines that any scheduler runs: they share the folder alone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from cbdm_cli.locking import holder
from cbdm_cli.run_folder import write_text
from cbdm_cli.study.job import job_command
from cbdm_cli.study.plan import Plan, Variant, missing_readings, run_folder
from cbdm_cli.study.pool import THREADS
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["LAUNCHERS", "SCRIPT", "Launch", "array_script", "is_done", "open_jobs", "shell_lines", "write_script"]

LAUNCHERS = ("local", "commands", "slurm")
SCRIPT = "jobs.sbatch"


@dataclass(frozen=True)
class Launch:
    """How jobs are started.

    Args:
        jobs: processes at a time, of those started here.
        threads: of each.
        device: to compute on.
        launcher: "local" starts them here, "commands" prints their lines, "slurm" writes the script of an array.

    Raises:
        CbdmError: no jobs or threads, or another launcher.
    """

    jobs: int = 2
    threads: int = 1
    device: str = "auto"
    launcher: str = "local"

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.threads < 1:
            raise CbdmError(f"--jobs {self.jobs} --threads {self.threads}: both must be 1 or more")
        if self.launcher not in LAUNCHERS:
            raise unknown_name("launcher", self.launcher, LAUNCHERS)
        if self.launcher == "slurm" and self.device.startswith("cuda:"):
            raise CbdmError(f"--device {self.device}: Slurm gives each task its own GPU; name it cuda")

    @property
    def here(self) -> bool:
        """Whether they run on this machine, so that it must have the device."""
        return self.launcher == "local"


def open_jobs(folder: Path, plan: Plan, device: str) -> list[list[str]]:
    """The command of each job that is not done and that no process is at work on.

    They are ordered by seed and then by variant, so that a part of the list is paired.
    A job trains its run, or goes on with it, and judges it at each reading that is missing; run twice it does nothing.
    """
    return [
        job_command(folder.resolve(), variant, seed, device)
        for seed in range(plan.seeds)
        for variant in plan.variants
        if not is_done(path := run_folder(folder, variant, seed), plan, variant) and holder(path) is None
    ]


def is_done(path: Path, plan: Plan, variant: Variant) -> bool:
    """Whether nothing is left to do for a run of the plan: it was trained and judged, and every reading is written."""
    return (path / "evaluation.json").exists() and not missing_readings(path, plan, variant)


def shell_lines(jobs: list[list[str]], threads: int) -> list[str]:
    """A line of shell for each job, for GNU parallel, a loop, or any scheduler's list of tasks.

    Each begins in the folder of today, which paths in the configuration may start from.
    """
    there = f"cd {shlex.quote(str(Path.cwd()))} && {' '.join(f'{name}={threads}' for name in THREADS)}"
    return [f"{there} {shlex.join(job)}" for job in jobs]


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
        f"#SBATCH --output={shlex.quote(f'{place}/logs/slurm-%A-%a.log')}",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(f"{number}) {line} ;;" for number, line in enumerate(shell_lines(jobs, threads))),
        "esac",
    ]
    return "\n".join(lines) + "\n"


def write_script(folder: Path, jobs: list[list[str]], launch: Launch) -> Path:
    """Write `array_script` into the folder, with one GPU a task where they compute on one."""
    (folder / "logs").mkdir(exist_ok=True)  # Slurm drops what a task prints where there is no such folder
    write_text(folder / SCRIPT, array_script(folder, jobs, launch.threads, gpus=int(launch.device in ("auto", "cuda"))))
    return folder / SCRIPT

"""One job of a comparison in its own process: train (or resume, or find done), then judge at every reading."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from cbdm_cli.config import Config
from cbdm_cli.locking import contents, held
from cbdm_cli.method import only_its_parts
from cbdm_cli.overlay import merged
from cbdm_cli.refusal import refuse
from cbdm_cli.study.orphans import end_with_parent
from cbdm_cli.study.plan import READINGS, Plan, Reading, Variant, load_plan, missing_readings, run_folder
from cbdm_cli.trust import features_setting
from cbdm_cli.warning_format import warnings_in_one_line
from cbdm_core.errors import CbdmError, CbdmWarning
from cbdm_core.writing import plain_write_errors

__all__ = ["config_of", "job_command", "run_job"]


def config_of(plan: Plan, variant: Variant, seed: int) -> Config:
    """The run's configuration: the preset, the plan's settings, the variant and the seed."""
    from cbdm_cli.resolve import resolved

    table = merged(plan.table(), variant.table())
    # Options of a part are for the variants that have it.
    table = {**table, "method": only_its_parts(table["method"])}
    named = {"method": variant.parts, "prior": None, "tau": None, "gamma": None, "steps": plan.steps, "seed": seed}
    return resolved(table, named)


def job_command(folder: Path, variant: Variant, seed: int, device: str) -> list[str]:
    """The command line of a job, which imports from the current directory only where this process does."""
    here = {"", str(Path.cwd())} & {*sys.path}
    module = ["-m", "cbdm_cli.study.job"] if here else ["-P", "-m", "cbdm_cli.study.job"]
    return [sys.executable, *module, str(folder), variant.name, str(seed), device]


def run_job(folder: Path, plan: Plan, variant: Variant, seed: int, device: str) -> None:
    """Train where that is not done, then write each reading that is missing."""
    path, config = run_folder(folder, variant, seed), config_of(plan, variant, seed)
    with plain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with held(path, "cbdm compare"):  # a job that outlived its comparison may still be at work
        _work(path, config, plan, variant, device)


def _work(path: Path, config: Config, plan: Plan, variant: Variant, device: str) -> None:
    from cbdm_cli.commands.train import start
    from cbdm_cli.resuming import resume
    from cbdm_cli.trainer import RunOptions
    from cbdm_core.checkpoint import checkpoints

    if not checkpoints(path / "checkpoints"):
        for left in contents(path):  # stopped before its first checkpoint: nothing to keep
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        start(config, path, device, False, RunOptions(holds=True))
    elif not (path / "evaluation.json").exists():
        options: dict[str, Any] = dict.fromkeys(["method", "prior", "tau", "gamma", "steps", "seed"])
        resume(
            path, None, None, (features_setting(config.evaluation.features),), options, device, RunOptions(holds=True)
        )
    if missing := missing_readings(path, plan, variant):
        judge_readings(path, missing, config.evaluation.features, device)


def judge_readings(path: Path, readings: list[Reading], features: str, device: str) -> None:
    """Sample and evaluate the run at each reading, in the features of the plan."""
    from cbdm_cli.evaluated_run import EvaluatedRun

    evaluated = EvaluatedRun.of(path, device, features)
    (path / READINGS).mkdir(exist_ok=True)
    for reading in readings:
        evaluated.write(path / READINGS / reading.file, {"omega": reading.omega, "interval": reading.interval})


def main() -> None:
    """`python -m cbdm_cli.study.job FOLDER VARIANT SEED DEVICE`."""
    folder, name, seed, device = sys.argv[1:]
    end_with_parent()
    try:
        with warnings_in_one_line():
            plan = load_plan(Path(folder))
            (variant,) = (v for v in plan.variants if v.name == name)
            run_job(Path(folder), plan, variant, int(seed), device)
    except (CbdmError, CbdmWarning) as error:
        refuse(str(error))


if __name__ == "__main__":
    main()

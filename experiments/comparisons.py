"""Cells of an experiment, each a comparison with paired seeds: run them all in one pool, gather what they say.

A cell is a `cbdm compare` folder under `--work`, so that an interrupted experiment goes on where it stopped, two
experiments share the cells they have in common, and `cbdm report WORK/CELL -o page.html` shows one.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tables import ROOT, gathered

from cbdm_cli.locking import held
from cbdm_cli.run_folder import COMPARISON_FILE, write_text
from cbdm_cli.study.job import job_command
from cbdm_cli.study.plan import (
    OMEGAS,
    Plan,
    Variant,
    extended,
    load_plan,
    missing_readings,
    run_folder,
    save_plan,
)
from cbdm_cli.study.pool import Child, run_children
from cbdm_core.errors import CbdmError

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cell:
    """Variants under the same settings, compared over paired seeds.

    Args:
        name: of its folder and in the results.
        variants: name → method parts.
        settings: `a.b=v` laid over the preset, besides those all cells share.
        omegas: to judge at.
        steps: training steps.
        taus: variant → τ, where it is not the preset's.
        seeds: how many, where it has more than the experiment.
    """

    name: str
    variants: Mapping[str, str]
    settings: tuple[str, ...] = ()
    omegas: tuple[str, ...] = OMEGAS
    steps: int = 1000
    taus: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 0

    def plan(self, preset: str, shared: Sequence[str], seeds: int) -> Plan:
        variants = tuple(
            Variant(name=name, parts=parts, tau=self.taus.get(name)) for name, parts in self.variants.items()
        )
        return Plan(
            preset=preset,
            settings=(*shared, *self.settings),
            steps=self.steps,
            seeds=seeds,
            omegas=self.omegas,
            variants=variants,
        )


@dataclass(frozen=True)
class Experiment:
    """Cells over one preset.

    Args:
        name: of the result file.
        preset: of every run.
        cells: what is compared.
        shared: settings of every cell.
        seeds: how many, 0, 1, …
    """

    name: str
    preset: str
    cells: tuple[Cell, ...]
    shared: tuple[str, ...]
    seeds: int

    def plans(self, seeds: int) -> dict[str, Plan]:
        """Each cell's, with so many seeds; cells that have more have theirs unless fewer than usual are asked for."""
        usual = seeds >= self.seeds
        return {c.name: c.plan(self.preset, self.shared, max(seeds, c.seeds * usual)) for c in self.cells}


def arguments(text: str | None, seeds: int, *, data_root: bool = False) -> Namespace:
    """The options that every experiment takes, and where the data are if they are not embedded."""
    parser = options(text, "runs/experiments")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many paired seeds")
    if data_root:
        parser.add_argument("--data-root", help="folder of the data's files")
    parser.add_argument("--cells", nargs="+", help="run only these, and write no result")
    return parser.parse_args()


def options(text: str | None, work: str, job: str | None = None) -> ArgumentParser:
    """What every experiment with a kept result takes.

    Args:
        text: of the program, whose first line the help shows.
        work: the folder by default.
        job: what a job is of beside its seed, for a program that runs each in a process of its own.
    """
    parser = ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(work), help="what is finished, and where runs go on")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--print", action="store_true", help="only print the tables of the kept result")
    if job is not None:
        parser.add_argument("--job", nargs=2, metavar=(job, "SEED"), help="run this one job, in this process")
    return parser


def main(experiment: Experiment, asked: Namespace, page: Callable[[dict[str, Any]], str]) -> int:
    """Run what is missing, write the result file, print its tables; the exit code is 1 where a job failed.

    With fewer seeds than the experiment has the tables are printed and no file is written: it would take the place of
    a better one.
    """
    file = RESULTS / f"{experiment.name}.json"
    if asked.print:
        print(page(kept_result(file)))
        return 0
    try:
        failed = run(_only(experiment, asked.cells), asked.work, asked.jobs, asked.seeds)
    except CbdmError as error:
        raise SystemExit(str(error)) from None
    if failed:
        print(f"{len(failed)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
        return 1
    if asked.cells:
        return 0
    result = {"preset": experiment.preset, "cells": gathered(experiment.plans(asked.seeds), asked.work)}
    if asked.seeds >= experiment.seeds:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(result) + "\n")
    print(page(result))
    return 0


def kept_result(file: Path) -> dict[str, Any]:
    """What an experiment has kept; where it has not been run that is said, and the program ends."""
    if not file.exists():
        raise SystemExit(f"{file} is not there: run the experiment first, without --print")
    return json.loads(file.read_text(encoding="utf-8"))


def _only(experiment: Experiment, names: Sequence[str] | None) -> Experiment:
    """The experiment with the named cells."""
    unknown = sorted({*(names or ())} - {cell.name for cell in experiment.cells})
    if unknown:
        raise SystemExit(f"--cells {unknown[0]}: the cells are {', '.join(cell.name for cell in experiment.cells)}")
    return replace(experiment, cells=tuple(cell for cell in experiment.cells if not names or cell.name in names))


def run(experiment: Experiment, work: Path, jobs: int, seeds: int) -> list[str]:
    """Run what is missing, seed by seed; returns the jobs that failed.

    Raises:
        CbdmError: a cell in which another process works, or which holds runs of other settings.
    """
    todo: list[tuple[Path, Variant, int]] = []
    with ExitStack() as cells:
        for name, plan in experiment.plans(seeds).items():
            folder = work / name
            folder.mkdir(parents=True, exist_ok=True)
            cells.enter_context(held(folder, "an experiment or cbdm compare"))
            save_plan(folder, _joined(folder, plan))
            pairs = [(variant, seed) for seed in range(plan.seeds) for variant in plan.variants]
            runs = [(variant, seed, run_folder(folder, variant, seed)) for variant, seed in pairs]
            todo += [(folder, variant, seed) for variant, seed, run in runs if missing_readings(run, plan, variant)]
        todo.sort(key=lambda job: job[2])
        return run_jobs([_child(*job) for job in todo], jobs)


def _joined(folder: Path, plan: Plan) -> Plan:
    """The plan, with what the folder's plan has beside it: experiments share cells."""
    if not (folder / COMPARISON_FILE).exists():
        return plan
    kept = load_plan(folder)
    if _same(kept) != _same(plan):
        raise CbdmError(f"{folder} holds runs of other settings: name another folder with --work, or remove it")
    further = [variant for variant in kept.variants if variant not in plan.variants]
    omegas = tuple(dict.fromkeys([*plan.omegas, *kept.omegas]))
    return extended(plan, further, max(plan.seeds, kept.seeds)).model_copy(update={"omegas": omegas})


def _same(plan: Plan) -> tuple[object, ...]:
    """What two experiments must have in common to share a folder; the data may have been moved."""
    return plan.preset, [text for text in plan.settings if not text.startswith(ROOT)], plan.steps


def run_jobs(children: Sequence[Child], at_once: int) -> list[str]:
    """Run them, some at a time, a line for each; the names of those that failed. Ctrl-C and SIGTERM end them too."""
    begun = time.monotonic()

    def ended(child: Child) -> None:
        left = sum(other.state in ("waiting", "running") for other in children)
        outcome = "done" if child.state == "done" else f"failed, see {child.log}"
        minutes = (time.monotonic() - begun) / 60
        print(f"{minutes:6.1f} min  {child.name}: {outcome} in {child.minutes:.1f} min; {left} left", flush=True)

    came = run_children(children, at_once, ended=ended)
    if came is not None:
        raise SystemExit(128 + came)
    return [child.name for child in children if child.state == "failed"]


def _child(folder: Path, variant: Variant, seed: int) -> Child:
    """A process that trains and judges one variant with one seed."""
    log = run_folder(folder, variant, seed).with_suffix(".log")
    return Child(f"{folder.name}, {variant.name}, seed {seed}", job_command(folder, variant, seed, "cpu"), log)

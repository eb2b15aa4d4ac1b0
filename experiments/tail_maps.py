"""Where batch laws move what the tail learns: `python experiments/tail_maps.py`.

`cbdm diagnose` before and after, over seeds: the denoising error of digits-lt's tail at each noise level, on held-out
and on training images, under DDPM and under the batch laws of `tail.py`, in the trainings of that experiment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from comparisons import RESULTS, kept_result, options, run_jobs
from tables import table
from tail_cells import FROZEN, file_name, job_of

from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.overlay import merged
from cbdm_cli.run_data import load_reference
from cbdm_cli.run_folder import write_text
from cbdm_cli.study.pool import Child
from cbdm_cli.study.results import estimate
from cbdm_core.distributed import World
from cbdm_core.metrics.diagnosis import diagnose, noise_levels
from cbdm_core.metrics.report import rank_groups
from cbdm_core.training import train

RESULT = RESULTS / "tail-maps.json"
METHODS, SEEDS, LENGTHS, LEVELS = tuple(FROZEN), (0, 1, 2), (1000, 3000), 10

Errors = Mapping[str, Mapping[str, Mapping[str, Sequence[Sequence[float]]]]]
"""Steps → "head" or "tail" → "held out" or "training" → (seeds, levels) errors of ε̂, of one method."""


def run(method: str, seed: int, file: Path) -> None:
    """Train once, and measure the averaged network at every length."""
    torch.set_num_threads(1)
    config = job_of("digits", method, seed).config()
    experiment = assemble(config)
    held_out, _ = load_reference(
        validated(merged(config.model_dump(), {"evaluation": {"reference": "held-out"}})),
        experiment.full,
        experiment.data,
    )
    state, groups = experiment.start(World(0, 1, torch.device("cpu"))), rank_groups(experiment.data.counts())
    times = noise_levels(experiment.schedule, LEVELS)
    readings = {}
    for length in LENGTHS:
        for _ in train(state, experiment.batches, steps=length):
            pass
        found = diagnose(state.ema.eval(), experiment.schedule, experiment.data, held_out, times)
        tables = {"held out": found.memorised.error, "training": found.memorised.against}
        readings[str(length)] = {
            group: {name: _rounded(of[list(groups[group])].mean(0)) for name, of in tables.items()}
            for group in ("head", "tail")
        }
    write_text(file, json.dumps({"times": times.tolist(), "readings": readings}) + "\n")


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def gathered(work: Path) -> dict[str, Any]:
    """Every method's errors, by steps, group and images, a row a seed."""
    methods, times = {}, []
    for method in METHODS:
        records = [json.loads(job_file(work, method, seed).read_text(encoding="utf-8")) for seed in SEEDS]
        times = records[0]["times"]
        methods[method] = {
            steps: {
                group: {name: [record["readings"][steps][group][name] for record in records] for name in of}
                for group, of in groups.items()
            }
            for steps, groups in records[0]["readings"].items()
        }
    return {"times": times, "methods": methods}


def job_file(work: Path, method: str, seed: int) -> Path:
    """Where a job's errors are written."""
    return work / "maps" / f"{file_name(method)}-{seed}.json"


def learned_table(result: Mapping[str, Any]) -> str:
    """The tail's error on held-out images against DDPM's at each noise level, with intervals over paired seeds."""
    methods: Mapping[str, Errors] = result["methods"]
    lines = [
        [f"`{name}`", steps, *_changes(methods[name][steps]["tail"], methods["ddpm"][steps]["tail"])]
        for steps in map(str, LENGTHS)
        for name in methods
        if name != "ddpm"
    ]
    return table(("method", "steps", *_levels(result)), lines)


def longer_table(result: Mapping[str, Any]) -> str:
    """What longer training does to DDPM's error on held-out images at each noise level, in the head and in the tail."""
    short, long = (result["methods"]["ddpm"][str(length)] for length in LENGTHS)
    return table(("classes", *_levels(result)), [[group, *_changes(long[group], short[group])] for group in long])


def _changes(mine: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    """Of the held-out error, per cent at each level, bold where the interval excludes 0."""
    columns = quotients(mine["held out"], plain["held out"])
    found = [estimate([100 * (quotient - 1) for quotient in column]) for column in columns]
    texts = [f"{e.mean:+.0f} ± {e.half_width:.0f}" for e in found]
    return [f"**{text}**" if e.excludes_zero else text for e, text in zip(found, texts, strict=True)]


def memorised_table(result: Mapping[str, Any]) -> str:
    """The tail's error on held-out over that on training images at each noise level, means over seeds."""
    lines = [
        [f"`{name}`", steps, *(f"{value:.2f}" for value in memorised(of[steps]["tail"]))]
        for steps in map(str, LENGTHS)
        for name, of in result["methods"].items()
    ]
    return table(("method", "steps", *_levels(result)), lines)


def memorised(errors: Mapping[str, Sequence[Sequence[float]]]) -> list[float]:
    """Held-out over training error at each level, the mean over seeds."""
    return [sum(column) / len(column) for column in quotients(errors["held out"], errors["training"])]


def quotients(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[list[float]]:
    """(levels, seeds) one error over the other, each (seeds, levels)."""
    return [[a / b for a, b in zip(*level, strict=True)] for level in zip(zip(*one), zip(*other), strict=True)]


def _levels(result: Mapping[str, Any]) -> list[str]:
    return [f"t = {t:.2g}" for t in result["times"]]


def page(result: Mapping[str, Any]) -> str:
    """The tables of the docs."""
    return "\n\n".join([learned_table(result), longer_table(result), memorised_table(result)])


def main() -> int:
    parser = options(__doc__, "runs/tail-experiment", "METHOD")
    asked = parser.parse_args()
    if asked.job:
        file = job_file(asked.work, asked.job[0], int(asked.job[1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        run(asked.job[0], int(asked.job[1]), file)
        return 0
    if not asked.print:
        waiting = [(m, s) for s in SEEDS for m in METHODS if not job_file(asked.work, m, s).exists()]
        if failed := run_jobs([_child(asked.work, *pair) for pair in waiting], asked.jobs):
            print(f"{len(failed)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
            return 1
        write_text(RESULT, json.dumps(gathered(asked.work)) + "\n")
    print(page(kept_result(RESULT)))
    return 0


def _child(work: Path, method: str, seed: int) -> Child:
    command = [sys.executable, __file__, "--work", str(work), "--job", method, str(seed)]
    return Child(f"{method}, seed {seed}", command, job_file(work, method, seed).with_suffix(".log"))


if __name__ == "__main__":
    sys.exit(main())

"""Further candidates for the tail, beside batch laws: `python experiments/candidates.py`.

Each has one or two settings, of which one is chosen on a seed that the tables do not use, and then frozen. Those that
change only the sampling share one training of DDPM a seed; the plain model's own readings are those of `tail.py`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from candidate_runs import BATCHES, IMPLIED, LENGTHS, OMEGAS, Trained, row_file, trained_as
from comparisons import RESULTS, kept_result, options, run_jobs
from tables import table
from tail import curves_of
from tail_cells import result_file
from tail_tables import RECALLS, Curves, best, best_table, differences, matched, matched_table

from cbdm_cli.run_folder import write_text
from cbdm_cli.study.pool import Child

RESULT = RESULTS / "candidates.json"
# Candidate → its settings: a weight, power or cap, and after @ the noise level where it begins or ends.
SETTINGS: Mapping[str, Sequence[str]] = {
    "analytic": ("analytic:0.5@0.4", "analytic:1@0.4"),
    "rarity": ("rarity:0.5", "rarity:0.5@0.4"),
    "autoguidance": ("autoguidance:0.5", "autoguidance:1"),
    "shrinkage": ("shrinkage:1", "shrinkage:4", "shrinkage:16"),
    "split+shrinkage": ("split+shrinkage:1", "split+shrinkage:4", "split+shrinkage:16"),
    "augment": ("augment:0.3", "augment:0.6"),
}
# What the trained candidates are held against, and what they stand on.
KNOWN = ("ddpm", "resample:uniform", "resample:uniform@0.2")
CHOICE_SEED = 10
# By what a candidate changes.
SEEDS = {"sampling": (0, 1, 2), "training": (0, 1, 2, 3, 4)}
# The settings that `chosen` gives on seed 10, written down before the seeds of the tables were judged.
FROZEN = ("analytic:1@0.4", "rarity:0.5@0.4", "autoguidance:0.5", "shrinkage:4", "split+shrinkage:4", "augment:0.3")


def tried() -> list[str]:
    """The settings of which one is chosen."""
    return [row for settings in SETTINGS.values() for row in settings]


def changed(row: str) -> str:
    """What a row changes: the sampling, or the training too, which has other rivals and seeds."""
    return "sampling" if trained_as(row) == "ddpm" else "training"


def rows_of(training: str, seed: int) -> list[str]:
    """The rows that a training is judged by, at the seed of the choice or at those of the tables."""
    rows = ["ddpm", *tried()] if seed == CHOICE_SEED else FROZEN
    return [row for row in rows if trained_as(row) == training]


def jobs() -> list[tuple[str, int]]:
    """(training, seed), those of the choice first."""
    choice, rest = (sorted({trained_as(row) for row in rows}) for rows in (tried(), FROZEN))
    return [(name, CHOICE_SEED) for name in choice] + [(name, seed) for name in rest for seed in SEEDS[changed(name)]]


def run(training: str, seed: int, work: Path) -> None:
    """Train where it has not been, and judge the rows that are not there."""
    torch.set_num_threads(1)
    job = Trained(training, seed)
    job.train(work)
    for row in rows_of(training, seed):
        job.judge(work, row)


def gathered(work: Path) -> dict[str, Any]:
    """The kept scores: of every setting on the seed of the choice, and of the frozen ones on the others."""
    result: dict[str, Any] = {
        "choice": {"methods": {row: curves_of([_record(work, row, CHOICE_SEED)]) for row in ("ddpm", *tried())}},
        "sampling": {"methods": {"ddpm": _known("ddpm", SEEDS["sampling"])}},
        "training": {"methods": {name: _known(name, SEEDS["training"]) for name in KNOWN}},
    }
    for row in FROZEN:
        result[changed(row)]["methods"][row] = curves_of([_record(work, row, s) for s in SEEDS[changed(row)]])
    return result


def _record(work: Path, row: str, seed: int) -> Mapping[str, Any]:
    return json.loads(row_file(work, row, seed).read_text(encoding="utf-8"))


def _known(name: str, seeds: Sequence[int]) -> Curves:
    """A method of the tail's experiment at the same lengths, ω and seeds."""
    curves = kept_result(result_file("digits"))["methods"][name]
    return {
        str(length): {
            omega: {score: [values[s] for s in seeds] for score, values in curves[str(length)][omega].items()}
            for omega in (*OMEGAS, *IMPLIED)
            if omega in curves[str(length)]
        }
        for length in LENGTHS
    }


def change(methods: Mapping[str, Curves], row: str, length: int) -> float:
    """The mean log ratio of tail FID to DDPM's over the tail recalls that both curves of the first seed have."""
    found = []
    for recall in RECALLS:
        mine, plain = (matched(methods[name], length, 0, recall) for name in (row, "ddpm"))
        if mine is not None and plain is not None:
            found.append(mine[0] - plain[0])
    return math.fsum(found) / len(found) if found else math.inf


def chosen(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Of each candidate the setting of least mean `change` over both lengths."""
    methods = result["choice"]["methods"]

    def mean(row: str) -> float:
        return math.fsum(change(methods, row, length) for length in LENGTHS) / len(LENGTHS)

    return tuple(min(settings, key=mean) for settings in SETTINGS.values())


def choice_table(result: Mapping[str, Any]) -> str:
    """The settings on the seed of the choice."""
    methods, taken = result["choice"]["methods"], chosen(result)
    lines = []
    for row in [name for name in methods if name != "ddpm"]:
        changes = [_percent(change(methods, row, length)) for length in LENGTHS]
        lines.append([f"`{row}`", *changes, "yes" if row in taken else ""])
    return table(("setting", *(f"{length} steps" for length in LENGTHS), "chosen"), lines)


def _percent(log_ratio: float) -> str:
    return "no common recall" if log_ratio == math.inf else f"{100 * math.expm1(log_ratio):+.0f} %"


def differences_table(judged: Mapping[str, Any]) -> str:
    """Each at its ω of least mean FID, minus DDPM at its own after as many steps."""
    methods = judged["methods"]
    lines = []
    for row in [name for name in methods if name not in KNOWN]:
        for length in methods[row]:
            cells = differences(*(best(methods[name], int(length)) for name in (row, "ddpm")))
            lines.append([f"`{row}`", length, *cells])
    return table(("candidate", "steps", "FID", "tail FID", "tail recall", "tail copies, points"), lines)


def added_table(judged: Mapping[str, Any]) -> str:
    """Those that stand on other batches than DDPM's, minus the same batches alone at the same ω."""
    methods = judged["methods"]
    lines = []
    for row in [name for name in methods if name not in KNOWN]:
        batches = BATCHES[row.partition(":")[0]]
        for length, by_omega in methods[row].items() if batches != "ddpm" else ():
            for omega, scores in by_omega.items():
                lines.append([f"`{row}`", length, omega, *differences(scores, methods[batches][length][omega])])
    return table(("candidate", "steps", "ω", "FID", "tail FID", "tail recall", "tail copies, points"), lines)


def page(result: Mapping[str, Any]) -> str:
    """The tables of the docs: the choice, then three of the sampling's candidates and four of the training's."""
    found = [choice_table(result)]
    for kind in ("sampling", "training"):
        found += [of(result[kind]) for of in (best_table, matched_table, differences_table)]
    return "\n\n".join([*found, added_table(result["training"])])


def main() -> int:
    parser = options(__doc__, "runs/candidates-experiment", "TRAINING")
    asked = parser.parse_args()
    if asked.job:
        run(asked.job[0], int(asked.job[1]), asked.work)
        return 0
    if not asked.print:
        if failed := run_jobs([_child(asked.work, *job) for job in jobs()], asked.jobs):
            print(f"{len(failed)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
            return 1
        write_text(RESULT, json.dumps(gathered(asked.work)) + "\n")
    print(page(kept_result(RESULT)))
    return 0


def _child(work: Path, training: str, seed: int) -> Child:
    log = work / "logs" / f"{training.replace(':', '-')}-{seed}.log"
    command = [sys.executable, __file__, "--work", str(work), "--job", training, str(seed)]
    return Child(f"{training}, seed {seed}", command, log)


if __name__ == "__main__":
    sys.exit(main())

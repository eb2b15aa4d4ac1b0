"""Batch laws by noise level over training length and ω: `python experiments/tail.py [--cell pulled]`.

Every method is trained once a seed and judged at each length and ω, so that the curves, tail FID against tail recall,
can be compared where they have the same recall.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from comparisons import RESULTS, kept_result, options, run_jobs
from tail_cells import CELLS, Cell, job_of, result_file
from tail_runs import run
from tail_tables import (
    Curves,
    above_table,
    best_table,
    budget_table,
    changed_table,
    cost_table,
    first_seeds,
    joined,
    judged_table,
    matched_table,
    one_seed,
    sooner_table,
)

from cbdm_cli.run_folder import write_text
from cbdm_cli.study.pool import Child

STEP_COSTS = RESULTS.parents[1] / "benchmarks" / "results" / "training.json"
# What is kept of a reading: name → (overall or tail, field).
KEPT = {
    "fid": ("overall", "fid"),
    "tail fid": ("tail", "fid"),
    "tail recall": ("tail", "recall"),
    "tail copies": ("tail", "memorised"),
    "tail copies in pixels": ("tail", "copied_pixels"),
}


def gathered(cell: str, work: Path) -> dict[str, Any]:
    """The kept scores of every method, length and ω, by seed, to five digits.

    Seeds without a job in the folder have what the result file has of them; a method without any is left out.
    """
    file = result_file(cell)
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"counts": [], "methods": {}}
    results: dict[str, Any] = {"counts": before["counts"], "methods": {}}
    for name in CELLS[cell].methods:
        files = [job_of(cell, name, seed).file(work) for seed in CELLS[cell].seeds(name)]
        records = [json.loads(job.read_text(encoding="utf-8")) if job.exists() else None for job in files]
        if curves := _by_seed(before["methods"].get(name, {}), records):
            results["methods"][name] = curves
        results["counts"] = next((record["counts"] for record in records if record), results["counts"])
    return results


def _by_seed(known: Curves, records: Sequence[Mapping[str, Any] | None]) -> Curves:
    """A method's curves: of each seed those of its record, or else those that are known; to the first without any."""
    every = (one_seed(known, seed) if record is None else curves_of([record]) for seed, record in enumerate(records))
    parts = list(takewhile(bool, every))
    return {
        length: {
            omega: {score: [part[length][omega][score][0] for part in parts] for score in scores}
            for omega, scores in by_omega.items()
        }
        for length, by_omega in (parts[0].items() if parts else ())
    }


def curves_of(records: Sequence[Mapping[str, Any]]) -> Curves:
    """Length → ω → score → values, of one method's jobs in the order of their seeds."""
    curves: dict[str, dict[str, dict[str, list[float]]]] = {}
    for reading in (reading for record in records for reading in record["readings"]):
        scores = curves.setdefault(str(reading["steps"]), {}).setdefault(reading["omega"], {})
        for score, (group, key) in KEPT.items():
            scores.setdefault(score, []).append(float(f"{reading[group][key]:.5g}"))
    return curves


def page(cell: str, result: Mapping[str, Any]) -> str:
    """The tables of a cell: the curves against DDPM's where these were drawn densely, else what each method changes.

    With the latter goes the table at equal recall, where there is one.
    """
    result = with_known(cell, result)
    if cell in ("digits", "pulled"):
        made = [of(result) for of in (best_table, matched_table, sooner_table, budget_table)]
        made.append(cost_table(result, _step_costs()))
    else:
        made = [best_table(result), *_against(result, CELLS[cell].reference), *_at_recall(result)]
    return "\n\n".join([*made, *_further(cell, result)])


def _further(cell: str, result: Mapping[str, Any]) -> list[str]:
    """The tables of a cell's result with that of another cell, and those of costs."""
    if cell == "held-out":
        return [judged_table(result, kept_result(result_file("digits")))]
    if cell == "pulled":
        return [above_table(result, kept_result(result_file("digits")))]
    if cell == "fashion":
        return [cost_table(result, _step_costs())]
    begun = CELLS[cell].begun
    return [cost_table(joined(kept_result(result_file(begun)), result), _step_costs())] if begun else []


def _step_costs() -> dict[str, float]:
    """Method → its training step's cost over that of DDPM."""
    return {row["method"]: row["ratio"] for row in json.loads(STEP_COSTS.read_text(encoding="utf-8"))["rows"]}


def _against(result: Mapping[str, Any], reference: str) -> list[str]:
    """The table of what each method changes, where the reference was trained."""
    return [changed_table(result, reference)] if reference in result["methods"] else []


def _at_recall(result: Mapping[str, Any]) -> list[str]:
    """The table at equal recall, where DDPM was trained and its curve meets another's in three seeds."""
    made = matched_table(result) if "ddpm" in result["methods"] else ""
    return [made] if len(made.splitlines()) > 2 else []


def with_known(cell: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result with what the cell `digits` has of the methods that this one knows already."""
    c = CELLS[cell]
    digits = kept_result(result_file("digits"))["methods"] if c.known else {}
    return {**result, "methods": {**{name: seen_by(c, digits[name]) for name in c.known}, **result["methods"]}}


def seen_by(cell: Cell, curves: Curves) -> Curves:
    """Of a method's curves, the lengths and seeds of a cell, at every ω."""
    return first_seeds({str(length): curves[str(length)] for length in cell.lengths}, max(cell.methods.values()))


def main() -> int:
    parser = options(__doc__, "runs/tail-experiment", "METHOD")
    parser.add_argument("--cell", choices=list(CELLS), default="digits", help="the data")
    parser.add_argument("--methods", nargs="+", help="run only these; the result file keeps what it has of the others")
    asked = parser.parse_args()
    methods = CELLS[asked.cell].methods
    if unknown := sorted({*(asked.methods or ()), *(asked.job or ())[:1]} - methods.keys()):
        raise SystemExit(f"method {unknown[0]}: the cell {asked.cell} has {', '.join(methods)}")
    if asked.job:
        run(job_of(asked.cell, asked.job[0], int(asked.job[1])), asked.work)
        return 0
    if not asked.print:
        pairs = [(name, seed) for name in asked.methods or methods for seed in CELLS[asked.cell].seeds(name)]
        waiting = [p for p in sorted(pairs, key=lambda p: p[1]) if not job_of(asked.cell, *p).file(asked.work).exists()]
        if failed := run_jobs([_child(asked.cell, asked.work, *pair) for pair in waiting], asked.jobs):
            print(f"{len(failed)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
            return 1
        write_text(result_file(asked.cell), json.dumps(gathered(asked.cell, asked.work)) + "\n")
    print(page(asked.cell, kept_result(result_file(asked.cell))))
    return 0


def _child(cell: str, work: Path, name: str, seed: int) -> Child:
    log = job_of(cell, name, seed).file(work).with_suffix(".log")
    command = [sys.executable, __file__, "--cell", cell, "--work", str(work), "--job", name, str(seed)]
    return Child(f"{cell}, {name}, seed {seed}", command, log)


if __name__ == "__main__":
    sys.exit(main())

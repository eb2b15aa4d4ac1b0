"""Batch laws by noise level on digits-lt, over training length and ω: `python experiments/tail.py`.

Every method is trained once a seed and judged at each length and ω, so that the curves, tail FID against tail recall,
can be compared where they have the same recall. The settings of the transplant were fixed before any of these runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from comparisons import RESULTS, run_jobs
from tables import table
from tail_runs import Job, run

from cbdm_cli.run_folder import write_text
from cbdm_cli.study.pool import Child
from cbdm_cli.study.results import Estimate, best_omega, estimate

FILE = RESULTS / "tail.json"
METHODS = {
    "ddpm": "ddpm",
    "resample:uniform": "resample:uniform",
    "resample:uniform@0.2": "resample:uniform@0.2",
    "transplant+resample:uniform@0.2": "transplant+resample:uniform@0.2",
}
SETTINGS = ("evaluation.per_class=60", "sampling.steps=20")
LENGTHS = (500, 1000, 2000, 3000)
OMEGAS = ("0", "0.25", "0.5", "1", "1.5")
IMPLIED = ("implied:0.5", "implied:1")  # of the plain model only: the schedule that CBDM implies
SEEDS = 5
RECALLS = (0.95, 0.9, 0.85, 0.8, 0.75)
# What is kept of a reading: name → (overall or tail, field).
KEPT = {
    "fid": ("overall", "fid"),
    "tail fid": ("tail", "fid"),
    "tail recall": ("tail", "recall"),
    "tail copies": ("tail", "memorised"),
    "tail copies in pixels": ("tail", "copied_pixels"),
}

# Of the table of differences: digits, and by what a score is multiplied.
SHOWN = {"fid": (2, 1), "tail fid": (2, 1), "tail recall": (2, 1), "tail copies": (0, 100)}

Curves = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Length → ω → score → values by seed, of one method."""

Point = tuple[float, float, float]
"""(tail recall, log tail FID, copies) at one ω."""


def job_of(name: str, seed: int) -> Job:
    """A method with a seed."""
    omegas = OMEGAS + IMPLIED * (name == "ddpm")
    return Job("digits", "digits-lt", SETTINGS, file_name(name), METHODS[name], seed, LENGTHS, omegas)


def file_name(name: str) -> str:
    """A method's name in files."""
    return name.replace(":", "-").replace("@", "-at-")


def gathered(work: Path, seeds: int) -> dict[str, Any]:
    """The kept scores of every method, length and ω, by seed, to five digits."""
    results: dict[str, Any] = {"seeds": seeds, "counts": [], "methods": {}}
    for name in METHODS:
        found = [json.loads(job_of(name, seed).file(work).read_text(encoding="utf-8")) for seed in range(seeds)]
        curves: dict[str, dict[str, dict[str, list[float]]]] = {}
        for record in found:
            for reading in record["readings"]:
                scores = curves.setdefault(str(reading["steps"]), {}).setdefault(reading["omega"], {})
                for score, (group, field) in KEPT.items():
                    scores.setdefault(score, []).append(float(f"{reading[group][field]:.5g}"))
        results["methods"][name], results["counts"] = curves, found[0]["counts"]
    return results


def at_recall(points: Sequence[Point], recall: float) -> tuple[float, float] | None:
    """(log tail FID, copies) where a curve over ω has this tail recall, linear in between; the least FID of several.

    Args:
        points: (tail recall, log tail FID, copies), in the order of ω.
        recall: in [0, 1].

    Returns:
        None where the curve never has it.
    """
    found = []
    for (r, fid, copies), (s, fid_s, copies_s) in pairwise(points):
        if min(r, s) <= recall <= max(r, s) and r != s:
            part = (recall - r) / (s - r)
            found.append((fid + part * (fid_s - fid), copies + part * (copies_s - copies)))
    return min(found, default=None)


def _points(by_omega: Mapping[str, Mapping[str, Sequence[float]]], seed: int, kind: str) -> list[Point]:
    """The curve of one seed, over constant ω or over a family of schedules, which begins at ω = 0 too."""
    omegas = [omega for omega in by_omega if omega == "0" or omega.rpartition(":")[0] == kind]
    names = ("tail recall", "tail fid", "tail copies")
    rows = [[by_omega[omega][name][seed] for name in names] for omega in omegas]
    return [(recall, math.log(fid), copies) for recall, fid, copies in rows]


def matched(curves: Curves, length: int, seed: int, recall: float) -> tuple[float, float] | None:
    """`at_recall` of a method at a length, the better of its constant ω and the schedules that it has."""
    by_omega = curves[str(length)]
    kinds = {omega.rpartition(":")[0] for omega in by_omega}
    found = [at_recall(_points(by_omega, seed, kind), recall) for kind in sorted(kinds)]
    return min((value for value in found if value is not None), default=None)


def ratios(result: Mapping[str, Any], name: str, length: int, recall: float) -> tuple[Estimate, float, float] | None:
    """(log ratio of tail FID to DDPM's, copies, DDPM's copies) at one recall, over the seeds whose curves both have it.

    None from fewer than three seeds.
    """
    pairs = []
    for seed in range(result["seeds"]):
        mine, plain = (matched(result["methods"][m], length, seed, recall) for m in (name, "ddpm"))
        if mine is not None and plain is not None:
            pairs.append((mine, plain))
    if len(pairs) < 3:
        return None
    copies = [math.fsum(pair[i][1] for pair in pairs) / len(pairs) for i in (0, 1)]
    return estimate([mine[0] - plain[0] for mine, plain in pairs]), copies[0], copies[1]


def _percent(e: Estimate) -> str:
    """A ratio of means of logarithms as a change in per cent, with its interval."""
    change, low, high = (100 * (math.exp(e.mean + width) - 1) for width in (0, -e.half_width, e.half_width))
    text = f"{change:+.0f} % [{low:+.0f}, {high:+.0f}]"
    return f"**{text}**" if e.excludes_zero else text


def best_table(result: Mapping[str, Any]) -> str:
    """Every method and length at its ω of least mean FID."""
    lines = []
    for length in LENGTHS:
        for name, curves in result["methods"].items():
            by_omega = curves[str(length)]
            omega = best_omega({omega: math.fsum(scores["fid"]) for omega, scores in by_omega.items()})
            means = {score: math.fsum(values) / len(values) for score, values in by_omega[omega].items()}
            shares = [f"{100 * means[score]:.0f} %" for score in ("tail copies", "tail copies in pixels")]
            scores = [f"{means['fid']:.2f}", f"{means['tail fid']:.2f}", f"{means['tail recall']:.2f}", *shares]
            lines.append([str(length), f"`{name}`", omega.replace("implied:", "ω_eff "), *scores])
    head = ("steps", "method", "best ω", "FID", "tail FID", "tail recall", "tail copies", "in pixels")
    return table(head, lines)


def matched_table(result: Mapping[str, Any]) -> str:
    """Tail FID against DDPM's at equal tail recall."""
    lines = []
    for length in LENGTHS:
        for recall in RECALLS:
            cells = []
            for name in [name for name in METHODS if name != "ddpm"]:
                found = ratios(result, name, length, recall)
                cells += ["–", "–"] if found is None else [_percent(found[0]), f"{100 * (found[1] - found[2]):+.0f}"]
            if set(cells) != {"–"}:
                lines.append([str(length), f"{recall:.2f}", *cells])
    names = [f"`{name}`" for name in METHODS if name != "ddpm"]
    return table(("steps", "tail recall", *(c for name in names for c in (name, "copies, points"))), lines)


def sooner_table(result: Mapping[str, Any]) -> str:
    """What a third of the steps gives: each at its best ω, against DDPM's longest run at its own."""
    plain = _best(result["methods"]["ddpm"], LENGTHS[-1])
    lines = []
    for name in [name for name in METHODS if name != "ddpm"]:
        for length in LENGTHS[:2]:
            mine = _best(result["methods"][name], length)
            cells = []
            for score, (digits, scale) in SHOWN.items():
                e = estimate([scale * (a - b) for a, b in zip(mine[score], plain[score], strict=True)])
                text = f"{e.mean:+.{digits}f} ± {e.half_width:.{digits}f}"
                cells.append(f"**{text}**" if e.excludes_zero else text)
            lines.append([f"`{name}`", str(length), *cells])
    return table(("method", "steps", "FID", "tail FID", "tail recall", "tail copies, points"), lines)


def _best(curves: Curves, length: int) -> Mapping[str, Sequence[float]]:
    by_omega = curves[str(length)]
    return by_omega[best_omega({omega: math.fsum(scores["fid"]) for omega, scores in by_omega.items()})]


def told(result: Mapping[str, Any]) -> list[str]:
    """The figures that the README gives, as it writes them: of resampling, and of balancing at high noise only."""
    plain = _best(result["methods"]["ddpm"], LENGTHS[-1])
    resampled, above = (result["methods"][name] for name in ("resample:uniform", "resample:uniform@0.2"))
    shares = ", ".join(f"{100 * _mean(_best(resampled, length)['tail copies']):.0f}" for length in LENGTHS)
    early, balanced = _best(resampled, LENGTHS[0]), _best(above, LENGTHS[1])
    differences = ((early, "tail fid", 1), (balanced, "fid", 2), (balanced, "tail fid", 1))
    return [f"{shares} %", *(_difference(mine[score], plain[score], digits) for mine, score, digits in differences)]


def _difference(mine: Sequence[float], plain: Sequence[float], digits: int) -> str:
    e = estimate([a - b for a, b in zip(mine, plain, strict=True)])
    return f"({e.mean:.{digits}f} ± {e.half_width:.{digits}f})".replace("-", "−")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def page(result: Mapping[str, Any]) -> str:
    """The three tables."""
    return "\n\n".join([best_table(result), matched_table(result), sooner_table(result)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/tail-experiment"), help="finished jobs")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="paired seeds")
    parser.add_argument("--print", action="store_true", help="only print the tables of the kept result")
    parser.add_argument("--job", nargs=2, metavar=("METHOD", "SEED"), help="run this one job, in this process")
    asked = parser.parse_args()
    if asked.job:
        run(job_of(asked.job[0], int(asked.job[1])), asked.work)
        return 0
    if not asked.print:
        wanted = [(name, seed) for seed in range(asked.seeds) for name in METHODS]
        waiting = [pair for pair in wanted if not job_of(*pair).file(asked.work).exists()]
        if failed := run_jobs([_child(asked.work, *pair) for pair in waiting], asked.jobs):
            print(f"{len(failed)} jobs failed: {'; '.join(failed)}", file=sys.stderr)
            return 1
        result = gathered(asked.work, asked.seeds)
        if asked.seeds >= SEEDS:
            write_text(FILE, json.dumps(result) + "\n")
        print(page(result))
        return 0
    print(page(json.loads(FILE.read_text(encoding="utf-8"))))
    return 0


def _child(work: Path, name: str, seed: int) -> Child:
    log = job_of(name, seed).file(work).with_suffix(".log")
    command = [sys.executable, __file__, "--work", str(work), "--job", name, str(seed)]
    return Child(f"{name}, seed {seed}", command, log)


if __name__ == "__main__":
    sys.exit(main())

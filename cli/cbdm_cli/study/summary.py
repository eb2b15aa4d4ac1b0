"""From the results of a comparison to its table and its verdict: paired differences, intervals, best ω. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.numerals import difference
from cbdm_cli.study import results
from cbdm_cli.study.plan import Plan
from cbdm_cli.study.results import Estimate, Result, at_edge, best_omega, estimate, read_results, scores_of, sign_of
from cbdm_core.metrics.scores import compared_scores

__all__ = ["Row", "Summary", "against", "by_score", "summarise", "summary_of"]


@dataclass(frozen=True)
class Row:
    """A variant, or a sampling-time way of the plain one, at its best ω.

    Args:
        name: of the variant, with the way it is sampled.
        variant: its name in the plan.
        kind: of the readings.
        omega: the best by the mean over seeds of the primary score.
        at_edge: whether that is the first or last of the grid, so that a better one may lie outside.
        seeds: those that have every reading.
        scores: score → estimate at the best ω.
        differences: score → estimate of the paired difference to the baseline row, None for the baseline.
        curve: for each ω (ω, mean over seeds of each score).
        values: score → value by seed, at the best ω.
    """

    name: str
    variant: str
    kind: str
    omega: str
    at_edge: bool
    seeds: tuple[int, ...]
    scores: dict[str, Estimate]
    differences: dict[str, Estimate] | None
    curve: tuple[tuple[str, dict[str, float]], ...]
    values: dict[str, dict[int, float]]

    def omega_text(self) -> str:
        """The best ω for a table, whose rows are called by their kind and τ: `0.5`, or `a,b` of aτt + b."""
        return ",".join(f"{number:g}" for number in results.swept(self.omega)[1])


@dataclass(frozen=True)
class Summary:
    """The rows, the baseline's first, and what they amount to in a sentence."""

    rows: tuple[Row, ...]
    verdict: str
    features: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an interval from one seed has no width, which is None."""

        def plain(e: Estimate) -> dict[str, float | None]:
            return {"mean": e.mean, "half_width": e.half_width if math.isfinite(e.half_width) else None}

        return {
            "verdict": self.verdict,
            "features": self.features,
            "rows": [
                {
                    "name": row.name,
                    "omega": row.omega,
                    "at_edge": row.at_edge,
                    "seeds": list(row.seeds),
                    "scores": {k: plain(e) for k, e in row.scores.items()},
                    "differences": {k: plain(e) for k, e in (row.differences or {}).items()},
                    "curve": [{"omega": omega, **means} for omega, means in row.curve],
                    "values": {k: {str(s): v for s, v in by_seed.items()} for k, by_seed in row.values.items()},
                }
                for row in self.rows
            ],
        }


def summarise(folder: Path, plan: Plan, primary: str = "fid") -> Summary | None:
    """The table and verdict of what has been judged so far; None before the baseline has a result.

    Args:
        folder: of the comparison.
        plan: its plan.
        primary: the score that picks ω and that the verdict speaks of.

    Raises:
        CbdmError: a result that cannot be read.
    """
    return summary_of(read_results(folder, plan), primary)


def summary_of(
    table: Mapping[results.RowKey, Mapping[str, Mapping[int, Result]]], primary: str = "fid"
) -> Summary | None:
    """As `summarise`, of results that have been read: (variant, kind) → ω → seed → result."""
    rows, baseline = [], None
    features = ""
    for (variant, kind), by_omega in table.items():
        seeds = tuple(sorted(set.intersection(*(set(found) for found in by_omega.values()))))
        if not seeds:
            continue
        features = features or str(next(iter(next(iter(by_omega.values())).values())).get("features", ""))
        row = _row(variant, kind, by_omega, seeds, primary, baseline)
        if row is not None:
            baseline = baseline or row
            rows.append(row)
    if not rows or (rows[0].variant, rows[0].kind) != next(iter(table)):
        return None
    return Summary(tuple(rows), _verdict(rows, primary), features)


def _row(
    variant: str,
    kind: str,
    by_omega: Mapping[str, Mapping[int, Mapping[str, Any]]],
    seeds: tuple[int, ...],
    primary: str,
    baseline: Row | None,
) -> Row | None:
    values = {omega: by_score(found, seeds) for omega, found in by_omega.items()}
    omegas = [omega for omega in values if len(values[omega].get(primary, {})) == len(seeds)]
    if not omegas:
        return None
    best = best_omega({omega: math.fsum(values[omega][primary].values()) for omega in omegas}, primary)
    found = values[best]
    differences = None
    if baseline is not None:
        every = {score: _difference(by_seed, baseline.values.get(score, {})) for score, by_seed in found.items()}
        differences = {score: difference for score, difference in every.items() if difference is not None}
    curve = tuple(
        (omega, {score: math.fsum(v.values()) / len(v) for score, v in values[omega].items()}) for omega in omegas
    )
    return Row(
        name=f"{variant}, {kind}" if kind else variant,
        variant=variant,
        kind=kind,
        omega=best,
        at_edge=at_edge(best, omegas),
        seeds=seeds,
        scores={score: estimate(list(by_seed.values())) for score, by_seed in found.items()},
        differences=differences,
        curve=curve,
        values=found,
    )


def _difference(values: Mapping[int, float], others: Mapping[int, float]) -> Estimate | None:
    """Of (seed → value) pairs, over the seeds that both have; None where there are none."""
    paired = [value - others[seed] for seed, value in values.items() if seed in others]
    return estimate(paired) if paired else None


def against(row: Row, other: Row, score: str) -> Estimate | None:
    """The paired difference of a score to that of another row, None where they share no seed."""
    return _difference(row.values.get(score, {}), other.values.get(score, {}))


def implied_row(rows: Sequence[Row], primary: str = "fid") -> Row | None:
    """The plain model under the guidance that CBDM implies, at the best of its τ; None where it was not judged."""
    sign = sign_of(primary)
    implied = [row for row in rows if row.variant == rows[0].variant and row.kind.startswith("ω_eff")]
    return min(implied, key=lambda row: sign * row.scores[primary].mean, default=None)


def by_score(found: Mapping[int, Result], seeds: Sequence[int]) -> dict[str, dict[int, float]]:
    """Score → seed → value, of these seeds, where it is defined."""
    table: dict[str, dict[int, float]] = {name: {} for name in compared_scores()}
    for seed in seeds:
        for name, value in scores_of(found.get(seed, {})).items():
            table[name][seed] = value
    return {name: values for name, values in table.items() if values}


def _paired(row: Row, baseline: Row, primary: str) -> int:
    """How many seeds of the row the baseline has too."""
    return len(row.values.get(primary, {}).keys() & baseline.values.get(primary, {}).keys())


def _verdict(rows: Sequence[Row], primary: str) -> str:
    """What the intervals say, and no more."""
    baseline, others = rows[0], rows[1:]
    name = primary.upper() if primary == "fid" else primary
    if not others:
        return f"Only {baseline.name} has been judged: there is nothing to compare it with yet."
    least = min(_paired(row, baseline, primary) for row in others)
    if least < 3:
        return f"No verdict: {least} paired seed{'' if least == 1 else 's'}, and at least 3 are needed for an interval."
    better, worse = _shown_to_differ(others, primary)
    at = f"{baseline.name} at its best ω ({baseline.omega})"
    gains, losses = ("; ".join(f"{row.name} by {difference(d, 2)}" for row, d in found) for found in (better, worse))
    parts = []
    if better:
        parts.append(f"Better than {at} in {name}: {gains}.")
        parts += _copies([row for row, _ in better], baseline)
    if worse:
        parts.append(f"Worse than {at} in {name}: {losses}.")
    if (implied := _against_implied(rows, primary)) is not None:
        parts.append(implied)
    rest = len(others) - len(better) - len(worse)
    if rest:
        which = "No method" if rest == len(others) else f"Of the other {rest}, none"
        parts.append(f"{which} is shown to differ from {at} in {name}: the 95 % interval holds 0.")
    return " ".join(parts)


def _shown_to_differ(
    rows: Sequence[Row], primary: str
) -> tuple[list[tuple[Row, Estimate]], list[tuple[Row, Estimate]]]:
    """(rows shown to be better than the baseline, rows shown to be worse), each with its difference."""
    better, worse = [], []
    for row in rows:
        d = (row.differences or {}).get(primary)
        if d is not None and d.excludes_zero:
            (better if sign_of(primary) * d.mean < 0 else worse).append((row, d))
    return better, worse


def _against_implied(rows: Sequence[Row], primary: str) -> str | None:
    """The sentence that decides: what training adds to the plain model under the guidance that CBDM implies."""
    implied = implied_row(rows, primary)
    trained = [row for row in rows if row.variant != rows[0].variant]
    if implied is None or not trained:
        return None
    parts = []
    for row in trained:
        d = against(row, implied, primary)
        if d is not None and len(row.seeds) >= 3 and d.excludes_zero:
            word = "better" if sign_of(primary) * d.mean < 0 else "worse"
            parts.append(f"{row.name} is {word} by {difference(d, 2)}")
    return f"Against {implied.name}: {'; '.join(parts) or 'no method is shown to differ'}."


def _copies(better: Sequence[Row], baseline: Row) -> list[str]:
    """The sentence on methods that are better and copy more: the reference may hold the images they copy."""
    found = []
    for row in better:
        d = (row.differences or {}).get("tail copies")
        if d is not None and d.excludes_zero and d.mean > 0:
            found.append(f"{row.name} {row.scores['tail copies'].mean:.0%}")
    if not found:
        return []
    plain = f"{baseline.name} {max(baseline.scores['tail copies'].mean, 0.0):.0%}"
    return [f"Of these, more tail samples are copies of training images: {'; '.join(found)}; against {plain}."]

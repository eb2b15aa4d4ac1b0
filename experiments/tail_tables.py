"""Curves of the tail over ω compared at one recall, and the tables of the tail's experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tables import table

from cbdm_cli.study.results import Estimate, best_omega, estimate

RECALLS = (0.95, 0.9, 0.85, 0.8, 0.75)
# Of `above_table`: steps with CBDM and without; a step with it costs nearly two.
ABOVE = ((1000, 1000), (1000, 2000), (3000, 3000))
# Of `budget_table`: the tail's recall that is asked for, and the share of copies that is allowed.
BUDGETS = ((0.9, 0.05), (0.9, 0.1), (0.8, 0.05), (0.8, 0.1), (0.8, 1.0))
# Of the table of differences: digits, and by what a score is multiplied.
SHOWN = {"fid": (2, 1), "tail fid": (2, 1), "tail recall": (2, 1), "tail copies": (0, 100)}

Curves = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""Length → ω → score → values by seed, of one method."""

Point = tuple[float, float, float]
"""(tail recall, log tail FID, copies) at one ω."""


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
    for seed in range(_seeds(result["methods"][name])):
        mine, plain = (matched(result["methods"][m], length, seed, recall) for m in (name, "ddpm"))
        if mine is not None and plain is not None:
            pairs.append((mine, plain))
    if len(pairs) < 3:
        return None
    copies = [math.fsum(pair[i][1] for pair in pairs) / len(pairs) for i in (0, 1)]
    return estimate([mine[0] - plain[0] for mine, plain in pairs]), copies[0], copies[1]


def joined(shorter: Mapping[str, Any], longer: Mapping[str, Any]) -> dict[str, Any]:
    """One result of the lengths of both: the methods and the seeds that both have."""
    methods = {}
    for name in (name for name in longer["methods"] if name in shorter["methods"]):
        curves = shorter["methods"][name] | longer["methods"][name]
        methods[name] = first_seeds(curves, _seeds(curves))
    return {**longer, "methods": methods}


def first_seeds(curves: Curves, seeds: int) -> Curves:
    """A method's curves with this many seeds."""
    return {
        length: {
            omega: {score: values[:seeds] for score, values in scores.items()} for omega, scores in by_omega.items()
        }
        for length, by_omega in curves.items()
    }


def one_seed(curves: Curves, seed: int) -> Curves:
    """A method's curves of one seed, nothing where there are fewer."""
    if not curves or seed >= _seeds(curves):
        return {}
    return {
        length: {omega: {score: [values[seed]] for score, values in scores.items()} for omega, scores in of.items()}
        for length, of in curves.items()
    }


def _seeds(curves: Curves) -> int:
    return min(
        len(values) for by_omega in curves.values() for scores in by_omega.values() for values in scores.values()
    )


def _lengths(result: Mapping[str, Any]) -> list[int]:
    return [int(length) for length in next(iter(result["methods"].values()))]


def _rivals(result: Mapping[str, Any]) -> list[str]:
    return [name for name in result["methods"] if name != "ddpm"]


def _percent(e: Estimate) -> str:
    """A ratio of means of logarithms as a change in per cent, with its interval."""
    change, low, high = (100 * (math.exp(e.mean + width) - 1) for width in (0, -e.half_width, e.half_width))
    text = f"{change:+.0f} % [{low:+.0f}, {high:+.0f}]"
    return f"**{text}**" if e.excludes_zero else text


def best_table(result: Mapping[str, Any]) -> str:
    """Every method and length at its ω of least mean FID."""
    lines = []
    for length in _lengths(result):
        for name, curves in result["methods"].items():
            omega = _best_omega(curves, length)
            means = {score: _mean(values) for score, values in curves[str(length)][omega].items()}
            shares = [f"{100 * means[score]:.0f} %" for score in ("tail copies", "tail copies in pixels")]
            scores = [f"{means['fid']:.2f}", f"{means['tail fid']:.2f}", f"{means['tail recall']:.2f}", *shares]
            lines.append([str(length), f"`{name}`", _omega_text(omega), *scores])
    head = ("steps", "method", "best ω", "FID", "tail FID", "tail recall", "tail copies", "in pixels")
    return table(head, lines)


def matched_table(result: Mapping[str, Any]) -> str:
    """Tail FID against DDPM's at equal tail recall: a line for each method, length and recall that has one."""
    lines = []
    for name in _rivals(result):
        for length in _lengths(result):
            for recall in RECALLS:
                found = ratios(result, name, length, recall)
                if found is not None:
                    points = f"{100 * (found[1] - found[2]):+.0f}"
                    lines.append([f"`{name}`", str(length), f"{recall:.2f}", _percent(found[0]), points])
    return table(("method", "steps", "tail recall", "tail FID against DDPM's", "copies, points"), lines)


def sooner_table(result: Mapping[str, Any]) -> str:
    """What fewer steps give: each at its best ω, against DDPM's longest run at its own."""
    lengths = _lengths(result)
    plain = best(result["methods"]["ddpm"], lengths[-1])
    lines = []
    for name in _rivals(result):
        for length in lengths[:2]:
            mine = best(result["methods"][name], length)
            lines.append([f"`{name}`", str(length), *differences(mine, plain)])
    return table(("method", "steps", "FID", "tail FID", "tail recall", "tail copies, points"), lines)


def changed_table(result: Mapping[str, Any], reference: str) -> str:
    """Every method minus the one that it changes, at the same length, each at its best ω."""
    lines = []
    for name in [name for name in result["methods"] if name != reference]:
        for length in map(int, result["methods"][reference]):
            found = (best(result["methods"][m], length) for m in (name, reference))
            lines.append([f"`{name}`", str(length), *differences(*found)])
    return table(("method", "steps", "FID", "tail FID", "tail recall", "tail copies, points"), lines)


def above_table(pulled: Mapping[str, Any], digits: Mapping[str, Any]) -> str:
    """What CBDM adds to a batch law: at the same steps, at about the same cost, and after long training."""
    lines = []
    for name in _rivals(pulled):
        inner = name.removeprefix("cbdm:null+")
        for mine, theirs in ABOVE if inner in digits["methods"] else ():
            found = best(pulled["methods"][name], mine), best(digits["methods"][inner], theirs)
            lines.append([f"`{name}`", str(mine), str(theirs), *differences(*found)])
    head = ("method", "steps", "steps without CBDM", "FID", "tail FID", "tail recall", "tail copies, points")
    return table(head, lines)


def judged_table(held_out: Mapping[str, Any], digits: Mapping[str, Any]) -> str:
    """How much the tail's FID rises by leaving training images out of the reference: the same samples, all ω."""
    lines = []
    for name, curves in held_out["methods"].items():
        for length, by_omega in curves.items():
            known = digits["methods"][name][length]
            pairs = [(by_omega[omega]["tail fid"], known[omega]["tail fid"]) for omega in by_omega]
            logs = [[math.log(a[seed] / b[seed]) for a, b in pairs] for seed in range(_seeds(curves))]
            copies = _mean([_mean(scores["tail copies"]) for scores in by_omega.values()])
            change = _percent(estimate([_mean(of_seed) for of_seed in logs]))
            lines.append([f"`{name}`", length, change, f"{100 * copies:.0f} %"])
    return table(("method", "steps", "tail FID against held-out images alone", "tail copies"), lines)


def differences(mine: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> list[str]:
    """Of the scores shown, over the seeds that both have; bold where the interval excludes 0."""
    cells = []
    for score, (digits, scale) in SHOWN.items():
        e = estimate([scale * (a - b) for a, b in zip(mine[score], theirs[score], strict=False)])
        text = f"{e.mean:+.{digits}f} ± {e.half_width:.{digits}f}"
        cells.append(f"**{text}**" if e.excludes_zero else text)
    return cells


def budget_table(result: Mapping[str, Any]) -> str:
    """The least tail FID over all lengths and ω, of those that keep the tail's recall and copy no more than allowed."""
    lines = []
    for name, curves in result["methods"].items():
        cells = []
        for recall, copies in BUDGETS:
            found = min(_within(curves, recall, copies), default=None)
            cells.append("–" if found is None else f"{found[0]:.1f} ({found[1]}, ω {_omega_text(found[2])})")
        lines.append([f"`{name}`", str(_seeds(curves)), *cells])
    heads = [f"recall ≥ {r}" + f", copies ≤ {100 * c:.0f} %" * (c < 1) for r, c in BUDGETS]
    return table(("method", "seeds", *heads), lines)


def cost_table(result: Mapping[str, Any], step_costs: Mapping[str, float]) -> str:
    """What it costs to be as good as DDPM after its longest training, as a share of what that cost.

    Args:
        result: of `gathered`.
        step_costs: method → its training step's cost over that of DDPM, of `benchmarks/training.py`.
    """
    lines = []
    for name in _rivals(result):
        costs = [_cost_text(result, name, score, step_costs[name]) for score in ("fid", "tail fid")]
        lines.append([f"`{name}`", f"{step_costs[name]:.2f}", *costs])
    return table(("method", "cost of a step", "cost to DDPM's FID", "cost to its tail FID"), lines)


def _cost_text(result: Mapping[str, Any], name: str, score: str, step_cost: float) -> str:
    lengths, curves = _lengths(result), result["methods"][name]
    target = best(result["methods"]["ddpm"], lengths[-1])[score]
    by_length = [best(curves, length)[score] for length in lengths]
    found = [steps_to(lengths, [values[seed] for values in by_length], target[seed]) for seed in range(_seeds(curves))]
    shares = [math.log(step_cost * steps / lengths[-1]) for steps in found if steps is not None]
    if len(shares) < len(found):
        return f"not reached by {len(found) - len(shares)} of {len(found)} seeds"
    e = estimate(shares)
    share, low, high = (math.exp(e.mean + width) for width in (0, -e.half_width, e.half_width))
    return f"{'≤ ' * (min(s or 0 for s in found) <= lengths[0])}{share:.2f} [{low:.2f}, {high:.2f}]"


def steps_to(lengths: Sequence[int], values: Sequence[float], target: float) -> float | None:
    """The training steps at which a falling curve first is at the target, linear in log steps in between.

    Returns:
        None where it never is; the first length where it is there already.
    """
    if values[0] <= target:
        return lengths[0]
    for (a, x), (b, y) in pairwise(zip(lengths, values, strict=True)):
        if y <= target:
            return math.exp(math.log(a) + (x - target) / (x - y) * math.log(b / a))
    return None


def _within(curves: Curves, recall: float, copies: float) -> list[tuple[float, int, str]]:
    """(mean tail FID, steps, ω) of every reading whose mean recall and copies of the tail are within these."""
    return [
        (_mean(scores["tail fid"]), int(length), omega)
        for length, by_omega in curves.items()
        for omega, scores in by_omega.items()
        if _mean(scores["tail recall"]) >= recall and _mean(scores["tail copies"]) <= copies
    ]


def _omega_text(omega: str) -> str:
    return omega.replace("implied:", "ω_eff ")


def _best_omega(curves: Curves, length: int) -> str:
    return best_omega({omega: math.fsum(scores["fid"]) for omega, scores in curves[str(length)].items()})


def best(curves: Curves, length: int) -> Mapping[str, Sequence[float]]:
    """Score → values by seed at the ω of least mean FID."""
    return curves[str(length)][_best_omega(curves, length)]


def readme_figures(result: Mapping[str, Any]) -> list[str]:
    """The figures that the README gives, as it writes them: of resampling, and of balancing at high noise only."""
    lengths = _lengths(result)
    plain = best(result["methods"]["ddpm"], lengths[-1])
    resampled, above = (result["methods"][name] for name in ("resample:uniform", "resample:uniform@0.2"))
    shares = ", ".join(f"{100 * _mean(best(resampled, length)['tail copies']):.0f}" for length in lengths)
    early, balanced = best(resampled, lengths[0]), best(above, lengths[1])
    figures = ((early, "tail fid", 1), (balanced, "fid", 2), (balanced, "tail fid", 1))
    return [f"{shares} %", *(_difference(mine[score], plain[score], digits) for mine, score, digits in figures)]


def readme_on_resampling(result: Mapping[str, Any]) -> str:
    """The sentence of the README on resampling after the longest training, each method at its best ω."""
    length = _lengths(result)[-1]
    plain, resampled = (best(result["methods"][name], length) for name in ("ddpm", "resample:uniform"))
    copies = 100 * _mean(resampled["tail copies"])
    fids = (f"{_mean(scores['tail fid']):.1f}" for scores in (resampled, plain))
    return "tail FID {} where DDPM has {}, with {:.0f} % of copies".format(*fids, copies)


def _difference(mine: Sequence[float], plain: Sequence[float], digits: int) -> str:
    e = estimate([a - b for a, b in zip(mine, plain, strict=True)])
    return f"({e.mean:.{digits}f} ± {e.half_width:.{digits}f})".replace("-", "−")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

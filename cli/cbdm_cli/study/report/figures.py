"""The figures of a page that show scores; each is None where the files hold nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbdm_cli.numerals import number
from cbdm_cli.study.report.axes import as_fraction, framed, plain_numbers
from cbdm_cli.study.report.collect import MethodScores, Story
from cbdm_cli.study.report.drawing import Drawing, canvas, finished, ramp, style_of
from cbdm_cli.study.report.wording import estimate_text
from cbdm_cli.study.results import Estimate
from cbdm_core.metrics.report import rank_groups
from cbdm_core.metrics.scores import digits_of, label_of

__all__ = [
    "MANY",
    "class_bars",
    "class_histogram",
    "classes_of",
    "omega_curves",
    "omega_value",
    "plane",
    "strength_curves",
]

_CURVES = ("fid", "tail fid", "recall")
MANY = 20  # more classes than this are told by rank, not by name


def class_histogram(story: Story) -> Drawing:
    """Training images of each class, commonest at the top, on a logarithmic axis."""
    counts, names, order = classes_of(story)
    sorted_counts = [counts[y] for y in order]
    with canvas(1, _lying(len(order), 0.27)) as (figure, (axes,)):
        axes.barh(range(len(order)), [max(n, 0.8) for n in sorted_counts], color=ramp(len(order)), height=0.8)
        axes.set(xscale="log", xlabel="training images", xlim=(0.7, None))
        plain_numbers(axes.xaxis)
        _class_ticks(axes, [names[y] for y in order])
        if len(order) <= MANY:
            for i, n in enumerate(sorted_counts):
                axes.annotate(f"{n}", (max(n, 0.8), i), (3, 0), textcoords="offset points", va="center", fontsize=9)
        shown = [f"{names[y]}: {counts[y]}" for y in order]
        shown = shown if len(shown) <= MANY else [*shown[:5], "…", *shown[-5:]]
        alt = f"Bar chart, logarithmic. Training images of {len(order)} classes: {', '.join(shown)}."
        caption = (
            f"{sum(counts):,} training images in {len(order)} classes: {sorted_counts[0]} of the commonest, "
            f"{sorted_counts[-1]} of the rarest."
        )
        return finished(figure, "histogram", alt, caption, legend=False)


def class_bars(story: Story, score: str) -> Drawing | None:
    """A score of each class for each method at its best ω, mean over seeds with the range of seeds.

    Args:
        story: with scores of its methods.
        score: `fid` or `recall`, as a class has it.
    """
    _, names, order = classes_of(story)
    shown = [scores_of for scores_of in story.method_scores if not scores_of.row.kind]
    tables = [(m, table) for m in shown if np.isfinite(table := _per_class(m, score)[order]).any()]
    if not tables:
        return None
    counts = [int(story.facts["counts"][y]) for y in order]
    many = len(order) > MANY or len(order) * len(tables) > 120
    height = 3.0 if many else _lying(len(order), 0.12 + 0.12 * len(tables))
    with canvas(1, height) as (figure, (axes,)):
        if many:
            _class_points(axes, tables, counts, score)
        else:
            for place, (scores_of, table) in enumerate(tables):
                _bars(axes, place, len(tables), table, scores_of)
            axes.set(xlabel=label_of(score), xlim=(0, None))
            _class_ticks(axes, [f"{names[y]} ({n})" for y, n in zip(order, counts, strict=True)])
        alt = f"{label_of(score)} of each class by method. " + " ".join(
            _class_alt(scores_of, _nanmean(table), names, order, counts, score) for scores_of, table in tables
        )
        several = any(len(scores_of.row.seeds) > 1 for scores_of, _ in tables)
        spread = " Mean over seeds." if many else " Mean over seeds; whiskers: the lowest and highest seed."
        return finished(figure, f"classes-{score}", alt, _class_caption(story, score, spread if several else ""))


def _class_points(axes: Any, tables: Sequence[tuple[MethodScores, Any]], counts: Sequence[int], score: str) -> None:
    """A mark for each class over its training images, where there are too many classes for bars."""
    for scores_of, table in tables:
        line = {**style_of(scores_of.method).points(), "markersize": 4, "linestyle": "none"}
        axes.plot(np.maximum(counts, 0.8), _nanmean(table), label=scores_of.row.name, alpha=0.85, **line)
    axes.set(xscale="log", xlabel="training images of the class", ylabel=label_of(score))
    axes.invert_xaxis()
    plain_numbers(axes.xaxis)
    framed(axes.yaxis, score)


def _class_caption(story: Story, score: str, spread: str) -> str:
    better = "less is better" if score == "fid" else "more is better"
    biased = " From few samples FID is too high: read it between methods, not between classes."
    return (
        f"Each class, with its training images, at each method's {_at(story)} ω: {label_of(score)}, {better}."
        f"{spread}{biased if score == 'fid' else ''}"
    )


def plane(story: Story) -> Drawing | None:
    """Precision against recall of each row of the table, with 95 % intervals and the seeds."""
    shown = [j for j in story.method_scores if {"precision", "recall"} <= j.row.scores.keys()]
    if not shown:
        return None
    with canvas(1, 3.5, 5.6) as (figure, (axes,)):
        for j in shown:
            style, r, p = style_of(j.method, j.row.kind), j.row.scores["recall"], j.row.scores["precision"]
            seeds = [s for s in j.row.values["recall"] if s in j.row.values["precision"]]
            axes.plot(
                [j.row.values["recall"][s] for s in seeds],
                [j.row.values["precision"][s] for s in seeds],
                **{**style.points(), "markersize": 3.5, "alpha": 0.35, "linestyle": "none"},
            )
            bars = {"xerr": _width(r), "yerr": _width(p)}
            axes.errorbar(r.mean, p.mean, **bars, elinewidth=1, linestyle="none", label=j.row.name, **style.points())
        axes.grid(axis="x", alpha=0.12, linewidth=0.8)
        axes.set(xlabel="recall (variety)", ylabel="precision (likeness)")
        for axis, score in ((axes.xaxis, "recall"), (axes.yaxis, "precision")):
            seeds = [v for j in shown for v in j.row.values[score].values()]
            as_fraction(axis, min(seeds), max(seeds), share=0.35)
        described = [
            f"{j.row.name}: precision {estimate_text(j.row.scores['precision'], 3)}, "
            f"recall {estimate_text(j.row.scores['recall'], 3)}"
            for j in shown
        ]
        alt = f"Precision against recall. {'; '.join(described)}."
        caption = (
            f"Each method at its {_at(story)} ω; up and right is better. Bars: 95 % intervals over two seeds or "
            "more, cut at the frame; faint marks: the seeds."
        )
        return finished(figure, "plane", alt, caption)


def omega_curves(story: Story) -> Drawing | None:
    """Scores against ω for each way to sample: the mean over seeds, and each seed faint."""
    series = {score: [(j, c) for j in story.method_scores if (c := _curve(j, score))] for score in _CURVES}
    if not any(len(curve) > 1 for found in series.values() for _, curve in found):
        return None
    panels = [score for score in _CURVES if series[score]]
    with canvas(len(panels), 2.9) as (figure, axes):
        for each, score in zip(axes, panels, strict=True):
            for j, curve in series[score]:
                _omega_curve(each, j, curve)
            each.set(xlabel="ω", ylabel=label_of(score))
            framed(each.yaxis, score)
        described = [
            f"{label_of(score)}, {j.row.name}: "
            + ", ".join(f"{number(_mean(by_seed), digits_of(score))} at ω {omega:g}" for omega, by_seed in curve)
            for score in panels
            for j, curve in series[score]
        ]
        alt = f"Scores against guidance strength ω. {'; '.join(described)}."
        ways = any(j.row.kind for j in story.method_scores)
        caption = (
            "Scores against guidance strength, ω = 0 being plain conditional sampling; FID: less is better, recall: "
            "more is. Lines: mean over seeds; faint lines: the seeds."
            + (" Hollow marks: the plain model guided otherwise, ω_eff(t) at the ω it is made from." if ways else "")
        )
        return finished(figure, "omega", alt, caption)


def _omega_curve(axes: Any, scores_of: MethodScores, curve: Sequence[tuple[float, dict[int, float]]]) -> None:
    style = style_of(scores_of.method, scores_of.row.kind)
    omegas = [omega for omega, _ in curve]
    for seed in scores_of.row.seeds if len(scores_of.row.seeds) > 1 else ():
        known = [(omega, by_seed[seed]) for omega, by_seed in curve if seed in by_seed]
        axes.plot([w for w, _ in known], [v for _, v in known], color=style.colour, alpha=0.3, linewidth=0.8)
    means = [_mean(by_seed) for _, by_seed in curve]
    axes.plot(omegas, means, linestyle=style.line, linewidth=1.8, label=scores_of.row.name, **style.points())


def strength_curves(story: Story) -> Drawing | None:
    """Scores against τ at the best ω, where methods differ in τ only."""
    lines = _by_strength(story)
    if not lines:
        return None
    panels = [s for s in _CURVES if all(s in j.row.scores for found in lines.values() for _, j in found)]
    plain = next((j for j in story.method_scores if story.methods[j.method].tau is None and not j.row.kind), None)
    with canvas(len(panels), 2.8) as (figure, axes):
        for each, score in zip(axes, panels, strict=True):
            for parts, found in lines.items():
                _strengths(each, parts, found, score)
            if plain is not None and score in plain.row.scores:
                style = style_of(plain.method)
                each.axhline(plain.row.scores[score].mean, color=style.colour, linestyle=":", label=plain.row.name)
            taus = [tau for found in lines.values() for tau, _ in found]
            if min(taus) > 0 and max(taus) / min(taus) > 5:
                each.set_xscale("log")
                plain_numbers(each.xaxis)
            each.set(xlabel="τ", ylabel=label_of(score))
            framed(each.yaxis, score)
        described = [
            f"{label_of(score)}, {parts}: "
            + ", ".join(f"{estimate_text(j.row.scores[score], digits_of(score))} at τ {tau:g}" for tau, j in found)
            for score in panels
            for parts, found in lines.items()
        ]
        caption = (
            f"Methods that differ in their strength τ only, each at its {_at(story)} ω. Bars: 95 % intervals, cut at "
            "the frame."
        )
        return finished(figure, "strength", f"Scores against strength τ. {'; '.join(described)}.", caption)


def _by_strength(story: Story) -> dict[str, list[tuple[float, MethodScores]]]:
    """Parts → (τ, scores) by τ, of those methods that were trained at two strengths or more."""
    lines: dict[str, list[tuple[float, MethodScores]]] = {}
    for scores_of in story.method_scores:
        method = story.methods[scores_of.method]
        if method.tau is not None and not scores_of.row.kind:
            lines.setdefault(method.parts, []).append((method.tau, scores_of))
    return {parts: sorted(found, key=lambda pair: pair[0]) for parts, found in lines.items() if len(found) > 1}


def _strengths(axes: Any, parts: str, found: Sequence[tuple[float, MethodScores]], score: str) -> None:
    style = style_of(found[0][1].method)
    estimates = [j.row.scores[score] for _, j in found]
    widths = [e.half_width if math.isfinite(e.half_width) else 0.0 for e in estimates]
    taus, means = [tau for tau, _ in found], [e.mean for e in estimates]
    axes.errorbar(taus, means, yerr=widths, linestyle=style.line, elinewidth=1, label=parts, **style.points())


def omega_value(text: str) -> float | None:
    """The number on the ω axis: ω itself, or the ω that implied:ω names; None for a schedule."""
    kind, _, rest = text.rpartition(":")
    if kind not in ("", "implied"):
        return None
    try:
        return float(rest.split(",")[0])
    except ValueError:
        return None


def _curve(scores_of: MethodScores, score: str) -> list[tuple[float, dict[int, float]]]:
    """(ω, seed → score), by ω, where every seed has it."""
    found = [(omega_value(omega), by_seed) for omega, by_seed in scores_of.by_seed(score).items()]
    complete = [(w, v) for w, v in found if w is not None and len(v) == len(scores_of.row.seeds)]
    return sorted(complete, key=lambda pair: pair[0])


def _mean(by_seed: Mapping[int, float]) -> float:
    return math.fsum(by_seed.values()) / len(by_seed)


def classes_of(story: Story) -> tuple[list[int], list[str], list[int]]:
    """Counts, names, and the labels from the commonest to the rarest."""
    counts = [int(n) for n in story.facts["counts"]]
    names = [str(name) for name in story.facts["class_names"]]
    return counts, names, [y for group in rank_groups(counts).values() for y in group]


def _per_class(scores_of: MethodScores, score: str) -> Any:
    """(K, seeds), NaN where undefined."""
    results = scores_of.best().values()
    table = [[entry["scores"].get(score) for entry in result["classes"]] for result in results]
    return np.array([[math.nan if v is None else float(v) for v in row] for row in table]).T


def _nanmean(table: Any) -> Any:
    known = np.isfinite(table)
    return np.where(known.any(1), np.where(known, table, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def _bars(axes: Any, place: int, count: int, table: Any, scores_of: MethodScores) -> None:
    style, mean, width = style_of(scores_of.method), _nanmean(table), 0.84 / count
    y = np.arange(len(mean)) - 0.42 + (place + 0.5) * width
    known = np.isfinite(mean)
    axes.barh(y[known], mean[known], width * 0.92, color=style.colour, hatch=style.hatch, label=scores_of.row.name)
    if table.shape[1] > 1:
        rows = table[known]
        low, high = np.nanmin(rows, 1), np.nanmax(rows, 1)
        axes.hlines(y[known], low, high, linewidth=0.9, color=axes.xaxis.label.get_color())


def _class_alt(
    scores_of: MethodScores, mean: Any, names: list[str], order: list[int], counts: list[int], score: str
) -> str:
    known = [i for i in range(len(order)) if np.isfinite(mean[i])]
    described = [
        f"class {names[order[i]]} ({counts[i]} training images) {number(float(mean[i]), digits_of(score))}"
        for i in (known if len(known) <= 12 else [*known[:3], *known[-3:]])
    ]
    return f"{scores_of.row.name}: {', '.join(described)}."


def _lying(classes: int, each: float) -> float:
    """The height in inches of bars that lie, so that a narrow screen shows all classes."""
    return 1.0 + each * classes if classes <= MANY else 4.0


def _class_ticks(axes: Any, names: Sequence[str]) -> None:
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_yticks(range(len(names)), names) if len(names) <= MANY else axes.set_yticks([])


def _width(found: Estimate) -> float | None:
    return found.half_width if math.isfinite(found.half_width) else None


def _at(story: Story) -> str:
    return "best" if story.plan is not None else "own"

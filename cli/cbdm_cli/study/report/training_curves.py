"""What a page shows of the course of training: losses, and laws that learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbdm_cli.study.report.axes import plain_numbers
from cbdm_cli.study.report.collect import Story
from cbdm_cli.study.report.drawing import Drawing, canvas, finished, ramp, style_of
from cbdm_cli.study.report.figures import MANY, classes_of

__all__ = ["law_trajectories", "loss_curves"]

_POINTS = 200  # of a curve against the training step: more cannot be seen, and would fill the page


def loss_curves(story: Story) -> Drawing | None:
    """The denoising loss of all rows and of the tail, mean over seeds, by method."""
    panels = {"all classes": _denoising, "tail": lambda record: record["groups"].get("tail")}
    curves = {
        name: [(i, c) for i, m in enumerate(story.methods) if len(c := _losses([r.records for r in m.runs], of)[0])]
        for name, of in panels.items()
    }
    if not curves["all classes"]:
        return None
    ends = []
    with canvas(2, 2.7) as (figure, axes):
        for each, (name, of) in zip(axes, panels.items(), strict=True):
            for i, method in enumerate(story.methods):
                steps, values = _losses([run.records for run in method.runs], of)
                if not len(steps):
                    continue
                style = style_of(i)
                each.plot(steps, values, color=style.colour, linestyle=style.line, linewidth=1.4, label=method.name)
                ends.append(f"{method.name}, {name}: {values[0]:.4g} to {values[-1]:.4g} at step {int(steps[-1])}")
            each.set(title=name, xlabel="step", ylabel="denoising loss", yscale="log")
            each.locator_params(axis="x", integer=True)
            plain_numbers(each.yaxis, every=True)
        alt = f"Denoising loss against training step, logarithmic. {'; '.join(ends)}."
        caption = "Denoising loss without the regulariser, mean over seeds and over neighbouring records."
        return finished(figure, "loss", alt, caption)


def _denoising(record: Mapping[str, Any]) -> float | None:
    return record["terms"].get("denoising", record["loss"])


def law_trajectories(story: Story) -> list[tuple[str, Drawing]]:
    """For each method whose laws learn: (method and law, the probability of each class against the step)."""
    found = []
    for i, method in enumerate(story.methods):
        run = method.runs[0]
        for law in sorted({law for record in run.records for law in record.get("laws") or {}}):
            described = [(r["step"], r["laws"][law]) for r in run.records if law in (r.get("laws") or {})]
            name = f"{method.name}, law of {law}"
            found.append((name, _law(story, name, f"law-{i}-{law}", run.seed, described)))
    return found


def _law(story: Story, name: str, key: str, seed: int, described: Sequence[tuple[int, Sequence[float]]]) -> Drawing:
    _, names, order = classes_of(story)
    steps, table = np.array([step for step, _ in described]), np.array([probs for _, probs in described], dtype=float)
    places = order if table.shape[1] == len(order) else list(range(table.shape[1]))
    texts = names if table.shape[1] == len(order) else [str(y) for y in places]
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(int))
    with canvas(1, 2.6) as (figure, (axes,)):
        for rank, (y, colour) in enumerate(zip(places, ramp(len(places)), strict=True)):
            line = ("-", "--", ":")[min(3 * rank // max(len(places), 1), 2)]
            label = texts[y] if len(places) <= MANY else None
            axes.plot(steps[kept], table[kept, y], color=colour, linestyle=line, linewidth=1.4, label=label)
        axes.set(xlabel="step", ylabel="probability", ylim=(0, None))
        axes.locator_params(axis="x", integer=True)
        first, last = places[0], places[-1]
        alt = (
            f"{name}, seed {seed}: class {texts[first]} from {table[0, first]:.4f} to {table[-1, first]:.4f}, class "
            f"{texts[last]} from {table[0, last]:.4f} to {table[-1, last]:.4f}, by step {int(steps[-1])}."
        )
        caption = f"{name}, seed {seed}: blue and solid the commonest classes, orange and dotted the rarest."
        return finished(figure, key, alt, caption)


def _losses(runs: Sequence[Sequence[Mapping[str, Any]]], of: Any) -> tuple[Any, Any]:
    """Steps and losses, averaged over the seeds that recorded the step, then over blocks of records."""
    by_step: dict[int, list[float]] = {}
    for records in runs:
        for record in records:
            value = of(record)
            if value is not None and math.isfinite(value) and value > 0:
                by_step.setdefault(int(record["step"]), []).append(float(value))
    steps = np.array(sorted(by_step), dtype=float)
    values = np.array([math.fsum(by_step[int(s)]) / len(by_step[int(s)]) for s in steps])
    if not len(steps):
        return steps, values
    blocks = np.array_split(np.arange(len(steps)), min(_POINTS, max(len(steps) // max(len(steps) // 50, 1), 1)))
    return np.array([steps[b].mean() for b in blocks]), np.array([values[b].mean() for b in blocks])

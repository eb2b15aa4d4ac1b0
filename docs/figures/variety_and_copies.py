"""What guidance buys in the tail, and what it costs in copies: digits-lt, from the committed results."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from docs.figures.drawing import COLOURS, HERE, Figure, plain_log, rounded

RESULTS = HERE.parents[1] / "experiments" / "results" / "digits.json"
METHODS = ("ddpm", "cbdm:training", "cbdm:null", "resample:uniform")


def numbers() -> dict[str, Any]:
    """Means over seeds at each ω: FID of the tail, its recall, and its share of copies."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]["digits"]["rows"]
    scores = ("tail fid", "tail recall", "tail copies")
    found = {}
    for method in METHODS:
        means = {score: rounded([fmean(at[score]) for at in rows[method].values()]) for score in scores}
        found[method] = {"omega": list(rows[method]), **means}
    return found


def alt(numbers: dict[str, Any]) -> str:
    said = "; ".join(
        f"{name} at ω = {of['omega'][0]}: FID {of['tail fid'][0]:.1f}, copies {100 * of['tail copies'][0]:.0f} %; "
        "at ω = "
        f"{of['omega'][-1]}: {of['tail fid'][-1]:.1f} and {100 * of['tail copies'][-1]:.0f} %"
        for name, of in numbers.items()
    )
    return f"FID of the tail against its share of copies, a curve for each method, a point for each ω. {said}."


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    panels = (("tail fid", "FID of the tail (log)"), ("tail recall", "recall of the tail"))
    for panel, (score, label) in zip(axes, panels, strict=True):
        for colour, marker, (name, of) in zip(COLOURS, "os^D", numbers.items(), strict=False):
            copies = [100 * c for c in of["tail copies"]]
            panel.plot(copies, of[score], color=colour, marker=marker, ms=5, label=name)
        panel.set(xlabel="copies in the tail, %", ylabel=label)
    axes[0].set_yscale("log")
    plain_log(axes[0].yaxis)


FIGURE = Figure(
    "variety_and_copies",
    "digits-lt, 1,000 steps, means of five seeds; each curve goes over ω from 0, its leftmost mark, to 3. A "
    "lower FID of "
    "the tail comes with more copies of training images and less recall.",
    numbers,
    alt,
    draw,
    panels=2,
)

"""A law over vectors: slant and thickness of the digits, weighted by one over their density."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.data.digits_measured import digits_pose
from cbdm_priors.laws.vectors import NeighbourBank
from docs.figures.drawing import COLOURS, Figure, rounded

EVERY = 3


def numbers() -> dict[str, Any]:
    """Every third condition, its weight relative to the mean, and how much of the law the rarest tenth has."""
    conditions = digits_pose().condition
    assert conditions is not None
    law = NeighbourBank(conditions, exponent=1.0, k=10)
    weight = law.probs * len(law.probs)
    rarest = weight.sort(descending=True).values[: len(weight) // 10].sum() / len(weight)
    entropy = float(torch.special.entr(law.probs).sum().exp() / len(law.probs))
    return {
        "conditions": rounded(conditions[::EVERY], 4),
        "weights": rounded(weight[::EVERY], 4),
        "share of the rarest tenth": rounded(float(rarest)),
        "effective share": rounded(entropy),
    }


def alt(numbers: dict[str, Any]) -> str:
    return (
        "Points, one for each digit, at its slant and thickness, dense in the middle and sparse at the rim; the "
        "size of a point "
        f"is its weight under the law of one over the density. The rarest tenth of the digits has "
        f"{100 * numbers['share of the rarest tenth']:.0f} % of that law, and the law draws from an effective "
        f"{100 * numbers['effective share']:.0f} % of the digits."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    x, y = zip(*numbers["conditions"], strict=True)
    size = [6 * w for w in numbers["weights"]]
    panels = ((3, "training law: each alike", COLOURS[0]), (size, "knn law: one over the density", COLOURS[4]))
    for panel, (s, title, colour) in zip(axes, panels, strict=True):
        panel.scatter(x, y, s=s, color=colour, alpha=0.6, lw=0)
        panel.set(xlabel="slant", ylabel="thickness", title=title)
        panel.title.set_fontsize(10)


FIGURE = Figure(
    "condition_laws",
    "Conditions that are no classes: slant and thickness of 1,797 digits (every third is shown). The area of a "
    "point is the "
    "probability that the law draws it as the other condition.",
    numbers,
    alt,
    draw,
    panels=2,
    legend=False,
)

"""The score fields e*_c, e_c and e_∅ of the rarest class on the ring."""

from __future__ import annotations

import math
from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Uniform
from cbdm_priors.optimum import BalancedOptimum
from docs.figures.drawing import COLOURS, GREY, Figure, ramp, rounded

COUNTS, TIME, SIDE, REACH = (100, 30, 10, 3), 0.4, 11, 2.6
TITLES = {"true": "e*, the class", "cbdm": "e, CBDM (uniform, τ = 1)", "null": "e∅, all classes"}


def numbers() -> dict[str, Any]:
    """Predictions of −ε/σ_t, the score, on a grid at t = 0.4."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    line = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    t = torch.full((len(x),), TIME, dtype=torch.float64)
    alpha_t, sigma_t = (float(part[0]) for part in schedule(t))
    rarest = Condition.of(torch.full((len(x),), len(COUNTS) - 1))
    fields = {
        "true": oracle(x, t, rarest),
        "cbdm": BalancedOptimum(oracle, Uniform(COUNTS))(x, t, rarest),
        "null": oracle(x, t, rarest.null()),
    }
    spread = torch.linalg.eigvalsh(alpha_t**2 * oracle.covariances + sigma_t**2 * torch.eye(2)).sqrt()
    return {
        "x": rounded(x, 4),
        "fields": {name: rounded(-field / sigma_t, 4) for name, field in fields.items()},
        "means": rounded(alpha_t * oracle.means),
        "radii": rounded(spread.flip(-1)),
    }


def angle(numbers: dict[str, Any], name: str) -> float:
    """Mean angle in degrees between a field and the true one, over the grid."""
    one, other = (torch.tensor(numbers["fields"][n]) for n in (name, "true"))
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=-1).clamp(-1, 1)
    return float(torch.rad2deg(torch.acos(cosine)).mean())


def alt(numbers: dict[str, Any]) -> str:
    return (
        f"Three arrow fields at t = {TIME} over four clusters on a ring, for the rarest class, at the bottom. The true "
        "score points to the bottom cluster from everywhere. The unconditional one points to the nearest cluster, on "
        f"average {angle(numbers, 'null'):.0f} degrees away from it. CBDM's under the uniform law lies between: "
        f"{angle(numbers, 'cbdm'):.0f} degrees away on average, most where only other classes lie."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    from matplotlib.patches import Ellipse

    x, colours = torch.tensor(numbers["x"]), ramp(len(COUNTS))
    for panel, (name, title) in zip(axes, TITLES.items(), strict=True):
        for label, (mean, radii) in enumerate(zip(numbers["means"], numbers["radii"], strict=True)):
            turn = math.degrees(2 * math.pi * label / len(COUNTS))
            shape = {"width": 2 * radii[0], "height": 2 * radii[1], "angle": turn}
            panel.add_patch(Ellipse(mean, **shape, fill=False, ec=colours[label], lw=1 + 0.5 * label))
        field = torch.tensor(numbers["fields"][name])
        size = field.norm(dim=-1, keepdim=True)
        arrows = (field / size * size.clamp(max=4) / 4).T  # longer ones are cut, to be seen at all
        panel.quiver(*x.T, *arrows, color=COLOURS[4] if name == "cbdm" else GREY, angles="xy", scale=11, width=0.007)
        panel.set(title=title, aspect="equal", xticks=(), yticks=(), xlim=(-2.9, 2.9), ylim=(-2.9, 2.9))
        panel.title.set_fontsize(10)
        panel.grid(visible=False)


FIGURE = Figure(
    "ring_scores",
    "Scores at t = 0.4 for the rarest class of the ring (thickest ellipse, 3 of 143 images): the truth, the optimum of "
    "CBDM under the uniform law, and the unconditional score. Long arrows are cut.",
    numbers,
    alt,
    draw,
    panels=3,
    height=2.8,
    legend=False,
)

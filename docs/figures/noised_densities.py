"""One law of data on its way to noise: its density at five times, and the class posterior that goes with it."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.schedules import Cosine
from docs.figures.densities import COUNTS, mixture
from docs.figures.drawing import Figure, ramp, rounded

TIMES, POINTS, REACH = (0.05, 0.25, 0.5, 0.75, 1.0), 121, 4.0


def numbers() -> dict[str, Any]:
    """Densities of x_t and posteriors of the rarest class, on a line, at the five times."""
    oracle = mixture()
    x = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)[:, None]
    nobody = Condition.of(torch.zeros(POINTS, dtype=torch.long)).null()
    found: dict[str, Any] = {"x": rounded(x[:, 0], 4)}
    for time in TIMES:
        t = torch.full((POINTS,), time, dtype=torch.float64)
        alpha_t, _ = Cosine()(t[:1])
        found[f"{time:g}"] = {
            "density": rounded(oracle.log_density(x, t, nobody).exp(), 4),
            "rarest": rounded(oracle.class_posterior(x, t)[:, -1], 4),
            "alpha": rounded(float(alpha_t)),
        }
    return found


def alt(numbers: dict[str, Any]) -> str:
    highest = {time: max(numbers[f"{time:g}"]["rarest"]) for time in TIMES}
    said = ", ".join(f"{100 * r:.0f} % at t = {time:g}" for time, r in highest.items())
    return (
        f"Left: the density of three Gaussians on a line, of {', '.join(map(str, COUNTS))} images, at five times; the "
        "peaks move together and are one normal density at t = 1. Right: the posterior of the rarest class over x_t; "
        f"it is at most {said}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, time in zip(ramp(len(TIMES)), TIMES, strict=True):
        of = numbers[f"{time:g}"]
        axes[0].plot(numbers["x"], of["density"], color=colour, label=f"t = {time:g}")
        axes[1].plot(numbers["x"], of["rarest"], color=colour)
    axes[0].set(xlabel="x_t", ylabel="density q(x_t)", ylim=(0, None))
    axes[1].set(xlabel="x_t", ylabel="posterior of the rarest class", ylim=(0, 1.02))


FIGURE = Figure(
    "noised_densities",
    "Data on their way to noise. What tells the classes apart at x_t goes the same way: near t = 1 the "
    "posterior is the "
    "prior, and the rarest class is improbable wherever one looks.",
    numbers,
    alt,
    draw,
    panels=2,
)

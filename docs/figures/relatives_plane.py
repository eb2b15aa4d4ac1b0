"""Where each method puts a rare class's denoised image, on the ring, at one noised point."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from docs.figures.drawing import BLUE, GREY, ORANGE, Figure, rounded

COUNTS, TIME, POINT = (100, 30, 10, 3), 0.6, (0.25, -0.5)
MARKS = {
    "truth of the rarest": (BLUE, "*"),
    "null": (GREY, "X"),
    "CBDM, null law": (ORANGE, "o"),
    "T2H": (ORANGE, "^"),
    "DiffROP, λ = ¼": (ORANGE, "v"),
    "guidance, ω = ½": (ORANGE, "s"),
}


def numbers() -> dict[str, Any]:
    """x̂_0 = (x_t − σ_t e)/α_t of each method's fixed point at x_t = (0.25, −0.5), t = 0.6, λ = t."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    x_t = torch.tensor([POINT], dtype=torch.float64)
    t = torch.tensor([TIME], dtype=torch.float64)
    alpha_t, sigma_t = schedule(t)
    every, r = oracle.all_classes(x_t, t)[0], oracle.class_posterior(x_t, t)[0]
    truth = every[-1]
    null = oracle(x_t, t, Condition.of(torch.zeros(1, dtype=torch.long)).null())[0]
    places = (
        truth,
        null,
        truth + TIME / (1 + TIME) * (null - truth),
        truth + r @ (every - truth),  # every class is as common or commoner
        truth + (1 / 3) * (truth - null),
        truth + (1 / 2) * (truth - null),
    )
    found = {name: rounded((x_t[0] - sigma_t * e) / alpha_t, 4) for name, e in zip(MARKS, places, strict=True)}
    return {"places": found, "posterior": rounded(r, 4), "means": rounded(oracle.means, 4)}


def alt(numbers: dict[str, Any]) -> str:
    places = numbers["places"]
    said = "; ".join(f"{name} ({x:.2f}, {y:.2f})" for name, (x, y) in places.items())
    return (
        "Four classes on a ring, the rarest at the bottom, and where the denoised image of one noised point lies under "
        f"each method's fixed point for the rarest class: {said}. All lie on one line, pulled toward the null "
        f"or pushed "
        "away from it; T2H, for the rarest class of all, lies on the null."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for count, (x, y) in zip(COUNTS, numbers["means"], strict=True):
        aside = 0.8 if y < -1 else 0.0  # the methods' marks are there
        axes[0].text(1.2 * x + aside, 1.2 * y + aside / 2, f"{count} images", ha="center", va="center", fontsize=10)
    places = numbers["places"]
    line = [places["T2H"], places["guidance, ω = ½"]]
    axes[0].plot(*zip(*line, strict=True), color=GREY, lw=0.8)
    for name, (colour, mark) in MARKS.items():
        x, y = places[name]
        size, hollow = (13, "none") if name == "T2H" else (9, colour)
        axes[0].plot(x, y, mark, color=colour, mfc=hollow, ms=size, label=name)
    axes[0].set(xlabel="x₁", ylabel="x₂", aspect="equal", xlim=(-3.2, 3.4), ylim=(-3.3, 2.8))


FIGURE = Figure(
    "relatives_plane",
    "The rarest class's denoised image at x_t = (0.25, −0.5), t = 0.6, under five fixed points; numbers "
    "are the classes' "
    "images. T2H's rarest class has every other above it and learns the null.",
    numbers,
    alt,
    draw,
    height=4.6,
)

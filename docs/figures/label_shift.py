"""What a label law changes: the null prediction moves, the predictions of the classes stay."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from docs.figures.densities import COUNTS, mixture
from docs.figures.drawing import GREY, ORANGE, Figure, ramp, rounded

TIME = 0.3


def numbers() -> dict[str, Any]:
    """ε̂ of the three classes, and of the null under the long tail and under even labels, at t = 0.3."""
    x = torch.linspace(-3.5, 3.5, 141, dtype=torch.float64)[:, None]
    t = torch.full((len(x),), TIME, dtype=torch.float64)
    tail, even = mixture(), mixture((1, 1, 1))
    hidden = Condition.of(torch.zeros(len(x), dtype=torch.long)).null()
    return {
        "x": rounded(x[:, 0]),
        "classes": rounded(tail.all_classes(x, t)[..., 0].T),
        "null, 100 : 30 : 3": rounded(tail(x, t, hidden)[:, 0]),
        "null, even": rounded(even(x, t, hidden)[:, 0]),
        "moved": rounded(float((tail.all_classes(x, t) - even.all_classes(x, t)).abs().max())),
    }


def alt(numbers: dict[str, Any]) -> str:
    gap = max(abs(a - b) for a, b in zip(numbers["null, even"], numbers["null, 100 : 30 : 3"], strict=True))
    return (
        f"Predictions at t = {TIME} against x: three straight lines, one for each class, the same under both laws "
        "of the "
        f"labels (they differ by {numbers['moved']:g}). The two null predictions follow the classes' lines and "
        "change from "
        f"one to the next; under the long tail the change to the rarest comes later. They differ by up to {gap:.2f}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, count, line in zip(ramp(len(COUNTS)), COUNTS, numbers["classes"], strict=True):
        axes[0].plot(numbers["x"], line, color=colour, lw=1, label=f"class with {count}")
    axes[0].plot(numbers["x"], numbers["null, 100 : 30 : 3"], color=ORANGE, lw=2.5, label="null, 100 : 30 : 3")
    axes[0].plot(numbers["x"], numbers["null, even"], color=GREY, lw=2.5, ls=(0, (5, 1.5)), label="null, even labels")
    axes[0].set(xlabel="x_t", ylabel="ε̂", xlim=(-3.5, 3.5), ylim=(-3, 3))


FIGURE = Figure(
    "label_shift",
    "Three classes on a line at t = 0.3. The labels' law is in the null prediction alone: with few images of a "
    "class, the null "
    "turns to it later. The classes' own predictions are the same lines under every law.",
    numbers,
    alt,
    draw,
)

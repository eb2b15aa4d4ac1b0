"""N_eff(c, t): how many of a class's images explain a noised one, on digits-lt."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.sources import digits
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.schedules import Cosine
from docs.figures.drawing import Figure, ramp, rounded

TIMES, SHOWN = tuple(i / 25 for i in range(1, 25)), (0, 3, 6, 9)


def numbers() -> dict[str, Any]:
    """N_eff of four classes over t, 64 noised images a class, seed 0."""
    data, _, _ = make_long_tail(digits(), profile="exp", imbalance=0.02, seed=0)
    times = torch.tensor(TIMES)
    found = effective_number(data.model_input(), data.y, data.num_classes, Cosine(), times, queries=64)
    counts = data.counts()
    order = counts.argsort(descending=True, stable=True)[list(SHOWN)].tolist()
    return {str(int(counts[c])): rounded(found[c].double(), 4) for c in order}


def alt(numbers: dict[str, Any]) -> str:
    third = min(range(len(TIMES)), key=lambda i: abs(TIMES[i] - 0.32))
    said = ", ".join(f"{of[third]:.1f} of {count}" for count, of in numbers.items())
    return (
        "Effective number of images that a noised image of the class may have come from, as a share of the class's "
        f"images, over t. All curves rise from one image to the whole class; at t = {TIMES[third]:g} they are {said} "
        "images. The share of the rarest classes starts higher, since one image is a larger share of few."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, (count, of) in zip(ramp(len(numbers)), numbers.items(), strict=True):
        axes[0].plot(TIMES, of, color=colour, label=f"{count} images")
        axes[1].plot(TIMES, [value / int(count) for value in of], color=colour)
    axes[0].set(xlabel="t", ylabel="N_eff(c, t)", yscale="log")
    axes[0].set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes[0].yaxis.minorticks_off()
    axes[1].set(xlabel="t", ylabel="share of the class", ylim=(0, 1.02))


FIGURE = Figure(
    "images_told_apart",
    "digits-lt, cosine schedule. Where the effective number is 1 a perfect fit copies; where it is the whole class, no "
    "image is told from another.",
    numbers,
    alt,
    draw,
    panels=2,
)

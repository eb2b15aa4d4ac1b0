"""What batch laws move in the tail's denoising error, by noise level: digits-lt, from the committed results."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from docs.figures.drawing import COLOURS, HERE, Figure, plain_log, rounded

RESULTS = HERE.parents[1] / "experiments" / "results" / "tail-maps.json"
STEPS = "3000"


def numbers() -> dict[str, Any]:
    """Means over seeds at each level: the held-out error over DDPM's, and over that on training images."""
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    tails = {name: of[STEPS]["tail"] for name, of in result["methods"].items()}
    new = {name: of["held out"] for name, of in tails.items()}
    return {
        "t": rounded(result["times"]),
        "learned": {name: rounded(_ratio(of, new["ddpm"]), 4) for name, of in new.items()},
        "memorised": {name: rounded(_ratio(of["held out"], of["training"]), 4) for name, of in tails.items()},
    }


def _ratio(one: list[list[float]], other: list[list[float]]) -> list[float]:
    """The mean over seeds of one over the other, at each level."""
    rows = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(one, other, strict=True)]
    return [fmean(column) for column in zip(*rows, strict=True)]


def alt(numbers: dict[str, Any]) -> str:
    ends = (0, len(numbers["t"]) // 2, -1)
    levels = ", ".join(f"{numbers['t'][i]:.2g}" for i in ends)
    texts = [
        f"{name}: {', '.join(f'{new[i]:.2f}' for i in ends)}, and {', '.join(f'{of[i]:.1f}' for i in ends)}"
        for (name, of), new in zip(numbers["memorised"].items(), numbers["learned"].values(), strict=True)
    ]
    return (
        f"Curves over t for each method. At t = {levels}, the error on held-out images of the tail over DDPM's, and "
        f"over that on its training images. {'; '.join(texts)}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    labels = {"learned": "held-out error, over DDPM's", "memorised": "held-out over training error (log)"}
    for panel, (name, label) in zip(axes, labels.items(), strict=True):
        for colour, marker, (method, values) in zip(COLOURS, "os^D", numbers[name].items(), strict=False):
            panel.plot(numbers["t"], values, color=colour, marker=marker, ms=4, label=method)
        panel.set(xlabel="noise level t", ylabel=label)
    axes[1].set_yscale("log")
    plain_log(axes[1].yaxis)


FIGURE = Figure(
    "tail_maps",
    "The tail of digits-lt after 3,000 steps, means of three seeds. Left, what is learned: the denoising error on "
    "images that training has not seen, over DDPM's. Right, what is memorised: the same error over that on training "
    "images.",
    numbers,
    alt,
    draw,
    panels=2,
)

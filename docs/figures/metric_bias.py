"""FID of few samples is too high, and copies of a reference's own images lower it."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.metrics.frechet import frechet_distance
from docs.figures.drawing import BLUE, GREY, ORANGE, Figure, plain_log, rounded

DIMENSION, SIZES, LARGE, REFERENCE, SHARES = (
    32,
    (40, 80, 160, 320, 640, 1280),
    4000,
    400,
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
)


def bias(n: int) -> float:
    """To first order, of n and N = 4,000 rows of N(0, I): D/n for the mean and D(D + 1)/4n for the covariance."""
    return DIMENSION * (DIMENSION + 5) / 4 * (1 / n + 1 / LARGE)


def numbers() -> dict[str, Any]:
    """Both sets are of one law, N(0, I) in 32 dimensions, so that the true distance is 0; seed 0, means of 4."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, DIMENSION, dtype=torch.float64, generator=generator)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    reference = [normal(REFERENCE) for _ in range(4)]
    by_size = [mean([frechet_distance(normal(LARGE), normal(n)) for _ in range(4)]) for n in SIZES]
    by_copies = []
    for share in SHARES:
        copied = int(share * REFERENCE)
        mixed = [torch.cat([rows[:copied], normal(REFERENCE - copied)]) for rows in reference]
        by_copies.append(mean([frechet_distance(rows, fake) for rows, fake in zip(reference, mixed, strict=True)]))
    return {
        "by size": rounded(by_size),
        "by copies": rounded(by_copies),
        "expected": rounded([bias(n) for n in SIZES]),
    }


def alt(numbers: dict[str, Any]) -> str:
    sizes, copies = numbers["by size"], numbers["by copies"]
    return (
        f"Left: the distance between two sets of one law is {sizes[0]:.2f} at {SIZES[0]} samples and "
        f"{sizes[-1]:.2f} at "
        f"{SIZES[-1]:,}, where 0 is true. Right: at {REFERENCE} samples it falls from {copies[0]:.2f} without "
        "copies of the "
        f"reference to {copies[2]:.2f} with 40 % of them and to {copies[-1]:.2f} with copies alone."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    axes[0].plot(SIZES, numbers["by size"], color=BLUE, marker="o", label="Fréchet distance to the same law")
    axes[0].plot(SIZES, numbers["expected"], color=GREY, ls=(0, (4, 3)), label="¼D(D + 5)(1/n + 1/N)")
    axes[0].set(xlabel="samples n", ylabel="Fréchet distance", xscale="log", yscale="log")
    axes[0].set_xticks(SIZES, [str(n) for n in SIZES])
    plain_log(axes[0].yaxis)
    axes[0].xaxis.minorticks_off()
    axes[1].plot([100 * s for s in SHARES], numbers["by copies"], color=ORANGE, marker="s", label="with copies")
    axes[1].set(xlabel="copies of the reference, %", ylabel="Fréchet distance", ylim=(0, None))


FIGURE = Figure(
    "metric_bias",
    "Two sets of one law in 32 dimensions, so that the true Fréchet distance is 0. Few samples raise it; copies of the "
    "reference lower it below what fresh samples of the very law can have.",
    numbers,
    alt,
    draw,
    panels=2,
)

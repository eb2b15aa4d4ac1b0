"""What independent dropout masks add to the published term, in a layer where it can be summed."""

from __future__ import annotations

from typing import Any

import torch

from docs.figures.drawing import BLUE, GREY, ORANGE, Figure, rounded

WIDTH, RATES, DRAWS = 64, (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5), 4000


def numbers() -> dict[str, Any]:
    """E‖h − h'‖² of h = Σ w_i m_i x_i/(1 − p) under two labels that change x: closed forms, 4,000 draws, seed 0."""
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(WIDTH, dtype=torch.float64, generator=generator) for _ in range(2))
    w = torch.randn(WIDTH, dtype=torch.float64, generator=generator) / WIDTH**0.5
    one, two = w * x, w * (x + 0.5 * other)
    means = float((one - two).sum()) ** 2
    found: dict[str, list[float]] = {"means": [], "variances": [], "shared": [], "drawn": []}
    for p in RATES:
        spread = p / (1 - p)
        found["means"].append(means)
        found["variances"].append(spread * float(one.square().sum() + two.square().sum()))
        found["shared"].append(means + spread * float((one - two).square().sum()))
        masks = [(torch.rand(DRAWS, WIDTH, generator=generator) >= p).double() / (1 - p) for _ in range(2)]
        found["drawn"].append(float((masks[0] @ one - masks[1] @ two).square().mean()))
    return {name: rounded(values) for name, values in found.items()}


def alt(numbers: dict[str, Any]) -> str:
    at = RATES.index(0.1)
    total = numbers["means"][at] + numbers["variances"][at]
    return (
        "The expected squared difference of two outputs over the dropout rate. The part of the means is "
        f"{numbers['means'][at]:.3f} at every rate; the two variances rise from 0, and at a rate of 0.1 they are "
        f"{100 * numbers['variances'][at] / total:.0f} % of the whole. With one mask for both outputs the term is "
        f"{numbers['shared'][at]:.3f} there. Averages over draws lie on the sum."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    means, variances = (torch.tensor(numbers[name]) for name in ("means", "variances"))
    axes[0].fill_between(RATES, 0, means, color=BLUE, alpha=0.35, lw=0, label="‖E h − E h'‖²")
    axes[0].fill_between(RATES, means, means + variances, color=ORANGE, alpha=0.35, lw=0, label="Var h + Var h'")
    axes[0].plot(RATES, numbers["shared"], color=BLUE, ls=(0, (4, 2)), label="one mask for both")
    axes[0].plot(RATES, numbers["drawn"], color=GREY, marker="o", ls="", label="averages over draws")
    axes[0].set(xlabel="dropout rate", ylabel="E‖h − h'‖²", xlim=(0, RATES[-1]), ylim=(0, None))


FIGURE = Figure(
    "mask_variance",
    "One layer of 64 inputs whose output is asked for twice, under two labels. Independent masks add the "
    "variance of each "
    "output, whatever the labels are.",
    numbers,
    alt,
    draw,
)

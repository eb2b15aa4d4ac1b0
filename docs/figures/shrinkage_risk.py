"""The risk of shrinkage against its strength λ, least at V/B."""

from __future__ import annotations

from typing import Any

import torch

from docs.figures.drawing import Figure, plain_log, ramp, rounded

VARIANCES, BIAS = (0.1, 0.5, 1.0, 4.0), 1.0


def risk(lam: torch.Tensor, variance: float) -> torch.Tensor:
    """(λ/(1 + λ))² B + V/(1 + λ)²."""
    return (lam.square() * BIAS + variance) / (1 + lam).square()


def numbers() -> dict[str, Any]:
    lam = torch.logspace(-2, 2, 101, dtype=torch.float64)
    return {
        "lambda": rounded(lam),
        "risk": {str(V): rounded(risk(lam, V)) for V in VARIANCES},
        "least": {str(V): [V / BIAS, rounded(V * BIAS / (V + BIAS))] for V in VARIANCES},
    }


def alt(numbers: dict[str, Any]) -> str:
    least = "; ".join(f"V/B = {V}: {at[1]:.2f} instead of {float(V):g}" for V, at in numbers["least"].items())
    return (
        "Risk against λ on a logarithmic axis for four ratios V/B. Each curve starts at V, falls to its least at "
        f"λ = V/B and rises to B = 1. Least risks: {least}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, (V, curve) in zip(ramp(len(VARIANCES)), numbers["risk"].items(), strict=True):
        axes[0].plot(numbers["lambda"], curve, color=colour, lw=2, label=f"V/B = {V}")
        at, least = numbers["least"][V]
        axes[0].plot([at], [least], marker="o", color=colour, ms=7)
    axes[0].set(xlabel="λ", ylabel="risk in units of B", xscale="log", yscale="log", xlim=(0.01, 100))
    plain_log(axes[0].xaxis)
    plain_log(axes[0].yaxis)


FIGURE = Figure(
    "shrinkage_risk",
    "Risk of (ê + λm)/(1 + λ) against λ. The points are at λ = V/B. A class with few images has a large V, and its "
    "least "
    "risk lies at a strong pull; the same pull costs a frequent class.",
    numbers,
    alt,
    draw,
)

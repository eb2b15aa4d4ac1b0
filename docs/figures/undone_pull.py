"""Which guidance undoes the pull: under the null law one that equals λ, under a law of labels none."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Null, Uniform
from cbdm_priors.optimum import BalancedOptimum
from docs.figures.drawing import BLUE, GREY, ORANGE, Figure, rounded

COUNTS, ROWS, TIME = (100, 30, 10, 3), 512, 0.5
OMEGAS = tuple(i / 20 for i in range(31))
LAWS = {"null law": Null(COUNTS), "uniform law": Uniform(COUNTS)}


def numbers() -> dict[str, Any]:
    """Root mean square distance of the guided optimum (τ 1, γ 0) to the truth of the rarest class, at t = ½, seed 0."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    c = Condition.of(torch.full((ROWS,), len(COUNTS) - 1))
    draws = Draws(0, 0, torch.arange(ROWS))
    t = torch.full((ROWS,), TIME, dtype=torch.float64)
    alpha_t, sigma_t = (part[:, None] for part in schedule(t))
    x_t = alpha_t * oracle.sample(c, draws=draws) + sigma_t * draws.normal("eps", 2, dtype=torch.float64)
    truth, found = oracle(x_t, t, c), {}
    for name, law in LAWS.items():
        pulled = BalancedOptimum(oracle, law, tau=1.0, gamma=0.0)
        of, null = pulled(x_t, t, c), pulled(x_t, t, c.null())
        found[name] = rounded([float((of + w * (of - null) - truth).square().sum(1).mean().sqrt()) for w in OMEGAS])
    return found


def alt(numbers: dict[str, Any]) -> str:
    null, uniform = (numbers[name] for name in LAWS)
    least = min(uniform)
    return (
        "Distance of the guided prediction to the truth over ω, at t = ½ where λ = ½. Under the null law it falls in a "
        f"straight line from {null[0]:.3f} to {min(null):.3f} at ω = {OMEGAS[null.index(min(null))]:g} and "
        f"rises again. "
        f"Under the uniform law it is {uniform[0]:.3f} without guidance and at least {least:.3f}, at "
        f"ω = {OMEGAS[uniform.index(least)]:g}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, (name, distances) in zip((BLUE, ORANGE), numbers.items(), strict=True):
        axes[0].plot(OMEGAS, distances, color=colour, label=name)
    axes[0].axvline(TIME, color=GREY, lw=1, ls=(0, (2, 2)), label="ω = λ(t)")
    axes[0].set(xlabel="ω", ylabel="distance to the class's truth", xlim=(0, OMEGAS[-1]), ylim=(0, None))


FIGURE = Figure(
    "undone_pull",
    "The rarest class on the ring at t = ½, CBDM with τ = 1 and γ = 0. Guidance with ω = λ(t) undoes the "
    "null law's pull "
    "exactly; under the uniform law it points another way than the pull and leaves a rest.",
    numbers,
    alt,
    draw,
)

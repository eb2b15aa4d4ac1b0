"""Shares of the classes among unconditional samples: the plain null, the mixture score, tracked weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Training, Uniform
from cbdm_priors.sampling.posterior import MixtureScore
from cbdm_priors.sampling.tracking import TrackedWeights
from docs.figures.drawing import GREY, Figure, ramp, rounded

COUNTS, ROWS, STEPS = (100, 30, 10, 3), 400, 50


def numbers() -> dict[str, Any]:
    """Of 400 samples the share nearest to each mean of the ring; DDIM with η = 1, 50 steps, seed 0."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    training, uniform = Training(COUNTS), Uniform(COUNTS)
    anyone = Condition.of(torch.zeros(ROWS, dtype=torch.long)).null()
    ddim = DDIM(schedule, eta=1.0)
    mixture = MixtureScore(oracle, lambda x_t, t: oracle.class_posterior(x_t, t).log(), uniform, training)
    ways = {
        "plain null": (ddim, oracle),
        "mixture score": (ddim, mixture),
        "tracked weights": (TrackedWeights(ddim, uniform, training), oracle),
    }

    def shares(x: Tensor) -> Tensor:
        return torch.bincount(torch.cdist(x.double(), oracle.means).argmin(1), minlength=len(COUNTS)) / ROWS

    draws = Draws(0, 0, torch.arange(ROWS))
    return {
        name: rounded(shares(sampler.sample(network, anyone, (2,), steps=STEPS, draws=draws)))
        for name, (sampler, network) in ways.items()
    }


def alt(numbers: dict[str, Any]) -> str:
    said = "; ".join(f"{name} {', '.join(f'{100 * s:.0f} %' for s in of)}" for name, of in numbers.items())
    return f"Bars of the shares of four classes among {ROWS} unconditional samples, from the commonest: {said}."


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for place, (colour, hatch, name) in enumerate(zip(ramp(3), ("", "///", "xxx"), numbers, strict=True)):
        at = [c + 0.27 * (place - 1) for c in range(len(COUNTS))]
        axes[0].bar(at, numbers[name], width=0.25, color=colour, hatch=hatch, label=name)
    axes[0].axhline(1 / len(COUNTS), color=GREY, ls=(0, (4, 3)), lw=1)
    axes[0].set_xticks(range(len(COUNTS)), [f"{n} of {sum(COUNTS)}" for n in COUNTS])
    axes[0].set(ylabel="share of samples")


FIGURE = Figure(
    "adjusted_shares",
    "Unconditional samples of the ring, trained under 100 : 30 : 10 : 3 and sampled as if under even labels "
    "(dashed): by the "
    "posterior of a classifier (mixture score) or by the path alone (tracked weights), with nothing trained again.",
    numbers,
    alt,
    draw,
)

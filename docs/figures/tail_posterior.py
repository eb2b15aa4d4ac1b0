"""r_c(t): how probable each class is along the sampling trajectories of the rarest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import Cosine, uniform_times
from docs.figures.drawing import GREY, Figure, plain_log, ramp, rounded

COUNTS, STEPS, ROWS = (100, 30, 10, 3), 60, 256


def numbers() -> dict[str, Any]:
    """Means over 256 trajectories of DDIM (η = 0) under the rarest class, seed 0."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    c = Condition.of(torch.full((ROWS,), len(COUNTS) - 1))
    draws = Draws(0, 0, torch.arange(ROWS))
    sampler, times = DDIM(schedule), uniform_times(schedule, STEPS)
    x = draws.normal("start", 2, dtype=torch.float64)
    memory, posteriors = None, []
    for t, s in pairwise(times):
        posteriors.append(oracle.class_posterior(x, torch.full((ROWS,), t)).mean(0))
        x, memory = sampler.step(oracle, x, t, s, c, memory, draws=draws)
    r, t = torch.stack(posteriors), torch.tensor(times[:-1], dtype=torch.float64)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    threshold = {
        name: rounded(0.25 * t / (1 + t) * share) for name, share in (("training", prior[-1]), ("uniform", 1 / 4))
    }
    return {"t": rounded(t), "posterior": rounded(r.T), "prior": rounded(prior), "threshold": threshold}


def crossing(numbers: dict[str, Any]) -> float:
    """The largest t at which the rarest class is the likelier half."""
    return max(t for t, r in zip(numbers["t"], numbers["posterior"][-1], strict=True) if r > 0.5)


def alt(numbers: dict[str, Any]) -> str:
    tail = numbers["posterior"][-1]
    return (
        f"Class posteriors along trajectories of the rarest class, which has {100 * numbers['prior'][-1]:.1f} % of the "
        f"data. At t = 1 its posterior is {100 * tail[0]:.1f} %; it passes one half at t = {crossing(numbers):.2f} "
        "and is "
        f"{100 * tail[-1]:.0f} % near t = 0. Until then the commonest class is the likeliest. On a logarithmic scale "
        "beside it, with γλπ/(1 + λ) of the training law and of the uniform law, below which a class takes the "
        "model's mean."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    t, colours = numbers["t"], ramp(len(COUNTS))
    for label, r in enumerate(numbers["posterior"]):
        axes[0].plot(t, r, color=colours[label], label=f"{COUNTS[label]} of {sum(COUNTS)}", lw=1 + 0.5 * label)
    axes[0].axvline(crossing(numbers), color=GREY, ls=":", lw=1)
    axes[0].set(xlabel="t (1 is noise)", ylabel="mean posterior r_c(t)", xlim=(1, 0), ylim=(0, 1))
    axes[1].plot(t, numbers["posterior"][-1], color=colours[-1], lw=2.5)
    for name, dash in (("training", (0, (5, 2))), ("uniform", (0, (1, 1)))):
        axes[1].plot(t, numbers["threshold"][name], color=GREY, ls=dash, label=f"γλπ/(1 + λ), {name} law")
    axes[1].set(xlabel="t (1 is noise)", ylabel="r of the rarest", xlim=(1, 0), yscale="log", ylim=(3e-4, 1.3))
    plain_log(axes[1].yaxis)


FIGURE = Figure(
    "tail_posterior",
    "Along a trajectory of the rarest class: the posterior of each class (ring of four Gaussians, cosine schedule, "
    "DDIM, "
    "mean of 256). Right, on a logarithmic scale, with the level γλπ/(1 + λ) below which CBDM (τ = 1, γ = ¼) moves the "
    "class to the model's own mean.",
    numbers,
    alt,
    draw,
    panels=2,
)

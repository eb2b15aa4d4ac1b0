"""m_c: how far each method moves a class, along the noise, and where its predictions land."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from docs.figures.drawing import COLOURS, Figure, rounded

COUNTS, ROWS = (100, 30, 10, 3), 512
TIMES = tuple(i / 20 for i in range(1, 20))
METHODS = ("CBDM, null law", "T2H", "full transfer", "DiffROP, λ = t/4", "guidance, ω = ½")


def numbers() -> dict[str, Any]:
    """Mean shares of the way, for the rarest class and the commonest, over noised images of the class; seed 0."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle.ring(schedule, COUNTS)
    draws = Draws(0, 0, torch.arange(ROWS))
    noise = draws.normal("eps", 2, dtype=torch.float64)
    found: dict[str, Any] = {}
    for name, label in (("rarest", len(COUNTS) - 1), ("commonest", 0)):
        x_0 = oracle.sample(Condition.of(torch.full((ROWS,), label)), draws=draws)
        commoner = []
        for time in TIMES:
            t = torch.full((ROWS,), time, dtype=torch.float64)
            alpha_t, sigma_t = (part[:, None] for part in schedule(t))
            r = oracle.class_posterior(alpha_t * x_0 + sigma_t * noise, t).mean(0)
            commoner.append(float(sum(r[y] for y, n in enumerate(COUNTS) if n >= COUNTS[label] and y != label)))
        pushes = [-(t / 4) / (1 - t / 4) for t in TIMES]
        values = ([t / (1 + t) for t in TIMES], commoner, [1.0] * len(TIMES), pushes, [-0.5] * len(TIMES))
        found[name] = {method: rounded(of, 4) for method, of in zip(METHODS, values, strict=True)}
    return found


def alt(numbers: dict[str, Any]) -> str:
    def said(name: str) -> str:
        middle = TIMES.index(0.7)
        return ", ".join(f"{method} {of[middle]:.2f}" for method, of in numbers[name].items())

    return (
        "How far five methods move a class, over t; 0 is the truth, 1 the target, below 0 is away from it. At t = 0.7 "
        f"for the rarest class: {said('rarest')}. For the commonest: {said('commonest')}. Only T2H differs "
        "between the classes."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    dashes = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 2, 1, 2)), (0, (2, 1)))
    for panel, (name, methods) in zip(axes, numbers.items(), strict=True):
        for colour, dash, (method, of) in zip(COLOURS, dashes, methods.items(), strict=False):
            panel.plot(TIMES, of, color=colour, ls=dash, lw=2, label=method if panel is axes[0] else None)
        panel.set(title=f"the {name} class", xlabel="t", ylim=(-0.6, 1.08))
        panel.title.set_fontsize(10)
    axes[0].set_ylabel("share of the way, m_c")


FIGURE = Figure(
    "relatives_pull",
    "One notation, five methods on the ring: e_c = e*_c + m_c (a_c − e*_c). The targets differ: the null "
    "for all but T2H, "
    "which aims at the commoner classes as far as they are probable.",
    numbers,
    alt,
    draw,
    panels=2,
    height=3.3,
)

"""How far the null prediction moves when its law does, by noise level, and what guidance from it adds."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from docs.figures.drawing import Figure, ramp, rounded

COUNTS, ROWS = (100, 30, 10, 3), 512
TIMES = tuple(i / 20 for i in range(1, 20))


def numbers() -> dict[str, Any]:
    """Means of ‖e*_c − e_∅‖ under both laws, by class and time; 512 rows a class, seed 0."""
    schedule = Cosine()
    oracle, even = (GaussianMixtureOracle.ring(schedule, counts) for counts in (COUNTS, [1.0] * len(COUNTS)))
    draws = Draws(0, 0, torch.arange(ROWS))
    noise = draws.normal("eps", 2, dtype=torch.float64)
    found: dict[str, Any] = {"training law": [], "uniform law": []}
    for label in range(len(COUNTS)):
        c = Condition.of(torch.full((ROWS,), label))
        x_0 = oracle.sample(c, draws=draws)
        away: dict[str, list[float]] = {name: [] for name in found}
        for time in TIMES:
            t = torch.full((ROWS,), time, dtype=torch.float64)
            alpha_t, sigma_t = (part[:, None] for part in schedule(t))
            x_t = alpha_t * x_0 + sigma_t * noise
            truth = oracle(x_t, t, c)
            for name, law in zip(found, (oracle, even), strict=True):
                away[name].append(float((truth - law(x_t, t, c.null())).norm(dim=1).mean()))
        for name in found:
            found[name].append(rounded(away[name], 4))
    return found


def alt(numbers: dict[str, Any]) -> str:
    middle = TIMES.index(0.5)
    said = "; ".join(f"{name} {', '.join(f'{of[middle]:.2f}' for of in classes)}" for name, classes in numbers.items())
    return (
        "Length of what guidance adds, the distance of a class's prediction to the null's, over t, for four "
        "classes. At "
        f"t = ½, from the commonest to the rarest: {said}. Under the uniform law the classes are alike; under the "
        "training law the commonest is hardly guided at all, and the rarest most."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    highest = max(max(of) for classes in numbers.values() for of in classes)
    for panel, (name, classes) in zip(axes, numbers.items(), strict=True):
        for colour, count, of in zip(ramp(len(COUNTS)), COUNTS, classes, strict=True):
            panel.plot(TIMES, of, color=colour, label=f"{count} of {sum(COUNTS)}" if panel is axes[0] else None)
        panel.set(title=f"null of the {name}", xlabel="t", ylim=(0, 1.05 * highest))
        panel.title.set_fontsize(10)
    axes[0].set_ylabel("‖e*_c − e_∅‖")


FIGURE = Figure(
    "adjusted_null",
    "What guidance adds to a class, per unit of ω: its distance to the null. The training law's null is nearly the "
    "commonest class; that of the uniform law is as far from each.",
    numbers,
    alt,
    draw,
    panels=2,
)

"""The learned law finds its fixed point ρ e^{ℓ/T}."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.conditions import Condition
from cbdm_priors.laws.learned import Learned
from docs.figures.drawing import GREY, Figure, ramp, rounded

COUNTS, LOSSES, TEMPERATURE, STEPS = (100, 30, 10, 3), (0.05, 0.08, 0.14, 0.25), 0.1, 300


def numbers() -> dict[str, Any]:
    """Probabilities by step, every class with a loss of its own that stays, and the fixed point."""
    law = Learned(COUNTS, temperature=TEMPERATURE, step=0.3, memory=0.0)
    c, loss = Condition.of(torch.arange(len(COUNTS))), torch.tensor(LOSSES, dtype=torch.float64)
    path = []
    for _ in range(STEPS):
        path.append(law.probs.clone())
        law.observe(c, loss)
    weights = torch.tensor(COUNTS, dtype=torch.float64) * (loss / TEMPERATURE).exp()
    return {"path": rounded(torch.stack(path).T[:, ::3]), "fixed point": rounded(weights / weights.sum())}


def alt(numbers: dict[str, Any]) -> str:
    ends = ", ".join(
        f"{path[0]:.3f} → {path[-1]:.3f} (fixed point {fixed:.3f})"
        for path, fixed in zip(numbers["path"], numbers["fixed point"], strict=True)
    )
    return f"Probabilities of four classes by step, from the training law to a dashed line each: {ends}."


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    steps = range(0, STEPS, 3)
    for colour, count, loss, path in zip(ramp(len(COUNTS)), COUNTS, LOSSES, numbers["path"], strict=True):
        axes[0].plot(steps, path, color=colour, lw=2, label=f"{count} images, loss {loss}")
    for fixed in numbers["fixed point"]:
        axes[0].axhline(fixed, color=GREY, ls=(0, (4, 3)), lw=1)
    axes[0].set(xlabel="observation", ylabel="π(y)", ylim=(0, None), xlim=(0, STEPS))


FIGURE = Figure(
    "learned_law",
    "The learned law (T = 0.1) with losses that stay: it leaves the training law for classes of high loss, and "
    "stands still at "
    "ρ exp(ℓ/T), dashed.",
    numbers,
    alt,
    draw,
)

"""S: how much of each class's true prediction is in each class's optimum, over γ and the law."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_priors.laws.counts import Power, Training, Uniform
from cbdm_priors.optimum import balanced_optimum
from docs.figures.drawing import COLOURS, Figure, rounded

COUNTS, POSTERIOR, STRENGTH = (100, 30, 10, 3), (0.8, 0.15, 0.04, 0.01), 0.5
GAMMAS = (0.0, 0.25, 1.0)
LAWS = {"training": Training, "power ½": Power, "uniform": Uniform}


def numbers() -> dict[str, Any]:
    """S of e_k = Σ_y S_ky e*_y, at λ = ½ and a point where the rarest class has 1 %."""
    truth = torch.eye(len(COUNTS), dtype=torch.float64)[None]
    r = torch.tensor([POSTERIOR], dtype=torch.float64)
    lam = torch.tensor([STRENGTH], dtype=torch.float64)
    laws = {name: law(COUNTS).probs for name, law in LAWS.items()}
    return {
        name: [rounded(balanced_optimum(truth, r, law, lam, gamma)[0], 4) for gamma in GAMMAS]
        for name, law in laws.items()
    }


def alt(numbers: dict[str, Any]) -> str:
    own = {name: [table[-1][-1] for table in tables] for name, tables in numbers.items()}
    said = "; ".join(f"{name} law {', '.join(f'{100 * s:.0f} %' for s in of)}" for name, of in own.items())
    return (
        "Nine tables of four by four weights, a row for each class's prediction, a column for the class whose truth "
        "is in "
        f"it; each row sums to 1. The rarest class keeps of its own truth, at γ = 0, ¼ and 1: {said}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    from matplotlib.colors import to_rgba

    for panel, (name, tables) in zip(axes, numbers.items(), strict=True):
        for place, table in enumerate(tables):
            for row, weights in enumerate(table):
                for column, s in enumerate(weights):
                    at = (column, 4.7 * place + row)
                    panel.add_patch(_cell(at, to_rgba(COLOURS[1], 0.05 + 0.75 * s)))
                    panel.text(at[0] + 0.5, at[1] + 0.5, f"{100 * s:.0f}", ha="center", va="center", fontsize=8)
            panel.text(-0.15, 4.7 * place + 2, f"γ = {GAMMAS[place]:g}", ha="right", va="center", fontsize=9)
        panel.set(title=f"{name} law", xlim=(-1.2, 4.1), ylim=(13.5, -0.1), xticks=(), yticks=(), aspect="equal")
        panel.title.set_fontsize(10)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)


def _cell(at: tuple[float, float], colour: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(at, 0.96, 0.96, fc=colour, lw=0)


FIGURE = Figure(
    "mixing_weights",
    "S in per cent over γ and the law: row k says what the optimum of class k is made of (λ = ½; posteriors 80, 15, "
    "4 and "
    "1 %; the rarest class is the last row and column).",
    numbers,
    alt,
    draw,
    panels=3,
    height=5.6,
    legend=False,
)

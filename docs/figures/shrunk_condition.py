"""On linear conditions the pull shrinks the condition: what is drawn when a number is asked for."""

from __future__ import annotations

from typing import Any

from docs.figures.drawing import GREY, Figure, ramp, rounded

ASKED, MEAN, STRENGTHS = tuple(range(0, 91, 5)), 45.0, (0.0, 0.25, 1.0, 4.0)


def drawn(asked: float, lam: float) -> float:
    """(c + λ c̄)/(1 + λ): the condition whose truth the optimum under c is."""
    return (asked + lam * MEAN) / (1 + lam)


def numbers() -> dict[str, Any]:
    """The condition drawn and the condition to say, for an even law on [0, 90]."""
    return {
        f"{lam:g}": {
            "drawn": rounded([drawn(c, lam) for c in ASKED]),
            "to say": rounded([c + lam * (c - MEAN) for c in ASKED]),
        }
        for lam in STRENGTHS
    }


def alt(numbers: dict[str, Any]) -> str:
    ends = ", ".join(f"{of['drawn'][-1]:g} at λ = {lam}" for lam, of in numbers.items())
    said = ", ".join(f"{of['to say'][-1]:g} at λ = {lam}" for lam, of in numbers.items())
    return (
        "Left: the condition that is drawn over the one asked for, straight lines through (45, 45) whose slope falls "
        f"with λ; asked for 90, what is drawn is {ends}. Right: what to say so that the condition asked for is drawn; "
        f"for 90 it is {said}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, (lam, of) in zip(ramp(len(STRENGTHS)), numbers.items(), strict=True):
        axes[0].plot(ASKED, of["drawn"], color=colour, label=f"λ = {lam}")
        axes[1].plot(ASKED, of["to say"], color=colour)
    axes[1].axhspan(0, 90, color=GREY, alpha=0.15, lw=0)
    axes[0].set(xlabel="asked for", ylabel="drawn", xlim=(0, 90), ylim=(0, 90))
    axes[1].set(xlabel="wanted", ylabel="to say", xlim=(0, 90))


FIGURE = Figure(
    "shrunk_condition",
    "An angle in [0, 90] with an even law and a truth that is linear in it. The pull draws toward the "
    "mean; guidance in the "
    "condition undoes it, and soon asks for what no training image had (outside the grey band).",
    numbers,
    alt,
    draw,
    panels=2,
)

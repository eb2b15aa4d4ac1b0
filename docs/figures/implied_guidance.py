"""The family ω_eff(t): what guidance a plain model needs to equal CBDM under the null law."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.guidance import Implied
from docs.figures.drawing import GREY, Figure, ramp, rounded

OMEGAS, TAUS, TAU, OMEGA = (0.0, 0.5, 1.0, 1.5, 2.0), (0.1, 0.3, 1.0, 3.0), 1.0, 0.75


def numbers() -> dict[str, Any]:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    return {
        "t": rounded(t),
        "of omega": {str(omega): rounded(Implied(omega, TAU)(t)) for omega in OMEGAS},
        "of tau": {str(tau): rounded(Implied(OMEGA, tau)(t)) for tau in TAUS},
    }


def alt(numbers: dict[str, Any]) -> str:
    ends = ", ".join(f"{omega} → {curve[-1]:.2f}" for omega, curve in numbers["of omega"].items())
    return (
        f"Left, τ = 1: ω_eff(t) falls from ω at t = 0 to (1 + ω)/2 − 1 at t = 1: {ends}; with ω below 1 it is "
        "negative at "
        f"high noise. Right, ω = {OMEGA}: the larger τ, the steeper; from {numbers['of tau']['0.1'][-1]:.2f} at τ = "
        "0.1 to "
        f"{numbers['of tau']['3.0'][-1]:.2f} at τ = 3, at t = 1."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for panel, name, sign in ((axes[0], "of omega", "ω"), (axes[1], "of tau", "τ")):
        colours = ramp(len(numbers[name]))
        for colour, (value, curve) in zip(colours, numbers[name].items(), strict=True):
            panel.plot(numbers["t"], curve, color=colour, lw=2)
            panel.annotate(f"{sign} = {float(value):g}", (1.02, curve[-1]), color=colour, va="center", fontsize=9)
        panel.axhline(0, color=GREY, lw=1)
        panel.set(xlabel="t (1 is noise)", ylabel="ω_eff(t)", xlim=(0, 1.28), xticks=(0, 0.5, 1))
    axes[0].set_title(f"τ = {TAU:g}", fontsize=10)
    axes[1].set_title(f"ω = {OMEGA:g}", fontsize=10)


FIGURE = Figure(
    "implied_guidance",
    "ω_eff(t) = (1 + ω)/(1 + τt) − 1: a plain model under this schedule predicts what CBDM under the null law, trained "
    "with τ and guided with ω, does.",
    numbers,
    alt,
    draw,
    panels=2,
    legend=False,
)

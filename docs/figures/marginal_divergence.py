"""KL between the noised marginals of two label laws, against the noise level: its area is what the factor t weighs."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from docs.figures.drawing import BLUE, ORANGE, Figure, rounded

MEANS, DEVIATIONS, COUNTS, POINTS = (-1.5, 0.5, 2.0), (0.5, 0.5, 0.5), (100, 30, 3), 400


def numbers() -> dict[str, Any]:
    """KL[p(x_t) ‖ p*(x_t)] of the long-tailed and the uniform mixture by quadrature, and −t dKL/dt."""
    schedule = Cosine()
    oracle = GaussianMixtureOracle(
        torch.tensor(MEANS)[:, None],
        torch.tensor(DEVIATIONS).square()[:, None, None],
        torch.tensor(COUNTS, dtype=torch.float64),
        schedule,
    )
    t = torch.linspace(0, 0.999, POINTS + 1, dtype=torch.float64)
    x = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    values = []
    for time in t:
        by_class = oracle.class_log_densities(x[:, None], time.expand(len(x)))
        p, p_star = (torch.logsumexp(by_class + law.log(), -1) for law in (oracle.class_probs, even))
        values.append(torch.trapezoid(p.exp() * (p - p_star), x))
    kl = torch.stack(values)
    fall = -torch.gradient(kl, spacing=(t,))[0]
    return {
        "t": rounded(t[::4]),
        "kl": rounded(kl[::4]),
        "weighted fall": rounded((t * fall)[::4]),
        "area": rounded(float(torch.trapezoid(kl, t))),
        "area of the weighted fall": rounded(float(torch.trapezoid(t * fall, t))),
    }


def alt(numbers: dict[str, Any]) -> str:
    return (
        f"Left: the divergence of the long-tailed from the even marginal falls from {numbers['kl'][0]:.2f} nats at "
        "t = 0 "
        f"to {numbers['kl'][-1]:.4f} at t = 1; the area below it is {numbers['area']:.3f}. Right: what is lost in each "
        f"step, times t, a hump whose area is {numbers['area of the weighted fall']:.3f}, the same."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    panels = (
        ("kl", "KL of the marginals at t, nats", "area", BLUE),
        ("weighted fall", "t · (−dKL/dt)", "area of the weighted fall", ORANGE),
    )
    for panel, (name, label, area, colour) in zip(axes, panels, strict=True):
        panel.plot(numbers["t"], numbers[name], color=colour, lw=2)
        panel.fill_between(numbers["t"], numbers[name], color=colour, alpha=0.25, lw=0)
        panel.set(xlabel="t (1 is noise)", ylabel=label, xlim=(0, 1), ylim=(0, None))
        panel.annotate(f"area {numbers[area]:.3f}", (0.95, 0.9), xycoords="axes fraction", ha="right")


FIGURE = Figure(
    "marginal_divergence",
    "What the factor t weighs. Left, the divergence of the long-tailed marginal from the even one at each noise "
    "level, with "
    "its area. Right, the divergence of the reverse kernels, which is what the marginals lose from level to level, "
    "times t: the same area, up to the value at t = 1.",
    numbers,
    alt,
    draw,
    panels=2,
    legend=False,
)

"""One-dimensional densities of samples, by class, of the plain model, of CBDM and under ω_eff(t), in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance, Implied, Omega
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.priors import LabelPrior
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Null, Training, Uniform
from cbdm_priors.optimum import BalancedOptimum
from docs.figures.drawing import GREY, Figure, ramp, rounded

MEANS, DEVIATION, COUNTS, STEPS, POINTS, REACH = (-1.6, 0.2, 1.8), 0.45, (100, 30, 3), 60, 161, 4.0


def mixture(counts: Sequence[float] = COUNTS) -> GaussianMixtureOracle:
    """Three Gaussians on a line."""
    variances = torch.full((len(MEANS), 1, 1), DEVIATION**2, dtype=torch.float64)
    return GaussianMixtureOracle(
        torch.tensor(MEANS, dtype=torch.float64)[:, None],
        variances,
        torch.tensor(counts, dtype=torch.float64),
        Cosine(),
    )


def transported(network: ScoreNetwork, label: int, steps: int = STEPS) -> Tensor:
    """(points,) where DDIM with η = 0 takes points that are even from −4 to 4 deviations of the starting noise."""
    z = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    c = Condition.of(torch.full((POINTS,), label))
    draws = Draws(0, 0, torch.arange(POINTS))
    sampler = DDIM(Cosine())
    return sampler.sample(network, c, (1,), steps=steps, draws=draws, x_T=z[:, None], dtype=torch.float64)[:, 0]


def density(x: Tensor) -> tuple[Tensor, Tensor]:
    """(places, densities) of transported points: mass over width between neighbours."""
    z = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    mass = torch.distributions.Normal(0.0, 1.0).cdf(z).diff()
    return (x[1:] + x[:-1]) / 2, mass / x.diff().clamp(min=1e-9)


def network(law: LabelPrior | Null | None, tau: float, gamma: float, omega: float | Omega) -> ScoreNetwork:
    """The guided optimum of CBDM, or of plain training where the law is None."""
    oracle = mixture()
    inner = oracle if law is None else BalancedOptimum(oracle, law, tau=tau, gamma=gamma)
    return ClassifierFreeGuidance(inner, omega)


def numbers() -> dict[str, Any]:
    """Of the rarest class, ω = ½: plain, under ω_eff, and CBDM (τ = 1, γ = ¼) under three laws."""
    rarest, omega = len(COUNTS) - 1, 0.5
    models = {
        "plain, ω": network(None, 0, 0, omega),
        "plain, ω_eff(t)": network(None, 0, 0, Implied(omega, 1.0)),
        "CBDM, null law": network(Null(COUNTS), 1, 0.25, omega),
        "CBDM, training law": network(Training(COUNTS), 1, 0.25, omega),
        "CBDM, uniform law": network(Uniform(COUNTS), 1, 0.25, omega),
    }
    found = {}
    for name, model in models.items():
        x = transported(model, rarest)
        weight = torch.distributions.Normal(0.0, 1.0).cdf(torch.linspace(-REACH, REACH, POINTS)).diff().double()
        at, p = density(x)
        mean = float((weight * at).sum() / weight.sum())
        spread = float(((weight * (at - mean).square()).sum() / weight.sum()).sqrt())
        found[name] = {"x": rounded(at, 5), "p": rounded(p, 5), "mean": rounded(mean, 4), "spread": rounded(spread, 4)}
    return found


def alt(numbers: dict[str, Any]) -> str:
    said = "; ".join(f"{name}: mean {of['mean']:.2f}, deviation {of['spread']:.2f}" for name, of in numbers.items())
    return (
        f"Densities of samples of the rarest of three classes, which lies at 1.8 with deviation {DEVIATION}: "
        f"{said}. The curve "
        "of CBDM under the null law and that of the plain model under ω_eff(t) coincide."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    colours = ramp(len(numbers))
    widths = (1.5, 5.0, 1.5, 1.5, 1.5)
    dashes = ((0, (1, 1)), "-", "-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)))
    for colour, width, dash, (name, of) in zip(colours, widths, dashes, numbers.items(), strict=True):
        ours = GREY if width > 2 else colour
        axes[0].plot(of["x"], of["p"], color=ours, lw=width, ls=dash, alpha=0.5 if width > 2 else 1, label=name)
    axes[0].set(xlabel="x", ylabel="density of samples", xlim=(-3.2, 3.6), ylim=(0, None))


FIGURE = Figure(
    "densities",
    "Samples of the rarest of three classes (100 : 30 : 3) on a line, by the closed form; τ = 1, γ = ¼, ω = ½. The "
    "broad "
    "grey curve, a plain model under ω_eff(t), lies under CBDM's with the null law.",
    numbers,
    alt,
    draw,
)

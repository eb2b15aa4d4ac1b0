"""The weight t of CBDM beside the factor ½(SNR_s/SNR_t − 1) that is dropped."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.schedules import Cosine, Linear, NoiseSchedule
from docs.figures.drawing import BLUE, GREY, ORANGE, Figure, plain_log, rounded

STEPS = 1000


def factor(schedule: NoiseSchedule, t: torch.Tensor) -> torch.Tensor:
    """½(SNR_s/SNR_t − 1) of the step from t to s = t − 1/T."""
    return 0.5 * torch.expm1(schedule.log_snr(t - 1 / STEPS) - schedule.log_snr(t))


def numbers() -> dict[str, Any]:
    t = torch.arange(2, STEPS, dtype=torch.float64)[::2] / STEPS
    return {
        "t": rounded(t),
        "linear": rounded(factor(Linear(steps=STEPS), t)),
        "cosine": rounded(factor(Cosine(), t)),
    }


def alt(numbers: dict[str, Any]) -> str:
    t, linear, cosine = (numbers[name] for name in ("t", "linear", "cosine"))
    middle = t.index(0.5)
    return (
        "On a logarithmic scale against t: the straight weight t, and the factor of the divergence of one of 1,000 "
        f"steps. It is {linear[0]:.2f} (linear schedule) and {cosine[0]:.2f} (cosine) at t = 0.002, "
        f"{linear[middle]:.4f} and {cosine[middle]:.4f} at one half, and {linear[-1]:.4f} and {cosine[-1]:.2f} near 1. "
        "So the weight t turns away from low noise, where the factor is large."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    t = numbers["t"]
    axes[0].plot(t, t, color=GREY, lw=2.5, label="t, the weight of CBDM at τ = 1")
    axes[0].plot(t, numbers["linear"], color=BLUE, label="½(SNR_s/SNR_t − 1), linear", ls=(0, (5, 1.5)))
    axes[0].plot(t, numbers["cosine"], color=ORANGE, label="½(SNR_s/SNR_t − 1), cosine", ls=(0, (1, 1)))
    axes[0].set(xlabel="t (1 is noise)", ylabel="weight of ‖ε̂(c) − ε̂(c')‖²", xlim=(0, 1), yscale="log")
    plain_log(axes[0].yaxis)


FIGURE = Figure(
    "dropped_factor",
    "The weight t beside the factor that the divergence of two reverse kernels has in truth, for 1,000 steps.",
    numbers,
    alt,
    draw,
)

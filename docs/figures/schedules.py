"""Signal, noise and log-SNR of the schedules against t."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.schedules import VP, Cosine, Linear, RectifiedFlow
from docs.figures.drawing import Figure, ramp, rounded

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "vp": VP(), "rectified-flow": RectifiedFlow()}
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))


def numbers() -> dict[str, Any]:
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    found: dict[str, Any] = {"t": rounded(t)}
    for name, schedule in SCHEDULES.items():
        found[name] = {"alpha": rounded(schedule(t)[0]), "log snr": rounded(schedule.log_snr(t))}
    return found


def alt(numbers: dict[str, Any]) -> str:
    middle = numbers["t"].index(0.5)
    said = ", ".join(
        f"{name} {numbers[name]['alpha'][middle]:.2f} and {round(numbers[name]['log snr'][middle], 1) + 0.0:.1f}"
        for name in SCHEDULES
    )
    return f"Left α_t, which falls from 1 to 0; right log-SNR, which falls from above 8 to below −8. At t = ½: {said}."


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    panels = (("alpha", "signal α_t"), ("log snr", "log α²/σ²"))
    for panel, (key, label) in zip(axes, panels, strict=True):
        for colour, dash, name in zip(ramp(len(SCHEDULES)), DASHES, SCHEDULES, strict=True):
            panel.plot(numbers["t"], numbers[name][key], color=colour, ls=dash, lw=2, label=name)
        panel.set(xlabel="t (0 is data, 1 is noise)", ylabel=label, xlim=(0, 1))


FIGURE = Figure(
    "schedules",
    "Four noise schedules: how much signal is left at t, and the logarithm of the signal-to-noise ratio. The linear "
    "table and "
    "vp, its limit, lie on one another.",
    numbers,
    alt,
    draw,
    panels=2,
)

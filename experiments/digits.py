"""Every strategy on digits-lt, ω swept for each: `python experiments/digits.py`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from comparisons import Cell, Experiment, arguments, main
from tables import methods_table, pairs_table

from cbdm_cli.study import plan

STEPS = 1000
OMEGAS = (*plan.OMEGAS, "2", "3")  # pulled models are at their best beyond 1.5
# 600 samples a reading and 20 solver steps: a reading takes 4 s, and there are hundreds.
SHARED = ("evaluation.per_class=60", "sampling.steps=20")
# ω(t) = w + (1 + w) τt undoes a pull τt towards the null and guides by w from there, w = 0 … 1½.
LINEAR = ("linear:1,0", "linear:1.25,0.25", "linear:1.5,0.5", "linear:2,1", "linear:2.5,1.5")

BASE = Cell(
    "digits",
    {
        name: name
        for name in (
            "ddpm",
            "cbdm:null",
            "cbdm:training",
            "cbdm:uniform",
            "shrink:null",
            "reweight:uniform",
            "resample:uniform",
            "t2h",
        )
    },
    omegas=(*OMEGAS, *LINEAR),
    steps=STEPS,
)


def base(*names: str) -> Cell:
    """The same cell with some of its methods, for experiments that start from it; they share its folder."""
    return replace(BASE, variants={name: BASE.variants[name] for name in names})


# What CBDM has over guidance; what schedules and intervals do; what is bought by memorising.
PAIRS = (
    *((f"cbdm:{law}", "ddpm, ω_eff(t)") for law in ("null", "training", "uniform")),
    ("cbdm:null", "ddpm, interval"),
    ("ddpm, ω_eff(t)", "ddpm"),
    ("ddpm, interval", "ddpm"),
    ("cbdm:null, aτt + b", "cbdm:null"),
    ("resample:uniform", "ddpm"),
    ("reweight:uniform", "ddpm"),
)
EXPERIMENT = Experiment("digits", "digits-lt", (BASE,), SHARED, seeds=5)


def page(result: dict[str, Any]) -> str:
    """Every method against DDPM at constant ω; then further pairs."""
    rows = result["cells"]["digits"]["rows"]
    return "\n\n".join([methods_table(rows), pairs_table(rows, PAIRS)])


if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, arguments(__doc__, EXPERIMENT.seeds), page))

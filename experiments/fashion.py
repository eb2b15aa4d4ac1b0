"""Strategies on long-tailed Fashion-MNIST at 14×14 and 28×28: `python experiments/fashion.py`.

The data are those of the Debian package `dataset-fashion-mnist`, or of `--data-root`. Samples are held against the
10,000 test images, which no model saw.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from comparisons import Cell, Experiment, arguments, main
from tables import ROOT, methods_table, pairs_table

OMEGAS = ("0", "0.25", "0.5", "0.75", "1", "1.5", "2", "3")
SHARED = ("evaluation.per_class=50", "sampling.steps=20", "training.batch_size=32")
METHODS = ("ddpm", "cbdm:null", "cbdm:training", "shrink:null", "t2h")
SMALL = Cell("fashion-14", {name: name for name in METHODS}, omegas=OMEGAS, steps=2000, seeds=4)
LARGE = Cell(
    "fashion-28",
    {name: name for name in ("ddpm", "cbdm:null")},
    ("data.options.size=28", "evaluation.per_class=30"),
    omegas=OMEGAS,
    steps=1000,
)
# What CBDM has over guidance; what schedules and intervals do.
PAIRS = (
    ("cbdm:null", "ddpm, ω_eff(t)"),
    ("cbdm:training", "ddpm, ω_eff(t)"),
    ("cbdm:null", "ddpm, interval"),
    ("ddpm, ω_eff(t)", "ddpm"),
    ("ddpm, interval", "ddpm"),
)
EXPERIMENT = Experiment("fashion", "fashion-lt", (SMALL, LARGE), SHARED, seeds=3)


def with_root(root: str | None) -> Experiment:
    """The experiment, with its data in another folder."""
    return EXPERIMENT if root is None else replace(EXPERIMENT, shared=(*SHARED, f"{ROOT}{root!r}"))


def page(result: dict[str, Any]) -> str:
    """14×14, then 28×28: every method against DDPM at constant ω; then further pairs of those that were trained."""
    found = []
    for cell in (SMALL, LARGE):
        rows = result["cells"][cell.name]["rows"]
        found += [methods_table(rows), pairs_table(rows, [(a, b) for a, b in PAIRS if a in rows])]
    return "\n\n".join(found)


if __name__ == "__main__":
    asked = arguments(__doc__, EXPERIMENT.seeds, data_root=True)
    sys.exit(main(with_root(asked.data_root), asked, page))

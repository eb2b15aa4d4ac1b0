"""What each choice inside CBDM does, one at a time on digits-lt: `python experiments/ablations.py`.

Each row changes one choice of CBDM with the null law, τ 1, γ ¼ and independent dropout masks, and is compared with it,
paired by seed, each at its own best ω.
"""

from __future__ import annotations

import sys
from typing import Any

from comparisons import Cell, Experiment, arguments, main
from digits import OMEGAS, SHARED, STEPS, base
from tables import Best, differences_table


def cell(name: str, *settings: str, plain: bool = False) -> Cell:
    variants = {"ddpm": "ddpm", "cbdm:null": "cbdm:null"} if plain else {"cbdm:null": "cbdm:null"}
    return Cell(name, variants, settings, omegas=OMEGAS, steps=STEPS)


BASE = base("ddpm", "cbdm:null", "cbdm:training", "cbdm:uniform")
CHANGED = {
    "τ ¼": cell("tau-0.25", "method.tau=0.25"),
    "γ 0": cell("gamma-0", "method.gamma=0.0"),
    "γ 1": cell("gamma-1", "method.gamma=1.0"),
    "dropout masks shared": cell("dropout-shared", "method.options.cbdm.dropout='shared'"),
    "no dropout": cell("dropout-none", "network.options.dropout=0.0", plain=True),
    "on ¼ of the rows": cell("fraction-0.25", "method.options.cbdm.fraction=0.25"),
    "labels dropped 0.3": cell("drop-0.3", "training.drop=0.3", plain=True),
}
EXPERIMENT = Experiment("ablations", "digits-lt", (BASE, *CHANGED.values()), SHARED, seeds=3)


def page(result: dict[str, Any]) -> str:
    """Each change against CBDM without it; then DDPM against DDPM for the changes that concern both."""
    cells = result["cells"]
    rows = cells[BASE.name]["rows"]
    pulled = Best.of(rows["cbdm:null"])
    pairs = [(f"law {law}", Best.of(rows[f"cbdm:{law}"]), pulled) for law in ("training", "uniform")]
    pairs += [(name, Best.of(cells[c.name]["rows"]["cbdm:null"]), pulled) for name, c in CHANGED.items()]
    both = {name: cells[c.name]["rows"] for name, c in CHANGED.items() if "ddpm" in c.variants}
    pairs += [(f"ddpm: {name}", Best.of(found["ddpm"]), Best.of(rows["ddpm"])) for name, found in both.items()]
    return differences_table(pairs, "changed − unchanged")


if __name__ == "__main__":
    sys.exit(main(EXPERIMENT, arguments(__doc__, EXPERIMENT.seeds), page))

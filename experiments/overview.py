"""CBDM against DDPM under the guidance it implies, on each kind of data: `python experiments/overview.py`.

At the methods' defaults, from the kept results; a longer training beside the shorter where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comparisons import RESULTS
from tables import Best, table, text

# What is said of it → (result file, cell).
DATA: Mapping[str, tuple[str, str]] = {
    "digits 8×8": ("digits", "digits"),
    "digits 8×8, trained 3 times as long": ("regimes", "steps-3000"),
    "digits 8×8 in 40 classes": ("regimes", "classes-40"),
    "digits 8×8 in 40 classes, trained 3 times as long": ("regimes", "classes-40-steps-3000"),
    "Fashion-MNIST 14×14": ("fashion", "fashion-14"),
    "Fashion-MNIST 28×28": ("fashion", "fashion-28"),
}


def overview(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each data set: FID of DDPM, of DDPM under ω_eff(t) and of CBDM, and how the last two differ.

    Args:
        results: the result file's content, by its name.
    """
    head = ("data", "steps, seeds", "DDPM", "DDPM, ω_eff(t)", "CBDM, null law", "CBDM − ω_eff(t)", "in recall")
    lines = []
    for name, (file, cell) in DATA.items():
        found = results[file]["cells"][cell]
        plain, implied, pulled = (Best.of(found["rows"][row]) for row in ("ddpm", "ddpm, ω_eff(t)", "cbdm:null"))
        fids = [f"{row.mean('fid'):.2f}" for row in (plain, implied, pulled)]
        differences = [text(pulled.minus(implied, "fid")), text(pulled.minus(implied, "recall"), 3)]
        lines.append([name, f"{found['steps']:,}, {found['seeds']}", *fids, *differences])
    return table(head, lines)


def kept() -> dict[str, dict[str, Any]]:
    """The result files that are needed, by name."""
    found = {}
    for name in dict.fromkeys(file for file, _ in DATA.values()):
        file = RESULTS / f"{name}.json"
        if not file.exists():
            raise SystemExit(f"{file} is not there: run python experiments/{name}.py first")
        found[name] = json.loads(file.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    print(overview(kept()))

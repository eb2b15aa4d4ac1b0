"""When does the training part of CBDM matter beyond guidance? `python experiments/regimes.py`.

Each cell changes one thing on digits-lt and trains DDPM and CBDM (null law) with paired seeds. DDPM is also sampled
under ω_eff(t) = (1 + ω)/(1 + τt) − 1, the guidance that CBDM implies: what CBDM has over that comes from training.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from ablations import CHANGED
from comparisons import RESULTS, Cell, Experiment, arguments, main
from digits import OMEGAS, SHARED, STEPS, base
from tables import Best, changes_table, differences_table, table

FIGURE = Path(__file__).parents[1] / "docs" / "_static" / "regimes.svg"


def cell(name: str, *settings: str, per_class: int = 40, steps: int = STEPS, training: bool = False) -> Cell:
    names = ("ddpm", "cbdm:null", *(("cbdm:training",) if training else ()))
    settings = (*settings, f"evaluation.per_class={per_class}")
    return Cell(name, {n: n for n in names}, settings, omegas=OMEGAS, steps=steps)


BASE = base("ddpm", "cbdm:null", "cbdm:training", "cbdm:uniform")
CELLS = {
    "base": BASE,
    # Three images in the rarest class, as in the base; four hundred samples.
    "40 classes": cell("classes-40", "data.options.clusters=4", "data.imbalance=0.07", per_class=10, training=True),
    "80 classes": cell("classes-80", "data.options.clusters=8", "data.imbalance=0.145", per_class=5),
    "3 times the epochs": cell("steps-3000", steps=3 * STEPS),
    "40 classes, 3 times the epochs": cell(
        "classes-40-steps-3000",
        "data.options.clusters=4",
        "data.imbalance=0.07",
        per_class=10,
        steps=3 * STEPS,
    ),
    "width 8": cell("width-8", "network.options.width=8"),
    "width 24": cell("width-24", "network.options.width=24"),
    "imbalance 0.1": cell("imbalance-0.1", "data.imbalance=0.1"),
    "imbalance 0.006": cell("imbalance-0.006", "data.imbalance=0.006"),
}
# Of the ablations: what CBDM alone varies is held against DDPM of the base, the rest against DDPM of its own cell.
SHARED_CELLS = {name: CHANGED[name] for name in ("γ 0", "γ 1", "no dropout", "dropout masks shared")}
EXPERIMENT = Experiment("regimes", "digits-lt", (*CELLS.values(), *SHARED_CELLS.values()), SHARED, seeds=3)


def pairs(result: dict[str, Any], schedule: bool) -> list[tuple[str, Best, Best]]:
    """(regime, CBDM, DDPM) at their best ω; DDPM under ω_eff(t), or at constant ω."""
    found = []
    for name, c in {**CELLS, **SHARED_CELLS}.items():
        rows = result["cells"][c.name]["rows"]
        plain = (rows if "ddpm" in c.variants else result["cells"][BASE.name]["rows"])[
            "ddpm, ω_eff(t)" if schedule else "ddpm"
        ]
        for variant in c.variants:
            law = variant.partition(":")[2]
            if law:
                told = name if law == "null" else f"{name}, law {law}"
                found.append((told, Best.of(rows[variant]), Best.of(plain)))
    return found


def schedules(result: dict[str, Any]) -> list[tuple[str, Best, Best]]:
    """(regime, DDPM under ω_eff(t), DDPM at constant ω) where DDPM was trained."""
    found = []
    for name, c in {**CELLS, **SHARED_CELLS}.items():
        if "ddpm" in c.variants:
            rows = result["cells"][c.name]["rows"]
            found.append((name, Best.of(rows["ddpm, ω_eff(t)"]), Best.of(rows["ddpm"])))
    return found


def changes(result: dict[str, Any]) -> list[tuple[str, tuple[Best, Best], tuple[Best, Best]]]:
    """(regime, CBDM and DDPM under ω_eff(t) there, the same where it starts from), null law.

    It starts from the first regime with as many classes, whose features are the same.
    """
    found = {name: (pulled, plain) for name, pulled, plain in pairs(result, schedule=True)}
    start: dict[int, str] = {}
    rows = []
    for name, c in {**CELLS, **SHARED_CELLS}.items():
        before = start.setdefault(len(result["cells"][c.name]["counts"]), name)
        if before != name:
            rows.append((f"{name} − {before}", found[name], found[before]))
    return rows


def data_table(result: dict[str, Any]) -> str:
    """What a regime of other data changes beside what it is called by."""
    found = {name: result["cells"][c.name] for name, c in CELLS.items()}
    lines = []
    for name, cell in found.items():
        counts = cell["counts"]
        spread = f"{max(counts)} … {min(counts)}"
        lines.append([name, len(counts), sum(counts), spread, cell["epochs"], cell["samples"]])
    head = ("regime", "classes", "images", "a class", "epochs", "samples")
    return table(head, [[str(x) for x in line] for line in lines])


def page(result: dict[str, Any]) -> str:
    """The data; CBDM against the schedule; how that differs from the base; both against constant ω."""
    tables = [
        data_table(result),
        differences_table(pairs(result, schedule=True), "CBDM − DDPM under ω_eff(t)"),
        changes_table(changes(result), "by how much that difference is more"),
        differences_table(pairs(result, schedule=False), "CBDM − DDPM at constant ω"),
        differences_table(schedules(result), "DDPM: ω_eff(t) − constant ω"),
    ]
    return "\n\n".join(tables)


def digest() -> str:
    """Of the result file: the figure carries it, so that a test can tell that they belong together."""
    return hashlib.sha256((RESULTS / "regimes.json").read_bytes()).hexdigest()[:16]


def draw(result: dict[str, Any], file: Path = FIGURE) -> None:
    """The map: for every regime, what CBDM has over DDPM under ω_eff(t), as a share of DDPM's figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = pairs(result, schedule=True)[::-1]
    titles = {"fid": "FID\n(left is better)", "tail fid": "FID of the tail\n(left is better)"}
    titles["tail recall"] = "recall of the tail\n(right is better)"
    plt.rcParams["svg.hashsalt"] = "regimes"  # and the same identities
    figure, axes = plt.subplots(1, 3, figsize=(11, 0.34 * len(found) + 1.6), sharey=True, layout="constrained")
    for axis, (score, title) in zip(axes, titles.items()):
        for place, (_, one, two) in enumerate(found):
            e, share = one.minus(two, score), 100 / two.mean(score)
            color, face = ("#b3261e", "#b3261e") if e.excludes_zero else ("#5b6670", "white")
            bar = {"xerr": share * e.half_width, "capsize": 3, "color": color, "markerfacecolor": face}
            axis.errorbar(share * e.mean, place, fmt="o", markersize=5, **bar)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(found)), [name for name, _, _ in found])
    figure.supxlabel(
        "CBDM − DDPM under ω_eff(t), % of DDPM's figure; filled where the 95 % interval excludes 0", fontsize=10
    )
    # No date: the same result gives the same file.
    figure.savefig(file, metadata={"Description": digest(), "Date": None})
    plt.close(figure)


if __name__ == "__main__":
    asked = arguments(__doc__, EXPERIMENT.seeds)
    code = main(EXPERIMENT, asked, page)
    if code == 0 and not asked.cells and asked.seeds >= EXPERIMENT.seeds:
        draw(json.loads((RESULTS / "regimes.json").read_text(encoding="utf-8")))
    sys.exit(code)

"""What the tail's experiment trains: cells of methods on the same data, and where each is judged.

The settings of the transplant were fixed before any of these runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from comparisons import RESULTS
from tail_runs import Job

__all__ = ["CELLS", "DIGITS", "Cell", "job_of", "result_file"]

# The schedules that CBDM implies; only the plain model is judged under them.
IMPLIED = ("implied:0.5", "implied:1")
TRANSPLANT = "transplant+resample:uniform@0.2"


@dataclass(frozen=True)
class Cell:
    """Methods trained on the same data, and where they are judged.

    Args:
        preset: of every run.
        settings: `a.b=v` laid over it.
        methods: its parts, and after a comma what else it is → how many paired seeds; `ddpm` has the most.
        lengths: training steps to judge at, rising.
        omegas: guidance to judge at.
        further: method → guidance beside that.
        changes: method → `a.b=v` laid over the settings, for a method whose name says more than its parts.
        reference: the method that the others are held against.
        known: methods whose scores the cell `digits` has, trained with the same settings.
        begun: the cell whose runs are these at fewer steps.
        first: the first of the seeds.
    """

    preset: str
    settings: tuple[str, ...]
    methods: Mapping[str, int]
    lengths: tuple[int, ...]
    omegas: tuple[str, ...]
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = "ddpm"
    known: tuple[str, ...] = ()
    begun: str | None = None
    first: int = 0

    def seeds(self, method: str) -> range:
        """Those that a method is trained with."""
        return range(self.first, self.first + self.methods[method])


DIGITS = Cell(
    "digits-lt",
    ("evaluation.per_class=60", "sampling.steps=20"),
    {
        "ddpm": 5,
        "resample:uniform": 5,
        "resample:uniform@0.2": 5,
        TRANSPLANT: 5,
        "resample:power:0.5": 3,
        "t2h": 3,
        "reweight:uniform": 3,
    },
    (500, 1000, 2000, 3000),
    ("0", "0.25", "0.5", "1", "1.5"),
    {"ddpm": IMPLIED},
)
# What pulls classes together, alone and above batches that are balanced at high noise, and the guidance that it wants.
PULLED = Cell(
    "digits-lt",
    DIGITS.settings,
    {
        "ddpm": 4,
        "cbdm:null": 4,
        "cbdm:null+resample:uniform@0.2": 3,
        "cbdm:null+transplant+resample:uniform@0.2": 3,
    },
    (1000, 3000),
    ("0", "0.5", "1", "1.5", "2", "3"),
    {"ddpm": (*IMPLIED, "implied:1.5", "implied:2")},
)
# The methods that the further cells train, with the settings that were fixed on digits.
FROZEN: tuple[str, ...] = ("ddpm", "resample:uniform", "resample:uniform@0.2", TRANSPLANT)
# The other rivals, with the settings that they have on digits.
RIVALS: tuple[str, ...] = ("resample:power:0.5", "t2h", "reweight:uniform")
# What is trained longest, also with a budget of showings.
LONG = {**dict.fromkeys(FROZEN, 4), "resample:uniform@auto": 3}
# What is trained at 28×28, where a step costs four times as much.
LARGE = {"ddpm": 3, "resample:uniform": 3, TRANSPLANT: 3}


def _elsewhere(*settings: str, lengths: tuple[int, ...] = (1000,), seeds: int = 3) -> Cell:
    methods = dict.fromkeys(FROZEN, seeds)
    return Cell("digits-lt", (*DIGITS.settings, *settings), methods, lengths, DIGITS.omegas, {"ddpm": IMPLIED})


def _fashion(
    methods: Mapping[str, int],
    lengths: tuple[int, ...],
    *further: str,
    per_class: int = 50,
    begun: str | None = None,
) -> Cell:
    settings = (f"evaluation.per_class={per_class}", "sampling.steps=20", "training.batch_size=32", *further)
    return Cell("fashion-lt", settings, methods, lengths, ("0", "0.5", "1", "2"), {"ddpm": IMPLIED}, begun=begun)


# One choice at a time away from the transplant above the split; the last is the split the other way round.
CHANGED = {
    "transplant": (),
    f"{TRANSPLANT}, ρ 0": ("method.transplant.rho=0.0",),
    f"{TRANSPLANT}, ρ 0.8": ("method.transplant.rho=0.8",),
    f"{TRANSPLANT}, v 0.4": ("method.transplant.spread=0.4",),
    f"{TRANSPLANT}, v 1": ("method.transplant.spread=1.0",),
    "transplant+resample:uniform@0.4, both from 0.4": ("method.transplant.t0=0.4",),
    "transplant+resample:uniform@0.1, both from 0.1": ("method.transplant.t0=0.1",),
    "transplant+resample:uniform@0.1-0.5": (),
    "transplant+resample:power:0.5@0.2": (),
    "resample:uniform@0.21-0.19": (),
}
ABLATION = Cell(
    "digits-lt",
    DIGITS.settings,
    dict.fromkeys(CHANGED, 3),
    (1000,),
    ("0", "0.25", "0.5", "1"),
    changes=CHANGED,
    reference=TRANSPLANT,
    known=("ddpm", "resample:uniform", "resample:uniform@0.2", TRANSPLANT),
)
# CBDM at less cost: on a quarter of the steps, or of the rows.
SAVED = {
    "cbdm:null, every fourth step": ("method.cbdm.every=4",),
    "cbdm:null, a quarter of the rows": ("method.cbdm.fraction=0.25",),
}
SPARING = Cell(
    "digits-lt",
    DIGITS.settings,
    dict.fromkeys(("cbdm:null", *SAVED), 5),
    (1000,),
    ("0", "0.5", "1", "1.5", "2"),
    changes=SAVED,
    reference="cbdm:null",
)
# Balancing within a budget of showings: N₀ is that of least tail FID, by its mean logarithm after 1,000 and 3,000 steps
# at the ω of least FID, of those that copy at most 10 % of the tail after both. So much was fixed before these runs.
CHOSEN = Cell(
    "digits-lt",
    DIGITS.settings,
    {f"resample:uniform@auto={showings}": 1 for showings in (100, 500, 2000)},
    (1000, 3000),
    DIGITS.omegas,
    first=10,
)
BUDGET = Cell(
    "digits-lt",
    DIGITS.settings,
    {"resample:uniform@auto": 5, "resample:uniform@auto=100": 3},
    (1000, 2000, 3000),
    DIGITS.omegas,
    known=("ddpm",),
)
CELLS = {
    "digits": DIGITS,
    "digits-long": replace(
        DIGITS, methods=dict.fromkeys((*FROZEN, "resample:power:0.5"), 3), lengths=(4500,), begun="digits"
    ),
    "pulled": PULLED,
    "fashion": _fashion(dict.fromkeys((*FROZEN, *RIVALS), 4), lengths=(1000, 2000)),
    "fashion-long": _fashion(LONG, lengths=(4000, 8000), begun="fashion"),
    "fashion-28": _fashion(LARGE, (1000, 2000), "data.options.size=28", per_class=30),
    "no-dropout": _elsewhere("network.options.dropout=0.0", lengths=(1000, 3000), seeds=5),
    "held-out": _elsewhere("evaluation.reference=held-out", lengths=(500, 1000, 3000)),
    "ablation": ABLATION,
    "sparing": SPARING,
    "budget-chosen": CHOSEN,
    "budget": BUDGET,
    "classes-40": _elsewhere("data.options.clusters=4", "data.imbalance=0.07", "evaluation.per_class=15"),
    "steep": _elsewhere("data.imbalance=0.006"),
    "mild": _elsewhere("data.imbalance=0.1"),
}


def job_of(cell: str, method: str, seed: int) -> Job:
    """A method on a cell's data with a seed."""
    c = CELLS[cell]
    omegas = (*c.omegas, *c.further.get(method, ()))
    settings, parts = (*c.settings, *c.changes.get(method, ())), method.partition(",")[0]
    return Job(cell, c.preset, settings, file_name(method), parts, seed, c.lengths, omegas)


def result_file(cell: str) -> Path:
    """Where the kept scores of a cell are."""
    return RESULTS / f"tail-{cell}.json"


def file_name(method: str) -> str:
    """A method's name in files."""
    return method.replace(":", "-").replace("@", "-at-").replace(", ", "-").replace(" ", "-")

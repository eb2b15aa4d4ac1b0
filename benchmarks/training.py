"""What a training step of each method costs beside plain DDPM's: `python benchmarks/training.py`.

Methods take turns in every round, on one thread, at the network and batch of the preset digits-lt, and a ratio is the
median over rounds of a method's CPU time over DDPM's.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from metrics import machine, measured_anew, on_one_thread, timed

from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.method import method_parts
from cbdm_cli.overlay import load_config
from cbdm_core.data.batches import Batches
from cbdm_core.distributed import World
from cbdm_core.training import TrainState, train

RESULTS = Path(__file__).parent / "results" / "training.json"
STEPS = 8  # of a piece of work, twice the fourth
QUARTER, FOURTH = "cbdm:null, a quarter of the rows", "cbdm:null, every fourth step"
# Name → (method, settings).
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    name: (name, ())
    for name in (
        "ddpm", "reweight:uniform", "resample:uniform", "resample:power:0.5", "resample:uniform@0.2",
        "transplant+resample:uniform@0.2", "shrink:null", "t2h", "h2t", "transfer", "coral", "ccua", "capacity",
        "cbdm:null", "cbdm:null+resample:uniform@0.2", "cbdm:null+transplant+resample:uniform@0.2",
    )
} | {
    QUARTER: ("cbdm:null", ("method.cbdm.fraction=0.25",)),
    FOURTH: ("cbdm:null", ("method.cbdm.every=4",)),
}  # fmt: skip

Row = dict[str, Any]


def started(method: str, settings: tuple[str, ...]) -> tuple[TrainState, Batches]:
    """A training at its first step, and its batches."""
    table = load_config("digits-lt", None, settings)
    experiment = assemble(validated(table if settings else {**table, "method": method_parts(method)}))
    return experiment.start(World(0, 1, torch.device("cpu"))), experiment.batches


def go_on(state: TrainState, batches: Batches) -> None:
    """A few steps further."""
    for _ in train(state, batches, steps=state.step + STEPS):
        pass


def measured(rounds: int) -> Row:
    routes = {name: partial(go_on, *started(*of)) for name, of in METHODS.items()}
    timed(routes, 1)  # what is done once is not what is timed
    seconds, _ = timed(routes, rounds)
    plain = seconds["ddpm"]
    rows = [
        {
            "method": name,
            "milliseconds": round(1e3 * statistics.median(mine) / STEPS, 1),
            "ratio": round(statistics.median(a / b for a, b in zip(mine, plain, strict=True)), 2),
        }
        for name, mine in seconds.items()
    ]
    return {"machine": machine(), "rounds": rounds, "rows": rows}


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = ["| method | a step, ms | beside DDPM's |", "|---|---|---|"]
    lines += [f"| {row['method']} | {row['milliseconds']:.0f} | {row['ratio']:.2f} |" for row in results["rows"]]
    return "\n".join(lines)


if __name__ == "__main__":
    on_one_thread(lambda: measured_anew(__doc__ or "", 9, measured, page, RESULTS))

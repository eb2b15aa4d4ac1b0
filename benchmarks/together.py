"""What a step of CBDM costs when several labels of a row share a pass: `python benchmarks/together.py`.

CPU seconds of a step, forward and backward, on one thread; routes take turns in every round, and a ratio is the median
over rounds of a route's time over that of a pass for each label.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from activations import SIZES, K, loss
from metrics import machine, measured_anew, on_one_thread, timed

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_priors.laws.counts import Uniform
from cbdm_priors.penalties.balancing import ClassBalancing

RESULTS = Path(__file__).parent / "results" / "together.json"
# (draws, γ) → how many of them share a pass.
SHARED: dict[tuple[int | str, float], tuple[int, ...]] = {
    (4, 0.25): (1, 2, 4),
    (4, 0.0): (1, 2, 4),
    ("all", 0.25): (1, 2, 10),
    ("all", 0.0): (1, 2, 10),
}

Row = dict[str, Any]


def objective(shape: tuple[int, ...], network: dict[str, Any], **options: Any) -> Objective:
    """CBDM of ten labels by the uniform law."""
    torch.manual_seed(0)
    adjustment = ClassBalancing(DenoisingLoss(), Uniform([1] * K), **options)
    return Objective(Process(Linear()), UNet(shape, K, **network), adjustment, drop=0.0)


def compared(batch: tuple[int, ...], draws: int | str, gamma: float, pairs: int) -> list[Row]:
    """A row for each number of labels in a pass."""
    B, *shape = batch
    numbers = SHARED[draws, gamma]
    made = {k: objective(tuple(shape), SIZES[batch], draws=draws, gamma=gamma, together=k) for k in numbers}
    steps = {str(k): lambda one=one: loss(one, B, tuple(shape)).backward() for k, one in made.items()}
    timed(steps, 1)  # what is done once is not what is timed
    seconds, _ = timed(steps, pairs)
    return [
        {
            "batch": list(batch),
            "draws": draws,
            "gamma": gamma,
            "together": int(k),
            "seconds": round(statistics.median(mine), 3),
            "ratio": round(statistics.median(b / a for a, b in zip(seconds["1"], mine, strict=True)), 2),
        }
        for k, mine in seconds.items()
    ]


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = ["| batch | `draws` | γ | `together` | a step, s | ratio |", "|---|---|---|---|---|---|"]
    for row in results["rows"]:
        batch = " × ".join(map(str, row["batch"]))
        asked = f"{row['draws']} | {row['gamma']:g} | {row['together']}"
        lines.append(f"| {batch} | {asked} | {row['seconds']:.2f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def measured(pairs: int) -> Row:
    rows = [row for batch in SIZES for asked in SHARED for row in compared(batch, *asked, pairs=pairs)]
    return {"machine": machine(), "pairs": pairs, "rows": rows}


if __name__ == "__main__":
    on_one_thread(lambda: measured_anew(__doc__ or "", 5, measured, page, RESULTS))

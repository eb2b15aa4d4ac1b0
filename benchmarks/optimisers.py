"""Muon beside AdamW, after equal steps and equal CPU time: `python benchmarks/optimisers.py`.

Each optimiser has its own learning rate, the best on a seed of its own among doublings of the preset's, both of whose
neighbours were tried. A run is of plain DDPM on digits-lt; what is compared is the denoising loss of the averaged
network on images that training has not seen, a mean over images, noise and levels that are the same for all. What a run
said is written as soon as it is known, and a run that the file holds is not done again.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from metrics import machine, measured_anew, on_one_thread, timed

from cbdm_cli.assemble import Experiment, assemble, settings_of
from cbdm_cli.config import validated
from cbdm_cli.method import method_parts
from cbdm_cli.overlay import load_config
from cbdm_cli.study.results import Estimate, estimate
from cbdm_core.conditions import Condition
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World
from cbdm_core.metrics.denoising import denoising_errors
from cbdm_core.metrics.diagnosis import noise_levels
from cbdm_core.metrics.recognition import held_out_rows
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.optimisers import OPTIMISERS
from cbdm_core.schedules import NoiseSchedule
from cbdm_core.training import DivergedError, TrainState, train

RESULTS = Path(__file__).parent / "results" / "optimisers.json"
NETWORKS: dict[str, tuple[str, ...]] = {
    "DiT": ("network.name=dit", "network.options={width=64, depth=4, heads=4, patch=2, dropout=0.1}"),
    "U-Net": (),  # the preset's
}
RIVALS = "adamw", "muon"
FIRST_RATE, CHOSEN_ON, SEEDS = 2e-3, 10, (0, 1, 2)
MARKS = 300, 1000
LEVELS, QUERIES, TIMED_STEPS = 10, 32, 10

Row = dict[str, Any]


def started(network: str, optimiser: str, rate: float, seed: int) -> tuple[Experiment, TrainState]:
    """A training at its first step."""
    table = load_config("digits-lt", None, (*NETWORKS[network], f"seed={seed}"))
    experiment = assemble(validated({**table, "method": method_parts("ddpm")}))
    settings = replace(settings_of(experiment.config), optimiser=OPTIMISERS[optimiser], learning_rate=rate)
    return experiment, TrainState.start(experiment.objective, settings, World(0, 1, torch.device("cpu")))


def loss(network: ScoreNetwork, data: Dataset, schedule: NoiseSchedule) -> float:
    """The mean of (ε̂ − ε)² over pixels, levels and the same number of noised images of each class."""
    values = data.condition_values()
    errors = denoising_errors(
        lambda x_t, t, rows: network(x_t, t, Condition.of(values[rows])),
        data,
        schedule,
        noise_levels(schedule, LEVELS),
        queries=QUERIES,
    )
    return float(errors.eps.mean()) / math.prod(data.shape)


def losses(network: str, optimiser: str, rate: float, seed: int, marks: tuple[int, ...]) -> dict[str, list[float]]:
    """At each mark, a number of steps, the loss on held-out and on training images; infinite from where it diverges."""
    experiment, state = started(network, optimiser, rate, seed)
    full, data, schedule = experiment.full, experiment.data, experiment.schedule
    sets = {"held out": full[held_out_rows(full.x, data.x)], "training": data}
    found: dict[str, list[float]] = {name: [] for name in sets}
    for mark in marks:
        try:
            go_on(experiment, state, mark)
            said = {name: round(loss(state.ema, images, schedule), 6) for name, images in sets.items()}
        except DivergedError:
            said = dict.fromkeys(sets, math.inf)
        for name in sets:
            found[name].append(said[name])
    return found


def go_on(experiment: Experiment, state: TrainState, steps: int) -> None:
    """Train up to that step."""
    for _ in train(state, experiment.batches, steps=steps):
        pass


def cost(network: str, rounds: int) -> Row:
    """CPU milliseconds of a step, and the median over rounds of Muon's time over AdamW's."""
    made = {name: started(network, name, FIRST_RATE, 0) for name in RIVALS}
    routes = {name: partial(_further, *of) for name, of in made.items()}
    timed(routes, 1)  # what is done once is not what is timed
    seconds, _ = timed(routes, rounds)
    milliseconds = {name: round(1e3 * statistics.median(mine) / TIMED_STEPS, 1) for name, mine in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(*(seconds[name] for name in RIVALS), strict=True))
    return {"milliseconds": milliseconds, "ratio": round(ratio, 3)}


def _further(experiment: Experiment, state: TrainState) -> None:
    go_on(experiment, state, state.step + TIMED_STEPS)


def best(loss_of: Callable[[float], float], first: float = FIRST_RATE) -> float:
    """The rate of least loss among doublings and halvings of the first, whose neighbours have been tried."""
    found = {first: loss_of(first)}
    while True:
        least = min(found, key=lambda rate: found[rate])
        fresh = [rate for rate in (least / 2, 2 * least) if rate not in found]
        if not fresh:
            return least
        found |= {rate: loss_of(rate) for rate in fresh}


def same_time(ratio: float) -> tuple[int, ...]:
    """Muon's steps in the time that AdamW takes for each of the marks."""
    return tuple(round(mark / ratio) for mark in MARKS)


def paired(one: list[float], other: list[float]) -> Estimate:
    """The mean of one/other − 1 over pairs, with its 95 % interval."""
    return estimate([a / b - 1 for a, b in zip(one, other, strict=True)])


class Kept:
    """The results so far, in their file."""

    def __init__(self, rounds: int) -> None:
        old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        fresh = {"machine": machine(), "rounds": rounds, "cost": {}, "runs": [], "rates": {}}
        self.results: Row = old if old.get("machine") == fresh["machine"] and old["rounds"] == rounds else fresh

    def write(self) -> None:
        RESULTS.write_text(json.dumps(self.results, indent=1) + "\n")

    def run(self, network: str, optimiser: str, rate: float, seed: int, marks: tuple[int, ...]) -> Row:
        """What a run said, done now if it has not been."""
        key = {"network": network, "optimiser": optimiser, "rate": rate, "seed": seed, "steps": list(marks)}
        for row in self.results["runs"]:
            if all(row[name] == value for name, value in key.items()):
                return row
        row = key | losses(network, optimiser, rate, seed, marks)
        self.results["runs"].append(row)
        self.write()
        return row


def measured(rounds: int) -> Row:
    """Costs, then rates, then the runs of each seed."""
    kept = Kept(rounds)
    for network in NETWORKS:
        if network not in kept.results["cost"]:
            kept.results["cost"][network] = cost(network, rounds)
        ratio = kept.results["cost"][network]["ratio"]
        rates = {name: best(partial(_tried, kept, network, name)) for name in RIVALS}
        kept.results["rates"][network] = rates
        for seed in SEEDS:
            kept.run(network, "adamw", rates["adamw"], seed, MARKS)
            kept.run(network, "muon", rates["muon"], seed, tuple(sorted((*same_time(ratio), *MARKS))))
    return kept.results


def _tried(kept: Kept, network: str, optimiser: str, rate: float) -> float:
    return kept.run(network, optimiser, rate, CHOSEN_ON, MARKS[-1:])["held out"][0]


def by_seed(results: Row, network: str, optimiser: str, steps: int, images: str) -> list[float]:
    """The losses of the seeds in order."""
    runs = [run for run in results["runs"] if (run["network"], run["optimiser"]) == (network, optimiser)]
    of = {run["seed"]: run[images][run["steps"].index(steps)] for run in runs if run["seed"] != CHOSEN_ON}
    return [of[seed] for seed in SEEDS]


def comparisons(results: Row) -> list[Row]:
    """A row for each network, number of AdamW's steps, and what is equal."""
    rows = []
    for network, costs in results["cost"].items():
        for mark, fewer in zip(MARKS, same_time(costs["ratio"]), strict=True):
            for equal, steps in (("steps", mark), ("CPU time", fewer)):
                of = {"network": network, "equal": equal, "adamw steps": mark, "muon steps": steps}
                for images in ("held out", "training"):
                    ours = by_seed(results, network, "muon", steps, images)
                    theirs = by_seed(results, network, "adamw", mark, images)
                    of[images] = {"adamw": statistics.mean(theirs), "muon": statistics.mean(ours)}
                    change = paired(ours, theirs)
                    of[images] |= {"change": change.mean, "half": change.half_width}
                rows.append(of)
    return rows


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = [
        "| network | equal | steps, AdamW | steps, Muon | held out, AdamW | held out, Muon | change, % | training, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in comparisons(results):
        held, seen = row["held out"], row["training"]
        changes = " | ".join(f"{100 * of['change']:+.1f} ± {100 * of['half']:.1f}" for of in (held, seen))
        changes = changes.replace("-", "−")
        lines.append(
            f"| {row['network']} | {row['equal']} | {row['adamw steps']:,} | {row['muon steps']:,} "
            f"| {held['adamw']:.4f} | {held['muon']:.4f} | {changes} |"
        )
    return "\n".join(lines)


def costs_page(results: Row) -> str:
    """The table of the rates that were chosen and of what a step costs, in Markdown."""
    lines = ["| network | rate, AdamW | rate, Muon | a step, AdamW, ms | a step, Muon, ms | ratio |"]
    lines.append("|---|---|---|---|---|---|")
    for network, costs in results["cost"].items():
        rates = " | ".join(f"{results['rates'][network][name]:g}" for name in RIVALS)
        times = " | ".join(f"{costs['milliseconds'][name]:.0f}" for name in RIVALS)
        lines.append(f"| {network} | {rates} | {times} | {costs['ratio']:.2f} |")
    return "\n".join(lines)


def pages(results: Row) -> str:
    """Both tables."""
    return f"{page(results)}\n\n{costs_page(results)}"


if __name__ == "__main__":
    on_one_thread(lambda: measured_anew(__doc__ or "", 9, measured, pages, RESULTS))

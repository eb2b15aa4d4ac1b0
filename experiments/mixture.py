"""Every method on a 2-D long-tailed mixture whose true densities are known: `python experiments/mixture.py`.

Ten Gaussians on a ring, 1,000 … 10 examples a class. Each method is trained with 5 paired seeds (same split, same
initial weights, same draws where the method leaves them), sampled at each ω of a small set, and judged by the energy
distance of its samples to fresh draws of each class's own density, E = 2 E|X − Y| − E|X − X'| − E|Y − Y'|. ω is picked
per method on the mean over seeds. Finished jobs are kept in `--work`, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comparisons import run_jobs

from cbdm_cli.numerals import true_minus
from cbdm_cli.study.pool import Child

if TYPE_CHECKING:
    from cbdm_cli.config import Config

RESULTS = Path(__file__).parent / "results" / "mixture.json"
OMEGAS = ("0", "0.25", "0.5", "1")
SEEDS = tuple(range(5))
PER_CLASS = 250
TRUE_PER_CLASS = 2000
STEPS = 1500
SAMPLER_STEPS = 20
# All classes; those of 1,000, 599 and 359 examples; those of 28, 17 and 10.
GROUPS = {"all": tuple(range(10)), "head": (0, 1, 2), "rare": (7, 8, 9)}

# name → (method, options of its parts, further settings)
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddpm": ("ddpm", {}, {}),
    "cbdm:null": ("cbdm:null", {}, {}),
    "cbdm:training": ("cbdm:training", {}, {}),
    "cbdm:uniform": ("cbdm:uniform", {}, {}),
    "cbdm:learned": ("cbdm:learned:0.5,0.1", {}, {}),
    "cbdm:affinity": ("cbdm:affinity", {}, {}),
    "cbdm:uniform, all draws": ("cbdm:uniform", {"cbdm": {"draws": "all"}}, {}),
    "cbdm:null, τ 0.1": ("cbdm:null", {}, {"tau": 0.1}),
    "shrink:null, adaptive": ("shrink:null", {}, {}),
    "shrink:uniform, adaptive": ("shrink:uniform", {}, {}),
    "shrink:null, n^−1": ("shrink:null", {"shrink": {"rule": "counts", "strength": 0.03, "cap": 10.0}}, {}),
    "reweight:uniform": ("reweight:uniform", {}, {}),
    "resample:uniform": ("resample:uniform", {}, {}),
    "resample:power ½": ("resample:power:0.5", {}, {}),
    "t2h": ("t2h", {}, {}),
    "h2t": ("h2t", {}, {}),
    "transfer (full)": ("transfer", {}, {}),
    "t2h, h2t on null": ("t2h", {"t2h": {"null_direction": "h2t"}}, {}),
    "coral": ("coral", {"coral": {"strength": 0.05}}, {}),
    "ccua": ("ccua", {"ccua": {"repulsion": 0.01}}, {}),
    "diffrop:uniform": ("diffrop:uniform", {}, {}),
    "capacity": ("capacity", {}, {}),
    "igd-ml": ("reweight:uniform+cbdm:uniform+pure", {"cbdm": {"draws": "all"}}, {"gamma": 0.0}),
    "resample:uniform@0.2": ("resample:uniform@0.2", {}, {}),
    "transplant above the split": ("transplant+resample:uniform@0.2", {}, {}),
}
# Sampling-time methods use the plain model: name → (ω of each, guidance prior).
SAMPLED: dict[str, tuple[tuple[str, ...], str | None]] = {
    "ddpm, ω_eff(t)": (tuple(f"implied:{omega}" for omega in ("0.25", "0.5", "1", "1.5")), None),
    "ddpm, guidance prior uniform": (OMEGAS[1:], "uniform"),
}

# Further paired differences, each (method, ω) − (method, ω).
PAIRS: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("cbdm:null", "0.25"), ("ddpm, ω_eff(t)", "implied:0.25")),
    (("cbdm:null", "0.5"), ("ddpm, ω_eff(t)", "implied:0.5")),
    (("cbdm:null", "1"), ("ddpm, ω_eff(t)", "implied:1")),
    (("ddpm, guidance prior uniform", "0.25"), ("ddpm", "0.25")),
    (("ddpm, guidance prior uniform", "0.5"), ("ddpm", "0.5")),
    (("ddpm, guidance prior uniform", "1"), ("ddpm", "1")),
    (("shrink:null, n^−1", "0"), ("ddpm", "0")),
)


def energy_distance(x: Any, y: Any) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'| with pairs of different points (unbiased), in float64."""
    import torch

    x, y = x.double(), y.double()

    def within(z: Any) -> Any:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def file_of(work: Path, name: str, seed: int) -> Path:
    """Where the record of a job is kept."""
    return work / f"{list(METHODS).index(name):02d}-{seed}.json"


def config_of(name: str, seed: int, steps: int) -> Config:
    """The configuration of one method with one seed."""
    from cbdm_cli.config import validated
    from cbdm_cli.overlay import load_config, merged

    parts, options, method = METHODS[name]
    table = load_config("mixture-lt")
    over = {
        "seed": seed,
        "method": {"parts": parts, "options": options, **method},
        "training": {"steps": steps},
        "sampling": {"sampler": "dpm++2m"},
        "evaluation": {"per_class": PER_CLASS},
    }
    return validated(merged(table, over))


def job(name: str, seed: int, steps: int, work: str) -> dict[str, Any]:
    """Train one method with one seed and judge it at every ω; the plain model also at the sampling-time methods."""
    import torch

    torch.set_num_threads(1)
    from cbdm_cli.assemble import assemble
    from cbdm_cli.run_folder import write_text
    from cbdm_cli.sampling import balanced_samples, solver
    from cbdm_core.data.sources import mixture
    from cbdm_core.distributed import World
    from cbdm_core.generation import generate
    from cbdm_core.training import train

    experiment = assemble(config_of(name, seed, steps))
    state = experiment.start(World(0, 1, torch.device("cpu")))
    started = time.process_time()
    for _ in train(state, experiment.batches, steps=steps):
        pass
    seconds = time.process_time() - started
    truth = mixture(num_classes=10, per_class=TRUE_PER_CLASS, dimension=2, seed=10_000 + seed)
    labels, conditions = balanced_samples(experiment.config, experiment.full)

    def evaluated(omega: str, prior: str | None) -> list[float]:
        sampling = experiment.config.sampling.model_copy(update={"omega": omega, "guidance_prior": prior})
        config = experiment.config.model_copy(update={"sampling": sampling})
        network, sampler = solver(config, state.ema.eval(), experiment.schedule)
        drawn = generate(network, sampler, conditions, (2,), steps=SAMPLER_STEPS, seed=seed, batch_size=2500)
        x = torch.cat(list(drawn))
        return [energy_distance(x[labels == y], truth.x[truth.y == y]) for y in range(10)]

    found = {name: {omega: evaluated(omega, None) for omega in OMEGAS}}
    if name == "ddpm":
        found |= {n: {omega: evaluated(omega, prior) for omega in omegas} for n, (omegas, prior) in SAMPLED.items()}
    record = {"seed": seed, "steps": steps, "seconds": seconds, "distance": found}
    write_text(file_of(Path(work), name, seed), json.dumps(record))
    return record


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half width of the 95 % interval by Student's t)."""
    from cbdm_cli.study.results import estimate

    found = estimate(values)
    return found.mean, found.half_width


def _by_name(
    records: list[tuple[str, dict[str, Any]]],
) -> tuple[dict[str, dict[int, dict[str, list[float]]]], dict[str, list[float]]]:
    """(method → seed → ω → distance of each class, method → seconds of its trainings)."""
    by_name: dict[str, dict[int, dict[str, list[float]]]] = {}
    seconds: dict[str, list[float]] = {}
    for name, record in records:
        seconds.setdefault(name, []).append(record["seconds"])
        for found, by_omega in record["distance"].items():
            by_name.setdefault(found, {})[record["seed"]] = by_omega
    return by_name, seconds


def summary(records: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The table: each method at its best ω, and its paired difference to the plain model at its own best ω."""
    import numpy as np

    by_name, seconds = _by_name(records)

    def at(name: str, omega: str, classes: tuple[int, ...]) -> dict[int, float]:
        """The mean distance of some classes, by seed."""
        return {
            seed: float(np.mean([values[omega][y] for y in classes])) for seed, values in sorted(by_name[name].items())
        }

    def best(name: str) -> str:
        """The ω with the least distance over all classes and seeds."""
        omegas = next(iter(by_name[name].values()))
        return min(omegas, key=lambda omega: float(np.mean(list(at(name, omega, GROUPS["all"]).values()))))

    omegas = {name: best(name) for name in by_name}
    plain = {group: at("ddpm", omegas["ddpm"], classes) for group, classes in GROUPS.items()}

    def row(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"method": name, "seeds": len(by_name[name]), "omega": omegas[name]}
        if name in seconds:
            found["cost"] = float(np.mean(seconds[name]) / np.mean(seconds["ddpm"]))
        for group, classes in GROUPS.items():
            value = at(name, omegas[name], classes)
            difference = [value[seed] - plain[group][seed] for seed in value]
            found[group] = {"mean": interval(list(value.values())), "difference": interval(difference)}
        return found

    def pair(one: tuple[str, str], two: tuple[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {"one": [*one], "two": [*two]}
        for group, classes in GROUPS.items():
            a, b = at(*one, classes), at(*two, classes)
            found[group] = interval([a[seed] - b[seed] for seed in a])
        return found

    return {
        "steps": records[0][1]["steps"],
        "seeds": sorted({record["seed"] for _, record in records}),
        "per_class": PER_CLASS,
        "sampler": f"dpm++2m, {SAMPLER_STEPS} steps",
        "rows": [row(name) for name in (*METHODS, *SAMPLED) if name in by_name],
        "pairs": [pair(one, two) for one, two in PAIRS if one[0] in by_name and two[0] in by_name],
    }


def _cell(value: tuple[float, float], sign: str = "") -> str:
    return true_minus(f"{1000 * value[0]:{sign}.1f} ± {1000 * value[1]:.1f}")


def page(table: dict[str, Any]) -> str:
    """The summary as a table in Markdown, distances times 1,000."""
    lines = [
        "| method | best ω | training cost | all | all − ddpm | head − ddpm | rare | rare − ddpm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        cost = f"{row['cost']:.2f}" if "cost" in row else "1"
        plain = row["method"] == "ddpm"
        differences = {group: "baseline" if plain else _cell(row[group]["difference"], "+") for group in GROUPS}
        cells = [row["method"], row["omega"], cost, _cell(row["all"]["mean"]), differences["all"], differences["head"]]
        lines.append("| " + " | ".join([*cells, _cell(row["rare"]["mean"]), differences["rare"]]) + " |")
    return "\n".join(lines)


def pairs_page(table: dict[str, Any]) -> str:
    """The further paired differences as a table in Markdown, times 1,000."""
    lines = ["| difference | all | head | rare |", "|---|---|---|---|"]
    for pair in table["pairs"]:
        (one, omega_1), (two, omega_2) = pair["one"], pair["two"]
        name = f"{one} at ω {omega_1} − {two} at ω {omega_2}".replace("ω implied:", "ω_eff from ")
        lines.append("| " + " | ".join([name, *[_cell(pair[group], "+") for group in GROUPS]]) + " |")
    return "\n".join(lines)


def _child(work: Path, name: str, seed: int, steps: int) -> Child:
    """The process of a job, `mixture.py --job`."""
    command = [sys.executable, __file__, "--work", str(work), "--steps", str(steps), "--job", name, str(seed)]
    return Child(f"{name}, seed {seed}", command, file_of(work, name, seed).with_suffix(".log"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/mixture-experiment"), help="finished jobs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="paired seeds")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="only these")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the summary")
    parser.add_argument("--job", nargs=2, metavar=("METHOD", "SEED"), help="run this one job, in this process")
    asked = parser.parse_args()
    if asked.job:
        job(asked.job[0], int(asked.job[1]), asked.steps, str(asked.work))
        return
    if "ddpm" not in asked.methods:
        parser.error("--methods: ddpm must be among them, the others are compared with it")
    asked.work.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in range(asked.seeds) for name in asked.methods]
    files = {pair: file_of(asked.work, *pair) for pair in wanted}
    waiting = [
        _child(asked.work, name, seed, asked.steps)
        for (name, seed), file in files.items()
        if not (file.exists() and json.loads(file.read_text())["steps"] == asked.steps)
    ]
    if failed := run_jobs(waiting, asked.jobs):
        raise SystemExit(f"{len(failed)} jobs failed: {'; '.join(failed)}")
    records = [(name, json.loads(file.read_text())) for (name, _), file in files.items()]
    table = summary(records)
    whole = len(table["seeds"]) >= len(SEEDS) and asked.methods == list(METHODS) and asked.steps == STEPS
    if not whole and asked.out == RESULTS:
        print(page(table), pairs_page(table), sep="\n")
        return  # a part would take the place of the whole
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(table, indent=1) + "\n")
    print(page(table))
    print(pairs_page(table))


if __name__ == "__main__":
    main()

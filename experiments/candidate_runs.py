"""One job of the candidates' experiment: train once, keep the averaged networks, and judge every row that wants them.

Candidates at sampling time share one training of DDPM, and differ in what the sampler asks.
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from candidate_parts import AnalyticGuidance, AutoGuidance, RareAugmented, RarityGuidance, Shrinkage, narrowed
from safetensors.torch import load_file, save_file
from tail_runs import judged

from cbdm_cli.assemble import Experiment, assemble, build_sampler
from cbdm_cli.config import validated
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.method import method_parts
from cbdm_cli.overlay import load_config
from cbdm_cli.resolve import with_sampling
from cbdm_cli.run_folder import write_text
from cbdm_cli.sampling import solver
from cbdm_core.distributed import World
from cbdm_core.metrics.pooled_gaussian import PooledGaussian
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.training import train

__all__ = ["BATCHES", "IMPLIED", "LENGTHS", "OMEGAS", "Trained", "network_file", "row_file", "trained_as"]

PRESET = "digits-lt"
SETTINGS = ("evaluation.per_class=60", "sampling.steps=20")
LENGTHS = (1000, 3000)
# The training steps of the average that autoguidance leads away from.
EARLY = {1000: 333, 3000: 1000}
OMEGAS = ("0", "0.5", "1", "1.5")
IMPLIED = ("implied:0.5", "implied:1")  # the plain model is judged under these too
# Fixed for all candidates before any run: v, below which count a class is rare, and a of λ_c and of the augmentation.
SPREAD, BELOW, FULL = 0.7, 20, 5.0
# The candidates that change the training → the batches that they stand on.
BATCHES = {"shrinkage": "ddpm", "split+shrinkage": "resample:uniform@0.2", "augment": "resample:uniform"}
AFFINE = ("scale", "rotate", "stretch", "translate")  # a mirrored digit is none
SHRINK_FROM = 0.4  # t_0 of the shrinkage


def trained_as(row: str) -> str:
    """The training that a row judges, which is DDPM's where the row changes only the sampling."""
    return row if row.partition(":")[0] in BATCHES else "ddpm"


def network_file(work: Path, training: str, seed: int, steps: int) -> Path:
    """Where an averaged network is kept."""
    return work / "networks" / f"{training.replace(':', '-')}-{seed}-{steps}.safetensors"


def row_file(work: Path, row: str, seed: int) -> Path:
    """Where the readings of a row are kept."""
    return work / "rows" / f"{row.replace(':', '-').replace('@', '-at-')}-{seed}.json"


@dataclass(frozen=True)
class Trained:
    """A training with a seed, and what its averaged networks are judged by.

    Args:
        name: `ddpm`, or of the keys of `BATCHES` one with its number: `shrinkage:CAP`, `augment:P`.
        seed: of split, weights and draws.
    """

    name: str
    seed: int

    @cached_property
    def experiment(self) -> Experiment:
        """All that the training needs."""
        kind, _, number = self.name.partition(":")
        augmented = (f"data.augment={number}", f"data.augment_parts={list(AFFINE)}") if kind == "augment" else ()
        table = load_config(PRESET, None, (*SETTINGS, *augmented, f"training.steps={LENGTHS[-1]}"))
        method = method_parts(BATCHES.get(kind, "ddpm"))
        experiment = assemble(validated({**table, "method": method, "seed": self.seed}))
        counts = experiment.data.counts()
        if kind.endswith("shrinkage"):
            experiment.objective.adjustment = Shrinkage(
                experiment.objective.adjustment,
                _pooled(experiment),
                counts,
                cap=float(number),
                a=FULL,
                t0=SHRINK_FROM,
            )
        if augmented:
            given = {f.name: getattr(experiment.batches, f.name) for f in fields(experiment.batches) if f.init}
            experiment = replace(experiment, batches=RareAugmented(**given, counts=counts, a=FULL))
        return experiment

    @cached_property
    def evaluator(self) -> Evaluator:
        """What its samples are held against."""
        return Evaluator.of(self.experiment.config, self.experiment.full, self.experiment.data)

    def train(self, work: Path) -> None:
        """Train and keep the averaged network after every number of steps that is asked for; what is there stays."""
        steps = sorted({*LENGTHS, *(EARLY.values() if self.name == "ddpm" else ())})
        if network_file(work, self.name, self.seed, steps[-1]).exists():
            return
        begun, experiment = time.perf_counter(), self.experiment
        state = experiment.start(World(0, 1, torch.device("cpu")))
        for length in steps:
            for _ in train(state, experiment.batches, steps=length):
                pass
            file = network_file(work, self.name, self.seed, length)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(state.ema.state_dict(), file)
            print(f"{self.name}, seed {self.seed}: {length} steps, {time.perf_counter() - begun:.0f} s", flush=True)

    def network(self, work: Path, steps: int) -> ScoreNetwork:
        """The averaged network after so many steps."""
        network = deepcopy(self.experiment.objective.network).requires_grad_(False)
        network.load_state_dict(load_file(network_file(work, self.name, self.seed, steps)))
        return network.eval()

    def judge(self, work: Path, row: str) -> Path:
        """Judge a row at each length and ω; a row whose file is there is done."""
        file = row_file(work, row, self.seed)
        if file.exists():
            return file
        begun = time.perf_counter()
        omegas = (*OMEGAS, *IMPLIED) if row == "ddpm" else OMEGAS
        readings = [self._reading(work, row, length, omega) for length in LENGTHS for omega in omegas]
        counts = self.experiment.data.counts().tolist()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"row": row, "seed": self.seed, "counts": counts, "readings": readings}) + "\n")
        print(f"{row}, seed {self.seed}: judged in {time.perf_counter() - begun:.0f} s", flush=True)
        return file

    def _reading(self, work: Path, row: str, length: int, omega: str) -> dict[str, Any]:
        sampler = build_sampler(self.experiment.config, self.experiment.schedule)
        guided = self._guided(work, row, length, omega).eval()
        return {"steps": length, "omega": omega, **judged(self.experiment, self.evaluator, guided, sampler)}

    def _guided(self, work: Path, row: str, length: int, omega: str) -> ScoreNetwork:
        """What the sampler asks."""
        experiment, network = self.experiment, self.network(work, length)
        counts, (kind, _, setting) = experiment.data.counts(), row.partition(":")
        number, _, level = setting.partition("@")
        if kind == "rarity":
            return RarityGuidance(network, float(omega), counts, power=float(number), t1=float(level or 2))
        if kind == "autoguidance":
            early = self.network(work, EARLY[length])
            return AutoGuidance(network, float(omega), early, weight=float(number))
        config = with_sampling(experiment.config, {"omega": omega})
        guided = solver(config, network, experiment.schedule)[0]
        if kind != "analytic":
            return guided
        options = {"weight": float(number), "t0": float(level), "below": BELOW}
        return AnalyticGuidance(guided, _pooled(experiment), counts, experiment.schedule, **options)


def _pooled(experiment: Experiment) -> PooledGaussian:
    data = experiment.data
    return narrowed(PooledGaussian.of(data.model_input(), data.y, data.num_classes), SPREAD)

"""One job of the tail's experiment: train once, and judge the averaged network at every length and every ω.

With a constant learning rate a run of 4,500 steps passes through the run of 1,000, so that one training gives the whole
curve over the training length.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cbdm_cli.assemble import Experiment, assemble
from cbdm_cli.config import Config, validated
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.method import method_over, method_parts
from cbdm_cli.overlay import load_config, overlaid
from cbdm_cli.resolve import with_sampling
from cbdm_cli.run_folder import write_text
from cbdm_cli.sampling import balanced_samples, solver
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World
from cbdm_core.generation import generate
from cbdm_core.metrics.memorisation import memorisation
from cbdm_core.metrics.report import Report, Scores
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.samplers import Sampler
from cbdm_core.training import TrainState, train

__all__ = ["Job", "judged", "run"]

_SCORES = ("fid", "precision", "recall", "density", "coverage", "label_accuracy", "memorised", "diversity")


@dataclass(frozen=True)
class Job:
    """A method on a data set with a seed.

    Args:
        cell: the name of the preset with its settings.
        preset: of the run.
        settings: `a.b=v` laid over it.
        name: of the method, in results.
        method: its parts.
        seed: of split, weights and draws.
        lengths: training steps to judge at, rising.
        omegas: guidance to judge at, as `--omega` takes it.
    """

    cell: str
    preset: str
    settings: tuple[str, ...]
    name: str
    method: str
    seed: int
    lengths: tuple[int, ...]
    omegas: tuple[str, ...]

    def config(self) -> Config:
        """The run's configuration."""
        table = load_config(self.preset, None, (*self.settings, f"training.steps={self.lengths[-1]}"))
        options = overlaid({}, None, [text for text in self.settings if text.startswith("method.")]).get("method")
        method = method_parts(method_over(self.method, options))
        return validated({**table, "method": method, "seed": self.seed})

    def file(self, work: Path) -> Path:
        """Where its readings are written."""
        return work / self.cell / f"{self.name}-{self.seed}.json"


def run(job: Job, work: Path, device: str = "cpu") -> Path:
    """Train and judge; a job whose file is there is done."""
    file = job.file(work)
    if file.exists():
        return file
    torch.set_num_threads(1)
    experiment, world = assemble(job.config()), World(0, 1, torch.device(device))
    state = experiment.start(world)
    evaluator = Evaluator.of(experiment.config, experiment.full, experiment.data)
    readings, seconds = [], 0.0
    for length in job.lengths:
        begun = time.perf_counter()
        for _ in train(state, experiment.batches, steps=length):
            pass
        seconds += time.perf_counter() - begun
        readings += [_reading(experiment, evaluator, state, length, omega) for omega in job.omegas]
    counts = experiment.data.counts().tolist()
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {**asdict(job), "counts": counts, "device": device, "seconds": round(seconds, 1), "readings": readings}
    write_text(file, json.dumps(result) + "\n")
    return file


def _reading(
    experiment: Experiment, evaluator: Evaluator, state: TrainState, length: int, omega: str
) -> dict[str, Any]:
    config = with_sampling(experiment.config, {"omega": omega})
    guided, sampler = solver(config, state.ema.eval(), experiment.schedule)
    return {"steps": length, "omega": omega, **judged(experiment, evaluator, guided, sampler, state.world.device)}


def judged(
    experiment: Experiment,
    evaluator: Evaluator,
    guided: ScoreNetwork,
    sampler: Sampler,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """The scores of balanced samples, overall and of the tail.

    Args:
        experiment: its configuration says how many samples and solver steps, and their seed.
        evaluator: of the experiment.
        guided: what the sampler asks, on `device`.
        sampler: the solver.
        device: to compute on.
    """
    config = experiment.config
    labels, conditions = balanced_samples(config, experiment.full)
    chunks = generate(
        guided,
        sampler,
        conditions,
        tuple(experiment.data.shape),
        steps=config.sampling.steps,
        seed=config.seed,
        batch_size=4096,
        device=device,
    )
    x = torch.cat([chunk.cpu() for chunk in chunks])
    report = evaluator(config, x, labels)
    tail = {**_scores(report.groups["tail"]), "copied_pixels": _copied_pixels(evaluator, report, x, labels)}
    return {"overall": _scores(report.overall), "tail": tail}


def _copied_pixels(evaluator: Evaluator, report: Report, x: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean over tail classes of `Memorisation.copied` in pixels, so that no strategy wins by fooling features."""
    training, held_out = evaluator.training, _held_out(evaluator)
    counts = training.counts()
    order = sorted(range(len(counts)), key=lambda c: (-int(counts[c]), c))
    tail = [c for c in order[-_tail_size(report) :] if counts[c]]
    shares = []
    for label in tail:
        parts = [data.model_input(data.y == label).flatten(1) for data in (training, held_out)]
        shares.append(memorisation(x[labels == label].clamp(-1, 1).flatten(1), *parts).copied)
    return sum(shares) / len(shares)


def _tail_size(report: Report) -> int:
    per_class = report.overall.n_samples // len(report.classes)
    return report.groups["tail"].n_samples // per_class


def _held_out(evaluator: Evaluator) -> Dataset:
    """The reference without the training images."""
    seen = {row.numpy().tobytes() for row in evaluator.training.x}
    reference = evaluator.reference
    return reference[[i for i, row in enumerate(reference.x) if row.numpy().tobytes() not in seen]]


def _scores(scores: Scores) -> dict[str, float | None]:
    table = asdict(scores)
    return {name: table.get(name) for name in _SCORES if name in table}

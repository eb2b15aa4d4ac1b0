"""From a network to a report: balanced samples, drawn and evaluated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbdm_cli import render
from cbdm_cli.assemble import build_sampler
from cbdm_cli.config import Config
from cbdm_core.data.dataset import Dataset
from cbdm_core.evaluation import Report, evaluate
from cbdm_core.generation import cyclic_labels, generate
from cbdm_core.guidance import ClassifierFreeGuidance, parse_omega
from cbdm_core.interfaces import NoiseSchedule, ScoreNetwork

__all__ = ["balanced_samples", "drawn_with_bar", "guided", "judge"]


def drawn_with_bar(
    config: Config,
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    labels: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    name: str = "sampling",
) -> Tensor:
    """Samples for the labels, guided and solved as the configuration's `sampling` table says, with a progress bar.

    Args:
        config: the configuration; its seed is the samples' seed.
        network: in eval mode on `device`.
        schedule: the schedule it was trained under.
        labels: (N,) labels.
        shape: of one sample.
        device: to compute on.
        name: what the bar is called.
    """
    sampling = config.sampling
    chunks = generate(
        guided(config, network),
        build_sampler(config, schedule),
        labels,
        shape,
        steps=sampling.steps,
        seed=config.seed,
        batch_size=sampling.batch_size,
        device=device,
    )
    with render.progress() as bar:
        task = bar.add_task(name, total=len(labels), facts=f"ω {sampling.omega}")
        drawn = []
        for chunk in chunks:
            drawn.append(chunk)
            bar.update(task, advance=len(chunk))
    return torch.cat(drawn)


def guided(config: Config, network: ScoreNetwork) -> ScoreNetwork:
    """The network under the configuration's ω and guidance interval."""
    sampling = config.sampling
    return ClassifierFreeGuidance(network, parse_omega(sampling.omega), interval=sampling.interval).eval()


def balanced_samples(config: Config, classes: int) -> Tensor:
    """The labels of an evaluation: exactly `per_class` of each class, in cyclic order."""
    return cyclic_labels(config.evaluation.per_class * classes, classes)


def judge(config: Config, x: Tensor, labels: Tensor, full: Dataset, counts: Tensor, classifier: Any) -> Report:
    """The samples against the balanced set."""
    return evaluate(x, labels, full, classifier, counts, k=config.evaluation.k)

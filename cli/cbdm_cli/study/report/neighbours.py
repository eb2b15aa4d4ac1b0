"""Are the samples of rare classes copies? A few of them beside their nearest training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.evaluated_run import EvaluatedRun
from cbdm_cli.pictures import as_image
from cbdm_cli.resolve import with_sampling
from cbdm_cli.sampling import drawn_with_bar
from cbdm_cli.study.report.collect import Story
from cbdm_core.checkpoint import checkpoints
from cbdm_core.data.dataset import as_seen
from cbdm_core.generation import conditions_for
from cbdm_core.metrics.report import rank_groups

__all__ = ["HOW_MANY", "Neighbours", "Pair", "nearest_training"]

HOW_MANY = 8


@dataclass(frozen=True, eq=False)
class Pair:
    """A sample and the training image whose features are nearest to its own.

    Args:
        sample: a Pillow image.
        neighbour: a Pillow image.
        asked: the class the sample was asked for.
        found: the class of the neighbour.
        distance: Euclidean, between their features.
    """

    sample: Any
    neighbour: Any
    asked: str
    found: str
    distance: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The pairs of a method.

    Args:
        method: its place in `Story.methods`.
        seed: of the run and the samples.
        omega: the samples were guided with.
        pairs: the rarest class first.
        usual: the median distance of a training image of these classes to the nearest other one, None for one image.
    """

    method: int
    seed: int
    omega: str
    pairs: tuple[Pair, ...]
    usual: float | None


def nearest_training(story: Story, device: str) -> tuple[Neighbours, ...]:
    """The pairs of each method, from its first run, at its best ω; nothing where the data are no images.

    Raises:
        CbdmError: the data are not those of the run, or the device is not there.
    """
    shape = story.facts.get("shape", ())
    if len(shape) != 3 or shape[0] not in (1, 3) or "units" in story.facts:
        return ()
    best = {j.method: j.row.omega for j in reversed(story.method_scores) if not j.row.kind}
    found = []
    for place, method in enumerate(story.methods):
        run = method.runs[0]
        if not checkpoints(run.path / "checkpoints"):
            continue
        evaluated = EvaluatedRun.of(run.path, device, "classifier")
        interval = (0.0, 1.0) if story.plan is not None else None
        config = with_sampling(evaluated.config, {"omega": best.get(place), "interval": interval})
        labels = tail_labels(evaluated.data.counts(), HOW_MANY)
        conditions = (
            labels
            if evaluated.full.condition is None
            else conditions_for(labels, evaluated.full.condition, evaluated.full.y)
        )
        where = next(evaluated.run.network.parameters()).device
        x = drawn_with_bar(
            config, evaluated.run.network, evaluated.run.schedule, conditions, evaluated.run.shape, where, method.name
        )
        found.append(Neighbours(place, run.seed, config.sampling.omega, *_pairs(evaluated, x, labels)))
    return tuple(found)


def tail_labels(counts: Tensor, count: int) -> Tensor:
    """(count,) labels of the tail, the rarest first, around and around."""
    tail = rank_groups(counts)["tail"][::-1]
    return torch.tensor([tail[i % len(tail)] for i in range(count)])


def _pairs(evaluated: EvaluatedRun, x: Tensor, labels: Tensor) -> tuple[tuple[Pair, ...], float | None]:
    data, names = evaluated.data, evaluated.data.class_names
    seen = as_seen(x)  # as they are shown and evaluated
    rows = data.model_input()
    ours, theirs = evaluated.classifier(seen)[0].cpu(), evaluated.classifier(rows)[0].cpu()
    distances, nearest = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    pairs = tuple(
        Pair(as_image(x[i]), as_image(rows[j]), str(names[labels[i]]), str(names[data.y[j]]), float(distances[i]))
        for i, j in enumerate(nearest.tolist())
    )
    return pairs, _usual(theirs, torch.isin(data.y, labels).nonzero()[:, 0])


def _usual(features: Tensor, rows: Tensor) -> float | None:
    """The median over `rows` of the distance to the nearest other row of all."""
    if len(features) < 2 or not len(rows):
        return None
    distances = torch.cdist(features[rows], features, compute_mode="donot_use_mm_for_euclid_dist")
    distances[torch.arange(len(rows)), rows] = torch.inf
    return float(distances.min(1).values.quantile(0.5))

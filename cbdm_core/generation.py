"""Many samples in batches, each a function of (seed, number) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.priors import LabelPrior
from cbdm_core.samplers import Sampler

__all__ = ["conditions_for", "cyclic_labels", "generate", "labels_from"]


def cyclic_labels(count: int, classes: int) -> Tensor:
    """(count,) labels 0, 1, …, K − 1, 0, …: exactly balanced when K divides the count."""
    return torch.arange(count) % classes


def labels_from(law: LabelPrior, count: int, seed: int) -> Tensor:
    """(count,) labels drawn from a law; label i is a function of (seed, i)."""
    return Draws(seed, 0, torch.arange(count), "labels/").categorical("law", law.probs.cpu())


def conditions_for(labels: Tensor, known: Tensor, known_labels: Tensor) -> Tensor:
    """(N, …) a known condition for each label: the k-th sample of a label takes its k-th known condition, and around.

    Args:
        labels: (N,) the labels, such as regions of the condition, that are asked for.
        known: (M, …) conditions there are.
        known_labels: (M,) their labels.

    Raises:
        CbdmError: a label without a known condition.
    """
    rows = torch.empty_like(labels)
    for label in labels.unique().tolist():
        members, asked = (known_labels == label).nonzero()[:, 0], (labels == label).nonzero()[:, 0]
        if not len(members):
            raise CbdmError(f"no condition of label {label} is known: ask for {known_labels.unique().tolist()}")
        rows[asked] = members[torch.arange(len(asked)) % len(members)]
    return known[rows]


def generate(
    network: ScoreNetwork,
    sampler: Sampler,
    conditions: Tensor,
    shape: Sequence[int],
    *,
    steps: int,
    seed: int,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Batches of samples on the CPU, in the order of the conditions.

    Args:
        network: the (guided) score network, in eval mode, on `device`.
        sampler: the solver.
        conditions: (N, …) what the network is told of each sample, such as its label.
        shape: of one sample.
        steps: solver steps.
        seed: sample i is a function of (seed, i), whatever `batch_size` is.
        batch_size: samples at a time.
        device: to compute on.

    Raises:
        CbdmError: samples that are not finite.
    """
    numbers = torch.arange(len(conditions))
    for rows in numbers.split(batch_size):
        c = Condition.of(conditions[rows].to(device))
        draws = Draws(seed, 0, rows.to(device), "sampling/")
        x = sampler.sample(network, c, shape, steps=steps, draws=draws).cpu()
        bad = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
        if bad:
            raise CbdmError(
                f"{bad} of {len(x)} samples are not finite: lower ω, take more sampler steps, or train longer"
            )
        yield x

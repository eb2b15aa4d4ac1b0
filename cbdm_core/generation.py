"""Many samples in batches, each a function of (seed, number) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.distributed import World, rows_of_all_ranks
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.priors import LabelPrior
from cbdm_core.samplers import Sampler

__all__ = ["conditions_for", "cyclic_labels", "generate", "generate_stepwise", "labels_from"]


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
    first: int = 0,
    world: World | None = None,
) -> Iterator[Tensor]:
    """Batches of samples on the CPU, in the order of the conditions.

    Args:
        network: the (guided) score network, in eval mode, on `device`.
        sampler: the solver.
        conditions: (N, …) the condition of each sample, such as its label.
        shape: of one sample.
        steps: solver steps.
        seed: sample i is a function of (seed, i), whatever `batch_size` is.
        batch_size: samples at a time.
        device: to compute on.
        first: the number of the first sample; those before were drawn already.
        world: of several processes each draws every W-th batch, and all are given all of them.

    Raises:
        CbdmError: samples that are not finite.
    """
    moves = generate_stepwise(
        network,
        sampler,
        conditions,
        shape,
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        device=device,
        first=first,
        world=world,
    )
    return (x for x in moves if x is not None)


def generate_stepwise(
    network: ScoreNetwork,
    sampler: Sampler,
    conditions: Tensor,
    shape: Sequence[int],
    *,
    steps: int,
    seed: int,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    first: int = 0,
    world: World | None = None,
) -> Iterator[Tensor | None]:
    """As `generate`, with None after every solver step of this process: something to move a bar by.

    Arguments and errors are those of `generate`.
    """
    place = world or World(0, 1, torch.device(device))
    numbers = torch.arange(first, len(conditions)).split(batch_size)
    for turn in range(0, len(numbers), place.size):
        x = None
        if turn + place.rank < len(numbers):
            rows = numbers[turn + place.rank]
            c, draws = Condition.of(conditions[rows].to(device)), Draws(seed, 0, rows.to(device), "sampling/")
            for point in sampler.trajectory(network, c, shape, steps=steps, draws=draws):
                x = point
                yield None
        of_this_turn = numbers[turn : turn + place.size]
        for batch in _of_all_ranks(x, [len(rows) for rows in of_this_turn], tuple(shape), place, device):
            _refuse_unfinite(batch)
            yield batch


def _of_all_ranks(
    x: Tensor | None, sizes: Sequence[int], shape: tuple[int, ...], world: World, device: torch.device | str
) -> list[Tensor]:
    """The batches of all ranks on the CPU, on every rank; x is this rank's, None where it had none to draw."""
    if world.size == 1:
        assert x is not None
        return [x.cpu()]
    padded = torch.zeros(max(sizes), *shape, device=device)  # each rank hands over as many rows
    if x is not None:
        padded[: len(x)] = x
    every = rows_of_all_ranks(padded).cpu().split(max(sizes))
    return [batch[:size] for batch, size in zip(every, sizes, strict=False)]


def _refuse_unfinite(x: Tensor) -> None:
    bad = int((~torch.isfinite(x.flatten(1)).all(1)).sum())
    if bad:
        raise CbdmError(f"{bad} of {len(x)} samples are not finite: lower ω, take more sampler steps, or train longer")

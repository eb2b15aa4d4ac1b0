"""What sampling costs, told before it begins: network evaluations and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from cbdm_cli.config import Config
from cbdm_cli.sampling import counted, solver
from cbdm_core.conditions import Condition
from cbdm_core.distributed import World
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.numerics import in_precision
from cbdm_core.schedules import NoiseSchedule
from cbdm_priors.sampling.tracking import TrackedWeights

__all__ = ["SamplingCost", "sampling_cost"]

_SECONDS = 10.0  # a first step, which also warms up, is taken again if it took less


@dataclass(frozen=True)
class SamplingCost:
    """What some samples cost.

    Args:
        nfe: network evaluations of one sample, of every pass that sampler and guidance ask for.
        seconds: of all samples on the slowest process, without what is done with them.
        at_most: tracked weights leave out classes that they no longer think possible, and how many depends on the
            network: it takes this or less.
    """

    nfe: int
    seconds: float
    at_most: bool = False

    def evaluations(self) -> str:
        """`20 network evaluations`, or `at most 200 network evaluations`."""
        return f"{'at most ' if self.at_most else ''}{self.nfe} network evaluations"


class _Zero(ScoreNetwork):
    """ε̂ = 0 at no cost: what the network's evaluations are counted on."""

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return torch.zeros_like(x_t)


def sampling_cost(
    config: Config,
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    conditions: Tensor,
    shape: tuple[int, ...],
    world: World,
    *,
    unconditional: str | None = None,
) -> SamplingCost:
    """The evaluations of a whole path, which cost nothing to count, at the pace of one solver step of the first batch.

    Args:
        config: as of `drawn_in_batches`, and so are those that are not named here.
        network: in eval mode on the device of `world`.
        schedule: the schedule it was trained under.
        conditions: (N, …), N ≥ 1.
        shape: of one sample.
        world: the processes that share the work.
        unconditional: a law to generate under without conditions.
    """
    sampling, count = config.sampling, len(conditions)

    def path(of: ScoreNetwork, rows: int, steps: int, device: torch.device) -> tuple[int, float]:
        """The evaluations of the first steps of some rows, and the seconds they took."""
        guided, sampler = solver(config, in_precision(of, sampling.precision), schedule, unconditional)
        numbers = torch.arange(rows, device=device)
        c, draws = Condition.of(conditions[:rows].to(device)), Draws(config.seed, 0, numbers, "sampling/")
        points = sampler.trajectory(guided, c, shape, steps=sampling.steps, draws=draws)
        start = perf_counter()
        with counted(of) as passed:
            *_, x = islice(points, steps)
            x.sum().item()  # waits for a GPU
        return passed.total, perf_counter() - start

    nfe, _ = path(_Zero(), 1, sampling.steps, torch.device("cpu"))
    batch = min(count, sampling.batch_size)
    rows, seconds = path(network, batch, 1, world.device)
    if seconds < _SECONDS:
        rows, seconds = path(network, batch, 1, world.device)
    own = min(count, math.ceil(math.ceil(count / batch) / world.size) * batch)
    tracks = isinstance(solver(config, network, schedule, unconditional)[1], TrackedWeights)
    return SamplingCost(nfe, seconds / rows * nfe * own, at_most=tracks)

"""What training costs, told before it begins: operations, memory and time of a step."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cbdm_cli.assemble import Experiment
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.distributed import largest_over_ranks
from cbdm_core.draws import Draws
from cbdm_core.sharding import own_bytes
from cbdm_core.training import TrainState, train

__all__ = ["StepCost", "seconds_per_step", "state_bytes", "step_cost"]

_ROWS = 2  # of the pass that is counted
_STEPS, _SECONDS = 20, 60.0  # a probe ends at either


@dataclass(frozen=True)
class StepCost:
    """The cost of one step of one process.

    Args:
        flops: of matrix products, convolutions and attention, forward and backward.
        bytes: that the forward pass keeps for the backward one, in float32 without checkpointing; what a part of the
            method computes again is not among them.
    """

    flops: int
    bytes: int


def step_cost(experiment: Experiment, rows: int) -> StepCost:
    """The cost of a batch, counted on two of its rows and scaled.

    Args:
        experiment: on the CPU, as it was assembled.
        rows: of one process's share of a batch; with gradient accumulation less of it is in memory at a time.
    """
    batch, objective = experiment.batches.at(0), experiment.objective.train()
    count = min(_ROWS, len(batch.rows))
    c = Condition.of(batch.conditions, batch.augment)[:count]
    t = None if batch.t is None else batch.t[:count]
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = value.untyped_storage().nbytes()
        return value

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        draws = Draws(experiment.config.seed, 0, batch.rows[:count])
        torch.stack([term.mean() for term in objective(batch.x_0[:count], c, draws, t).values()]).sum().backward()
    objective.zero_grad(set_to_none=True)
    in_memory = -(-rows // experiment.config.training.accumulate)
    return StepCost(counter.get_total_flops() * rows // count, sum(kept.values()) * in_memory // count)


def state_bytes(state: TrainState) -> int:
    """Bytes of a process's weights, gradients, averages and optimiser's state, of a state that has done a step."""
    weights = sum(map(own_bytes, state.objective.parameters()))
    moments = sum(
        own_bytes(value) for of in state.optimizer.state.values() for value in of.values() if isinstance(value, Tensor)
    )
    averages = sum(map(own_bytes, state.ema.parameters()))
    averages += sum(own_bytes(mean) for means in state.averages.of.values() for mean in means)
    return 2 * weights + moments + averages


def seconds_per_step(state: TrainState, batches: Batches, steps: int) -> float:
    """Seconds a step, over up to 20 steps after the first; a minute ends the probe.

    Args:
        state: is trained on.
        batches: the addressable batches.
        steps: of the training, ≥ 1.
    """
    times = [perf_counter()]
    for _ in train(state, batches, steps=min(steps, _STEPS + 1)):
        if state.world.device.type == "cuda":
            torch.cuda.synchronize(state.world.device)
        times.append(perf_counter())
        if largest_over_ranks(int(times[-1] - times[0] > _SECONDS), state.world):  # all must stop together
            break
    first = 1 if len(times) > 2 else 0  # the first step also warms up
    return (times[-1] - times[first]) / (len(times) - 1 - first)

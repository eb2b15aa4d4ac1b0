"""Training as a generator of records: it prints nothing, saves nothing and evaluates nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.distributed import World, sum_over_ranks
from cbdm_core.draws import Draws
from cbdm_core.dropout import seed_dropout
from cbdm_core.ema import Averages
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.muon import mark_tables
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.efficiency import channels_last, checkpoint_blocks, compile_network
from cbdm_core.numerics import PRECISIONS
from cbdm_core.objective import Objective
from cbdm_core.optimisers import LrSchedule, MakeOptimiser, adamw
from cbdm_core.priors import LabelPrior
from cbdm_core.sharding import gathered, shard

__all__ = [
    "DivergedError",
    "TrainRecord",
    "TrainSettings",
    "TrainState",
    "learned_laws",
    "learning_rate",
    "train",
]


class DivergedError(CbdmError):
    """The loss or its gradient is no longer finite; `step` and `labels` say where."""

    def __init__(self, message: str, step: int, labels: list[int]) -> None:
        super().__init__(message)
        self.step, self.labels = step, labels


@dataclass(frozen=True)
class TrainSettings:
    """How to optimise.

    Args:
        seed: of every draw.
        learning_rate: of the optimiser after warm-up, before the schedule's factor.
        weight_decay: of the optimiser.
        warmup: steps over which the learning rate rises linearly from 0.
        clip: largest gradient norm.
        ema_decay: of the averaged weights; at step i it is min(ema_decay, (1 + i)/(10 + i)).
        averages: further averages beside, by rule: "decay:d" or "power:w" (`cbdm_core.ema`).
        precision: "fp32", "bf16" or "fp16" (with loss scaling).
        optimiser: (parameters, learning rate, weight_decay) → optimiser; the functions of `cbdm_core.optimisers`
            among them, or `functools.partial` of one.
        lr_schedule: step 0, 1, … → factor of the learning rate; None is 1.
        accumulate: parts that each process cuts its share of a batch into, one in memory at a time; the gradient is
            that of the whole. Adjustments that need the batch whole refuse.
        checkpointing: keep no activations inside the network's blocks, and compute them again in the backward pass.
        compile: compile the network and what draws its random numbers (torch.compile).
        channels_last: keep images and their convolutions with the channels last in memory.
        shard: spread weights, gradients, averages and the optimiser's state over the processes (`cbdm_core.sharding`).

    Raises:
        CbdmError: an unknown precision, a number out of range, or settings that do not go together.
    """

    seed: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup: int = 0
    clip: float = 1.0
    ema_decay: float = 0.9999
    precision: str = "fp32"
    averages: tuple[str, ...] = ()
    optimiser: MakeOptimiser = adamw
    lr_schedule: LrSchedule | None = None
    accumulate: int = 1
    checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not (self.learning_rate > 0 and self.clip > 0 and 0 <= self.ema_decay < 1 and self.warmup >= 0):
            raise CbdmError(
                "training needs learning_rate > 0, clip > 0, 0 ≤ ema_decay < 1 and warmup ≥ 0, got "
                f"{self.learning_rate}, {self.clip}, {self.ema_decay} and {self.warmup}"
            )
        if self.accumulate < 1:
            raise CbdmError(f"training needs accumulate ≥ 1 parts of a batch, got {self.accumulate}")
        unfit = [name for name in ("compile", "channels_last") if self.shard and getattr(self, name)]
        if unfit:
            raise CbdmError(f"shard = True does not go with {unfit[0]} = True: leave one of them out")


@dataclass(frozen=True)
class TrainRecord:
    """What one step did: `step` counts finished steps; losses are means over the global batch; `laws` have learned.

    `groups` are means of the term "denoising" as it was weighted, so under reweighting those of the weighted loss.
    """

    step: int
    loss: float
    terms: dict[str, float]
    groups: dict[str, float]
    grad_norm: float
    learning_rate: float
    laws: dict[str, tuple[float, ...]] = field(default_factory=dict)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, times the schedule's factor."""
    factor = settings.lr_schedule(step) if settings.lr_schedule else 1.0
    return settings.learning_rate * factor * min(1.0, (step + 1) / max(settings.warmup, 1))


@dataclass
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint holds.

    Build it with `TrainState.start`; `ema` is the averaged network, and `averaged()` the one to sample from.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    ema: ScoreNetwork
    settings: TrainSettings
    scaler: torch.amp.GradScaler
    world: World
    averages: Averages
    step: int = 0
    _pairs: tuple[list[Tensor], list[Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pairs = (list(self.ema.parameters()), list(self.objective.network.parameters()))

    @classmethod
    def start(cls, objective: Objective, settings: TrainSettings, world: World | None = None) -> TrainState:
        """Step 0, with the network moved to its device, and thawed where all of it is frozen.

        Raises:
            CbdmError: a part of the adjustment that does not go with the settings, a network without what they ask, or
                one process where it is to be spread.
        """
        _refuse_parts(objective, settings)
        if not any(parameter.requires_grad for parameter in objective.network.parameters()):
            objective.network.requires_grad_(True)  # as `load_run` gives it; one frozen in part is meant so
        world = world or World(0, 1, torch.device("cpu"))
        if world.device.type == "mps":  # which has no float64, and laws keep their tables in it
            objective._apply(lambda value: value.float() if value.dtype == torch.float64 else value)
        # What does not fit on a device must not be moved there before it is spread.
        ema = shard(objective, objective.network, world) if settings.shard else _placed(objective, settings, world)
        ema = ema.eval().requires_grad_(False)
        mark_tables(objective)
        optimizer = settings.optimiser(
            list(objective.parameters()), settings.learning_rate, weight_decay=settings.weight_decay
        )
        scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        averages = Averages(objective.network, settings.averages)
        if settings.checkpointing:
            checkpoint_blocks(objective.network)
        if settings.compile:
            compile_network(objective.network)
        return cls(objective, optimizer, ema, settings, scaler, world, averages)

    def averaged(self) -> ScoreNetwork:
        """The averaged network, whole: `ema`; where that is in parts a copy, for which all processes must call this."""
        return gathered(self.ema) if self.settings.shard else self.ema

    @torch.no_grad()  # or the averages would drag along a graph that grows at every step
    def average(self) -> None:
        """One step of the averaged weights: θ̄ ← θ̄ + (1 − d)(θ − θ̄)."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        ema, live = self._pairs
        torch._foreach_lerp_(ema, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mean, buffer in zip(self.ema.buffers(), self.objective.network.buffers(), strict=True):
            mean.copy_(buffer)
        self.averages.update(self.step)


def _placed(objective: Objective, settings: TrainSettings, world: World) -> ScoreNetwork:
    """Put the objective on its device as a whole, and give a copy of its network."""
    objective.to(world.device)
    if settings.channels_last:
        channels_last(objective.network)
    return copy.deepcopy(objective.network)


def _refuse_parts(objective: Objective, settings: TrainSettings) -> None:
    why = objective.adjustment.whole_batch()
    if settings.accumulate > 1 and why:
        raise CbdmError(
            f"accumulate = {settings.accumulate} would cut the batch in parts, and {why}: leave accumulate at 1, and "
            "save memory with checkpointing"
        )


def train(
    state: TrainState,
    batches: Batches,
    *,
    steps: int,
    groups: Tensor | None = None,
    group_names: tuple[str, ...] = (),
) -> Iterator[TrainRecord]:
    """Train from `state.step` to `steps`, one record a step; stop iterating whenever you like, and resume exactly.

    Args:
        state: changed in place; save it between two records.
        batches: the addressable batches.
        steps: the step to stop before; 0-based steps state.step … steps − 1 are run.
        groups: (K,) long, the group of each class, to report the denoising loss by group.
        group_names: the groups' names.

    Raises:
        DivergedError: a loss or gradient that is not finite; parameters, optimiser and averages are those of before.
    """
    objective: torch.nn.Module = state.objective.train()
    if state.world.size > 1 and not state.settings.shard:
        objective = DistributedDataParallel(objective)
    for step in range(state.step, steps):
        yield _one_step(state, objective, batches, step, groups, group_names)


def _one_step(
    state: TrainState,
    objective: torch.nn.Module,
    batches: Batches,
    step: int,
    groups: Tensor | None,
    names: tuple[str, ...],
) -> TrainRecord:
    world, settings = state.world, state.settings
    batch = batches.at(step, world.rank, world.size).to(world.device)
    seed_dropout(settings.seed, step, world.rank, world.device)
    state.optimizer.zero_grad(set_to_none=True)
    c = Condition.of(batch.conditions, batch.augment)
    arguments = batch.x_0, c, Draws(settings.seed, step, batch.rows, fused=settings.compile), batch.t
    terms = _backward(state, objective, arguments)
    # One transfer for all of them: each would make the host wait for the device.
    parts = torch.stack([term.mean() for term in terms.values()])
    means = dict(zip(terms, (sum_over_ranks(parts) / world.size).tolist(), strict=True))
    _refuse_unfinite("loss", sum(means.values()), step, batch.y)
    rate = learning_rate(settings, step)
    norm = _update(state, rate, step, batch.y)
    state.step = step + 1
    state.average()
    by_group = _group_means(terms["denoising"], batch.y, groups, names)
    laws = learned_laws(state.objective.adjustment)
    return TrainRecord(step + 1, sum(means.values()), means, by_group, norm, rate, laws)


def _backward(state: TrainState, objective: torch.nn.Module, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """The gradient of the mean loss of this process's rows, part by part; returns the named (B,) losses.

    Args:
        state: for its settings and loss scale.
        objective: as it is called, which may be wrapped for several processes.
        batch: the objective's arguments, each of B rows or None.
    """
    settings, rows = state.settings, len(batch[0])
    if settings.accumulate > rows:
        raise CbdmError(
            f"accumulate = {settings.accumulate} parts of {rows} rows: a process needs a row for each; take fewer"
        )
    dtype, device = PRECISIONS[settings.precision], state.world.device.type
    collected: dict[str, list[Tensor]] = {}
    bounds = [rows * part // settings.accumulate for part in range(settings.accumulate + 1)]
    for low, high in pairwise(bounds):
        # The ranks add up their gradients once, after the last part.
        alone = isinstance(objective, DistributedDataParallel) and high < rows
        with objective.no_sync() if alone else nullcontext():  # pyright: ignore[reportCallIssue]
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                part = tuple(value if value is None else value[low:high] for value in batch)
                terms: dict[str, Tensor] = objective(*part)
            loss = torch.stack([term.mean() for term in terms.values()]).sum()
            state.scaler.scale(loss * ((high - low) / rows)).backward()
        for name, term in terms.items():
            collected.setdefault(name, []).append(term.detach())
    return {name: torch.cat(pieces) for name, pieces in collected.items()}


def learned_laws(adjustment: PriorAdjustment) -> dict[str, tuple[float, ...]]:
    """The probabilities of each law that learns, by the term of the adjustment that draws from it."""
    laws = {part.term or type(part).__name__: part.law for part in adjustment.chain()}
    return {name: tuple(law.probs.tolist()) for name, law in laws.items() if isinstance(law, LabelPrior) and law.learns}


def _update(state: TrainState, rate: float, step: int, labels: Tensor) -> float:
    """One optimiser step with the gradients there are; returns their norm before clipping."""
    state.scaler.unscale_(state.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(state.objective.parameters(), state.settings.clip))
    # A scaler expects an overflow now and then, and skips the step itself; one that never ends is no overflow.
    if not state.scaler.is_enabled() or state.scaler.get_scale() < 1:
        _refuse_unfinite("gradient norm", norm, step, labels)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return norm


def _refuse_unfinite(what: str, value: float, step: int, labels: Tensor) -> None:
    if not math.isfinite(value):
        shown = labels.tolist()
        raise DivergedError(
            f"the {what} is {value} at step {step + 1}, batch labels {shown}: lower the learning rate or the strength "
            "τ, or look at these classes' data",
            step,
            shown,
        )


def _group_means(loss: Tensor, y: Tensor, groups: Tensor | None, names: tuple[str, ...]) -> dict[str, float]:
    """The mean loss of each group that has a row in the batch."""
    if groups is None:
        return {}
    member = groups.to(y.device)[y]
    total = torch.zeros(2, len(names), dtype=loss.dtype, device=loss.device)
    total[0].index_add_(0, member, loss)
    total[1].index_add_(0, member, torch.ones_like(loss))
    sums, numbers = sum_over_ranks(total).tolist()
    return {name: s / n for name, s, n in zip(names, sums, numbers, strict=True) if n > 0}

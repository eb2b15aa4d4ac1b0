"""Training as a generator of records: it prints nothing, saves nothing and evaluates nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.distributed import World, sum_over_ranks
from cbdm_core.draws import Draws
from cbdm_core.dropout import seed_dropout
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.objective import Objective
from cbdm_core.priors import LabelPrior

__all__ = [
    "PRECISIONS",
    "DivergedError",
    "TrainRecord",
    "TrainSettings",
    "TrainState",
    "learned_laws",
    "learning_rate",
    "train",
]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        learning_rate: of AdamW after warm-up.
        weight_decay: of AdamW.
        warmup: steps over which the learning rate rises linearly from 0.
        clip: largest gradient norm.
        ema_decay: of the averaged weights; at step i it is min(ema_decay, (1 + i)/(10 + i)).
        precision: "fp32", "bf16" or "fp16" (with loss scaling).
    """

    seed: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup: int = 0
    clip: float = 1.0
    ema_decay: float = 0.9999
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not (self.learning_rate > 0 and self.clip > 0 and 0 <= self.ema_decay < 1 and self.warmup >= 0):
            raise CbdmError(
                "training needs learning_rate > 0, clip > 0, 0 ≤ ema_decay < 1 and warmup ≥ 0, got "
                f"{self.learning_rate}, {self.clip}, {self.ema_decay} and {self.warmup}"
            )


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
    """The learning rate of step 0, 1, …: linear warm-up, then constant."""
    return settings.learning_rate * min(1.0, (step + 1) / max(settings.warmup, 1))


@dataclass
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint holds.

    Build it with `TrainState.start`; `ema` is the averaged network, which is the one to sample from.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    ema: ScoreNetwork
    settings: TrainSettings
    scaler: torch.amp.GradScaler
    world: World
    step: int = 0
    _pairs: tuple[list[Tensor], list[Tensor]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pairs = (list(self.ema.parameters()), list(self.objective.network.parameters()))

    @classmethod
    def start(cls, objective: Objective, settings: TrainSettings, world: World | None = None) -> TrainState:
        """Step 0, with the network moved to its device."""
        world = world or World(0, 1, torch.device("cpu"))
        if world.device.type == "mps":  # which has no float64, and laws keep their tables in it
            objective._apply(lambda value: value.float() if value.dtype == torch.float64 else value)
        objective = objective.to(world.device)
        ema = copy.deepcopy(objective.network).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            objective.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=world.device.type != "mps",
        )
        scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        return cls(objective, optimizer, ema, settings, scaler, world)

    @torch.no_grad()  # or the averages would drag along a graph that grows at every step
    def average(self) -> None:
        """One step of the averaged weights: θ̄ ← θ̄ + (1 − d)(θ − θ̄)."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        ema, live = self._pairs
        torch._foreach_lerp_(ema, live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mean, buffer in zip(self.ema.buffers(), self.objective.network.buffers(), strict=True):
            mean.copy_(buffer)


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
    if state.world.size > 1:
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
    dtype = PRECISIONS[settings.precision]
    with torch.autocast(world.device.type, dtype, enabled=dtype != torch.float32):
        terms: dict[str, Tensor] = objective(
            batch.x_0, Condition.of(batch.conditions), Draws(settings.seed, step, batch.rows), batch.t
        )
    parts = torch.stack([term.mean() for term in terms.values()])
    loss = parts.sum()
    # One transfer for all of them: each would make the host wait for the device.
    means = dict(zip(terms, (sum_over_ranks(parts.detach()) / world.size).tolist(), strict=True))
    _refuse_unfinite("loss", sum(means.values()), step, batch.y)
    rate = learning_rate(settings, step)
    norm = _update(state, loss, rate, step, batch.y)
    state.step = step + 1
    state.average()
    by_group = _group_means(terms["denoising"].detach(), batch.y, groups, names)
    laws = learned_laws(state.objective.adjustment)
    return TrainRecord(step + 1, sum(means.values()), means, by_group, norm, rate, laws)


def learned_laws(adjustment: PriorAdjustment) -> dict[str, tuple[float, ...]]:
    """The probabilities of each law that learns, by the term of the adjustment that draws from it."""
    laws = {part.term or type(part).__name__: part.law for part in adjustment.chain()}
    return {name: tuple(law.probs.tolist()) for name, law in laws.items() if isinstance(law, LabelPrior) and law.learns}


def _update(state: TrainState, loss: Tensor, rate: float, step: int, labels: Tensor) -> float:
    """One optimiser step; returns the gradient norm before clipping."""
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
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

"""The one place where names meet objects: a configuration becomes data, network, adjustment, sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.batches import build_batches, exposure_of, refuse_strays, with_augmentation
from cbdm_cli.config import Config, Facts, Origin, Training, UnitsFact
from cbdm_cli.laws import ChosenLaws, choose_laws, counts_classes, sampled_from, table_law
from cbdm_cli.limits import check_limits
from cbdm_cli.method import BATCH_PARTS, Part, completed, part_class, part_options
from cbdm_cli.run_data import ReadData, load_data
from cbdm_core.adjustment import DenoisingLoss, PriorAdjustment
from cbdm_core.conditions import space_to_dict
from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import LOSS_WEIGHTS, LossWeight
from cbdm_core.objective import Objective
from cbdm_core.optimisers import LR_SCHEDULES, OPTIMISERS, LrSchedule, MakeOptimiser
from cbdm_core.process import Process
from cbdm_core.run import build_network, build_schedule
from cbdm_core.samplers import SAMPLERS, Sampler
from cbdm_core.schedules import NoiseSchedule
from cbdm_core.training import TrainSettings, TrainState
from cbdm_priors.penalties.penalty import named_time_weight

__all__ = ["Experiment", "assemble", "build_sampler", "settings_of"]

_OFFERED = ("target", "training", "counts", "network", "num_features")  # what a class may say that it needs


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a configuration names, built.

    Args:
        config: with its facts filled in.
        full: the balanced data set, which the features of an evaluation are of.
        data: its long-tailed part, which training sees.
        schedule: the noise schedule.
        objective: from a batch to its losses.
        batches: the addressable batches.
        law_data: what the laws were made from beside the counts.
    """

    config: Config
    full: Dataset
    data: Dataset
    schedule: NoiseSchedule
    objective: Objective
    batches: Batches
    law_data: dict[str, Tensor]

    @property
    def facts(self) -> Facts:
        """What the data turned out to be."""
        assert self.config.facts is not None  # `assemble` wrote them
        return self.config.facts

    def with_origin(self, origin: Origin | None) -> Experiment:
        """The same, with the fact of which weights it starts from."""
        facts = self.facts.model_copy(update={"origin": origin})
        return replace(self, config=self.config.model_copy(update={"facts": facts}))

    def start(self, world: World) -> TrainState:
        """The training state at step 0."""
        return TrainState.start(self.objective, settings_of(self.config), world)


def _adjustment(config: Config, laws: ChosenLaws, data: Dataset, schedule: Any, network: Any) -> PriorAdjustment:
    """The parts of the loss, each around the next, the denoising loss innermost."""
    adjustment: PriorAdjustment = DenoisingLoss(_loss_weight(config))
    for part in reversed(config.method):
        if part.name in BATCH_PARTS:
            continue
        if counts_classes(part.name) and data.condition is not None:
            raise CbdmError(
                f"method part {part.name!r} counts classes, and these data are told "
                f"{space_to_dict(data.space)['kind']}: try cbdm, diffrop or ccua"
            )
        adjustment = _wrapped(part, adjustment, _needed(part, laws, data, network), getattr(schedule, "steps", None))
    return adjustment


def _needed(part: Part, laws: ChosenLaws, data: Dataset, network: Any) -> dict[str, Any]:
    """What the class of a part declares that it needs."""
    cls = part_class(part.name)
    offers: dict[str, Callable[[], Any]] = {
        "target": lambda: table_law(part.name, *laws.of[part.name]) if cls.reads_law else laws.of[part.name][1],
        "training": lambda: sampled_from(laws, data.counts()),
        "counts": data.counts,
        "network": lambda: network,
        "num_features": lambda: _num_features(part, network),
    }
    strange = [name for name in cls.needs if name not in offers]
    if strange:
        raise CbdmError(
            f"method part {part.name!r} needs {strange[0]!r}, which the command line does not have: it offers "
            f"{', '.join(offers)}; make it an option"
        )
    return {name: offers[name]() for name in cls.needs}


def _wrapped(part: Part, inner: PriorAdjustment, needed: dict[str, Any], table_steps: int | None) -> PriorAdjustment:
    """The part around its inner adjustment, made from what it needs and its options."""
    options, defaults = part.options, part_options(part.name)
    refuse_strays(part)
    missing = [name for name, value in defaults.items() if value is inspect.Parameter.empty and name not in options]
    if missing:
        name = missing[0]
        mend = f"set method.{part.name}.{name}, or give it a default"
        if name in _OFFERED:
            mend = f"its class is given that where it says needs = ({name!r},)"
        raise CbdmError(f"method part {part.name!r} needs {name!r}: {mend}")
    if isinstance(options.get("time_weight"), str):  # of a name, of which one asks for the schedule's table
        options["time_weight"] = named_time_weight(options["time_weight"], table_steps)
    try:
        return part_class(part.name)(inner, **needed, **options)
    except CbdmError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        changed = {name: value for name, value in options.items() if value != defaults[name]}
        raise CbdmError(f"method part {part.name!r} cannot be made from {changed}: {error}") from error


def _num_features(part: Part, network: Any) -> int:
    size = getattr(network, "num_features", None)
    if size is None:
        raise CbdmError(f"method part {part.name!r} needs inner features, and {type(network).__name__} has none")
    return size


def _loss_weight(config: Config) -> LossWeight:
    """The loss weight; that of edm has the network's σ_data."""
    weight, network = config.training.loss_weight, config.network
    options = dict(weight.options)
    if network.predicts != "edm" and network.sigma_data != 0.5:
        raise CbdmError(f"network.sigma_data = {network.sigma_data}: only network.predicts = 'edm' reads it")
    both = weight.name == "edm" and network.predicts == "edm"
    if both and options.setdefault("sigma_data", network.sigma_data) != network.sigma_data:
        raise CbdmError(
            f"the edm loss weight has sigma_data {options['sigma_data']} and the network {network.sigma_data}: leave "
            "it out of the loss weight's options"
        )
    return LOSS_WEIGHTS.build(weight.name, options)


def assemble(config: Config, read: ReadData | None = None) -> Experiment:
    """Build everything that the configuration names; the same seed gives the same network and data.

    Args:
        config: of the run.
        read: its data, where they were read before.

    Raises:
        CbdmError: whatever does not fit, in one line.
    """
    config = with_augmentation(config.model_copy(update={"method": completed(config.method)}))
    full, data, split = load_data(config, read)
    check_limits(config, tuple(data.shape), data.num_classes, len(full))
    counts = data.counts()
    laws = choose_laws(config.method, data)
    schedule = build_schedule(config.schedule.model_dump())
    torch.manual_seed(config.seed)
    network = build_network(config.network.model_dump(), tuple(data.shape), data.space, schedule)
    training = config.training
    adjustment = _adjustment(config, laws, data, schedule, network)
    objective = Objective(Process(schedule), network, adjustment, drop=training.drop, drop_per=training.drop_per)
    batches = build_batches(config, data, laws, schedule)
    facts = Facts(
        shape=tuple(data.shape),
        class_names=data.class_names,
        counts=tuple(counts.tolist()),
        data_hash=full.content_hash(),
        split_hash=split,
        laws={name: text for name, (text, _) in laws.of.items()},
        condition=None if data.condition is None else space_to_dict(data.space),
        condition_names=data.condition_names,
        budget=exposure_of(batches),
        units=None if data.units is None else UnitsFact(mean=data.units.mean, scale=data.units.scale),
    )
    config = config.model_copy(update={"facts": facts})
    return Experiment(config, full, data, schedule, objective, batches, laws.made_from)


def build_sampler(config: Config, schedule: NoiseSchedule) -> Sampler:
    """The configuration's sampler."""
    return SAMPLERS.build(config.sampling.sampler, config.sampling.options, schedule)


def settings_of(config: Config) -> TrainSettings:
    """The part of the configuration that the optimiser reads."""
    t = config.training
    return TrainSettings(
        seed=config.seed,
        learning_rate=t.learning_rate,
        weight_decay=t.weight_decay,
        warmup=t.warmup,
        clip=t.clip,
        ema_decay=t.ema_decay,
        precision=t.precision,
        averages=t.averages,
        optimiser=_optimiser(t),
        lr_schedule=_lr_schedule(t),
        accumulate=t.accumulate,
        checkpointing=t.checkpointing,
        compile=t.compile,
        channels_last=t.channels_last,
        shard=t.shard,
    )


def _optimiser(training: Training) -> MakeOptimiser:
    """The named optimiser with its options, which are tried on one weight, before any work."""
    name, options = training.optimiser.name, training.optimiser.options
    fixed = [key for key in ("learning_rate", "weight_decay") if key in options]
    if fixed:
        raise CbdmError(f"training.optimiser.options.{fixed[0]}: it stands under [training], as training.{fixed[0]}")
    OPTIMISERS.build(name, options, [torch.nn.Parameter(torch.zeros(1))], training.learning_rate)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    return partial(OPTIMISERS[name], **values)


def _lr_schedule(training: Training) -> LrSchedule:
    name, options = training.lr_schedule.name, training.lr_schedule.options
    if "over" in inspect.signature(LR_SCHEDULES[name]).parameters:
        options = {"over": training.steps, **options}
    return LR_SCHEDULES.build(name, options)

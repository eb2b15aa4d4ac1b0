"""The one place where names meet objects: a configuration becomes data, network, adjustment, sampler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.config import Config, Facts
from cbdm_cli.parts import RESAMPLE, Part, parse_parts
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.sources import DATASETS
from cbdm_core.denoising import LOSS_WEIGHTS, DenoisingLoss
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.guidance import ClassifierFreeGuidance, parse_omega
from cbdm_core.interfaces import ConditionPrior, LabelPrior, NoiseSchedule, PriorAdjustment, Sampler
from cbdm_core.laws_by_name import make_law
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.predicts import Predicts
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.registry import Registry
from cbdm_core.samplers import SAMPLERS
from cbdm_core.schedules import SCHEDULES
from cbdm_core.training import TrainSettings, TrainState
from cbdm_priors import ADJUSTMENTS
from cbdm_priors.balancing import named_time_weight

__all__ = ["IMPORTED", "Experiment", "assemble", "build", "build_sampler", "law_takers", "load_data", "settings_of"]

IMPORTED = "none"  # the data source of a run that came from a checkpoint
DEFAULT_LAWS = {"cbdm": "null", "reweight": "uniform", RESAMPLE: "uniform"}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a configuration names, built.

    Args:
        config: with its facts filled in.
        full: the balanced data set, the reference of every evaluation.
        data: its long-tailed part, which training sees.
        schedule: the noise schedule.
        objective: from a batch to its losses.
        batches: the addressable batches.
    """

    config: Config
    full: Dataset
    data: Dataset
    schedule: NoiseSchedule
    objective: Objective
    batches: Batches

    def start(self, world: World) -> TrainState:
        """The training state at step 0."""
        return TrainState.start(self.objective, settings_of(self.config), world)


def build(registry: Registry, name: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """`registry[name](*arguments, **options)`, after the options' names are held against the signature.

    Raises:
        CbdmError: an unknown name or option (the closest match is named), or a value of the wrong kind.
    """
    cls = registry[name]
    allowed = list(inspect.signature(cls).parameters)[len(arguments) :]
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of {registry.kind} {name!r}", option, allowed)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    try:
        return cls(*arguments, **values)
    except CbdmError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CbdmError(f"{registry.kind} {name!r} cannot be made from {dict(options)}: {error}") from error


def load_data(config: Config) -> tuple[Dataset, Dataset, str]:
    """(the balanced set, its long-tailed part, the split's hash)."""
    data = config.data
    if data.source == IMPORTED:
        raise CbdmError("an imported run carries no data: cbdm sample works on it, training and evaluation do not")
    full: Dataset = build(DATASETS, data.source, data.options)
    tail, _, split = make_long_tail(
        full, profile=data.profile, imbalance=data.imbalance, n_max=data.n_max, counts=data.counts, seed=config.seed
    )
    return full, tail, split


def law_takers(parts: tuple[Part, ...]) -> list[str]:
    """The names of those parts that take a law."""
    return [part.name for part in parts if part.name == RESAMPLE or "target" in _parameters(part.name)]


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in ADJUSTMENTS:
        raise unknown_name("method part", name, [*ADJUSTMENTS, RESAMPLE, "ddpm"])
    return inspect.signature(ADJUSTMENTS[name]).parameters


def _laws(parts: tuple[Part, ...], counts: Tensor) -> dict[str, tuple[str, ConditionPrior]]:
    """Part → (text, law) for the parts that take one."""
    takers = law_takers(parts)
    laws = {}
    for part in parts:
        if part.name not in takers:
            if part.law is not None:
                raise CbdmError(f"method part {part.name!r} takes no law, got {part.law!r}: write just {part.name}")
            continue
        text = part.law or DEFAULT_LAWS.get(part.name)
        if text is None:
            raise CbdmError(f"method part {part.name!r} needs a law: write for example {part.name}:uniform")
        laws[part.name] = (text, make_law(text, counts))
    return laws


def _table_law(part: str, text: str, law: ConditionPrior) -> LabelPrior:
    if not isinstance(law, LabelPrior):
        raise CbdmError(
            f"method part {part!r} needs a law with probabilities, and {text!r} has none: try {part}:uniform"
        )
    return law


def _adjustment(config: Config, parts: tuple[Part, ...], laws: Mapping[str, Any], counts: Tensor, schedule: Any) -> Any:
    method, weight = config.method, config.training.loss_weight
    adjustment: PriorAdjustment = DenoisingLoss(build(LOSS_WEIGHTS, weight.name, weight.options))
    # What the examples are drawn from: the training law, unless the batches are resampled.
    training = laws[RESAMPLE][1] if RESAMPLE in laws else make_law("training", counts)
    for part in reversed([p for p in parts if p.name != RESAMPLE]):
        parameters = _parameters(part.name)
        offers: dict[str, Callable[[], Any]] = {
            "target": lambda part=part, parameters=parameters: _target(part, parameters, laws),
            "training": lambda: training,
            "counts": lambda: counts,
            "tau": lambda: method.tau,
            "gamma": lambda: method.gamma,
            "time_weight": lambda: named_time_weight(method.time_weight, getattr(schedule, "steps", None)),
            "cap": lambda: math.inf if method.cap is None else method.cap,
        }
        given = {name: offers[name]() for name in list(parameters)[1:] if name in offers}
        needed = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
        unknown = [n for n in needed[1:] if n not in offers]
        if unknown:
            raise CbdmError(
                f"method part {part.name!r} needs {unknown[0]!r}, which the command line cannot give: it gives "
                f"{', '.join(offers)}; give {unknown[0]!r} a default"
            )
        adjustment = ADJUSTMENTS[part.name](adjustment, **given)
    return adjustment


def _target(part: Part, parameters: Mapping[str, inspect.Parameter], laws: Mapping[str, Any]) -> ConditionPrior:
    text, law = laws[part.name]
    wants = str(parameters["target"].annotation)
    return _table_law(part.name, text, law) if "LabelPrior" in wants else law


def assemble(config: Config) -> Experiment:
    """Build everything that the configuration names; the same seed gives the same network and data.

    Raises:
        CbdmError: whatever does not fit, in one line.
    """
    parts = parse_parts(config.method.parts)
    law_takers(parts)
    full, data, split = load_data(config)
    counts = data.counts()
    laws = _laws(parts, counts)
    schedule: NoiseSchedule = build(SCHEDULES, config.schedule.name, config.schedule.options)
    torch.manual_seed(config.seed)
    network = build(NETWORKS, config.network.name, config.network.options, data.shape, data.num_classes)
    table, steps = getattr(network, "options", {}).get("time_steps"), getattr(schedule, "steps", None)
    if table is not None and table != steps:
        raise CbdmError(
            f"the network embeds a table of {table} steps and the schedule has {steps or 'no table'}: "
            "make network.options.time_steps and schedule.options.steps agree"
        )
    if config.network.predicts != "eps":
        network = Predicts(network, config.network.predicts, schedule)
    training = config.training
    adjustment = _adjustment(config, parts, laws, counts, schedule)
    objective = Objective(Process(schedule), network, adjustment, drop=training.drop, drop_per=training.drop_per)
    batches = Batches(
        data, training.batch_size, seed=config.seed, weights=_batch_weights(data, laws), flip=config.data.flip
    )
    # A mistake in the sampling should show before training, not after.
    build_sampler(config, schedule)
    ClassifierFreeGuidance(network, parse_omega(config.sampling.omega), interval=config.sampling.interval)
    facts = Facts(
        shape=tuple(data.shape),
        class_names=data.class_names,
        counts=tuple(counts.tolist()),
        data_hash=full.content_hash(),
        split_hash=split,
        laws={name: text for name, (text, _) in laws.items()},
    )
    return Experiment(config.model_copy(update={"facts": facts}), full, data, schedule, objective, batches)


def _batch_weights(data: Dataset, laws: Mapping[str, Any]) -> Tensor | None:
    if RESAMPLE not in laws:
        return None
    text, law = laws[RESAMPLE]
    return resampling_weights(data.y, _table_law(RESAMPLE, text, law).probs)


def build_sampler(config: Config, schedule: NoiseSchedule) -> Sampler:
    """The configuration's sampler."""
    return build(SAMPLERS, config.sampling.sampler, config.sampling.options, schedule)


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
    )

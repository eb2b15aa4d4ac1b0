"""The one place where names meet objects: a configuration becomes data, network, adjustment, sampler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.building import build
from cbdm_cli.config import Config, Facts
from cbdm_cli.data import load_data
from cbdm_cli.laws import (
    ChosenLaws,
    choose_laws,
    counts_classes,
    law_takers,
    parameters_of,
    sampled_from,
    table_law,
    target_law,
)
from cbdm_cli.method import BATCH_PARTS, PURE, RESAMPLE, Part, parse_parts
from cbdm_core.adjustment import ADJUSTMENTS, DenoisingLoss, PriorAdjustment
from cbdm_core.conditions import space_to_dict
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.loss_weights import LOSS_WEIGHTS, LossWeight
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.predicts import Predicts
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.samplers import SAMPLERS, Sampler
from cbdm_core.schedules import SCHEDULES, NoiseSchedule
from cbdm_core.training import TrainSettings, TrainState
from cbdm_priors.penalties.penalty import named_time_weight

__all__ = ["Experiment", "assemble", "build_sampler", "settings_of"]


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

    def start(self, world: World) -> TrainState:
        """The training state at step 0."""
        return TrainState.start(self.objective, settings_of(self.config), world)


def _adjustment(
    config: Config, parts: tuple[Part, ...], laws: ChosenLaws, data: Dataset, schedule: Any, network: ScoreNetwork
) -> PriorAdjustment:
    adjustment: PriorAdjustment = DenoisingLoss(_loss_weight(config))
    loss_parts = [part for part in parts if part.name not in BATCH_PARTS]
    stray = sorted(set(config.method.options) - {part.name for part in loss_parts})
    if stray:
        raise CbdmError(f"method.options.{stray[0]}: {config.method.parts!r} has no such part to give options to")
    for part in reversed(loss_parts):
        adjustment = _wrapped(config, part, adjustment, laws, data, schedule, network)
    return adjustment


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
    if config.method.cap is not None and "reweight" not in config.method.parts:
        raise CbdmError(f"method.cap = {config.method.cap}: no part of {config.method.parts!r} reads it; try reweight")
    return build(LOSS_WEIGHTS, weight.name, options)


def _wrapped(
    config: Config,
    part: Part,
    inner: PriorAdjustment,
    laws: ChosenLaws,
    data: Dataset,
    schedule: Any,
    network: ScoreNetwork,
) -> PriorAdjustment:
    """The part around its inner adjustment: a parameter gets what goes by its name, or the part's option."""
    method, parameters = config.method, parameters_of(part.name)
    if counts_classes(part.name) and data.condition is not None:
        raise CbdmError(
            f"method part {part.name!r} counts classes, and these data are told "
            f"{space_to_dict(data.space)['kind']}: try cbdm, diffrop or ccua"
        )
    table_steps = getattr(schedule, "steps", None)
    offers: dict[str, Callable[[], Any]] = {
        "target": lambda: target_law(part, parameters, laws),
        "training": lambda: sampled_from(laws, data.counts()),
        "counts": data.counts,
        "network": lambda: network,
        "num_features": lambda: _num_features(part, network),
    }
    if "tau" in parameters:
        offers |= {
            "tau": lambda: method.tau,
            "gamma": lambda: method.gamma,
            "time_weight": lambda: named_time_weight(method.time_weight, table_steps),
        }
    if "training" in parameters:
        offers["cap"] = lambda: math.inf if method.cap is None else method.cap
    options = dict(method.options.get(part.name, {}))
    fixed = ("target", "training", "counts", "network", "num_features")
    # What the method's own keys say has one place only.
    allowed = [name for name in list(parameters)[1:] if name not in fixed and name not in offers]
    for name in options:
        if name not in allowed:
            raise unknown_name(f"option of method part {part.name!r}", name, allowed)
    if isinstance(options.get("time_weight"), str):  # of parts without tau, which have a time weight of their own
        options["time_weight"] = named_time_weight(options["time_weight"], table_steps)
    given = {name: offer() for name, offer in offers.items() if name in parameters and name not in options}
    needed = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty]
    unknown = [n for n in needed[1:] if n not in {**given, **options}]
    if unknown:
        raise CbdmError(
            f"method part {part.name!r} needs {unknown[0]!r}, which the command line does not have: it offers "
            f"{', '.join(offers)}; set method.options.{part.name}.{unknown[0]}, or give it a default"
        )
    try:
        return ADJUSTMENTS[part.name](inner, **given, **options)
    except CbdmError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CbdmError(f"method part {part.name!r} cannot be made from {options}: {error}") from error


def _num_features(part: Part, network: ScoreNetwork) -> int:
    found = getattr(network, "num_features", None)
    if found is None:
        raise CbdmError(f"method part {part.name!r} needs inner features, and {type(network).__name__} has none")
    return found


def assemble(config: Config) -> Experiment:
    """Build everything that the configuration names; the same seed gives the same network and data.

    Raises:
        CbdmError: whatever does not fit, in one line.
    """
    parts = parse_parts(config.method.parts)
    law_takers(parts)
    full, data, split = load_data(config)
    counts = data.counts()
    laws = choose_laws(config, parts, data)
    schedule: NoiseSchedule = build(SCHEDULES, config.schedule.name, config.schedule.options)
    torch.manual_seed(config.seed)
    told = data.num_classes if data.condition is None else data.space
    network = build(NETWORKS, config.network.name, config.network.options, data.shape, told)
    table, steps = getattr(network, "options", {}).get("time_steps"), getattr(schedule, "steps", None)
    if table is not None and table != steps:
        raise CbdmError(
            f"the network embeds a table of {table} steps and the schedule has {steps or 'no table'}: "
            "make network.options.time_steps and schedule.options.steps agree"
        )
    if config.network.predicts != "eps":
        network = Predicts(network, config.network.predicts, schedule, sigma_data=config.network.sigma_data)
    training = config.training
    adjustment = _adjustment(config, parts, laws, data, schedule, network)
    objective = Objective(Process(schedule), network, adjustment, drop=training.drop, drop_per=training.drop_per)
    batches = _batches(config, data, laws)
    facts = Facts(
        shape=tuple(data.shape),
        class_names=data.class_names,
        counts=tuple(counts.tolist()),
        data_hash=full.content_hash(),
        split_hash=split,
        laws={name: text for name, (text, _) in laws.of.items()},
        condition=None if data.condition is None else space_to_dict(data.space),
    )
    config = config.model_copy(update={"facts": facts})
    return Experiment(config, full, data, schedule, objective, batches, laws.made_from)


def _batches(config: Config, data: Dataset, laws: ChosenLaws) -> Batches:
    probs = {name: table_law(name, *laws.of[name]).probs for name in BATCH_PARTS if name in laws.of}
    if len(probs) > 1:
        raise CbdmError(
            f"method {config.method.parts!r}: {RESAMPLE} and {PURE} both say how batches are drawn; keep one"
        )
    weights = resampling_weights(data.y, probs[RESAMPLE]) if RESAMPLE in probs else None
    return Batches(
        data,
        config.training.batch_size,
        seed=config.seed,
        weights=weights,
        pure=probs.get(PURE),
        flip=config.data.flip,
    )


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

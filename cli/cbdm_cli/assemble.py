"""The one place where names meet objects: a configuration becomes data, network, adjustment, sampler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_cli.config import Config, Facts
from cbdm_cli.parts import BATCH_PARTS, PURE, RESAMPLE, Part, parse_parts
from cbdm_core.conditions import space_to_dict
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.sources import DATASETS
from cbdm_core.denoising import LOSS_WEIGHTS, DenoisingLoss, LossWeight
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.interfaces import ConditionPrior, LabelPrior, NoiseSchedule, PriorAdjustment, Sampler, ScoreNetwork
from cbdm_core.laws_by_name import PRIORS, law_subject, make_law
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.predicts import Predicts
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.recognition import held_out_rows
from cbdm_core.registry import Registry
from cbdm_core.samplers import SAMPLERS
from cbdm_core.schedules import SCHEDULES
from cbdm_core.training import TrainSettings, TrainState
from cbdm_priors import ADJUSTMENTS
from cbdm_priors.laws import Affinity, feature_similarity
from cbdm_priors.penalty import named_time_weight

__all__ = [
    "IMPORTED",
    "Experiment",
    "assemble",
    "build",
    "build_sampler",
    "law_of",
    "law_takers",
    "load_data",
    "load_reference",
    "settings_of",
]

IMPORTED = "none"  # the data source of a run that came from a checkpoint
DEFAULT_LAWS = {
    "cbdm": "null",
    "shrink": "null",
    "reweight": "uniform",
    "diffrop": "uniform",
    RESAMPLE: "uniform",
    PURE: "training",
}


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


def load_reference(config: Config, full: Dataset, training: Dataset) -> tuple[Dataset, str]:
    """(what samples are held against, its name in words) by `evaluation.reference`.

    balanced is the full set. held-out is the part "test" of a source that has parts, else those rows of the full set
    that are, byte by byte, no training row. training is the long-tailed set itself.

    Args:
        config: with `data` and `evaluation`.
        full: the balanced set of `load_data`.
        training: its long-tailed part.

    Raises:
        CbdmError: nothing is held out, training saw the test part, or that part is of other examples.
    """
    kind = config.evaluation.reference
    if kind == "balanced":
        return full, "the balanced full set"
    if kind == "training":
        return training, "the long-tailed training set"
    data = config.data
    if "part" in inspect.signature(DATASETS[data.source]).parameters:
        return _test_part(config, full), f"the test part of {data.source}"
    try:
        rows = held_out_rows(full.x, training.x)
    except CbdmError:
        raise CbdmError(
            "evaluation.reference = 'held-out': training has seen every example of the data; take balanced or "
            "training, or hold some out with data.imbalance below 1"
        ) from None
    return full[rows], "the rows of the full set that training has not seen"


def _test_part(config: Config, full: Dataset) -> Dataset:
    data = config.data
    if data.options.get("part") == "test":
        raise CbdmError(
            "evaluation.reference = 'held-out': data.options.part = 'test' is what training saw; leave it out"
        )
    test: Dataset = build(DATASETS, data.source, {**data.options, "part": "test"})
    if (test.shape, test.class_names) != (full.shape, full.class_names):
        raise CbdmError(
            f"the test part of {data.source} has examples {test.shape} in {test.num_classes} classes, the full set "
            f"{full.shape} in {full.num_classes}: take evaluation.reference = 'balanced'"
        )
    return test


def law_takers(parts: tuple[Part, ...]) -> list[str]:
    """The names of those parts that take a law."""
    return [part.name for part in parts if part.name in BATCH_PARTS or "target" in _parameters(part.name)]


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in ADJUSTMENTS:
        raise unknown_name("method part", name, [*ADJUSTMENTS, *BATCH_PARTS, "ddpm"])
    return inspect.signature(ADJUSTMENTS[name]).parameters


def _counting(name: str) -> bool:
    """Whether a part of the loss looks at the counts of classes."""
    return not {"counts", "training"}.isdisjoint(_parameters(name))


@dataclass(frozen=True, eq=False)
class _Laws:
    """Part → (text, law) for the parts that take one, and what the laws were made from beside the counts."""

    of: dict[str, tuple[str, ConditionPrior]]
    made_from: dict[str, Tensor]


def _laws(config: Config, parts: tuple[Part, ...], data: Dataset) -> _Laws:
    takers, texts = law_takers(parts), {}
    for part in parts:
        if part.name not in takers:
            if part.law is not None:
                raise CbdmError(f"method part {part.name!r} takes no law, got {part.law!r}: write just {part.name}")
            continue
        texts[part.name] = part.law or DEFAULT_LAWS.get(part.name)
        if texts[part.name] is None:
            raise CbdmError(f"method part {part.name!r} needs a law: write for example {part.name}:uniform")
    # Names that are none are refused by make_law.
    subjects = {
        law_subject(name) for name in (str(text).partition(":")[0] for text in texts.values()) if name in PRIORS
    }
    if config.method.affinity is not None and "similarity" not in subjects:
        raise CbdmError(
            f"method.affinity = {config.method.affinity!r}: no part of {config.method.parts!r} has the law affinity"
        )
    similarity = _similarity(config.method.affinity, data) if "similarity" in subjects else None
    laws = {
        name: (text, make_law(text, data.counts(), conditions=data.condition, similarity=similarity))
        for name, text in texts.items()
        if text is not None
    }
    for name, (text, law) in laws.items():
        # A part that counts classes is refused as a whole, since no other law would mend it.
        draws = data.condition is not None and name not in BATCH_PARTS and not _counting(name)
        if draws and isinstance(law, LabelPrior | Affinity):
            raise CbdmError(
                f"method part {name!r}: the law {text!r} draws class labels, and these data are told "
                f"{space_to_dict(data.space)['kind']}: try {name}:null, {name}:knn or {name}:combinations"
            )
    made_from = {} if data.condition is None else {"conditions": data.condition, "labels": data.y}
    return _Laws(laws, made_from if similarity is None else {**made_from, "similarity": similarity})


def law_of(text: str, data: Dataset, affinity: str | None = None) -> ConditionPrior:
    """The law that `text` names, made from a training set."""
    name = text.partition(":")[0]
    similar = name in PRIORS and law_subject(name) == "similarity"
    similarity = _similarity(affinity, data) if similar else None
    return make_law(text, data.counts(), conditions=data.condition, similarity=similarity)


def _similarity(affinity: str | None, data: Dataset) -> Tensor:
    """What the affinity law is made from: the logarithm of a given table, or the training set's mean inputs."""
    if data.condition is not None:
        raise CbdmError("the law affinity compares classes, and these data are told none: try knn or combinations")
    if affinity is None:
        return feature_similarity(data.model_input().flatten(1), data.y, data.num_classes)
    table = read_table(Path(affinity))
    K = data.num_classes
    if table.shape != (K, K) or not np.isfinite(table).all() or (table < 0).any() or (table.sum(1) == 0).any():
        raise CbdmError(
            f"method.affinity = {affinity!r}: it must hold {K} × {K} finite numbers of 0 or more, one row a class "
            f"and none all 0, and has the shape {table.shape}"
        )
    return torch.from_numpy(table).log()


def read_table(path: Path) -> np.ndarray:
    """A table of numbers from a .npy file (no pickle is read) or from text parted by commas or spaces.

    Raises:
        CbdmError: the file cannot be read, or holds something else than numbers.
    """
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:  # not np.load, which opens whatever else bears that ending
                return np.lib.format.read_array(file, allow_pickle=False).astype(np.float64, casting="same_kind")
        lines = path.read_text(encoding="utf-8").replace(",", " ").split("\n")
        if not any(line.strip() for line in lines):
            raise ValueError("it is empty")
        return np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise CbdmError(f"the table {path} cannot be read: {str(error).splitlines()[0]}; give .npy or .csv") from error


def _table_law(part: str, text: str, law: ConditionPrior) -> LabelPrior:
    if not isinstance(law, LabelPrior):
        raise CbdmError(
            f"method part {part!r} needs a law with probabilities, and {text!r} has none: try {part}:uniform"
        )
    if law.learns:
        raise CbdmError(
            f"method part {part!r} reads its law once, before training, and {text!r} learns: try {part}:uniform, or "
            "cbdm:learned"
        )
    return law


def _sampled_from(laws: _Laws, counts: Tensor) -> ConditionPrior:
    """What the examples' classes are drawn from: the training law, unless a part of the batches says otherwise."""
    return next((laws.of[name][1] for name in BATCH_PARTS if name in laws.of), make_law("training", counts))


def _adjustment(
    config: Config, parts: tuple[Part, ...], laws: _Laws, data: Dataset, schedule: Any, network: ScoreNetwork
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
    laws: _Laws,
    data: Dataset,
    schedule: Any,
    network: ScoreNetwork,
) -> PriorAdjustment:
    """The part around its inner adjustment: a parameter gets what goes by its name, or the part's option."""
    method, parameters = config.method, _parameters(part.name)
    if _counting(part.name) and data.condition is not None:
        raise CbdmError(
            f"method part {part.name!r} counts classes, and these data are told "
            f"{space_to_dict(data.space)['kind']}: try cbdm, diffrop or ccua"
        )
    table_steps = getattr(schedule, "steps", None)
    offers: dict[str, Callable[[], Any]] = {
        "target": lambda: _target(part, parameters, laws),
        "training": lambda: _sampled_from(laws, data.counts()),
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


def _target(part: Part, parameters: Mapping[str, inspect.Parameter], laws: _Laws) -> ConditionPrior:
    text, law = laws.of[part.name]
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
    laws = _laws(config, parts, data)
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


def _batches(config: Config, data: Dataset, laws: _Laws) -> Batches:
    probs = {name: _table_law(name, *laws.of[name]).probs for name in BATCH_PARTS if name in laws.of}
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

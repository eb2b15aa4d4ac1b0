"""The parts of a method that act on the batches: which example a row shows, and what of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from cbdm_cli.config import Budget, Config
from cbdm_cli.laws import ChosenLaws, table_law
from cbdm_cli.method import BATCH_LAWS, BATCH_PARTS, PURE, RESAMPLE, TRANSPLANT, Part, part_options, parted_levels
from cbdm_core.data.augment import Augment
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.levels import ExposureBudget, LevelShare, Ramp, exposure_budget, law_at
from cbdm_core.data.transplant import Transplant
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.networks import NETWORKS
from cbdm_core.priors import LabelPrior, make_law
from cbdm_core.schedules import NoiseSchedule
from cbdm_priors.laws.counts import Fixed

AUTO = "auto"
SHOWINGS = 500.0  # N_0: an image may be shown so often where x_t tells which image it is
_LEVELS = 24  # noise levels at which the budget is computed

__all__ = [
    "augmentation",
    "build_batches",
    "drawn_law",
    "exposure_of",
    "level_share",
    "refuse_strays",
    "with_augmentation",
]


def build_batches(config: Config, data: Dataset, laws: ChosenLaws, schedule: NoiseSchedule) -> Batches:
    """The batches that a method asks for.

    Raises:
        CbdmError: two parts that both say how batches are drawn, or options that a part does not have.
    """
    for part in config.method:
        if part.name in BATCH_PARTS:
            refuse_strays(part)
    probs = {name: table_law(name, *laws.of[name]).probs for name in BATCH_LAWS if name in laws.of}
    if len(probs) > 1:
        raise CbdmError(
            f"method {config.method_text!r}: {RESAMPLE} and {PURE} both say how batches are drawn; keep one"
        )
    weights = resampling_weights(data.y, probs[RESAMPLE]) if RESAMPLE in probs else None
    levels = None
    if laws.levels is not None:
        rate = _rate(config, data.counts(), probs[RESAMPLE])
        levels = _share(laws.levels, _budget(laws.levels, data, schedule), rate)
    return Batches(
        data,
        config.training.batch_size,
        seed=config.seed,
        weights=weights,
        pure=probs.get(PURE),
        flip=config.data.flip,
        schedule=schedule,
        levels=levels,
        transplant=_transplant(config.method, data),
        augment=augmentation(config),
    )


def augmentation(config: Config) -> Augment | None:
    """The augmentation that a configuration asks for, None where its probability is 0.

    Raises:
        CbdmError: an unknown part, or one twice.
    """
    return Augment(config.data.augment, config.data.augment_parts) if config.data.augment else None


def with_augmentation(config: Config) -> Config:
    """The configuration with a network that takes the augmentation vector.

    Raises:
        CbdmError: a network that takes no augmentation vector, or one of another length.
    """
    augment = augmentation(config)
    if augment is None:
        return config
    network = config.network
    if "augmentations" not in inspect.signature(NETWORKS[network.name]).parameters:
        raise CbdmError(f"network {network.name!r} takes no augmentation vector: take unet or dit, or data.augment = 0")
    length = network.options.get("augmentations", augment.size)
    if length != augment.size:
        raise CbdmError(
            f"network.options.augmentations = {length}, and data.augment_parts are told in {augment.size} numbers: "
            "leave the option out"
        )
    options = {**network.options, "augmentations": length}
    return config.model_copy(update={"network": network.model_copy(update={"options": options})})


def refuse_strays(part: Part) -> None:
    """Refuse options that a part does not have.

    Raises:
        CbdmError: one of them.
    """
    defaults = part_options(part.name)
    for name in part.options:
        if name not in defaults:
            if not defaults:
                raise CbdmError(f"method part {part.name!r} has no options, got {name!r}")
            raise unknown_name(f"option of method part {part.name!r}", name, defaults)


def level_share(levels: str) -> LevelShare:
    """The share that the text of noise levels asks for: `0.2` splits, `0.3-0.7` is a ramp, `0.7-0.3` one that falls.

    Raises:
        CbdmError: levels that are no numbers, or out of [0, 1].
    """
    start, dash, full = levels.partition("-")
    try:
        return Ramp(float(start), float(full if dash else start))
    except ValueError:
        raise CbdmError(
            f"noise levels {levels!r} of {RESAMPLE}: write @T0 or @START-FULL in [0, 1], such as @0.2 or @0.3-0.7"
        ) from None


def drawn_law(config: Config) -> Callable[[float], LabelPrior] | None:
    """t ↦ π(y | t), the law that the batches' classes had at the end of training; None where t does not matter.

    Args:
        config: with its facts.
    """
    facts = config.facts
    part = next((part for part in config.method if part.name == RESAMPLE), None)
    levels = None if part is None or part.law is None else parted_levels(part.law)[1]
    if facts is None or levels is None:
        return None
    counts = torch.tensor(facts.counts)
    batch_law = table_law(RESAMPLE, facts.laws[RESAMPLE], make_law(facts.laws[RESAMPLE], counts)).probs
    share = _share(levels, facts.budget, _rate(config, counts, batch_law))
    training = counts.double() / counts.sum()

    def law(t: float) -> LabelPrior:
        return Fixed(counts, *law_at(share, batch_law.double(), training, t, config.training.steps).tolist())

    return law


def exposure_of(batches: Batches) -> Budget | None:
    """The budget that the batches are drawn by, to be written down."""
    levels = batches.levels
    if not isinstance(levels, ExposureBudget):
        return None
    showings = tuple(tuple(row) for row in levels.budget.tolist())
    return Budget(levels=tuple(levels.levels.tolist()), showings=showings)


def _share(levels: str, budget: Budget | None, rate: Tensor) -> LevelShare:
    if budget is None:
        return level_share(levels)
    return ExposureBudget(torch.tensor(budget.showings, dtype=torch.float64), torch.tensor(budget.levels), rate)


def _rate(config: Config, counts: Tensor, law: Tensor) -> Tensor:
    """(K,) showings of an image of each class per step under the batch law, B π(y)/n_y."""
    return config.training.batch_size * (law.double() / law.sum()) / counts.clamp(min=1)


def _budget(levels: str, data: Dataset, schedule: NoiseSchedule) -> Budget | None:
    """What `auto` or `auto=N_0` asks for, from the effective number of images; None for other texts.

    Raises:
        CbdmError: an N_0 that is no number above 0.
    """
    name, equals, number = levels.partition("=")
    if name != AUTO:
        return None
    try:
        showings = float(number) if equals else SHOWINGS
    except ValueError:
        showings = -1.0
    if not 0 < showings < math.inf:
        raise CbdmError(f"{RESAMPLE} at {levels!r}: write @auto, or @auto=N with N > 0 showings of an image")
    low, high = schedule.domain
    times = torch.linspace(low, high, _LEVELS + 1)[1:]
    effective = effective_number(data.model_input(), data.y, data.num_classes, schedule, times)
    table = exposure_budget(effective, data.counts(), showings)
    return Budget(levels=tuple(times.tolist()), showings=tuple(tuple(row) for row in table.tolist()))


def _transplant(method: tuple[Part, ...], data: Dataset) -> Transplant | None:
    part = next((part for part in method if part.name == TRANSPLANT), None)
    if part is None:
        return None
    try:
        return Transplant(data, **part.options)
    except TypeError as error:
        raise CbdmError(f"method part {TRANSPLANT!r} cannot be made from {part.options}: {error}") from error

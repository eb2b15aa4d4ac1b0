"""The parts of a method that act on the batches: which example a row shows, and what of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbdm_cli.config import Config
from cbdm_cli.laws import ChosenLaws, table_law
from cbdm_cli.method import BATCH_LAWS, BATCH_PARTS, PURE, RESAMPLE, TRANSPLANT, Part, part_options
from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.levels import ExposureBudget, LevelShare, Ramp, exposure_budget
from cbdm_core.data.transplant import Transplant
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.schedules import NoiseSchedule

AUTO = "auto"
SHOWINGS = 500.0  # N_0: an image may be shown so often where x_t tells which image it is
_LEVELS = 24  # noise levels at which the budget is computed

__all__ = ["build_batches", "level_share", "refuse_strays"]


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
        levels = _budget(laws.levels, config, data, schedule, probs[RESAMPLE]) or level_share(laws.levels)
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
    )


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
    """The share that the text of noise levels asks for: `0.2` splits, `0.3-0.7` is a ramp.

    Raises:
        CbdmError: levels that are no numbers, or out of [0, 1].
    """
    low, dash, high = levels.partition("-")
    try:
        return Ramp(float(low), float(high if dash else low))
    except ValueError:
        raise CbdmError(
            f"noise levels {levels!r} of {RESAMPLE}: write @T0 or @LOW-HIGH in [0, 1], such as @0.2 or @0.3-0.7"
        ) from None


def _budget(levels: str, config: Config, data: Dataset, schedule: NoiseSchedule, law: Tensor) -> ExposureBudget | None:
    """The budget that `auto` or `auto=N_0` asks for, from the effective number of images; None for other texts.

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
    counts, (low, high) = data.counts(), schedule.domain
    times = torch.linspace(low, high, _LEVELS + 1)[1:]
    effective = effective_number(data.model_input(), data.y, data.num_classes, schedule, times)
    rate = config.training.batch_size * (law.double() / law.sum()) / counts.clamp(min=1)
    return ExposureBudget(exposure_budget(effective, counts, showings), times, rate)


def _transplant(method: tuple[Part, ...], data: Dataset) -> Transplant | None:
    part = next((part for part in method if part.name == TRANSPLANT), None)
    if part is None:
        return None
    try:
        return Transplant(data, **part.options)
    except TypeError as error:
        raise CbdmError(f"method part {TRANSPLANT!r} cannot be made from {part.options}: {error}") from error

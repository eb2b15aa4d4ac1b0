"""Limits of memory and time: what is beyond them is refused before the work, with an estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cbdm_cli.config import Config
from cbdm_core.errors import CbdmError
from cbdm_core.memory import check_memory

__all__ = ["check_limits", "check_samples", "check_steps"]

_FLOAT = 4  # bytes
_COPIES_OF_BATCH = 4  # x_0, ε, x_t and ε̂ at the least
_LONGEST = 366 * 86_400.0  # seconds
_QUICKEST = {"training.steps": 1e-3, "sampling.steps": 1e-4}  # seconds a step; no machine does one in less


def check_limits(config: Config, shape: Sequence[int], classes: int, rows: int) -> None:
    """Refuse a configuration that needs more memory than there is, or more than a year, by bounds from below.

    Args:
        config: with `training`, `sampling` and `evaluation`.
        shape: of one example.
        classes: K.
        rows: of the set that samples are held against, at most.

    Raises:
        CbdmError: with what it would take.
    """
    training, evaluation = config.training, config.evaluation
    check_steps("training.steps", training.steps)
    check_memory(
        f"training.batch_size = {training.batch_size:,}",
        _COPIES_OF_BATCH * _FLOAT * training.batch_size * math.prod(shape),
        "take a smaller batch",
    )
    check_samples("evaluation.per_class", evaluation.per_class, shape, evaluation.per_class * classes)
    check_memory(
        f"evaluation.intervals = {evaluation.intervals:,}",
        8 * evaluation.intervals * rows,
        "take fewer resamples; 200 do",
    )
    check_steps("sampling.steps", config.sampling.steps)


def check_samples(name: str, value: int, shape: Sequence[int], total: int) -> None:
    """Refuse more samples than memory holds.

    Args:
        name: of the option, for the message.
        value: given.
        shape: of one sample.
        total: how many samples that makes.

    Raises:
        CbdmError: they do not fit.
    """
    check_memory(f"{name} = {value:,}", 2 * _FLOAT * total * math.prod(shape), "ask for fewer")


def check_steps(name: str, steps: int) -> None:
    """Refuse steps that take more than a year where each takes as little as one can.

    Raises:
        CbdmError: with the time.
    """
    seconds = steps * _QUICKEST[name]
    if seconds > _LONGEST:
        raise CbdmError(
            f"{name} = {steps:,} takes {seconds / _LONGEST:,.0f} years or more, at {_QUICKEST[name] * 1000:g} ms a "
            "step: ask for fewer"
        )

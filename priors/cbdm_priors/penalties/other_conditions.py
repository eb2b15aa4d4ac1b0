"""Other conditions c' of a batch's rows, drawn from a law, once or several times, and asked about together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.distributed import anywhere
from cbdm_core.errors import CbdmError
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep

__all__ = ["checked_draws", "checked_together", "drawn_conditions", "joined"]


def checked_draws(draws: int | str, law: ConditionPrior) -> int | str:
    """The number of other conditions for each row: 1, 2, … or "all".

    Raises:
        CbdmError: another value, or "all" of a law without a list of conditions.
    """
    if draws == "all":
        if not law.finite:
            raise CbdmError(
                f'draws = "all" needs a law with a list of conditions, and {type(law).__name__} has none: draws = 1'
            )
        return "all"
    if not _is_whole(draws) or draws < 1:
        raise CbdmError(f'draws must be 1, 2, 3, … or "all", got {draws!r}')
    return int(draws)


def drawn_conditions(
    law: ConditionPrior, step: DenoisingStep, draws: int | str, scope: str
) -> Iterator[tuple[Condition, Tensor | float]]:
    """Other conditions c' and their weights: Σ weight·f(c') is Σ_c' π(c'|c) f(c') in expectation, or exactly for "all".

    With m ≥ 2 of a finite law they are drawn systematically: no condition comes twice where m·π ≤ 1.

    Args:
        law: π.
        step: whose rows are drawn for.
        draws: 1, m or "all".
        scope: of the random numbers.
    """
    numbers = step.draws.within(scope)
    if draws == "all":
        values, weights = law.atoms(step.c)
        for s in range(len(values)):
            column = weights[..., s]
            if anywhere(column > 0):
                shown = values[s].expand(len(step), *values.shape[1:])
                yield step.c.with_value(shown.to(step.c.value.dtype)), column.expand(len(step))
    elif draws == 1:
        yield law.sample(step.c, draws=numbers), 1.0
    elif law.finite:
        values, weights = law.atoms(step.c)
        for column in numbers.systematic("law", weights, int(draws)).unbind(1):
            yield step.c.with_value(values[column].to(step.c.value.dtype)), 1 / int(draws)
    else:
        for number in range(int(draws)):
            yield law.sample(step.c, draws=numbers.within(str(number))), 1 / int(draws)


def checked_together(together: int, draws: int | str) -> int:
    """How many of a row's other conditions share a pass: 1, …, draws.

    Raises:
        CbdmError: another value.
    """
    most, allowed = (math.inf, "1, 2, …") if isinstance(draws, str) else (draws, f"1 to draws = {draws}")
    if not _is_whole(together) or not 1 <= together <= most:
        raise CbdmError(f"together must be a whole number, {allowed}, got {together!r}")
    return int(together)


def _is_whole(number: object) -> TypeGuard[float]:
    """Whether it is a whole number, of whatever type."""
    return isinstance(number, Real) and not isinstance(number, bool) and float(number).is_integer()


def joined(
    drawn: Iterable[tuple[Condition, Tensor | float]], together: int
) -> Iterator[tuple[int, Condition, Tensor | float]]:
    """(m, c', weights) of up to this many draws at a time, one batch of rows after another."""
    drawn = iter(drawn)
    while some := list(islice(drawn, together)):
        weights = [weight for _, weight in some if isinstance(weight, Tensor)]
        yield len(some), Condition.cat([c for c, _ in some]), torch.cat(weights) if weights else some[0][1]

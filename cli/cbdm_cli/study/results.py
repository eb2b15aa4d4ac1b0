"""The results of a study: read in one place, their figures dug out in one place, the best ω chosen in one place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.run_folder import is_finite
from cbdm_cli.study.plan import READINGS, Plan, readings_of, run_folder
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.scores import compared_scores

__all__ = [
    "Estimate",
    "Result",
    "RowKey",
    "at_edge",
    "best_omega",
    "estimate",
    "finite_or_none",
    "read_result",
    "read_results",
    "scores_of",
    "sign_of",
    "swept",
]

Result = Mapping[str, Any]
"""What a result file holds."""

RowKey = tuple[str, str]
"""(variant, kind of its readings): a line of the table."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95 % interval by Student's t; infinite from one seed."""

    mean: float
    half_width: float

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of (n,) values and the half width t_{0.975, n−1} s/√n."""
    from scipy.stats import t

    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, math.inf)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Estimate(mean, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n))


def read_result(file: Path) -> Result:
    """One result.

    Raises:
        CbdmError: it cannot be read.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CbdmError(f"{file} cannot be read: {error}; remove it, and cbdm compare makes it anew") from error
    if not isinstance(value, dict):
        raise CbdmError(f"{file} holds no result: remove it, and cbdm compare makes it anew")
    wrong = [name for name, (path, _) in compared_scores().items() if not finite_or_none(_value_at(value, path))]
    if wrong:
        raise CbdmError(f"{file}: its {wrong[0]} is no number: remove it, and cbdm compare makes it anew")
    return value


def finite_or_none(value: Any) -> bool:
    """Whether a value of a file is a finite number, or None, which stands for one that is not defined."""
    return value is None or is_finite(value)


def read_results(
    folder: Path, plan: Plan, read: Callable[[Path], Result] = read_result
) -> dict[RowKey, dict[str, dict[int, Result]]]:
    """(variant, kind) → every ω → seed → result, of the readings that are there; rows in the order of the table.

    Args:
        folder: of the comparison.
        plan: its plan.
        read: how a file is read and checked.

    Raises:
        CbdmError: a result that cannot be read.
    """
    table: dict[RowKey, dict[str, dict[int, Result]]] = {}
    for variant in plan.variants:
        for reading in readings_of(plan, variant):
            by_seed = table.setdefault((variant.name, reading.kind), {}).setdefault(reading.omega, {})
            for seed in range(plan.seeds):
                file = run_folder(folder, variant, seed) / READINGS / reading.file
                if file.exists():
                    by_seed[seed] = read(file)
    return table


def scores_of(result: Result) -> dict[str, float]:
    """The compared scores that are defined in a result, by their names in `compared_scores`."""
    values = {name: _at(result, path) for name, (path, _) in compared_scores().items()}
    return {name: value for name, value in values.items() if value is not None}


def _at(result: Result, path: Sequence[str]) -> float | None:
    value = _value_at(result, path)
    return None if value is None else float(value)


def _value_at(result: Result, path: Sequence[str]) -> Any:
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def best_omega(means: Mapping[str, float], score: str = "fid") -> str:
    """The ω at which the mean of a score is best; the first of equals.

    Args:
        means: ω → mean.
        score: which way is better.
    """
    sign = sign_of(score)
    return min(means, key=lambda omega: sign * means[omega])


def sign_of(score: str) -> int:
    """1 for a compared score of which less is better, −1 for one of which more is: times it, less is always better."""
    return 1 if compared_scores()[score][1].less_is_better else -1


def at_edge(best: str, omegas: Sequence[str]) -> bool:
    """Whether `best` ends the grid of its kind; constant 0, plain conditional, is where guidance starts: no edge."""
    kind, place = swept(best)
    grid = {there for own, there in map(swept, omegas) if own == kind}
    return len(grid) > 1 and (kind, place) != (("", ()), (0.0,)) and place in (min(grid), max(grid))


def swept(omega: str) -> tuple[tuple[str, tuple[float, ...]], tuple[float, ...]]:
    """((kind, its τ if it names one), what is swept: ω, or a and b of aτt + b)."""
    kind, _, text = omega.rpartition(":")
    numbers, count = tuple(map(float, text.split(","))), 2 if kind == "linear" else 1
    return (kind, numbers[count:]), numbers[:count]

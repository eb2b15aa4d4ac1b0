"""The diagnosis in a run folder, read and checked for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text, regular_file

__all__ = ["Diagnosed", "Ratios", "read_diagnosis"]

_BYTES = 32 << 20  # a thousand classes at thirty noise levels have less
_LEVELS = 10_000  # more noise levels make no picture
_LARGEST = 1e15  # no count and no ratio is larger, and the page would not hold its digits
_LONGEST = 1000  # characters of a sentence
_ERRORS = 2.0  # standard errors that are beyond chance, as in `Contrast.beyond_chance`


@dataclass(frozen=True, eq=False)
class Ratios:
    """One map.

    Args:
        values: (K, T) one error over another, NaN where it is not known.
        sure: (K, T) bool, whether the two differ beyond chance.
    """

    values: Any
    sure: Any


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """What `cbdm diagnose` found in one run.

    Args:
        file: that it was read from.
        step: of training.
        held_out: what the held-out images are, in words.
        folds: by which the Gaussian was fitted where no image is held out, else 0.
        names: K classes.
        counts: K, training images of each.
        times: T noise levels.
        underfitted: the network's error over the pooled Gaussian's.
        memorised: the error on held-out over training images; None where nothing is held out.
        verdict: sentences on the tail.
    """

    file: Path
    step: int
    held_out: str
    folds: int
    names: tuple[str, ...]
    counts: tuple[int, ...]
    times: tuple[float, ...]
    underfitted: Ratios
    memorised: Ratios | None
    verdict: tuple[str, ...]


def read_diagnosis(run: Path, class_names: Any) -> Diagnosed | None:
    """The `diagnosis.json` of a run folder, else the first by name of those asked for otherwise; None without any.

    Args:
        run: the folder.
        class_names: those of its configuration.

    Raises:
        CbdmError: a damaged file, or one of other classes.
    """
    usual = run / "diagnosis.json"
    file = usual if usual.exists() else min(run.glob("diagnosis-*.json"), default=None)
    if file is None:
        return None
    try:
        if regular_file(file).stat().st_size > _BYTES:
            raise CbdmError(f"it has more than {_BYTES:,} bytes: fewer --levels do")
        table = json.loads(file.read_text(encoding="utf-8"))
        return _diagnosed(file, table, class_names)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0].removeprefix(f"{clean_text(str(file))} ")
        raise CbdmError(f"{file} holds no diagnosis ({reason}): run cbdm diagnose again, or remove it") from error


def _diagnosed(file: Path, table: Any, class_names: Any) -> Diagnosed:
    if not isinstance(table, dict):
        raise CbdmError(f"it is a {type(table).__name__}, not an object")
    if not isinstance(class_names, list) or not class_names or _at(table, "class_names") != class_names:
        raise CbdmError("its classes are not the run's")
    counts, times = _numbers(table, "training_counts", len(class_names)), _numbers(table, "times")
    if len(times) > _LEVELS:
        raise CbdmError(f"it has more than {_LEVELS:,} noise levels: ask for fewer --levels")
    shape = len(counts), len(times)
    folds, verdict = _whole(table, "folds"), _at(table, "verdict")
    if not isinstance(verdict, list) or len(verdict) > len(shape):
        raise CbdmError("its verdict is no list of one sentence for each map")
    return Diagnosed(
        file=file,
        step=_whole(table, "step"),
        held_out=_words("held_out", _at(table, "held_out")),
        folds=folds,
        names=tuple(clean_text(str(name)) for name in class_names),
        counts=tuple(map(int, counts)),
        times=tuple(times),
        underfitted=_ratios(table, "underfitted", shape),
        memorised=None if folds else _ratios(table, "memorised", shape),
        verdict=tuple(_words("verdict", sentence) for sentence in verdict),
    )


def _at(table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise CbdmError(f"it lacks {name}")
    return table[name]


def _whole(table: Mapping[str, Any], name: str) -> int:
    value = _at(table, name)
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise CbdmError(f"its {name} is no whole number, 0 or more")
    return value


def _words(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise CbdmError(f"its {name} is no text of at most {_LONGEST} characters")
    return clean_text(value)


def _numbers(table: Mapping[str, Any], name: str, length: int | None = None) -> list[float]:
    """One number or more, none below 0, as many as are asked for."""
    values = _at(table, name)
    fits = isinstance(values, list) and (len(values) == length if length else values)
    if not fits or not all(_plain(v) and v >= 0 for v in values):
        raise CbdmError(f"its {name} is no list of {length or 'one or more'} numbers, 0 or more")
    return values


def _ratios(table: Mapping[str, Any], word: str, shape: tuple[int, int]) -> Ratios:
    errors = _at(table, "eps_error")
    if not isinstance(errors, dict):
        raise CbdmError("its eps_error is no object")
    values = _matrix(table, f"{word}_ratio", shape)
    if (values < 0).any():
        raise CbdmError(f"its {word}_ratio has a number below 0")
    difference, error = (_matrix(errors, name, shape) for name in (word, f"{word}_standard_error"))
    return Ratios(values, np.abs(difference) > _ERRORS * error)


def _matrix(table: Mapping[str, Any], name: str, shape: tuple[int, int]) -> Any:
    """(K, T) float64, NaN where the file has null."""
    rows, (k, t) = _at(table, name), shape
    fits = isinstance(rows, list) and len(rows) == k and all(isinstance(row, list) and len(row) == t for row in rows)
    if not fits or not all(v is None or _plain(v) for row in rows for v in row):
        raise CbdmError(f"its {name} is no table of {k} times {t} numbers")
    return np.array(rows, dtype=float)


def _plain(value: Any) -> bool:
    """A number that is neither infinite nor absurd; truth values are none."""
    return type(value) in (int, float) and abs(value) < _LARGEST

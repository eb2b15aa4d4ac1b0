"""A CSV that names files and says what each is: a class, attributes of 0 and 1, or a vector."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cbdm_core.data.labelling import Labelling, from_attributes, from_classes, from_vectors
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text, inner_name, regular_file

__all__ = ["read_table"]

_FILES = ("file_name", "filename", "file", "image", "path")
_CLASSES = ("class", "label")
_MOST_BYTES = 1 << 30
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def read_table(path: Path) -> tuple[list[str], Labelling]:
    """(N file names, what the other columns say of each), in the order of the rows.

    The first row names the columns. The file names stand in the column called file_name, filename, file, image or path,
    else in the first. A column called class or label, or the only other one, is the class: whole numbers are the labels
    themselves, text is sorted. Further columns are the condition: attributes if every value is 0 or 1, else the vector
    of their numbers as they are. A single column of numbers that are not whole is a vector too.

    Args:
        path: of the CSV, UTF-8, separated by commas.

    Raises:
        CbdmError: no such file, a row of another length, a file named twice or outside its folder, or text where
            numbers must stand.
    """
    head, rows = _rows(path)
    lowered = [name.strip().lower() for name in head]
    place = next((lowered.index(name) for name in _FILES if name in lowered), 0)
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(head) if i != place}
    files = [inner_name(row[place].strip(), f"{path}") for row in rows]
    twice = [name for name, n in zip(*np.unique(files, return_counts=True)) if n > 1]
    if twice:
        raise CbdmError(f"{path} names {clean_text(str(twice[0]))} twice: keep one row for each file")
    return files, _labelling(path, columns)


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    regular_file(path, _MOST_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CbdmError(f"{path} cannot be read as CSV ({error}): save it as UTF-8, separated by commas") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise CbdmError(f"{path} needs a row of column names, with a file name and a class, and a row for each file")
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if wrong is not None:
        raise CbdmError(f"row {wrong + 1} of {path} has {len(rows[wrong])} values, the first has {len(rows[0])}")
    if len({name.strip() for name in rows[0]}) < len(rows[0]):
        raise CbdmError(f"{path} has two columns of one name: {clean_text(', '.join(rows[0]))}; rename one")
    return rows[0], rows[1:]


def _labelling(path: Path, columns: dict[str, list[str]]) -> Labelling:
    classes = [name for name in columns if name.strip().lower() in _CLASSES]
    if len(classes) > 1:
        raise CbdmError(f"{path} has the columns {' and '.join(classes)}: keep the one that is the class")
    only = next(iter(columns))
    if not classes and len(columns) == 1 and not _is_measured(columns[only]):
        classes = [only]
    further = {name: values for name, values in columns.items() if name not in classes}
    named = from_classes(_present(path, classes[0], columns[classes[0]])) if classes else None
    if not further:
        assert named is not None
        return named
    numbers = np.stack([_numbers(path, name, values) for name, values in further.items()], axis=1)
    told = from_attributes(numbers) if np.isin(numbers, (0, 1)).all() else from_vectors(numbers)
    return told if named is None else named._replace(condition=told.condition)


def _present(path: Path, name: str, values: list[str]) -> list[str]:
    if "" in values:
        raise CbdmError(f"column {clean_text(name)} of {path} is empty in row {values.index('') + 2}: name its class")
    return values


def _is_measured(values: list[str]) -> bool:
    """Whether all are numbers and one is not whole."""
    try:
        return any(float(value) % 1 != 0 for value in values)
    except ValueError:
        return False


def _numbers(path: Path, name: str, values: list[str]) -> np.ndarray:
    for row, value in enumerate(values):
        try:
            good = abs(float(value)) <= _FLOAT32_MAX  # NaN is not
        except ValueError:
            good = False
        if not good:
            raise CbdmError(
                f"column {clean_text(name)} of {path} has {clean_text(value[:40])!r} in row {row + 2}: a condition of "
                "several columns is finite numbers; call a column of names class"
            )
    return np.array(values, dtype=np.float64)

"""A CSV that names files and says what each is: a class, attributes of 0 and 1, or a vector."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from cbdm_core.data.labelling import Labelling, from_attributes, from_classes, from_vectors
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text, inner_name, regular_file

__all__ = ["names_a_file", "read_table", "row_in_file"]

_FILES = ("file_name", "filename", "file", "image", "path")
_CLASSES = ("class", "label")
_NAMELESS = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")  # pandas reads its own nameless index back so
_MOST_BYTES = 1 << 30
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def read_table(path: Path, place: Path | None = None) -> tuple[list[str], Labelling]:
    """(N file names, what the other columns say of each), in the order of the rows.

    The first row names the columns. The file names stand in the column called file_name, filename, file, image or path,
    else in the first. A column called class or label, or the only other one, is the class: whole numbers are the labels
    themselves, text is sorted. Further columns are the condition: attributes if every value is 0 or 1, else the vector
    of their numbers as they are. A single column of numbers that are not whole is a vector too.

    Args:
        path: of the CSV, UTF-8, separated by commas.
        place: the folder that the file names start from; None takes that of the CSV.

    Raises:
        CbdmError: no such file, no row of column names, a column without a name, a row of another length, a file named
            twice or outside its folder, or text where numbers must stand.
    """
    head, rows = _rows(path)
    at = _column_of_files(head)
    _check_head(path, head, path.parent if place is None else place, at)
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(head) if i != at}
    files = [str(PurePosixPath(inner_name(row[at].strip(), f"{path}"))) for row in rows]  # ./a.png is a.png
    twice = [name for name, n in zip(*np.unique(files, return_counts=True)) if n > 1]
    if twice:
        raise CbdmError(f"{path} names {clean_text(str(twice[0]))} twice: keep one row for each file")
    return files, _labelling(path, columns)


def row_in_file(path: Path, index: int) -> int:
    """The row of a CSV, from 1 as spreadsheets count, in which that stands which is `index` rows below the names.

    Args:
        path: of a CSV that was read.
        index: among the rows that are not empty; that of the column names is 0.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        filled = (row for row, values in enumerate(csv.reader(file, strict=True), start=1) if values)
        return next(islice(filled, index, None))


def names_a_file(path: Path) -> bool:
    """Whether a CSV names a file that is there, in or below its folder.

    Args:
        path: of the CSV; one that cannot be read names none.
    """
    try:
        head, rows = _rows(path)
    except CbdmError:
        return False
    at = _column_of_files(head)
    return any(_is_file(path.parent / row[at].strip()) for row in rows)


def _column_of_files(head: list[str]) -> int:
    lowered = [name.strip().lower() for name in head]
    return next((lowered.index(name) for name in _FILES if name in lowered), 0)


def _is_file(path: Path) -> bool:
    try:
        regular_file(path)
    except CbdmError:
        return False
    return True


def _check_head(path: Path, head: list[str], place: Path, at: int) -> None:
    """Refuse a first row that names no columns, or not each by a name of its own."""
    if head[at].strip().lower() not in _FILES and _is_file(place / head[at].strip()):
        raise CbdmError(
            f"the first row of {path} names the file {clean_text(head[at].strip())}, and must name the columns: put a "
            "row such as file_name,class above it"
        )
    for i, name in enumerate(head):
        if _NAMELESS.fullmatch(name.strip()):
            called = f"is called {name.strip()!r}" if name.strip() else "has no name"
            raise CbdmError(
                f"column {i + 1} of {path} {called}, as an index that pandas writes: write it without its index, by "
                "to_csv(index=False), or name the column"
            )
    if len({name.strip() for name in head}) < len(head):
        raise CbdmError(f"{path} has two columns of one name: {clean_text(', '.join(head))}; rename one")


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
        raise CbdmError(
            f"row {row_in_file(path, wrong)} of {path} has {len(rows[wrong])} values, the first has {len(rows[0])}"
        )
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
    labelling = (from_attributes if np.isin(numbers, (0, 1)).all() else from_vectors)(numbers, [*further])
    return labelling if named is None else labelling._replace(labels=named.labels, class_names=named.class_names)


def _present(path: Path, name: str, values: list[str]) -> list[str]:
    if "" in values:
        row = row_in_file(path, values.index("") + 1)
        raise CbdmError(f"column {clean_text(name)} of {path} is empty in row {row}: name its class")
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
                f"column {clean_text(name)} of {path} has {clean_text(value[:40])!r} in row "
                f"{row_in_file(path, row + 1)}: a condition of several columns is finite numbers; call a column of "
                "names class"
            )
    return np.array(values, dtype=np.float64)

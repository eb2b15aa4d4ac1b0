"""Images from parquet files as Hugging Face datasets writes them; needs pyarrow, the extra `cbdm[hf]`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.encoded import Encoded
from cbdm_core.data.labelling import Labelling, from_classes
from cbdm_core.data.listed import from_lists, is_listed, of_lists
from cbdm_core.data.pictures import Framing
from cbdm_core.data.places import files_of
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import clean_text

__all__ = ["parquet", "parquet_images"]

_INT64 = (1 << 63) - 1
_ROWS = 256  # images are decoded in such portions, so that their encoded bytes are never all in memory


def parquet(
    *,
    root: str | Path | Sequence[str | Path],
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Images and labels from parquet files, the image a struct {bytes, path} or bytes in a column.

    The columns are those that the schema's entry "huggingface" calls `Image` and `ClassLabel`, whose names are then
    those of the classes. Without names whole numbers are the labels themselves, and text is sorted into classes. A
    label that is a list says what `from_lists` tells of it.

    Args:
        root: a file, a folder of `*.parquet`, a pattern such as `data/train-*.parquet`, or a list of such.
        image: the column of images; None takes the only `Image`, else the column called image or img.
        label: the column of labels; None takes the only `ClassLabel`, or the only one of lists of them, else the column
            called label or labels.
        size: pixels of a side, ≥ 1: the shorter side is resized to it and the middle square cut out; None reads images
            as they are, all of one size.
        channels: 1 makes every image grey, 3 makes it RGB; None has one channel if every image is grey.

    Raises:
        CbdmError: pyarrow is not installed; no file, a damaged one or files of different columns; no such column, an
            image that is only a path, a row without label, or images of different sizes without `size`.
    """
    return parquet_images(root=root, image=image, label=label, size=size, channels=channels).dataset()


def parquet_images(
    *,
    root: str | Path | Sequence[str | Path],
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> Encoded:
    """What `parquet` reads, of the same options, not yet decoded.

    Raises:
        CbdmError: as `parquet`, without looking into the rows.
    """
    files = files_of(root, ".parquet")
    features = _features(files[0])
    columns = [
        _column(files[0], features, "image", "Image", image, ("image", "img")),
        _column(files[0], features, "label", "ClassLabel", label, ("label", "labels")),
    ]
    labels: list[Any] = []

    def images() -> Iterator[tuple[str, bytes]]:
        for file in files:
            for row, (encoded, value) in enumerate(_rows(file, columns)):
                name = f"row {row} of {file}"
                labels.append(_label(name, columns[1], value))
                yield name, _encoded(name, encoded)

    return Encoded(
        images, lambda: _labelling(features[columns[1]], labels), Framing(size, channels), sum(map(_length, files))
    )


def _opened(file: Path) -> Any:
    try:
        arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise CbdmError("parquet files are read by pyarrow, which is not installed: pip install 'cbdm[hf]'") from error
    try:
        return files.ParquetFile(file)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: BaseException) -> CbdmError:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return CbdmError(f"{file} cannot be read as parquet ({line}): fetch it again")


def _features(file: Path) -> dict[str, Mapping[str, Any]]:
    """Column → what the schema's entry "huggingface" says of it, nothing where it has none."""
    with _opened(file) as opened:
        schema = opened.schema_arrow
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = {}
    said = said if isinstance(said, dict) else {}
    return {name: _said(said.get(name)) for name in schema.names}


def _said(of_column: Any) -> Mapping[str, Any]:
    """What is said of a column; where it holds lists, [said] or {"feature": said} of their values."""
    of_value = of_column.get("feature") if isinstance(of_column, dict) else of_column
    if isinstance(of_value, list) and len(of_value) == 1:
        of_value = of_value[0]
    if isinstance(of_value, dict) and of_value.get("_type") == "ClassLabel":
        return of_value
    return of_column if isinstance(of_column, dict) else {}


def _column(
    file: Path, features: Mapping[str, Mapping[str, Any]], role: str, kind: str, asked: str | None, usual: Sequence[str]
) -> str:
    if asked is not None:
        if asked not in features:
            raise unknown_name(f"column of {file}", asked, features)
        return asked
    there = [name for name, said in features.items() if said.get("_type") == kind]
    there = there or [name for name in usual if name in features]
    if len(there) != 1:
        raise CbdmError(
            f"{file} has {len(there)} columns that could be the {role}, of {clean_text(', '.join(features))}: give "
            f"{role}=ONE_OF_THEM (--set data.options.{role}=ONE_OF_THEM)"
        )
    return there[0]


def _length(file: Path) -> int:
    with _opened(file) as opened:
        return opened.metadata.num_rows


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[Any, Any]]:
    """(image, label) of each row."""
    with _opened(file) as opened:
        missing = [name for name in columns if name not in opened.schema_arrow.names]
        if missing:
            raise unknown_name(f"column of {file}", missing[0], opened.schema_arrow.names)
        several = [name for name in columns if opened.schema_arrow.names.count(name) > 1]
        if several:
            raise CbdmError(f"{file} has several columns called {clean_text(several[0])!r}: rename all but one")
        try:
            for batch in opened.iter_batches(batch_size=_ROWS, columns=columns):
                yield from zip(*(batch.column(name).to_pylist() for name in columns))
        except (import_module("pyarrow").ArrowException, OSError) as error:
            raise _damaged(file, error) from error


def _label(name: str, column: str, value: Any) -> int | str | list[Any]:
    mend = "or give label=COLUMN (--set data.options.label=COLUMN)"
    if value is None or (type(value) in (int, str) and value in (-1, "")):
        raise CbdmError(f"{name} has no label in {column!r}: remove the row, {mend}")
    if type(value) not in (int, str) and not is_listed(value):
        shown, kind = clean_text(repr(value))[:40], type(value).__name__
        raise CbdmError(
            f"{name} has {shown} in {column!r}, of the type {kind}: labels are whole numbers or names, or "
            f"lists of numbers or of names; convert the column, {mend}"
        )
    return value


def _encoded(name: str, image: Any) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise CbdmError(
            f"{name} has no bytes of an image: embed the images in the file, or give image=COLUMN "
            "(--set data.options.image=COLUMN)"
        )
    return content


def _labelling(said: Mapping[str, Any], labels: list[Any]) -> Labelling:
    names = said.get("names")
    if of_lists(labels):
        return from_lists(labels, [*map(str, names)] if isinstance(names, list) else None)
    if not isinstance(names, list) or not all(isinstance(value, int) for value in labels):
        return from_classes(labels)
    return Labelling(torch.tensor([min(label, _INT64) for label in labels]), tuple(map(str, names)))

"""Images from WebDataset tars, streamed: members of one basename are one example."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from cbdm_core.data.archives import members
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.encoded import Encoded
from cbdm_core.data.labelling import Labelling, from_classes
from cbdm_core.data.listed import from_lists, is_listed, of_lists
from cbdm_core.data.pictures import Framing
from cbdm_core.data.places import files_of
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["webdataset", "webdataset_images"]

_IMAGES = ("png", "jpg", "jpeg", "webp")
_LABELS = ("cls", "json")
_MOST_BYTES = 256 << 20


def webdataset(
    *,
    root: str | Path | Sequence[str | Path],
    label: str = "label",
    size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Images and labels from tars whose members `KEY.png` and `KEY.cls`, one after another, are one example.

    The image is `.png`, `.jpg`, `.jpeg` or `.webp`; the label the text of `.cls`, else a value in `.json`. Members of
    other kinds are passed over. Whole numbers are the labels themselves; other text is sorted into classes. A list in
    `.json` says what `from_lists` tells of it.

    Args:
        root: a tar, a folder of tars, a pattern such as `train-*.tar`, or a list of such.
        label: the entry of the JSON object that is the label; a JSON that is no object is the label itself.
        size: pixels of a side, ≥ 1: the shorter side is resized to it and the middle square cut out; None reads images
            as they are, all of one size.
        channels: 1 makes every image grey, 3 makes it RGB; None has one channel if every image is grey.

    Raises:
        CbdmError: no tar, a damaged one, names that lead out of it, an example without image or label, or images of
            different sizes without `size`.
    """
    return webdataset_images(root=root, label=label, size=size, channels=channels).dataset()


def webdataset_images(
    *,
    root: str | Path | Sequence[str | Path],
    label: str = "label",
    size: int | None = None,
    channels: int | None = None,
) -> Encoded:
    """What `webdataset` reads, of the same options, not yet decoded."""
    labels: list[Any] = []

    def images() -> Iterator[tuple[str, bytes]]:
        for tar in files_of(root, ".tar"):
            for key, parts in _examples(tar):
                labels.append(_label(f"{key} of {tar}", parts, label))
                yield _image(f"{key} of {tar}", parts)

    return Encoded(images, lambda: _labelling(labels), Framing(size, channels))


def _labelling(labels: list[Any]) -> Labelling:
    return from_lists(labels) if of_lists(labels) else from_classes(labels)


def _examples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, content by ending) of each example: the key is the name up to the first dot of its last part."""
    read = ((*_split(name), content) for name, content in members(tar, _MOST_BYTES))
    seen: set[str] = set()
    for key, group in groupby(read, key=lambda member: member[0]):
        parts: dict[str, bytes] = {}
        for _, ending, content in group:
            if ending in parts:
                raise CbdmError(f"{tar} has two members {clean_text(key)}.{clean_text(ending)}: keep one")
            parts[ending] = content
        if not parts.keys() & {*_IMAGES, *_LABELS}:
            continue
        if key in seen:
            raise CbdmError(
                f"{tar} has members of {clean_text(key)} in two places: keep those of one example together, as "
                "tar --sort=name does"
            )
        seen.add(key)
        yield clean_text(key), parts
    if not seen:
        raise CbdmError(f"{tar} holds no example: members are called KEY.png and KEY.cls, or KEY.jpg and KEY.json")


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), ending.lower()


def _image(name: str, parts: dict[str, bytes]) -> tuple[str, bytes]:
    there = [ending for ending in _IMAGES if ending in parts]
    if len(there) != 1:
        raise CbdmError(f"{name} has {len(there)} images, of the endings {', '.join(_IMAGES)}: it must have one")
    return f"{name} ({there[0]})", parts[there[0]]


def _label(name: str, parts: dict[str, bytes], entry: str) -> str | list[Any]:
    try:
        if "cls" in parts:
            value: Any = parts["cls"].decode().strip()
        elif "json" in parts:
            value = json.loads(parts["json"])
            value = value.get(entry) if isinstance(value, dict) else value
        else:
            raise CbdmError(f"{name} has no label: add the member .cls or .json")
    except CbdmError:
        raise
    except (ValueError, RecursionError) as error:  # a number of more digits than Python reads is no JSONDecodeError
        raise CbdmError(f"{name} has a label that cannot be read: save it as UTF-8 text or JSON") from error
    if is_listed(value):
        return value
    if type(value) not in (int, str) or value == "":
        raise CbdmError(
            f"{name} has no whole number, text or list of one kind as its label {entry!r}: give label=ENTRY (--set "
            "data.options.label=ENTRY), or write a number, a name, or a list of numbers or of names"
        )
    return str(value)

"""`cbdm data`: which sources there are, what one of them, or a path, holds, and that written to be mapped."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from cbdm_cli import render
from cbdm_cli.config import Data, validated
from cbdm_cli.fetchable import FETCHED
from cbdm_cli.overlay import overlaid
from cbdm_cli.own_data import condition_words, named_path, source_of
from cbdm_cli.trust import quoted
from cbdm_cli.written_data import write_data
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import DATASETS
from cbdm_core.errors import CbdmError

__all__ = ["check_words", "convert_data", "list_sources", "show_data"]

_FEW = 20  # images, below which a class counts as few-shot
_LISTED = 100  # classes, above which only the commonest and the rarest are shown
# What other programs call it, and what does it here; {} is the source or path.
_LIST, _SHOW = "cbdm data alone lists the sources", "cbdm data {} shows what it holds"
_VERIFY, _FETCH = "cbdm data {} reads it whole, verifies what was published and shows it", "cbdm fetch {} downloads it"
_ELSEWHERE = {
    **dict.fromkeys(("list", "ls"), _LIST),
    **dict.fromkeys(("info", "show", "inspect"), _SHOW),
    **dict.fromkeys(("verify", "check"), _VERIFY),
    **dict.fromkeys(("fetch", "download", "get"), _FETCH),
}


def check_words(words: Sequence[str]) -> None:
    """Refuse more than one source or path, and say which command is meant by words such as `list`.

    Args:
        words: as they stand behind `cbdm data`, "" for none.

    Raises:
        CbdmError: `list`, `info`, `verify` or `fetch`, unless a file is called so; or several words.
    """
    first, *more = words
    if first in _ELSEWHERE and (more or not Path(first).exists()):
        asked = quoted(more[0]) if more else "SOURCE"
        meant = _ELSEWHERE[first].format(asked)
        if _ELSEWHERE[first] == _FETCH and more and more[0] not in FETCHED:
            meant = f"cbdm fetch SOURCE downloads one of {', '.join(sorted(FETCHED))}"
        raise CbdmError(f"cbdm data {' '.join(words)} is no command: {meant}")
    if more:
        raise CbdmError(f"cbdm data shows one source or path, and got {' '.join(words)}: name one at a time")


def list_sources() -> None:
    """A table of the sources."""
    rows = [(name, (inspect.getdoc(DATASETS[name]) or "").splitlines()[0]) for name in sorted(DATASETS)]
    render.plain_table(rows, "sources: cbdm data SOURCE, or cbdm data PATH", ("source", "what it reads"))


def show_data(target: str, settings: Sequence[str]) -> None:
    """Read a source or path as training would, and say what is there; archives of published sets are verified so.

    Args:
        target: the name of a source, or a path.
        settings: `data.a=v`, such as `data.options.size=32`.

    Raises:
        CbdmError: neither, another setting, or what the source refuses.
    """
    data = _asked(target, settings)
    full: Dataset = DATASETS.build(data.source, data.options)
    counts = full.counts().tolist()
    there = [n for n in counts if n]
    what = "8-bit images" if full.is_images else "floats"
    order = sorted(range(len(counts)), key=lambda y: -counts[y])
    shown = order if len(order) <= _LISTED else [*order[: _LISTED // 2], *order[-_LISTED // 2 :]]
    rows = [(full.class_names[y], f"{counts[y]:,}") for y in shown]
    render.note(f"{data.source}: {len(full):,} {what} of {'×'.join(map(str, full.shape))}")
    render.plain_table(rows, "", ("class", "n"))
    few = sum(n < _FEW for n in there)
    conditions = "" if full.condition is None else f"; the network is told {condition_words(full)}, not the class"
    render.note(
        f"{len(there)} classes of {min(there):,} … {max(there):,}, {few} of them with fewer than {_FEW}; "
        f"imbalance {min(there) / max(there):.3g}{conditions}"
    )
    render.note(f"content: {full.content_hash()}")


def convert_data(target: str | None, settings: Sequence[str], to: str) -> None:
    """Write a source or path as npy files that training maps.

    Args:
        target: the name of a source, or a path.
        settings: `data.options.a=v`, such as `data.options.size=32`.
        to: a folder that is empty or not there.

    Raises:
        CbdmError: neither, another setting, or what `write_data` refuses.
    """
    if target is None:
        raise CbdmError("--to writes one source or path, and none is named: cbdm data PATH --to FOLDER")
    render.note(write_data(_asked(target, settings), to))


def _asked(target: str, settings: Sequence[str]) -> Data:
    """The [data] of a source's name or a path, with the settings laid over it."""
    named = target in DATASETS
    if not named and not named_path(target).exists():
        raise CbdmError(f"{target!r} is neither a path nor a source: sources are {', '.join(sorted(DATASETS))}")
    table = {"source": target} if named else source_of(Path(target))
    laid = overlaid({"data": table}, None, settings)
    if stray := sorted(laid.keys() - {"data"}):
        raise CbdmError(f"--set {stray[0]}: cbdm data reads data alone, such as --set data.options.size=32")
    data = validated(laid).data
    if tail := sorted(laid["data"].keys() - {"source", "options"}):
        raise CbdmError(
            f"--set data.{tail[0]}: cbdm data reads the whole of a source, of which a training then takes its tail: "
            "give it to cbdm train"
        )
    return data

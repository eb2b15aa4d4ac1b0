"""What the shell offers after an option. Imports no torch, and at the start next to nothing: every command pays it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager

__all__ = [
    "LAWLESS",
    "UNLABELLED",
    "labels",
    "laws",
    "laws_listed",
    "methods",
    "methods_listed",
    "presets",
    "split_words",
]

# Only the classes themselves know, and they need torch; what other distributions register is offered everywhere.
LAWLESS = ("capacity", "ccua", "coral", "ddpm", "h2t", "t2h", "transfer", "transplant")
UNLABELLED = ("affinity", "bank", "combinations", "gaussian", "kde", "knn", "null")


def presets() -> list[str]:
    """The presets that the package carries."""
    from cbdm_cli.preset_files import preset_names

    return preset_names()


def laws() -> list[str]:
    """The laws by name."""
    return _declared("cbdm.priors")


def laws_listed(incomplete: str) -> list[str]:
    """Laws parted by commas: one more after those that are written."""
    return _after(_written(incomplete, ","), laws())


def labels() -> list[str]:
    """What `--labels` takes beside classes: cyclic, and the laws that labels can be drawn from."""
    return ["cyclic", *(law for law in laws() if law not in UNLABELLED)]


def methods(incomplete: str) -> list[str]:
    """A part after what is written up to the last +; after its colon, its law."""
    before = _written(incomplete, "+")
    part, colon, _ = incomplete.removeprefix(before).partition(":")
    if colon:
        return [] if part in LAWLESS else _after(f"{before}{part}:", laws())
    return _after(before, _parts())


def methods_listed(incomplete: str) -> list[str]:
    """Methods parted by commas: one more after those that are written."""
    before = _written(incomplete, ",")
    return _after(before, methods(incomplete.removeprefix(before)))


@contextmanager
def split_words(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Completion in bash of words with a colon: bash parts them there, and takes only what follows the last colon."""
    words = environ.get("COMP_WORDS", "").split("\n")
    if environ.get("_CBDM_COMPLETE") != "complete_bash" or ":" not in words:
        yield
        return
    from contextlib import redirect_stdout
    from io import StringIO

    whole = _joined(words[: int(environ["COMP_CWORD"]) + 1])
    environ.update(COMP_WORDS="\n".join(whole), COMP_CWORD=str(len(whole) - 1))
    before, offered = _written(whole[-1], ":"), StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        sys.stdout.writelines(line.removeprefix(before) for line in offered.getvalue().splitlines(keepends=True))


def _joined(words: Iterable[str]) -> list[str]:
    """Words as they were typed: cbdm, :, null is cbdm:null."""
    whole: list[str] = []
    for word in words:
        if whole and (word == ":" or whole[-1].endswith(":")):
            whole[-1] += word
        else:
            whole.append(word)
    return whole


def _parts() -> list[str]:
    from cbdm_cli.method import BATCH_PARTS, PLAIN

    return [PLAIN, *BATCH_PARTS, *_declared("cbdm.adjustments")]


def _declared(group: str) -> list[str]:
    """The names of an entry-point group, those of other distributions too; a registry would import torch."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group).names)


def _written(text: str, mark: str) -> str:
    """The text up to its last mark, that included; empty where it has none."""
    head, found, _ = text.rpartition(mark)
    return head + found


def _after(before: str, names: Iterable[str]) -> list[str]:
    return [before + name for name in names]

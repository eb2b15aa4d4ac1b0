"""Where the files of a published data set lie: where the user says, else under $CBDM_DATA."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cbdm_core.errors import CbdmError

__all__ = ["files_of", "kept_under", "place_of"]

# Words in the names of files, and the split that each means.
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "dev",
    "eval": "eval",
}


def kept_under(name: str) -> Path | None:
    """$CBDM_DATA/name, or None where the variable is not set or nothing is called so there."""
    kept = os.environ.get("CBDM_DATA")
    place = Path(kept).expanduser() / name if kept else None
    return place if place is not None and place.exists() else None


def place_of(name: str, root: str | Path | None, *, fetched: bool = False) -> Path:
    """The file or folder of a data set.

    Args:
        name: of the data set, and of its folder under $CBDM_DATA.
        root: as the user says; None looks under $CBDM_DATA.
        fetched: whether `cbdm fetch` knows it.

    Raises:
        CbdmError: neither is there.
    """
    place = kept_under(name) if root is None else Path(root).expanduser()
    if place is None:
        loads = f", as cbdm fetch {name} does" if fetched else ""
        raise CbdmError(
            f"the data set {name} needs its files: --set data.options.root=FOLDER, or put them into $CBDM_DATA/{name}"
            f"{loads}"
        )
    if not place.exists():
        raise CbdmError(f"{place} is not there: name the files of {name} by --set data.options.root=FOLDER")
    return place


def files_of(root: str | Path | Sequence[str | Path], ending: str) -> list[Path]:
    """The files that a path, a glob or a list of either names, in the order of their names within each.

    Args:
        root: a file, a folder (its files with that ending, of one split), a pattern with * or ?, or a list of such.
        ending: of the files in a folder, such as ".tar".

    Raises:
        CbdmError: one of them names no file, or a folder has files of several splits, such as train and test.
    """
    found: list[Path] = []
    for one in [root] if isinstance(root, str | Path) else root:
        path = Path(one).expanduser()
        if path.is_file():
            named = [path]
        elif path.is_dir():
            named = _of_one_split(path, sorted(path.glob(f"*{ending}")), ending)
        else:
            named = sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not named:
            raise CbdmError(
                f"{path} names no {ending} file: give a file, a folder, a pattern such as *{ending}, or a list"
            )
        found += named
    if not found:
        raise CbdmError(f"root is an empty list: name one {ending} file or more")
    return found


def _of_one_split(path: Path, files: list[Path], ending: str) -> list[Path]:
    """The files of a folder; a pattern or a list mixes splits on purpose, and a folder would do so unseen."""
    words = [re.split("[^a-z]+", file.name.removesuffix(ending).lower()) for file in files]
    of_each = [frozenset(_SPLITS[word] for word in of if word in _SPLITS) for of in words]
    if len(set(of_each) - {frozenset()}) < 2:
        return files
    first = next(word for file in files for word in re.split("[^A-Za-z]+", file.name) if word.lower() in _SPLITS)
    raise CbdmError(
        f"{path} holds the splits {' and '.join(sorted(frozenset().union(*of_each)))}: name a file, or a subset by "
        f"root='{path}/*{first}*{ending}' (--set data.options.root=…); '{path}/*{ending}' reads all as one"
    )

"""What took long to compute, kept on disk: tensors in a file named by all that they depend on, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.writing import replacing

__all__ = ["DamagedError", "Facts", "cache_path", "default_folder", "read_cached", "write_cached"]


@dataclass(frozen=True)
class Facts:
    """What kept tensors depend on: any difference makes them others. Each kind of file adds its own fields.

    Args:
        version: of the kind's form and making.
        data_hash: `Dataset.content_hash` of the data they come from.
    """

    version: int
    data_hash: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class DamagedError(Exception):
    """A file that is not what its name says; files appear whole, so that it was damaged since."""


def cache_path(folder: Path | str | None, kind: str, facts: Facts) -> Path | None:
    """Where these are kept, or None where there is no place for them.

    Args:
        folder: default `$CBDM_CACHE`, else `$XDG_CACHE_HOME/cbdm`, else `~/.cache/cbdm`.
        kind: the beginning of the file's name.
        facts: the rest of it.
    """
    digest = hashlib.sha256(facts.to_json().encode()).hexdigest()[:16]
    try:
        return (Path(folder) if folder else default_folder()).expanduser() / f"{kind}-{digest}.safetensors"
    except RuntimeError:  # a user without a home
        return None


def default_folder() -> Path:
    """Where files are kept that can be made again: `$CBDM_CACHE`, else `$XDG_CACHE_HOME/cbdm`, else `~/.cache/cbdm`."""
    if named := os.environ.get("CBDM_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cbdm"


def read_cached(path: Path, facts: Facts) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, notes) as `write_cached` took them, or None where no file can be read.

    Raises:
        DamagedError: a file that is not whole, or not of these facts.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            header = json.loads((file.metadata() or {})["cbdm"])
            tensors = {name: file.get_tensor(name) for name in names}
        agrees = (header.pop("facts"), header.pop("checksum")) == (facts.to_json(), _checksum(tensors))
    except OSError:
        return None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(str(path)) from error
    if not agrees:
        raise DamagedError(str(path))
    return tensors, header


def write_cached(
    path: Path, facts: Facts, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None
) -> None:
    """Keep the tensors; a folder that can't be written is no reason to stop.

    Args:
        path: of `cache_path`.
        facts: what the tensors depend on.
        tensors: name → contiguous tensor on the CPU.
        notes: name → what else is to be read with them, anything that JSON takes.
    """
    header = {"facts": facts.to_json(), "checksum": _checksum(tensors), **(notes or {})}
    with suppress(OSError, CbdmError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(dict(tensors), temporary, {"cbdm": json.dumps(header)})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()

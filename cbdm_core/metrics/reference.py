"""Features of the reference, taken once for each data set and convention and kept on disk."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import FeatureExtractor, checksum, default_folder, read_kept
from cbdm_core.writing import replacing

__all__ = ["reference_features"]

VERSION = 1  # of the file: raise it with any change to its form, so that old ones are not read

_PROBES, _TOLERANCE = 16, 0.01  # rows taken anew, and how far they may lie off: devices differ by 1e-3 or so


@dataclass(frozen=True)
class _Facts:
    """What kept features depend on: any difference makes them others."""

    version: int
    data_hash: str
    features: str
    pixels: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def reference_features(
    dataset: Dataset, extractor: FeatureExtractor, *, cache_dir: Path | str | None = None
) -> tuple[Tensor, Tensor]:
    """`extractor(dataset.model_input())`, taken once for each (data, convention) and kept on disk as safetensors.

    What is kept is read only where the data, the conventions, the checksum and the features of 16 rows, taken anew,
    agree. Where only these rows do not, the extractor has changed under its name, and all features are taken anew. A
    folder that can't be read or written is done without. No pickle is read or written.

    Args:
        dataset: the reference.
        extractor: the features; its `convention` is part of the key.
        cache_dir: the folder; default $CBDM_CACHE, else $XDG_CACHE_HOME/cbdm, else ~/.cache/cbdm.

    Returns:
        (N, D) float64 features and (N, K) float64 log-probabilities, on the CPU; K = 0 where there are no classes.

    Raises:
        CbdmError: a kept file that is damaged, or the extractor's own errors.
    """
    pixels = "uint8 / 127.5 - 1" if dataset.is_images else "vectors as they are"
    facts = _Facts(VERSION, dataset.content_hash(), extractor.convention, pixels)
    path = _cache_file(cache_dir, facts)
    kept = path and _read(path, facts, len(dataset))
    if kept and _still_so(kept, dataset, extractor):
        return kept
    features, log_probs = (part.cpu().double() for part in extractor(dataset.model_input()))
    if path:
        _write(path, features, log_probs, facts)
    return features, log_probs


def _cache_file(folder: Path | str | None, facts: _Facts) -> Path | None:
    """Where the features are kept, or None where there is no place for them."""
    digest = hashlib.sha256(facts.to_json().encode()).hexdigest()[:16]
    try:
        return (Path(folder) if folder else default_folder()).expanduser() / f"reference-{digest}.safetensors"
    except RuntimeError:  # a user without a home
        return None


def _read(path: Path, facts: _Facts, count: int) -> tuple[Tensor, Tensor] | None:
    """What the file holds, or None where there is none to read.

    Raises:
        CbdmError: a file that is not what its name says; files appear whole, so that it was damaged since.
    """
    try:
        header, parts = read_kept(path)
        agrees = header == {"facts": facts.to_json(), "checksum": checksum(parts)}
        features, log_probs = parts["features"].double(), parts["log_probs"].double()
    except OSError:
        return None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if not agrees or len(features) != count or len(log_probs) != count:
        raise _damaged(path)
    return features, log_probs


def _damaged(path: Path) -> CbdmError:
    return CbdmError(f"the kept reference features {path} are damaged: delete the file, and they are taken anew")


def _still_so(kept: tuple[Tensor, Tensor], dataset: Dataset, extractor: FeatureExtractor) -> bool:
    """Whether the extractor still gives what is kept, in rows spread over the data set."""
    rows = torch.linspace(0, len(dataset) - 1, min(_PROBES, len(dataset))).round().long()
    features, log_probs = (part.cpu().double() for part in extractor(dataset.model_input(rows)))
    return _close(kept[0][rows], features) and _close(kept[1][rows].exp(), log_probs.exp())


def _close(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and bool((old - new).norm() <= _TOLERANCE * new.norm())


def _write(path: Path, features: Tensor, log_probs: Tensor, facts: _Facts) -> None:
    """Keep the features; a cache that can't be written is no reason to stop."""
    parts = {"features": _compact(features), "log_probs": _compact(log_probs)}
    header = {"facts": facts.to_json(), "checksum": checksum(parts)}
    with suppress(OSError, CbdmError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(parts, temporary, {"cbdm": json.dumps(header)})


def _compact(x: Tensor) -> Tensor:
    """In float32 where nothing is lost by it: most features were computed so."""
    short = x.float()
    return short if torch.equal(short.double(), x) else x.contiguous()

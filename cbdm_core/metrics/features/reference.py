"""Features of the reference, taken once for each data set and convention and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.cache import DamagedError, Facts, cache_path, read_cached, write_cached
from cbdm_core.metrics.features.classifier import FeatureExtractor

__all__ = ["reference_features"]

VERSION = 1  # of the file: raise it with any change to its form, so that old ones are not read

_PROBES, _TOLERANCE = 16, 0.01  # rows taken anew, and how far they may lie off: devices differ by 1e-3 or so


@dataclass(frozen=True)
class _Facts(Facts):
    """What kept features depend on."""

    features: str
    pixels: str


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
        cache_dir: the folder; default `$CBDM_CACHE`, else `$XDG_CACHE_HOME/cbdm`, else `~/.cache/cbdm`.

    Returns:
        (N, D) float64 features and (N, K) float64 log-probabilities, on the CPU; K = 0 where there are no classes.

    Raises:
        CbdmError: a kept file that is damaged, or the extractor's own errors.
    """
    pixels = "uint8 / 127.5 - 1" if dataset.is_images else "vectors as they are"  # units are in the hash
    facts = _Facts(VERSION, dataset.content_hash(), extractor.convention, pixels)
    path = cache_path(cache_dir, "reference", facts)
    kept = path and _read(path, facts, len(dataset))
    if kept and _still_so(kept, dataset, extractor):
        return kept
    features, log_probs = (part.cpu().double() for part in extractor(dataset.model_input()))
    if path:
        write_cached(path, facts, {"features": _compact(features), "log_probs": _compact(log_probs)})
    return features, log_probs


def _read(path: Path, facts: _Facts, count: int) -> tuple[Tensor, Tensor] | None:
    """What the file holds, or None where there is none to read.

    Raises:
        CbdmError: a file that is not what its name says.
    """
    try:
        kept = read_cached(path, facts)
        return kept and _features_of(*kept, count)
    except DamagedError as error:
        raise CbdmError(
            f"the kept reference features {path} are damaged: delete the file, and they are taken anew"
        ) from error


def _features_of(parts: Mapping[str, Tensor], notes: Mapping[str, object], count: int) -> tuple[Tensor, Tensor]:
    if notes or parts.keys() != {"features", "log_probs"} or {len(part) for part in parts.values()} != {count}:
        raise DamagedError("other parts than were kept")
    return parts["features"].double(), parts["log_probs"].double()


def _still_so(kept: tuple[Tensor, Tensor], dataset: Dataset, extractor: FeatureExtractor) -> bool:
    """Whether the extractor still gives what is kept, in rows spread over the data set."""
    rows = torch.linspace(0, len(dataset) - 1, min(_PROBES, len(dataset))).round().long()
    features, log_probs = (part.cpu().double() for part in extractor(dataset.model_input(rows)))
    return _close(kept[0][rows], features) and _close(kept[1][rows].exp(), log_probs.exp())


def _close(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape and bool((old - new).norm() <= _TOLERANCE * new.norm())


def _compact(x: Tensor) -> Tensor:
    """In float32 where nothing is lost by it: most features were computed so."""
    short = x.float()
    return short if torch.equal(short.double(), x) else x.contiguous()

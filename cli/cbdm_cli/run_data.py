"""From a configuration to its data: the balanced set, its long-tailed part, and what samples are held against."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbdm_cli.config import Config, Data, Facts
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.sources import DATASETS
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.recognition import held_out_rows
from cbdm_core.run import Run

__all__ = ["IMPORTED", "ReadData", "known_counts", "load_data", "load_own_data", "load_reference"]

IMPORTED = "none"  # the data source of a run that came from a checkpoint


@dataclass(frozen=True, eq=False)
class ReadData:
    """A balanced set that was read, with what it was read from: it need not be read again.

    Args:
        source: the name of its source.
        options: that the source was given.
        full: what it gave.
    """

    source: str
    options: dict[str, Any]
    full: Dataset

    @classmethod
    def of(cls, data: Data) -> ReadData:
        """What a configuration names, read."""
        return cls(data.source, data.options, DATASETS.build(data.source, data.options))

    def serves(self, data: Data) -> bool:
        """Whether a configuration names the very same."""
        return (self.source, self.options) == (data.source, data.options)


def known_counts(run: Run) -> list[int | None]:
    """The training images of each class; None for each where an import was not told them and wrote one of each."""
    counts = run.counts.tolist()
    unknown = run.config["data"]["source"] == IMPORTED and set(counts) == {1}
    return [None] * len(counts) if unknown else counts


def load_data(config: Config, read: ReadData | None = None) -> tuple[Dataset, Dataset, str]:
    """(the balanced set, its long-tailed part, the split's hash); a run's own units go before those of its data.

    Args:
        config: that names the data.
        read: data that were read before, and are taken where the configuration names the same.

    Raises:
        CbdmError: an imported run, which carries no data, or what the source or the long tail refuses.
    """
    data = config.data
    if data.source == IMPORTED:
        raise CbdmError("an imported run carries no data: cbdm sample works on it, training and evaluation do not")
    full = (read if read is not None and read.serves(data) else ReadData.of(data)).full
    if config.facts is not None and not full.is_images:
        full = replace(full, units=_units_of(config.facts))
    tail, _, split = make_long_tail(
        full,
        profile=data.profile,
        imbalance=data.imbalance,
        n_max=data.n_max,
        counts=data.counts,
        held_out=data.held_out,
        seed=config.seed,
    )
    return full, tail, split


def _units_of(facts: Facts) -> Units | None:
    return None if facts.units is None else Units(facts.units.mean, facts.units.scale)


def load_own_data(path: Path, saved: Config) -> tuple[Dataset, Dataset]:
    """(the balanced set, its long-tailed part) that the run in `path` was trained on.

    Raises:
        CbdmError: they have changed since.
    """
    full, data, split = load_data(saved)
    if saved.facts is None or split != saved.facts.split_hash or full.content_hash() != saved.facts.data_hash:
        raise CbdmError(f"{path}: the data are not those the run was trained on; restore them or train anew")
    return full, data


def load_reference(config: Config, full: Dataset, training: Dataset) -> tuple[Dataset, str]:
    """(what samples are held against, its name in words) by `evaluation.reference`.

    balanced is the full set. held-out is the part "test" of a source that has parts, else those rows of the full set
    that are, byte by byte, no training row. training is the long-tailed set itself.

    Args:
        config: with `data` and `evaluation`.
        full: the balanced set of `load_data`.
        training: its long-tailed part.

    Raises:
        CbdmError: nothing is held out, training saw the test part, or that part is of other examples.
    """
    kind = config.evaluation.reference
    if kind == "balanced":
        if len(training) == len(full):
            return full, "the training set, all of the data"
        return full, "all of the data" if config.data.profile == "held-out" else "the balanced full set"
    if kind == "training":
        own = config.data.profile in ("none", "held-out")
        return training, "the training set" if own else "the long-tailed training set"
    data = config.data
    if "part" in inspect.signature(DATASETS[data.source]).parameters:
        return _test_part(config, full), f"the test part of {data.source}"
    try:
        rows = held_out_rows(full.x, training.x)
    except CbdmError:
        raise CbdmError(
            "evaluation.reference = 'held-out': training has seen every example of the data; take balanced or "
            "training, or hold some out: data.profile=held-out, data.profile=exp with data.imbalance below 1, or "
            "data.counts"
        ) from None
    return full[rows], "the rows of the full set that training has not seen"


def _test_part(config: Config, full: Dataset) -> Dataset:
    data = config.data
    if data.options.get("part") == "test":
        raise CbdmError(
            "evaluation.reference = 'held-out': data.options.part = 'test' is what training saw; leave it out"
        )
    test: Dataset = DATASETS.build(data.source, {**data.options, "part": "test"})
    if (test.shape, test.class_names) != (full.shape, full.class_names):
        raise CbdmError(
            f"the test part of {data.source} has examples {test.shape} in {test.num_classes} classes, the full set "
            f"{full.shape} in {full.num_classes}: take evaluation.reference = 'balanced'"
        )
    return replace(test, units=full.units)

"""The figures of an evaluation, overall, by group and by class, and the groups; none is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["ClassScores", "Report", "Scores", "count_groups", "rank_groups"]


@dataclass(frozen=True)
class Scores:
    """One row of a report; None where there are too few samples or reference examples to say.

    The figure to read for one class is KID, not FID: FID is biased upwards by about D/N, which in a class of few rows
    is most of it, and KID is unbiased at any number of rows and comes with its error.

    Args:
        fid: squared Fréchet distance in the extractor's units, ≥ 0; needs 2 rows on either side, and falls with their
            number, so compare it only between equal `n_samples` and `n_reference`.
        precision: in [0, 1]; needs more than k rows on either side.
        recall: in [0, 1]; needs more than k rows on either side.
        label_accuracy: the fraction of samples that the classifier takes for the class they were asked for; None for
            features that know no classes, and so the Inception Score.
        n_samples: samples judged.
        n_reference: reference examples they were held against.
        kid: kernel distance from all rows, unbiased, so that it may be a little below 0; needs 3 rows on either side.
            Far below 0 (by many errors) it says that samples copy reference rows.
        kid_error: its standard error.
        inception_score: in [1, K], from the classifier's probabilities; overall and by group only, since for one class
            it is highest where the classifier is least sure of it.
        density: ≥ 0; needs more than k rows on either side.
        coverage: in [0, 1]; needs more than k rows on either side.
        f8: of PRD, in [0, 1], weighs recall; None unless asked for. Overall and by group only, and with a row of either
            side for each of the 20 clusters a class, since a class of its own has too few for a histogram.
        f1_8: as `f8`, weighs precision.
        memorised: the share of copies of training examples among otherwise fair samples, ≤ 1, about 0 without copies
            (`Memorisation.copied`, pooled over the classes with training and held-out examples); None without them.
        diversity: the mean distance of samples of one class over that of its reference, 1 as varied; the mean over
            classes with 2 rows on either side.
        memorised_pixels: as `memorised`, with neighbours in pixels instead of features: a sampler may copy in one only.
        authenticity: the mean of `authentic` in these features, each sample by the training examples of its class, of
            which there are 2 or more; 0 for copies, about ½ for a fair sampler.
        further: key → value of the scores registered under "cbdm.scores".
    """

    fid: float | None
    precision: float | None
    recall: float | None
    label_accuracy: float | None
    n_samples: int
    n_reference: int
    kid: float | None = None
    kid_error: float | None = None
    inception_score: float | None = None
    density: float | None = None
    coverage: float | None = None
    f8: float | None = None
    f1_8: float | None = None
    memorised: float | None = None
    diversity: float | None = None
    memorised_pixels: float | None = None
    authenticity: float | None = None
    further: dict[str, float | None] = field(default_factory=dict)

    def value(self, key: str) -> float | None:
        """The score of a key of `known_scores`; None where it is not known."""
        return self.further.get(key) if key not in _FIELDS else getattr(self, key)

    def to_dict(self) -> dict[str, Any]:
        """Key → value, registered scores beside the others."""
        table = asdict(self)
        return table | table.pop("further")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Scores:
        """The scores of `to_dict`; a key that is no field is a registered score's, here or where the file was made.

        Raises:
            TypeError: a field without a default that is missing.
        """
        own = {key: value for key, value in table.items() if key in _FIELDS}
        return cls(**own, further={key: value for key, value in table.items() if key not in _FIELDS})


_FIELDS = {column.name for column in fields(Scores)} - {"further"}


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class, with the number of examples the model was trained on."""

    name: str
    training_count: int
    scores: Scores


@dataclass(frozen=True)
class Report:
    """What `evaluate` found, and what has to be known to read it.

    Args:
        overall: all samples against the whole reference.
        groups: "head", "medium", "tail" (those that have a class), each against the reference of its classes.
        classes: in the order of the labels.
        features: the convention of the features, and of the pixels; compare figures of one convention only.
        note: a caution to print with the figures.
        held_out_accuracy: of the classifier behind `label_accuracy`, which cannot be expected to exceed it.
        k: neighbours of precision, recall, density and coverage.
        by_count: "many", "medium-shot", "few" (those that have a class), as `groups`; empty in files of old versions.
        intervals: "overall" or a group of either kind → "fid", "precision", "recall" → the ends of a 95 % interval;
            empty unless asked for.
    """

    overall: Scores
    groups: dict[str, Scores]
    classes: tuple[ClassScores, ...]
    features: str
    note: str
    held_out_accuracy: float | None
    k: int
    by_count: dict[str, Scores] = field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None, and nothing is NaN."""
        return {
            **asdict(self),
            "overall": self.overall.to_dict(),
            "groups": {name: scores.to_dict() for name, scores in self.groups.items()},
            "by_count": {name: scores.to_dict() for name, scores in self.by_count.items()},
            "classes": [{**asdict(entry), "scores": entry.scores.to_dict()} for entry in self.classes],
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Report:
        """The report of `to_dict`; further keys are left alone, and what old files lack takes its default.

        Raises:
            CbdmError: an entry that is missing or of another form.
        """
        try:
            return cls(
                overall=Scores.from_dict(table["overall"]),
                groups={name: Scores.from_dict(scores) for name, scores in table["groups"].items()},
                classes=tuple(
                    ClassScores(entry["name"], entry["training_count"], Scores.from_dict(entry["scores"]))
                    for entry in table["classes"]
                ),
                by_count={name: Scores.from_dict(scores) for name, scores in table.get("by_count", {}).items()},
                intervals={
                    group: {name: (low, high) for name, (low, high) in found.items()}
                    for group, found in table.get("intervals", {}).items()
                },
                **{name: table[name] for name in ("features", "note", "held_out_accuracy", "k")},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CbdmError(f"this is no evaluation report ({error}): evaluate the run again") from error


def rank_groups(training_counts: Tensor | Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The classes in thirds by frequency rank: the first ⌊K/3⌋ are "head", up to ⌊2K/3⌋ "medium", the rest "tail".

    Args:
        training_counts: (K,) examples of each class; equal counts rank by label.

    Returns:
        Group → its labels, commonest first; a group without a class is left out, so K = 1 has a tail only.
    """
    order = torch.as_tensor(training_counts).argsort(descending=True, stable=True).tolist()
    first, second = len(order) // 3, 2 * len(order) // 3
    groups = {"head": order[:first], "medium": order[first:second], "tail": order[second:]}
    return {name: tuple(labels) for name, labels in groups.items() if labels}


def count_groups(training_counts: Tensor | Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The classes by their number of training examples: > 100 "many", 20 … 100 "medium-shot", < 20 "few".

    Args:
        training_counts: (K,) examples of each class.

    Returns:
        Group → its labels in order; a group without a class is left out.

    Source: Liu et al. 2019 (arXiv 1904.05160), section 4.
    """
    groups: dict[str, list[int]] = {"many": [], "medium-shot": [], "few": []}
    for label, count in enumerate(torch.as_tensor(training_counts).tolist()):
        groups["many" if count > 100 else "medium-shot" if count >= 20 else "few"].append(label)
    return {name: tuple(labels) for name, labels in groups.items() if labels}

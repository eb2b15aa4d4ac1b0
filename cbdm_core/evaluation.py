"""How good are the samples, and for whom: overall, for head, medium and tail, and for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset, to_uint8
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import FeatureExtractor
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.manifold import precision_recall

__all__ = ["ClassScores", "Report", "Scores", "evaluate", "rank_groups"]


@dataclass(frozen=True)
class Scores:
    """One row of a report; None where there are too few samples or reference examples to say.

    Args:
        fid: squared Fréchet distance in the extractor's units, ≥ 0; needs 2 rows on either side, and falls with their
            number, so compare it only between equal `n_samples` and `n_reference`.
        precision: in [0, 1]; needs more than k rows on either side.
        recall: in [0, 1]; needs more than k rows on either side.
        label_accuracy: the fraction of samples that the classifier takes for the class they were asked for.
        n_samples: samples judged.
        n_reference: reference examples they were held against.
    """

    fid: float | None
    precision: float | None
    recall: float | None
    label_accuracy: float | None
    n_samples: int
    n_reference: int


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
        k: neighbours of precision and recall.
    """

    overall: Scores
    groups: dict[str, Scores]
    classes: tuple[ClassScores, ...]
    features: str
    note: str
    held_out_accuracy: float | None
    k: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None, and nothing is NaN."""
        return {**asdict(self), "classes": [asdict(entry) for entry in self.classes]}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Report:
        """The report of `to_dict`; further keys in the table are left alone.

        Raises:
            CbdmError: an entry that is missing or of another form.
        """
        try:
            return cls(
                overall=Scores(**table["overall"]),
                groups={name: Scores(**scores) for name, scores in table["groups"].items()},
                classes=tuple(
                    ClassScores(entry["name"], entry["training_count"], Scores(**entry["scores"]))
                    for entry in table["classes"]
                ),
                **{name: table[name] for name in ("features", "note", "held_out_accuracy", "k")},
            )
        except (KeyError, TypeError, AttributeError) as error:
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


def evaluate(
    samples: Tensor,
    labels: Tensor,
    reference: Dataset,
    classifier: FeatureExtractor,
    training_counts: Tensor | Sequence[int],
    *,
    k: int = 5,
) -> Report:
    """Samples against the balanced set: Fréchet distance, improved precision and recall, and label accuracy.

    Images are judged as a viewer sees them, clipped to [−1, 1] and rounded to 8 bits; `Report.features` says so. The
    samples of a group or a class are those that were asked for its labels, and are held against the reference examples
    of these labels, so that a sample of the wrong class counts against the class it was asked for.

    Args:
        samples: (M, *shape) float in the model's range.
        labels: (M,) long, the class each sample was asked for.
        reference: the balanced full set, not the long-tailed one the model saw.
        classifier: the extractor, of `cached_classifier` or any other.
        training_counts: (K,) examples of each class that the model saw; they rank the classes.
        k: neighbours of precision and recall, ≥ 1.

    Raises:
        CbdmError: samples that are not finite, no sample, shapes or lengths that disagree, labels out of range, k < 1.
    """
    counts = torch.as_tensor(training_counts).cpu()
    samples, labels = samples.detach().cpu(), labels.cpu()
    _check(samples, labels, reference, counts, k)
    fake = _Judged.by(classifier, _as_seen(samples) if reference.is_images else samples.float(), labels)
    real = _Judged.by(classifier, reference.model_input(), reference.y)
    groups = {name: _scores(real.of(chosen), fake.of(chosen), k) for name, chosen in rank_groups(counts).items()}
    classes = tuple(
        ClassScores(name, int(counts[label]), _scores(real.of((label,)), fake.of((label,)), k))
        for label, name in enumerate(reference.class_names)
    )
    features = f"{classifier.convention}, 8-bit images" if reference.is_images else classifier.convention
    return Report(
        _scores(real, fake, k), groups, classes, features, classifier.note, classifier.held_out_accuracy, int(k)
    )


def _check(samples: Tensor, labels: Tensor, reference: Dataset, counts: Tensor, k: int) -> None:
    K = reference.num_classes
    if len(samples) == 0:
        raise CbdmError("there are 0 samples to evaluate: give 1 or more")
    if tuple(samples.shape[1:]) != reference.shape:
        raise CbdmError(
            f"samples of shape {tuple(samples.shape[1:])}, but the reference has {reference.shape}: match them"
        )
    if labels.shape != (len(samples),):
        raise CbdmError(
            f"{len(samples)} samples need {len(samples)} labels, got a label array of {tuple(labels.shape)}"
        )
    if counts.shape != (K,):
        raise CbdmError(f"training counts of shape {tuple(counts.shape)} for {K} classes: give one count per class")
    if k < 1:
        raise CbdmError(f"k must be 1 or more, got {k}")
    bad = int((~torch.isfinite(samples.flatten(1)).all(1)).sum())
    if bad:
        raise CbdmError(
            f"{bad} of {len(samples)} samples hold NaN or infinite values: lower ω, take more sampler steps, or train "
            "longer"
        )
    wrong = labels[(labels < 0) | (labels >= K)]
    if len(wrong):
        raise CbdmError(f"label {int(wrong[0])} is out of range: {K} classes have labels 0 … {K - 1}")


def _as_seen(samples: Tensor) -> Tensor:
    """What is left of images in [−1, 1] after saving them with 8 bits a pixel."""
    return to_uint8(samples).float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class _Judged:
    """Rows as the extractor sees them: features (N, D), labels (N,), and whether the label is the one it would give."""

    features: Tensor
    labels: Tensor
    right: Tensor

    @classmethod
    def by(cls, classifier: FeatureExtractor, x: Tensor, labels: Tensor) -> _Judged:
        features, log_probs = classifier(x)
        return cls(features.cpu(), labels, log_probs.cpu().argmax(1) == labels)

    def of(self, chosen: Sequence[int]) -> _Judged:
        """The rows of these labels."""
        rows = torch.isin(self.labels, torch.tensor(chosen))
        return _Judged(self.features[rows], self.labels[rows], self.right[rows])


def _scores(real: _Judged, fake: _Judged, k: int) -> Scores:
    fewest = min(len(real.features), len(fake.features))
    fid = frechet_distance(real.features, fake.features) if fewest >= 2 else None
    precision, recall = precision_recall(real.features, fake.features, k) if fewest > k else (None, None)
    accuracy = float(fake.right.double().mean()) if len(fake.right) else None
    return Scores(fid, precision, recall, accuracy, len(fake.features), len(real.features))

"""Do generated images help a classifier? Three training sets that differ in nothing but what fills the rare classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.data.dataset import row_digests
from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.classifier import network_outputs, train_network
from cbdm_core.metrics.report import count_groups, rank_groups

__all__ = [
    "ARMS",
    "Recognition",
    "class_accuracy",
    "filling_labels",
    "held_out_rows",
    "predict_held_out",
    "recognition_groups",
    "training_sets",
]

ARMS = ("alone", "oversampled", "filled")


@dataclass(frozen=True)
class Recognition:
    """How well one classifier does, class by class and over groups of classes.

    Args:
        classes: for each class the share of its test examples that are told right; None without a test example.
        groups: "overall", then the rank and count groups → mean over their classes that have a test example, so that
            each class weighs the same however many are left of it; None where none has one.
    """

    classes: tuple[float | None, ...]
    groups: dict[str, float | None]

    @classmethod
    def of(cls, predicted: Tensor, test_y: Tensor, counts: Tensor) -> Recognition:
        """The accuracies of these predictions.

        Args:
            predicted: (M,) long.
            test_y: (M,) long, the true labels.
            counts: (K,) training examples of each class, which make the groups.
        """
        found = class_accuracy(predicted, test_y, len(counts)).tolist()
        groups = {name: _mean([found[label] for label in of]) for name, of in recognition_groups(counts).items()}
        return cls(tuple(None if math.isnan(value) else value for value in found), groups)


def recognition_groups(counts: Tensor) -> dict[str, tuple[int, ...]]:
    """ "overall", "head", "medium", "tail", "many", "medium-shot", "few" → labels; groups without a class left out."""
    return {"overall": tuple(range(len(counts))), **rank_groups(counts), **count_groups(counts)}


def class_accuracy(predicted: Tensor, test_y: Tensor, num_classes: int) -> Tensor:
    """(K,) float64, the share of each class's rows that are predicted right; NaN for a class without a row.

    Args:
        predicted: (M,) long.
        test_y: (M,) long, the true labels.
        num_classes: K.
    """
    right = torch.bincount(test_y[predicted == test_y], minlength=num_classes)
    return right.double() / torch.bincount(test_y, minlength=num_classes)


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def held_out_rows(reference: Tensor | MappedRows, training: Tensor | MappedRows) -> Tensor:
    """(M,) long, the rows of the reference that are, byte by byte, no row of the training set.

    Args:
        reference: (N, …) the balanced set.
        training: (n, …) of the same dtype and shape of one example.

    Raises:
        CbdmError: examples of another kind, or no row left to test on.
    """
    ours, theirs = ((tuple(x.shape[1:]), x.dtype) for x in (reference, training))
    if ours != theirs:
        raise CbdmError(f"the balanced set has examples {ours}, the training set {theirs}: give the subset of one set")
    seen = set(row_digests(training))
    rows = [i for i, digest in enumerate(row_digests(reference)) if digest not in seen]
    if not rows:
        raise CbdmError(
            "no test image is left: the training set holds every image of the balanced set; train a run that leaves "
            "some out, such as one with data.profile=held-out, data.profile=exp and data.imbalance below 1, or "
            "data.counts"
        )
    return torch.tensor(rows)


def filling_labels(counts: Tensor, fill: int | None = None) -> Tensor:
    """(E,) long, the labels of the examples that bring each class up to `fill`, class after class.

    A class with `fill` examples or more gets none; nor does a class without any, of which no model could know.

    Args:
        counts: (K,) training examples of each class.
        fill: N ≥ 1; by default the count of the commonest class.

    Raises:
        CbdmError: N below 1, no class with an example, or none that has fewer.
    """
    if fill is not None and fill < 1:
        raise CbdmError(f"fill = {fill}: it is the number of examples a class is filled up to, 1 or more")
    if not (counts > 0).any():
        raise CbdmError(f"{len(counts)} classes, none with a training example: fill a training set that has 1 or more")
    goal, counts = int(counts.max()) if fill is None else fill, counts.cpu()
    lacking = torch.where(counts > 0, (goal - counts).clamp(min=0), 0)
    if not lacking.any():
        least = int(counts[counts > 0].min())
        raise CbdmError(f"fill = {goal}: each class in training has {least} examples or more; fill up to {least + 1}")
    return torch.arange(len(counts)).repeat_interleave(lacking)


def training_sets(
    x: Tensor, y: Tensor, generated: Tensor, labels: Tensor, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Arm → (examples, labels): the training set, and behind it as many rows in every arm.

    "alone": more passes over the training set as it is, so that no arm trains longer. "oversampled": copies of training
    examples of `labels`, balance without anything new. "filled": the generated examples.

    Args:
        x: (n, …) training examples in the model's range.
        y: (n,) their labels.
        generated: (E, …) generated examples in the model's range.
        labels: (E,) their labels, each of a class with a training example.
        seed: of the choice of copies; each example of a class is copied as often as any other, or once more.

    Raises:
        CbdmError: no training example, examples of another shape, lengths that disagree, or a label without a training
            example.
    """
    if len(x) == 0 or len(y) != len(x):
        raise CbdmError(f"{len(x)} training examples with {len(y)} labels: give 1 or more, and one label each")
    if generated.shape[1:] != x.shape[1:] or len(generated) != len(labels):
        raise CbdmError(
            f"{len(generated)} generated examples of shape {tuple(generated.shape[1:])} with {len(labels)} labels, for "
            f"training examples of shape {tuple(x.shape[1:])}: give one label each, and the same shape"
        )
    again = _around(torch.arange(len(x)), len(labels), seed, "again")
    copies = torch.empty_like(labels)
    for label in labels.unique().tolist():
        places, members = (labels == label).nonzero()[:, 0], (y == label).nonzero()[:, 0]
        if len(members) == 0:
            raise CbdmError(f"label {label} has no training example to copy: fill only classes that have one")
        copies[places] = _around(members, len(places), seed, f"copies/{label}")
    return {
        "alone": (torch.cat([x, x[again]]), torch.cat([y, y[again]])),
        "oversampled": (torch.cat([x, x[copies]]), torch.cat([y, labels])),
        "filled": (torch.cat([x, generated]), torch.cat([y, labels])),
    }


def _around(rows: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """(count,) of the rows in a shuffled order, around and around."""
    order = Draws(seed, 0, rows, "recognition/").uniform(purpose, 1)[:, 0].argsort(stable=True)
    return rows[order][torch.arange(count) % len(rows)]


def predict_held_out(
    x: Tensor, y: Tensor, test_x: Tensor, num_classes: int, *, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """(M,) long, what a small classifier trained on (x, y) takes the test examples for.

    The network and training of `train_classifier`, but on all rows. Initial weights and the order of row numbers are
    functions of the seed and of the number of rows, so that sets of equal length are met in the same order; the global
    random state is as before.

    Args:
        x: (n, …) float32, in the model's range.
        y: (n,) long in [0, K).
        test_x: (M, …) float32.
        num_classes: K.
        seed: of initial weights and batches.
        device: to train on.

    Raises:
        CbdmError: examples of another shape, of more than 3 spatial axes, or not finite, or no row on either side.
    """
    shape = tuple(x.shape[1:])
    if len(x) == 0 or len(test_x) == 0:
        raise CbdmError(f"{len(x)} training and {len(test_x)} test examples: give 1 or more of each")
    if len(y) != len(x) or tuple(test_x.shape[1:]) != shape:
        raise CbdmError(
            f"{len(x)} training examples of shape {shape} with {len(y)} labels, test examples of shape "
            f"{tuple(test_x.shape[1:])}: give one label each, and the same shape"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(test_x).all()):
        raise CbdmError("some training or test examples are NaN or infinite: remove or mend them")
    if int(y.min()) < 0 or int(y.max()) >= num_classes:
        raise CbdmError(
            f"labels go from {int(y.min())} to {int(y.max())}: {num_classes} classes have 0 … {num_classes - 1}"
        )
    network = train_network(x, y, num_classes, torch.Generator().manual_seed(seed), device)
    return network_outputs(network, test_x)[1].argmax(1).cpu()

"""How good are the samples, and for whom: overall, for groups by rank and by training count, and for each class."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset, as_seen, row_digests, to_uint8
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.authenticity import authentic
from cbdm_core.metrics.features.classifier import FeatureExtractor
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.inception_score import inception_score
from cbdm_core.metrics.kernel import kernel_distance
from cbdm_core.metrics.manifold import prdc
from cbdm_core.metrics.memorisation import memorisation, relative_diversity
from cbdm_core.metrics.prd import prd
from cbdm_core.metrics.report import ClassScores, Report, Scores, count_groups, rank_groups
from cbdm_core.metrics.rows import EvaluatedRows, rows_of
from cbdm_core.metrics.scores import Score, known_scores
from cbdm_core.metrics.uncertainty import frechet_interval, precision_recall_intervals

__all__ = ["Copies", "evaluate"]


@dataclass(frozen=True, eq=False)
class Copies:
    """What copies of training examples are looked for by: that training set, and examples of its law it does not hold.

    Args:
        trained: (N, D) float64 features of the training set.
        trained_labels: (N,) long.
        held_out: (H, D) float64 features of rows that differ from all of the training set's; H may be 0, which leaves
            `Scores.memorised` unknown.
        held_out_labels: (H,) long.
        trained_pixels: (N, …) the training set, bytes of images or floats as the model sees them; None leaves
            `Scores.memorised_pixels` unknown.
        held_out_pixels: (H, …) the held-out rows, alike.
    """

    trained: Tensor
    trained_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    trained_pixels: Tensor | None = None
    held_out_pixels: Tensor | None = None

    @classmethod
    def of(
        cls,
        training: Dataset,
        pool: Dataset,
        extractor: FeatureExtractor,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Copies:
        """Features of the training set and of those rows of the pool that it does not hold, byte by byte.

        Args:
            training: what the model was trained on.
            pool: such as the balanced set that the training set was cut from.
            extractor: of the features.
            known: (features, log-probabilities) of the pool; None computes them.

        Raises:
            CbdmError: sets of different examples or classes.
        """
        _check_alike(pool, training)
        seen = set(row_digests(training.x))
        rows = torch.tensor([row not in seen for row in row_digests(pool.x)])
        features, _ = rows_of(known or extractor(pool.model_input()), len(pool))
        trained, _ = extractor(training.model_input())
        pixels = _pixels(training), _pixels(pool, rows)
        return cls(trained.cpu(), training.y, features[rows], pool.y[rows], *pixels)


def evaluate(
    samples: Tensor,
    labels: Tensor,
    reference: Dataset,
    classifier: FeatureExtractor,
    training_counts: Tensor | Sequence[int],
    *,
    k: int = 5,
    training: Dataset | Copies | None = None,
    intervals: int = 0,
    prd_runs: int = 0,
    known: tuple[Tensor, Tensor] | None = None,
) -> Report:
    """Samples against a reference set: Fréchet and kernel distance, the scores of neighbourhoods, and label accuracy.

    Images are judged as a viewer sees them, clipped to [−1, 1] and rounded to 8 bits; `Report.features` says so. Other
    data are judged as floats, in the model's units. The samples of a group or a class are those that were asked for its
    labels, and are held against the reference examples of these labels, so that a sample of the wrong class counts
    against the class it was asked for.

    Args:
        samples: (M, *shape) float in the model's range.
        labels: (M,) long, the class each sample was asked for.
        reference: what the samples are held against, such as the balanced full set; figures of different references
            must not be compared. A class it lacks has no figure of its own, and its samples still count overall.
        classifier: the extractor, of `cached_classifier` or any other.
        training_counts: (K,) examples of each class that the model saw; they rank the classes.
        k: neighbours of precision, recall, density and coverage, ≥ 1.
        training: what the model was trained on, to look for copies of it; the reference rows that differ from all of
            its rows are the held-out set. Or `Copies`, made once, where the reference has no such row or there are
            many evaluations.
        intervals: bootstrap resamples for 95 % intervals of FID, precision and recall, overall and by group, 200 for
            instance; 0 computes none. They are centred on the figure and tell its spread at these numbers of rows, not
            its bias.
        prd_runs: clusterings to average F8 and F1/8 over, 10 in papers; 0 computes none.
        known: (features, log-probabilities) of the reference, of `reference_features`; None computes them.

    Raises:
        CbdmError: samples that are not finite, no sample, shapes or lengths that disagree, labels out of range, k < 1,
            `intervals` 1 or below 0, `prd_runs` below 0.
    """
    counts, samples, labels = torch.as_tensor(training_counts).cpu(), samples.detach().cpu(), labels.cpu()
    _check(samples, labels, reference, counts, k)
    _check_options(intervals, prd_runs)
    outputs = known or classifier(reference.model_input())
    real, fake = EvaluatedRows.of_output(outputs, reference.y), _judged(samples, labels, reference, classifier)
    if isinstance(training, Dataset):
        _check_alike(reference, training)
        training = Copies.of(training, reference, classifier, outputs)
    if training is not None:
        fake = _with_copies(fake, training, to_uint8(samples) if reference.is_images else samples.float())
    everyone = tuple(range(reference.num_classes))

    @cache  # "head" and "many" are often the same classes
    def of(chosen: tuple[int, ...]) -> Scores:
        return _scores(real.of(chosen), fake.of(chosen), k, prd_runs)

    by_rank, by_count = rank_groups(counts), count_groups(counts)
    wide = {"overall": everyone, **by_rank, **by_count} if intervals else {}
    return Report(
        overall=of(everyone),
        groups={name: of(tuple(sorted(chosen))) for name, chosen in by_rank.items()},
        classes=tuple(
            ClassScores(name, int(counts[label]), replace(of((label,)), inception_score=None, f8=None, f1_8=None))
            for label, name in enumerate(reference.class_names)
        ),
        features=f"{classifier.convention}, 8-bit images" if reference.is_images else classifier.convention,
        note=classifier.note,
        held_out_accuracy=classifier.held_out_accuracy,
        k=int(k),
        by_count={name: of(chosen) for name, chosen in by_count.items()},
        intervals={name: _intervals(real.of(of_), fake.of(of_), k, intervals) for name, of_ in wide.items()},
    )


def _judged(samples: Tensor, labels: Tensor, reference: Dataset, classifier: FeatureExtractor) -> EvaluatedRows:
    """Samples of images as they are seen."""
    return EvaluatedRows.by(classifier, as_seen(samples) if reference.is_images else samples.float(), labels)


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


def _check_options(intervals: int, prd_runs: int) -> None:
    if intervals == 1 or intervals < 0:
        raise CbdmError(f"intervals = {intervals}: give 0 for none, or 2 resamples or more; 200 do for 95 %")
    if prd_runs < 0:
        raise CbdmError(f"prd_runs = {prd_runs}: give 0 for none, or 1 or more; papers average 10")


def _check_alike(reference: Dataset, training: Dataset) -> None:
    ours, theirs = ((d.shape, d.x.dtype, d.num_classes) for d in (reference, training))
    if ours != theirs:
        raise CbdmError(
            f"the training set has examples of shape {theirs[0]}, {theirs[1]}, in {theirs[2]} classes, the reference "
            f"{ours[0]}, {ours[1]}, in {ours[2]}: give the subset of the reference that the model saw"
        )


def _with_copies(fake: EvaluatedRows, copies: Copies, pixels: Tensor) -> EvaluatedRows:
    """The samples with what is known of their neighbours, class by class: only there are the two sets of one law."""
    nearer, expected, nearer_pixels = fake.nearer.clone(), fake.expected.clone(), fake.nearer_pixels.clone()
    own = fake.authentic.clone()
    trained, held_out = copies.trained_pixels, copies.held_out_pixels
    for label in fake.labels.unique().tolist():
        rows, ours, theirs = fake.labels == label, copies.trained_labels == label, copies.held_out_labels == label
        if ours.any():
            own[rows] = authentic(fake.features[rows], copies.trained[ours])
        if not (ours.any() and theirs.any()):
            continue
        found = memorisation(fake.features[rows], copies.trained[ours], copies.held_out[theirs])
        nearer[rows], expected[rows] = found.nearer, found.expected
        if trained is not None and held_out is not None:
            of = (part.flatten(1).double() for part in (pixels[rows], trained[ours], held_out[theirs]))
            nearer_pixels[rows] = memorisation(*of).nearer
    return replace(fake, nearer=nearer, expected=expected, nearer_pixels=nearer_pixels, authentic=own)


def _pixels(data: Dataset, rows: Tensor | slice = slice(None)) -> Tensor:
    """Images as bytes, which take a quarter of the room; floats as the model sees them."""
    return data.x[rows] if data.is_images else data.model_input(rows)


def _scores(real: EvaluatedRows, fake: EvaluatedRows, k: int, prd_runs: int) -> Scores:
    x, y = real.features, fake.features
    fewest = min(len(real), len(fake))
    kid, kid_error = kernel_distance(x, y) if fewest >= 3 else (None, None)
    precision, recall, density, coverage = prdc(x, y, k) if fewest > k else (None, None, None, None)
    f8, f1_8 = _prd(real, fake, prd_runs)
    knows = fake.log_probs.shape[1] > 0  # of classes: features from elsewhere do not
    return Scores(
        fid=frechet_distance(x, y) if fewest >= 2 else None,
        precision=precision,
        recall=recall,
        label_accuracy=_mean((fake.log_probs.argmax(1) == fake.labels).double().tolist()) if knows else None,
        n_samples=len(fake),
        n_reference=len(real),
        kid=kid,
        kid_error=kid_error,
        inception_score=inception_score(fake.log_probs).value if len(fake) and knows else None,
        density=density,
        coverage=coverage,
        f8=f8,
        f1_8=f1_8,
        memorised=_memorised(fake.nearer, fake.expected),
        memorised_pixels=_memorised(fake.nearer_pixels, fake.expected),
        authenticity=_mean(fake.authentic[~fake.authentic.isnan()].tolist()),
        diversity=_mean(relative_diversity(x, real.labels, y, fake.labels).values()),
        further={score.key: _further(score, real, fake) for score in known_scores() if score.of is not None},
    )


def _further(score: Score, real: EvaluatedRows, fake: EvaluatedRows) -> float | None:
    """The value of a registered score; a file of results holds no NaN."""
    value = score.of(real, fake) if score.of is not None else None
    if value is not None and not math.isfinite(value):
        raise CbdmError(f"the score {score.key!r} gave {value}: let it give None where it is not defined")
    return None if value is None else float(value)


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _prd(real: EvaluatedRows, fake: EvaluatedRows, runs: int) -> tuple[float | None, float | None]:
    num_classes = len(real.labels.unique())
    if runs == 0 or num_classes < 2 or min(len(real), len(fake)) < 20 * num_classes:
        return None, None
    return prd(real.features, fake.features, num_classes, runs=runs)


def _memorised(nearer: Tensor, expected: Tensor) -> float | None:
    """Σ (nearer − expected) / Σ (1 − expected) over the samples of which it is known."""
    known = ~nearer.isnan()
    if not known.any():
        return None
    return float((nearer[known] - expected[known]).sum() / (1 - expected[known]).sum())


def _intervals(real: EvaluatedRows, fake: EvaluatedRows, k: int, resamples: int) -> dict[str, tuple[float, float]]:
    """Those that are defined."""
    fewest, found = min(len(real), len(fake)), {}
    if fewest >= 2:
        found["fid"] = frechet_interval(real.features, fake.features, resamples, centred=True)
    if fewest > k:
        found["precision"], found["recall"] = precision_recall_intervals(
            real.features, fake.features, k, resamples, centred=True
        )
    return {name: (low, high) for name, (low, high) in found.items()}

"""Reports on samples whose scores are known beforehand."""

import json
from dataclasses import replace

import pytest
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.evaluation import Report, Scores, evaluate, rank_groups
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.manifold import precision_recall

COUNTS = [500, 300, 200, 120, 80, 50, 30, 20, 10, 5]


class Plain:
    """An extractor of vectors as they are; it takes the sign of the first coordinate for the class."""

    convention, note, held_out_accuracy = "plain", "for tests", None

    def __call__(self, x):
        logits = torch.stack([-x[:, 0], x[:, 0]], 1).double()
        return x.double(), logits.log_softmax(1)


@pytest.fixture
def two_classes():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 3, generator=g)
    x[:, 0] = (2 * y - 1) * (x[:, 0].abs() + 0.1)
    return Dataset(x, y, ("minus", "plus"))


@pytest.fixture(scope="module")
def itself(digits, classifier):
    return evaluate(digits.model_input(), digits.y, digits, classifier, COUNTS)


def test_the_data_themselves(digits, classifier, itself):
    assert itself.overall.fid < 1e-3
    assert (itself.overall.precision, itself.overall.recall) == (1.0, 1.0)
    assert itself.overall.label_accuracy > 0.99
    for scores in [*itself.groups.values(), *(entry.scores for entry in itself.classes)]:
        assert scores.fid < 1e-3
        assert (scores.precision, scores.recall) == (1.0, 1.0)
        assert scores.label_accuracy > 0.97
        assert scores.n_samples == scores.n_reference
    assert [entry.training_count for entry in itself.classes] == COUNTS
    assert [entry.name for entry in itself.classes] == list("0123456789")
    assert [entry.scores.n_reference for entry in itself.classes] == digits.counts().tolist()
    assert itself.features == f"classifier/{digits.content_hash()[:8]}, 8-bit images"
    assert itself.note == "not comparable with papers"
    assert itself.held_out_accuracy == classifier.held_out_accuracy


def test_two_labels_exchanged_spoil_these_two_classes(digits, classifier, itself):
    labels = digits.y.clone()
    labels[digits.y == 3], labels[digits.y == 8] = 8, 3
    report = evaluate(digits.model_input(), labels, digits, classifier, COUNTS)
    for label, (entry, before) in enumerate(zip(report.classes, itself.classes, strict=True)):
        if label in (3, 8):
            assert entry.scores.label_accuracy < 0.03
            assert entry.scores.fid > 10
            assert entry.scores.precision < 0.2
        else:
            assert entry.scores == before.scores
    assert report.overall.fid < 1e-3  # which the labels do not enter
    assert report.groups["head"] == itself.groups["head"]  # classes 0, 1, 2


def test_noise_is_worse_than_data(digits, classifier):
    noise = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    report = evaluate(noise, torch.arange(500) % 10, digits, classifier, COUNTS)
    assert report.overall.fid > 20
    assert report.overall.label_accuracy < 0.25


def test_each_row_is_the_metric_of_its_rows(two_classes):
    """Groups and classes against the metrics called by hand on the rows chosen by hand."""
    g = torch.Generator().manual_seed(1)
    samples, labels = torch.randn(50, 3, generator=g), (torch.arange(50) % 5 == 0).long()
    report = evaluate(samples, labels, two_classes, Plain(), [40, 7], k=3)
    chosen = {0: report.classes[0].scores, 1: report.classes[1].scores}
    for label, scores in chosen.items():
        real, fake = two_classes.x[two_classes.y == label], samples[labels == label]
        precision, recall = precision_recall(real, fake, 3)
        accuracy = float(((fake[:, 0] > 0).long() == label).double().mean())
        assert scores.fid == pytest.approx(frechet_distance(real, fake), rel=1e-9)
        assert scores == Scores(scores.fid, precision, recall, accuracy, len(fake), 30)
    assert report.groups == {"medium": chosen[0], "tail": chosen[1]}
    assert report.overall.fid == pytest.approx(frechet_distance(two_classes.x, samples), rel=1e-9)
    assert (report.features, report.note, report.held_out_accuracy, report.k) == ("plain", "for tests", None, 3)


def test_images_are_judged_as_8_bit_pictures(digits, classifier, itself):
    """Less than half a grey level, or more than white: what a viewer does not see is not judged."""
    x = digits.model_input() + 0.49 / 127.5
    assert evaluate(x, digits.y, digits, classifier, COUNTS) == itself
    beyond = torch.where(digits.model_input() == 1, 5.0, digits.model_input())
    assert evaluate(beyond, digits.y, digits, classifier, COUNTS) == itself
    assert evaluate(x + 3 / 127.5, digits.y, digits, classifier, COUNTS).overall.fid > itself.overall.fid


def test_vectors_are_not_clipped(two_classes):
    report = evaluate(two_classes.x + 100, two_classes.y, two_classes, Plain(), [9, 9])
    assert report.overall.fid == pytest.approx(3 * 100**2, rel=1e-5)


def test_too_few_samples_give_none(two_classes):
    samples, labels = torch.ones(4, 3) * torch.arange(1, 5)[:, None], torch.tensor([1, 1, 1, 0])
    report = evaluate(samples, labels, two_classes, Plain(), [9, 3], k=3)
    minus, plus = report.classes[0].scores, report.classes[1].scores
    assert (minus.fid, minus.precision, minus.recall, minus.label_accuracy) == (None, None, None, 0.0)
    assert plus.fid > 0
    assert (plus.precision, plus.recall, plus.label_accuracy) == (None, None, 1.0)
    assert None not in (report.overall.fid, report.overall.precision, report.overall.recall)


def test_a_class_without_samples_or_without_reference(two_classes):
    three = replace(two_classes, class_names=("minus", "plus", "never seen"))
    report = evaluate(two_classes.x[:20], torch.zeros(20, dtype=torch.long), three, Plain(), [9, 3, 0])
    assert report.classes[1].scores == Scores(None, None, None, None, 0, 30)
    assert report.classes[2].scores == Scores(None, None, None, None, 0, 0)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["classes"][2]["scores"]["fid"] is None


def test_json_and_back(itself, two_classes):
    few = evaluate(two_classes.x[:3], two_classes.y[:3], two_classes, Plain(), [1, 2])
    for report in (itself, few):
        text = json.dumps({"seed": 7, **report.to_dict()}, allow_nan=False)
        assert Report.from_dict(json.loads(text)) == report


def test_what_is_no_report_is_refused(itself):
    table = itself.to_dict()
    for broken in ({}, {**table, "overall": {"fid": 1}}, {**table, "groups": []}, {**table, "classes": [{}]}):
        with pytest.raises(CbdmError, match="no evaluation report"):
            Report.from_dict(broken)


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        (COUNTS, {"head": (0, 1, 2), "medium": (3, 4, 5), "tail": (6, 7, 8, 9)}),
        (COUNTS[::-1], {"head": (9, 8, 7), "medium": (6, 5, 4), "tail": (3, 2, 1, 0)}),
        ([5, 9, 5, 5, 9, 1], {"head": (1, 4), "medium": (0, 2), "tail": (3, 5)}),  # ties go by label
        ([7] * 5, {"head": (0,), "medium": (1, 2), "tail": (3, 4)}),
        ([0, 0, 3], {"head": (2,), "medium": (0,), "tail": (1,)}),
        ([3, 8], {"medium": (1,), "tail": (0,)}),
        ([3], {"tail": (0,)}),
    ],
)
def test_groups_by_rank(counts, groups):
    assert rank_groups(torch.tensor(counts)) == groups == rank_groups(counts)
    assert list(rank_groups(counts)) == list(groups)


def bad(samples=None, labels=None, counts=(1, 1), k=5):
    samples = torch.zeros(6, 3) if samples is None else samples
    return samples, torch.zeros(len(samples), dtype=torch.long) if labels is None else labels, counts, k


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (bad(torch.tensor([[0.0] * 3, [torch.nan] * 3, [0, 0, torch.inf]])), "2 of 3 samples hold NaN"),
        (bad(torch.zeros(0, 3)), "0 samples"),
        (bad(torch.zeros(6, 4)), r"shape \(4,\), but the reference has \(3,\)"),
        (bad(labels=torch.zeros(5, dtype=torch.long)), "6 samples need 6 labels"),
        (bad(labels=torch.full((6,), 2)), "label 2 is out of range: 2 classes"),
        (bad(labels=torch.full((6,), -1)), "label -1"),
        (bad(counts=(1, 1, 1)), r"shape \(3,\) for 2 classes"),
        (bad(k=0), "k must be 1 or more, got 0"),
    ],
)
def test_refused(two_classes, case, words):
    samples, labels, counts, k = case
    with pytest.raises(CbdmError, match=words):
        evaluate(samples, labels, two_classes, Plain(), counts, k=k)

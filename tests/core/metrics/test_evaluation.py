"""Reports on samples whose scores are known beforehand."""

import json
from dataclasses import replace

import pytest
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.evaluation import evaluate
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.inception_score import inception_score
from cbdm_core.metrics.kernel import kernel_distance
from cbdm_core.metrics.manifold import prdc
from cbdm_core.metrics.memorisation import relative_diversity
from cbdm_core.metrics.prd import prd
from cbdm_core.metrics.report import Report, Scores
from cbdm_core.metrics.uncertainty import frechet_interval, precision_recall_intervals
from tests.core.metrics.plain import COUNTS, Plain


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
        precision, recall, density, coverage = prdc(real, fake, 3)
        accuracy = float(((fake[:, 0] > 0).long() == label).double().mean())
        assert scores.fid == pytest.approx(frechet_distance(real, fake), rel=1e-9)
        assert scores == Scores(
            scores.fid,
            precision,
            recall,
            accuracy,
            len(fake),
            30,
            *kernel_distance(real, fake),
            density=density,
            coverage=coverage,
            diversity=relative_diversity(real, torch.zeros(30).long(), fake, torch.zeros(len(fake)).long())[0],
        )
    score = [inception_score(Plain()(samples[labels == label])[1]).value for label in (0, 1)]
    expected = [replace(chosen[label], inception_score=score[label]) for label in (0, 1)]
    assert report.groups == {"medium": expected[0], "tail": expected[1]}
    assert report.by_count == {"medium-shot": expected[0], "few": expected[1]}
    assert report.intervals == {}
    assert report.overall.inception_score == pytest.approx(inception_score(Plain()(samples)[1]).value)
    assert report.overall.diversity == pytest.approx((chosen[0].diversity + chosen[1].diversity) / 2)
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
    assert (minus.kid, minus.kid_error, minus.density, minus.diversity) == (None,) * 4
    assert plus.fid > 0
    assert plus.kid_error > 0 and plus.diversity > 0
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
    full = evaluate(
        two_classes.x,
        two_classes.y,
        two_classes,
        Plain(),
        [9, 9],
        training=two_classes[range(20)],
        intervals=3,
        prd_runs=1,
    )
    for report in (itself, few, full):
        text = json.dumps({"seed": 7, **report.to_dict()}, allow_nan=False)
        assert Report.from_dict(json.loads(text)) == report


def test_what_is_no_report_is_refused(itself):
    table = itself.to_dict()
    for broken in (
        {},
        {**table, "overall": {"fid": 1}},
        {**table, "groups": []},
        {**table, "classes": [{}]},
        {**table, "intervals": {"overall": {"fid": [1]}}},
    ):
        with pytest.raises(CbdmError, match="no evaluation report"):
            Report.from_dict(broken)


def test_groups_of_both_kinds_are_the_scores_of_their_classes(digits, classifier, itself):
    assert list(itself.by_count) == ["many", "medium-shot", "few"]
    rows = torch.isin(digits.y, torch.tensor([8, 9])).nonzero()[:, 0]
    few = evaluate(digits.model_input(rows), digits.y[rows], digits[rows], classifier, COUNTS).overall
    # The same rows in smaller batches of the network: its float32 products round otherwise.
    for name, value in vars(few).items():
        assert getattr(itself.by_count["few"], name) == (
            value if value is None else pytest.approx(value, rel=1e-3, abs=1e-3)
        ), name


def test_the_data_themselves_by_the_further_figures(itself):
    rows = [itself.overall, *itself.groups.values(), *itself.by_count.values(), *(c.scores for c in itself.classes)]
    for scores in rows:
        assert scores.kid < -10 * scores.kid_error  # every sample is a copy of a reference row: not independent
        assert scores.coverage == 1.0
        assert scores.density == pytest.approx(1, abs=1e-9)
        assert scores.diversity == pytest.approx(1, rel=1e-9)
        assert (scores.f8, scores.f1_8, scores.memorised) == (None, None, None)
    assert 9.5 < itself.overall.inception_score < 10
    assert 2.8 < itself.groups["head"].inception_score < 3.2
    assert all(entry.scores.inception_score is None for entry in itself.classes)


def test_per_class_kid_does_not_grow_where_samples_are_few(digits, classifier):
    """Real images against others of their class: FID grows as rows get fewer, KID stays 0 within its error."""
    found = []
    for every in (2, 12):
        rows = torch.arange(0, len(digits), every)
        rest = torch.tensor(sorted(set(range(len(digits))) - set(rows.tolist())))
        classes = evaluate(digits.model_input(rows), digits.y[rows], digits[rest], classifier, COUNTS).classes
        found.append([entry.scores for entry in classes])
    fid = [sum(s.fid for s in scores) for scores in found]
    assert fid[1] > 2 * fid[0]
    for scores in found:
        spread = sum(s.kid_error**2 for s in scores) ** 0.5
        assert abs(sum(s.kid for s in scores)) < 4 * spread


def test_intervals_are_those_of_the_rows_of_each_group(two_classes):
    g = torch.Generator().manual_seed(1)
    samples, labels = torch.randn(50, 3, generator=g), (torch.arange(50) % 5 == 0).long()
    report = evaluate(samples, labels, two_classes, Plain(), [400, 7], k=3, intervals=20)
    chosen = {"medium": 0, "tail": 1, "many": 0, "few": 1}
    assert list(report.intervals) == ["overall", *chosen]
    for name, found in report.intervals.items():
        label = chosen.get(name)
        real = two_classes.x if label is None else two_classes.x[two_classes.y == label]
        fake = samples if label is None else samples[labels == label]
        assert found["fid"] == pytest.approx(frechet_interval(real, fake, 20, centred=True), rel=1e-9)
        assert (found["precision"], found["recall"]) == precision_recall_intervals(real, fake, 3, 20, centred=True)
    scores = report.overall
    for name in ("fid", "precision", "recall"):
        low, high = report.intervals["overall"][name]
        assert low <= getattr(scores, name) <= high


def test_intervals_of_too_few_rows_are_left_out(two_classes):
    report = evaluate(two_classes.x[:4], two_classes.y[:4], two_classes, Plain(), [9, 3], k=3, intervals=5)
    assert set(report.intervals["overall"]) == {"fid", "precision", "recall"}
    assert set(report.intervals["tail"]) == {"fid"}


def test_prd_is_of_20_clusters_a_class_where_there_are_rows_for_them(two_classes):
    report = evaluate(two_classes.x, two_classes.y, two_classes, Plain(), [9, 9], prd_runs=2)
    assert (report.overall.f8, report.overall.f1_8) == pytest.approx((1, 1), abs=1e-9)
    half = evaluate(two_classes.x[:45] + 0.4, two_classes.y[:45], two_classes, Plain(), [9, 9], prd_runs=2)
    assert (half.overall.f8, half.overall.f1_8) == prd(two_classes.x, two_classes.x[:45] + 0.4, 2, runs=2)
    few = evaluate(two_classes.x[:39], two_classes.y[:39], two_classes, Plain(), [9, 9], prd_runs=2)
    assert few.overall.f8 is None
    assert all(entry.scores.f8 is None for entry in report.classes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intervals": 1}, "intervals = 1: give 0 for none"),
        ({"intervals": -3}, "intervals = -3"),
        ({"prd_runs": -1}, "prd_runs = -1"),
        ({"training": Dataset(torch.zeros(3, 4), torch.zeros(3).long(), ("a", "b"))}, r"training set has .* \(4,\)"),
        ({"training": Dataset(torch.zeros(3, 3), torch.zeros(3).long(), ("a",))}, "in 1 classes"),
    ],
)
def test_options_refused(two_classes, options, words):
    with pytest.raises(CbdmError, match=words):
        evaluate(two_classes.x, two_classes.y, two_classes, Plain(), [1, 1], **options)


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


@pytest.mark.parametrize("rows", [3, 400])
def test_known_features_must_be_of_the_reference(rows):
    """Those of another set would be taken for its rows."""
    data = digits()[torch.arange(40)]
    known = (torch.zeros(rows, 2, dtype=torch.float64), torch.zeros(rows, 10, dtype=torch.float64))
    with pytest.raises(CbdmError, match=rf"{rows} feature rows and {rows} of probabilities are known of 40 examples"):
        evaluate(data.model_input(), data.y, data, lambda x: known, data.counts(), known=known)

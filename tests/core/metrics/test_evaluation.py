"""Reports on samples whose scores are known beforehand."""

import json
from dataclasses import replace

import pytest
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.authenticity import authentic
from cbdm_core.metrics.evaluation import Copies, evaluate
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.inception_score import inception_score
from cbdm_core.metrics.kernel import kernel_distance
from cbdm_core.metrics.manifold import prdc
from cbdm_core.metrics.memorisation import memorisation, relative_diversity
from cbdm_core.metrics.prd import prd
from cbdm_core.metrics.report import Report, Scores
from cbdm_core.metrics.uncertainty import frechet_interval, precision_recall_intervals

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


def split(two_classes):
    """40 rows of training, 20 of each class; 20 held out, of which 4 are of class 1."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, 3, generator=g)
    y = torch.cat([torch.arange(40) % 2, torch.tensor([0] * 16 + [1] * 4)])
    return Dataset(x, y, two_classes.class_names), torch.arange(40)


def test_memorised_is_pooled_class_by_class(two_classes):
    """Against `memorisation` of each class by hand; the reference is shuffled, and rows are told apart by bytes."""
    whole, seen = split(two_classes)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(4))
    samples = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(50) % 2
    report = evaluate(samples, labels, whole[order], Plain(), [20, 20], training=whole[seen])
    above, below = 0.0, 0.0
    for label, n_held in ((0, 16), (1, 4)):
        training, held = (whole.x[rows][whole.y[rows] == label] for rows in (slice(40), slice(40, 60)))
        found = memorisation(samples[labels == label], training, held)
        assert found.expected == 20 / (20 + n_held)
        assert report.classes[label].scores.memorised == pytest.approx(found.copied, abs=1e-12)
        above += 25 * (found.fraction - found.expected)
        below += 25 * (1 - found.expected)
    assert report.overall.memorised == pytest.approx(above / below)


def test_copies_in_pixels_and_authenticity_by_hand():
    """Images whose features tell nothing of their pixels: copies are seen in the bytes, class by class."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 3, 3), generator=g).to(torch.uint8)
    whole = Dataset(images, torch.arange(40) % 2, ("a", "b"))

    class Sums(Plain):
        def __call__(self, x):
            return super().__call__(x.flatten(1).double()[:, :3])

    training = whole[torch.arange(20)]
    samples, labels = whole.model_input(torch.arange(24)), whole.y[:24]
    report = evaluate(samples, labels, whole, Sums(), [10, 10], training=training)
    for label, entry in enumerate(report.classes):
        pixels = [
            x.flatten(1).double() for x in (images[:24][labels == label], images[label:20:2], images[20 + label :: 2])
        ]
        assert entry.scores.memorised_pixels == pytest.approx(memorisation(*pixels).copied)
        features = Sums()(samples)[0]
        known = authentic(features[labels == label], features[label:20:2])
        assert entry.scores.authenticity == pytest.approx(float(known.mean()))
        assert entry.scores.authenticity <= 2 / 12
    assert evaluate(samples, labels, whole, Sums(), [10, 10]).overall.authenticity is None
    bare = Copies(Sums()(training.model_input())[0], training.y, Sums()(whole.model_input())[0], whole.y)
    assert evaluate(samples, labels, whole, Sums(), [10, 10], training=bare).overall.memorised_pixels is None


def test_copies_made_once_say_the_same_and_do_so_against_any_reference(two_classes):
    """Also where the reference is the training set, which holds nothing out itself."""
    whole, seen = split(two_classes)
    samples = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(50) % 2

    def scores(reference, training):
        return evaluate(samples, labels, reference, Plain(), [20, 20], training=training).overall

    copies = Copies.of(whole[seen], whole, Plain())
    assert copies.trained.shape == (40, 3) and copies.held_out.shape == (20, 3)
    assert scores(whole, copies) == scores(whole, whole[seen])
    assert scores(whole[seen], whole[seen]).memorised is None
    assert scores(whole[seen], copies).memorised == scores(whole, copies).memorised
    assert scores(whole[seen], copies).fid == scores(whole[seen], None).fid
    with pytest.raises(CbdmError, match="the training set has examples of shape"):
        Copies.of(Dataset(torch.zeros(4, 2), torch.arange(4) % 2, whole.class_names), whole, Plain())


def test_a_planted_memoriser_is_flagged_and_held_out_data_are_not(digits, classifier):
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits), generator=g)
    seen, held, fresh = order[:600], order[600:1200], order[1200:]
    reference, training = digits[torch.cat([seen, held])], digits[seen]
    noise = 2 / 127.5 * torch.randn(600, 1, 8, 8, generator=g)
    copies = evaluate(
        digits.model_input(seen) + noise, digits.y[seen], reference, classifier, COUNTS, training=training
    )
    fair = evaluate(digits.model_input(fresh), digits.y[fresh], reference, classifier, COUNTS, training=training)
    assert copies.overall.memorised > 0.95
    assert all(scores.memorised > 0.9 for scores in [*copies.groups.values(), *copies.by_count.values()])
    # 597 samples, each nearer with probability ½: 4 standard errors of 2·fraction − 1 are 0.17.
    assert abs(fair.overall.memorised) < 0.17


def test_memorised_is_none_where_nothing_is_held_out(two_classes):
    """Class 0 entirely in training, class 1 never."""
    training = two_classes[(two_classes.y == 0).nonzero()[:, 0]]
    report = evaluate(two_classes.x, two_classes.y, two_classes, Plain(), [30, 0], training=training)
    assert [entry.scores.memorised for entry in report.classes] == [None, None]
    assert report.overall.memorised is None


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

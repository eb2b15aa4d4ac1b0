"""What a report says of copies of the training set, class by class, planted and not."""

import pytest
import torch

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.authenticity import authentic
from cbdm_core.metrics.evaluation import Copies, evaluate
from cbdm_core.metrics.memorisation import memorisation
from tests.core.metrics.plain import COUNTS, Plain


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

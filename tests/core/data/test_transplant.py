"""The transplanted law against its mean and covariance, exactly: every lender and every image enumerated."""

import pytest
import torch

from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.transplant import Transplant
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.schedules import VP

COUNTS = torch.tensor([40, 30, 4, 1])
LABELS = torch.arange(4).repeat_interleave(COUNTS)


def vectors(seed=0, dim=3):
    generator = torch.Generator().manual_seed(seed)
    means = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]])[:, :dim]
    x = means[LABELS] + torch.randn(len(LABELS), dim, generator=generator)
    return Dataset(x, LABELS, tuple("abcd"))


def covariance(x):
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def enumerated(transplant, label):
    """Every transplanted example of a class: all its images with all residuals of the lenders."""
    data = transplant.dataset
    own, lenders = (data.y == label).nonzero()[:, 0], torch.isin(data.y, transplant.sources).nonzero()[:, 0]
    i, j = torch.meshgrid(own, lenders, indexing="ij")
    return transplant._mixed(data.x[i.flatten()], data.y[i.flatten()], j.flatten()), j.flatten()


@pytest.mark.parametrize("label", [2, 3])
@pytest.mark.parametrize(("rho", "spread"), [(0.5, 0.7), (0.0, 1.0), (1.0, 1.0), (0.3, 0.09)])
def test_mean_and_covariance_are_the_class_mean_and_v_sigma(label, rho, spread):
    """Cov = ρ² S_c (n−1)/n + (v − ρ²(n−1)/n) S_w with unbiased S; with S_c = S_w that is v S_w."""
    data = vectors()
    transplant = Transplant(data, rho=rho, spread=spread, below=20)
    x, lender = enumerated(transplant, label)
    weight = 1 / (2 * COUNTS[data.y[lender]].double())  # a class first, then one of its images
    weight = (weight / weight.sum())[:, None]
    mean = (weight * x).sum(0)
    class_mean, n = data.x[label == LABELS].double().mean(0), int(COUNTS[label])
    torch.testing.assert_close(mean, class_mean, rtol=0, atol=1e-5)
    got = (weight * (x - mean)).T @ (x - mean).double()
    lent = sum(torch.cov(data.x[c == LABELS].double().T) for c in (0, 1)) / 2
    own = covariance(data.x[label == LABELS].double())
    torch.testing.assert_close(got, rho**2 * own + (spread - rho**2 * (n - 1) / n) * lent, rtol=0, atol=1e-5)


def test_below_t0_and_common_classes_stay_and_share_0_changes_nothing():
    data, rows = vectors(), torch.arange(len(LABELS))
    t, draws = torch.linspace(0, 1, len(LABELS)), Draws(0, 0, rows)
    t = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(1))]
    changed = (Transplant(data, t0=0.4)(data.x, data.y, t, draws) != data.x).any(1)
    assert torch.equal(changed, (COUNTS[LABELS] < 20) & (t >= 0.4)) and changed.any()
    assert torch.equal(Transplant(data, share=0.0)(data.x, data.y, t, draws), data.x)


def test_a_single_image_borrows_all_of_its_spread():
    data = vectors()
    x, _ = enumerated(Transplant(data, below=20), 3)
    assert len(x.unique(dim=0)) == 70  # one for each lender


def test_components_change_their_span_alone():
    data = vectors()
    transplant = Transplant(data, components=2, rho=0.0, spread=1.0)
    x, _ = enumerated(transplant, 2)
    basis = transplant.basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), rtol=0, atol=1e-5)
    outside = torch.eye(3) - basis @ basis.T
    own = data.x[LABELS == 2].repeat_interleave(70, 0)
    torch.testing.assert_close(x @ outside, own @ outside, rtol=0, atol=1e-5)
    whole = enumerated(Transplant(data, components=3), 2)[0]
    torch.testing.assert_close(whole, enumerated(Transplant(data), 2)[0], rtol=0, atol=1e-5)


def test_affinity_prefers_lenders_with_a_like_mean():
    """d ∝ exp(−‖x̄_c − x̄_d‖²/(2h²)), h² the median of the four squared distances, by hand."""
    means = torch.tensor([[0.0, 0], [3, 0], [1, 0], [4, 0]])
    data = Dataset(means[LABELS], LABELS, tuple("abcd"))
    law = Transplant(data, source="affinity").source_law
    squared = torch.tensor([[1.0, 4], [16, 1]], dtype=torch.float64)
    torch.testing.assert_close(law[2:], (-squared / (2 * squared.median())).softmax(1))


def test_lenders_are_drawn_by_their_law_and_then_evenly_within_a_class():
    """Frequencies of lending classes and images over 20,000 draws, to four standard errors."""
    data, rows = vectors(), 20_000
    transplant = Transplant(data, source="affinity")
    lender = transplant._lender(torch.full((rows,), 2), Draws(0, 0, torch.arange(rows)))
    law = transplant.source_law[2]
    assert law[0] - law[1] > 0.05
    expected = (law[LABELS.clamp(max=1)] / COUNTS[LABELS]) * (LABELS < 2)
    found = torch.bincount(lender, minlength=len(LABELS)) / rows
    assert (found - expected).abs().max() < 4 * float(expected.max() / rows) ** 0.5
    by_class = torch.bincount(data.y[lender], minlength=2)[:2] / rows
    assert (by_class - law).abs().max() < 4 * (0.25 / rows) ** 0.5


def test_batches_transplant_what_they_drew():
    data = vectors()
    transplant = Transplant(data)
    plain, mixed = Batches(data, 75, seed=1), Batches(data, 75, seed=1, schedule=VP(), transplant=transplant)
    batch, original = mixed.at(4), plain.at(4)
    expected = transplant(original.x_0, original.y, batch.t, Draws(1, 4, batch.rows))
    assert torch.equal(batch.x_0, expected) and not torch.equal(batch.x_0, original.x_0)
    shared = Batches(data, 76, seed=1, schedule=VP(), transplant=transplant)
    halves = [shared.at(5, rank, 2).x_0 for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), shared.at(5).x_0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rho": 1.5}, "rho = 1.5"),
        ({"spread": 0.2}, "spread = 0.2"),
        ({"t0": -1}, "t0 = -1.*in \\[0, 1\\]"),
        ({"spread": 0.1}, "spread = 0.1, it must be 0.25 or more"),
        ({"share": -0.5}, "share = -0.5"),
        ({"below": 1}, "below = 1"),
        ({"source": "nearest"}, "nearest"),
        ({"below": 100}, "none can lend"),
        ({"components": 9}, "components = 9"),
        ({"share": float("nan")}, "share = nan"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(options, named):
    with pytest.raises(CbdmError, match=named) as error:
        enumerated(Transplant(vectors(), **options), 2)
    assert "\n" not in str(error.value)


def test_data_with_other_conditions_are_refused():
    data = Dataset(torch.zeros(75, 2), LABELS, tuple("abcd"), torch.zeros(75, 1))
    with pytest.raises(CbdmError, match="other conditions"):
        Transplant(data)

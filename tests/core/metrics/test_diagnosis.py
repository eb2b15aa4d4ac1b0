"""Networks whose fault is known: one without fault, one that recites its training set, one that answers the mean."""

import json

import pytest
import torch

from cbdm_core.conditions import Condition
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.diagnosis import diagnose, noise_levels
from cbdm_core.metrics.pooled_gaussian import PooledGaussian
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import VP, Cosine, Linear, RectifiedFlow

SCHEDULE, NAMES = VP(), ("common", "rare", "empty")
TIMES = noise_levels(SCHEDULE, 5)
TRUE = GaussianMixtureOracle(
    torch.tensor([[1.0] * 6, [-1.0] * 6, [0.0] * 6]), torch.eye(6).expand(3, 6, 6) * 0.3, torch.ones(3), SCHEDULE
)


def drawn(counts, seed):
    y = torch.arange(3).repeat_interleave(torch.tensor(counts))
    return Dataset(TRUE.sample(Condition.of(y), draws=Draws(seed, 0, torch.arange(len(y)))).float(), y, NAMES)


TRAINING, HELD_OUT = drawn((40, 4, 0), 0), drawn((30, 30, 0), 1)


class Recites(ScoreNetwork):
    """The empirical posterior mean of the training set, class by class: the optimum of a network without limits."""

    def forward(self, x_t, t, c):
        alpha, sigma = (part[:, None].double() for part in SCHEDULE(t))
        x = TRAINING.x.double()
        logits = -(x_t.double()[:, None] - alpha[..., None] * x).square().sum(2) / (2 * sigma**2)
        logits = logits.masked_fill(c.value[:, None] != TRAINING.y, -torch.inf)
        return ((x_t - alpha * (torch.softmax(logits, 1) @ x)) / sigma).to(x_t.dtype)


class Gaussian(ScoreNetwork):
    """The pooled Gaussian's denoiser, as a network, `times` as wrong as it is."""

    def __init__(self, times=1.0):
        super().__init__()
        self.times, self.gaussian = times, PooledGaussian.of(TRAINING.x, TRAINING.y, 3)

    def forward(self, x_t, t, c):
        return self.times * self.gaussian.eps(x_t, c.value, *SCHEDULE(t))


def test_one_that_recites_is_seen_to_have_memorised():
    """At little noise it knows its own images exactly and answers new ones by the nearest of them."""
    times = torch.tensor([0.002, 0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    found = diagnose(Recites(), SCHEDULE, TRAINING, HELD_OUT, times)
    assert found.memorised.against[:2, 0] == pytest.approx([0, 0], abs=1e-6)
    assert found.memorised.beyond_chance()[:2, :3].all()
    nearest = torch.cdist(HELD_OUT.x[HELD_OUT.y == 1], TRAINING.x[TRAINING.y == 1]).min(1).values.square().mean()
    assert float(found.memorised.difference[1, 0] * found.x_0_factor[0]) == pytest.approx(float(nearest), rel=0.02)
    rare = TRAINING.x[TRAINING.y == 1]  # at t = 1 it answers their mean, which is nearer to them than to new ones
    new, seen = ((x - rare.mean(0)).square().sum(1).mean() for x in (HELD_OUT.x[HELD_OUT.y == 1], rare))
    assert float(found.memorised.ratio[1, -1]) == pytest.approx(float(new / seen), rel=0.02)
    assert float(found.effective_number[1, 0]) == pytest.approx(1, abs=1e-3)
    assert float(found.effective_number[1, -1]) == pytest.approx(4, abs=0.01)


def test_the_gaussian_itself_has_no_excess_and_a_worse_one_has():
    found = diagnose(Gaussian(), SCHEDULE, TRAINING, HELD_OUT, TIMES)
    assert torch.equal(found.underfitted.difference[:2], torch.zeros(2, 5).double())
    worse = diagnose(Gaussian(0.9), SCHEDULE, TRAINING, HELD_OUT, TIMES).underfitted
    assert (worse.ratio[:2, -1] > 1.5).all() and worse.beyond_chance()[:2, -1].all()


def test_the_truth_has_memorised_nothing_and_beats_the_fitted_gaussian():
    found = diagnose(TRUE, SCHEDULE, TRAINING, HELD_OUT, TIMES, queries=400)
    assert not found.memorised.beyond_chance(4)[:2].any()
    assert (found.underfitted.difference[:2] < 0).all()


def test_folds_measure_the_gaussian_on_images_it_has_not_seen():
    """Each of four images by a Gaussian of the other three: as good as on new images, within 3 standard errors."""
    found = diagnose(TRUE, SCHEDULE, TRAINING, None, TIMES, folds=4, queries=400)
    assert found.memorised.difference.isnan().all() and found.folds == 4
    seen = diagnose(Gaussian(), SCHEDULE, TRAINING, TRAINING, TIMES, queries=400).underfitted.error
    assert (found.underfitted.against[:2] > seen[:2]).all()
    x = TRAINING.x.double()
    alpha, sigma = SCHEDULE(TIMES)
    rare = (TRAINING.y == 1).nonzero()[:, 0]
    left_out = [x[rare[rare != i]].mean(0) - x[i] for i in rare]  # at t → 1 the answer is the mean of the others
    known = float(torch.stack(left_out).square().sum(1).mean())
    assert float(found.underfitted.against[1, -1] * found.x_0_factor[-1]) == pytest.approx(known, rel=0.05)
    assert float(alpha[-1]) < 0.02 < float(sigma[-1])


def test_groups_leave_out_classes_without_images():
    found = diagnose(TRUE, SCHEDULE, TRAINING, HELD_OUT, TIMES).memorised
    group, alone = found.over((1, 2)), found.over((1,))
    assert torch.equal(group.ratio, alone.ratio) and torch.equal(group.ratio, found.ratio[1])
    both = found.over((0, 1))
    assert torch.allclose(both.difference, found.difference[:2].mean(0))
    assert torch.allclose(both.standard_error, found.standard_error[:2].square().sum(0).sqrt() / 2)


def test_plain_values():
    table = diagnose(TRUE, SCHEDULE, TRAINING, HELD_OUT, TIMES).to_dict()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["training_counts"] == [40, 4, 0] and table["held_out_counts"] == [30, 30, 0]
    eps, x_0 = table["eps_error"], table["x_0_error"]
    assert eps["memorised"][0][2] == pytest.approx(eps["held_out"][0][2] - eps["training"][0][2])
    alpha, sigma = SCHEDULE(TIMES)
    assert x_0["gaussian"][1][1] == pytest.approx(eps["gaussian"][1][1] * float(sigma[1] / alpha[1]) ** 2)
    assert eps["held_out"][2] == [None] * 5


def test_noise_levels_lie_in_the_domain_and_on_the_table():
    assert noise_levels(Linear(), 10).tolist() == [(50 + 100 * i) / 1000 for i in range(10)]
    assert noise_levels(Linear(steps=3), 3).tolist() == [1 / 3, 2 / 3, 1.0]
    assert noise_levels(RectifiedFlow(), 1).tolist() == pytest.approx([0.5])
    levels = noise_levels(Cosine(), 4)
    assert levels.diff() == pytest.approx([0.998 / 4] * 3) and float(levels[0]) == pytest.approx(0.001 + 0.998 / 8)
    with pytest.raises(CbdmError, match="0 noise levels"):
        noise_levels(VP(), 0)
    with pytest.raises(CbdmError, match="schedule's steps"):
        noise_levels(Linear(steps=3), 4)


@pytest.mark.parametrize(
    ("held_out", "folds", "words"),
    [
        (None, 0, "folds = 0"),
        (HELD_OUT, 3, "which tell more"),
        (Dataset(torch.zeros(1, 6), torch.tensor([0]), ("a",)), 0, "in 1 classes"),
    ],
)
def test_refused(held_out, folds, words):
    with pytest.raises(CbdmError, match=words):
        diagnose(TRUE, SCHEDULE, TRAINING, held_out, TIMES, folds=folds)

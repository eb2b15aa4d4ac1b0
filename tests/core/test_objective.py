"""Label drop, loss weights, and the way from a batch to its named losses."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from cbdm_core.adjustment import DenoisingLoss, PriorAdjustment, add_term, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import Constant, MinSNR
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.objective import Objective, drop_condition
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from tests.priors.steps import TableNetwork, make_step

ROWS = 20_000


def draws(rows=ROWS, *, step=0, seed=11):
    return Draws(seed, step, torch.arange(rows))


def labels(rows=ROWS):
    return Condition.of(torch.arange(rows) % 7, augment=torch.ones(rows, 2))


class Zero(ScoreNetwork):
    """ε̂ = 0, and what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x_t, t, c):
        self.asked.append((x_t, t, c))
        return torch.zeros_like(x_t)

    def with_features(self, x_t, t, c):
        return self(x_t, t, c), x_t.flatten(1) * 2


class Features(PriorAdjustment):
    """The one row-wise mean of the features, so that a test sees whether they came."""

    needs_features = True

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, step):
        return add_term(self.inner(step), "features", step.features.mean(1))


class Passing(PriorAdjustment):
    """The inner one's terms, unchanged."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, step):
        return self.inner(step)


# Label drop


def test_label_drop_hides_the_row_and_keeps_its_label():
    c = labels()
    dropped = drop_condition(c, draws(), probability=0.3)
    assert torch.equal(dropped.value, c.value) and torch.equal(dropped.augment, c.augment)
    assert c.present.all(), "the condition that was handed in must not change"


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.9])
def test_label_drop_by_row_has_its_probability(probability):
    hidden = ~drop_condition(labels(), draws(), probability=probability).present
    assert binomtest(int(hidden.sum()), ROWS, probability).pvalue > 1e-3


def test_label_drop_by_row_is_a_function_of_the_row():
    whole = drop_condition(labels(), draws(), probability=0.5).present
    some = torch.tensor([3, 19_000, 5])
    part = drop_condition(labels()[some], draws()[some], probability=0.5).present
    assert torch.equal(part, whole[some])


def test_label_drop_by_batch_tosses_one_coin_a_step():
    tosses = [drop_condition(labels(5), draws(5, step=s), probability=0.3, per="batch").present for s in range(2000)]
    assert all(p.all() or not p.any() for p in tosses)
    assert binomtest(sum(not bool(p.any()) for p in tosses), 2000, 0.3).pvalue > 1e-3


def test_label_drop_by_batch_is_the_same_on_every_process():
    for step in range(50):
        here, there = (
            drop_condition(labels(4), Draws(1, step, torch.arange(4) + first), probability=0.5, per="batch").present
            for first in (0, 4)
        )
        assert torch.equal(here, there)


@pytest.mark.parametrize("per", ["row", "batch"])
def test_label_drop_at_its_ends(per):
    assert drop_condition(labels(), draws(), probability=0, per=per).present.all()
    assert not drop_condition(labels(), draws(), probability=1, per=per).present.any()


def test_label_drop_never_shows_what_was_hidden():
    hidden = labels().null()
    assert not drop_condition(hidden, draws(), probability=0.1).present.any()


@pytest.mark.parametrize("probability", [-0.1, 1.5, math.nan])
def test_label_drop_refuses_what_is_no_probability(probability):
    with pytest.raises(CbdmError, match=r"probability in \[0, 1\]"):
        drop_condition(labels(3), draws(3), probability=probability)


def test_label_drop_refuses_another_unit():
    with pytest.raises(CbdmError, match=r"unknown label drop 'rows': did you mean 'row'\? allowed: batch, row"):
        drop_condition(labels(3), draws(3), per="rows")


# Loss weights


def test_min_snr_is_the_quotient_of_its_paper():
    """min(SNR, γ)/SNR, on both sides of SNR = γ and at SNR = 0, where it is 1."""
    alpha = torch.tensor([0.999, 0.98, 0.6, 0.0], dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    snr = [float(a**2 / s**2) for a, s in zip(alpha, sigma, strict=True)]
    expected = [min(v, 5.0) / v if v else 1.0 for v in snr]
    assert expected[0] < 0.1 and expected[2] == 1
    torch.testing.assert_close(MinSNR()(alpha, sigma), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_min_snr_refuses_a_cap_that_is_none(gamma):
    with pytest.raises(CbdmError, match="min-snr needs gamma > 0"):
        MinSNR(gamma)


def test_denoising_loss_is_the_weighted_mean_square_of_a_row():
    table = torch.tensor([[1.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    step = make_step(TableNetwork(table), Condition.of([0]), torch.tensor([[3.0, -2.0]], dtype=torch.float64))
    assert DenoisingLoss()(step)["denoising"].tolist() == [10.0]  # (4 + 16)/2
    # α = 0.6, σ = 0.8: SNR = 0.5625
    assert DenoisingLoss(MinSNR(0.28125))(step)["denoising"].tolist() == pytest.approx([5.0], rel=1e-14)
    assert DenoisingLoss(Constant())(step)["denoising"].tolist() == [10.0]


def test_squares_are_summed_in_float32_under_reduced_precision():
    """At 2⁻⁷ apart the bfloat16 square of the mean over 1000 entries would stand still; here it is exact."""
    a, b = torch.ones(2, 1000, dtype=torch.bfloat16), torch.full((2, 1000), 1 + 2**-7, dtype=torch.bfloat16)
    value = mean_squared(a, b)
    assert value.dtype == torch.float32 and value.tolist() == [2.0**-14, 2.0**-14]


# Objective


def test_objective_adds_the_noise_of_the_process():
    """With ε̂ = 0 the loss is the mean square of ε = (x_t − α_t x_0)/σ_t of what the network was shown."""
    network, x_0 = Zero(), torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schedule = Linear(steps=20)
    terms = Objective(Process(schedule), network, DenoisingLoss(), drop=0)(x_0, labels(6), draws(6))
    x_t, t, c = network.asked[0]
    alpha_t, sigma_t = (v[:, None] for v in schedule(t))
    eps = (x_t - alpha_t * x_0) / sigma_t
    torch.testing.assert_close(terms["denoising"], eps.square().mean(1), rtol=1e-9, atol=1e-12)
    assert c.present.all()


def test_time_noise_and_label_drop_share_no_number():
    """Each is drawn for a purpose of its own: they are uncorrelated over the rows, in size as in sign."""
    network = Zero()
    Objective(Process(Linear(steps=1000)), network, DenoisingLoss(), drop=0.5)(torch.zeros(ROWS, 2), labels(), draws())
    x_t, t, c = network.asked[0]
    eps = x_t.double() / Linear(steps=1000)(t)[1][:, None]
    together = torch.stack([t, c.present.double(), eps[:, 0], eps[:, 0].abs(), eps[:, 1], eps[:, 1].abs()])
    apart = torch.corrcoef(together).fill_diagonal_(0)
    apart[2:4, 2:4] = apart[4:, 4:] = 0  # a number and its own size
    assert float(apart.abs().max()) < 4 / math.sqrt(ROWS)


def test_objective_drops_labels_before_the_network_sees_them():
    network = Zero()
    objective = Objective(Process(Linear(steps=20)), network, DenoisingLoss(), drop=0.5)
    objective(torch.zeros(64, 2), labels(64), draws(64))
    expected = drop_condition(labels(64), draws(64), probability=0.5).present
    assert torch.equal(network.asked[0][2].present, expected) and 0 < int(expected.sum()) < 64


def test_objective_drops_the_whole_batch_when_told():
    network = Zero()
    objective = Objective(Process(Linear(steps=20)), network, DenoisingLoss(), drop=0.5, drop_per="batch")
    for step in range(20):
        objective(torch.zeros(8, 2), labels(8), draws(8, step=step))
    shown = [c.present for _, _, c in network.asked]
    assert all(p.all() or not p.any() for p in shown) and len({bool(p[0]) for p in shown}) == 2


def test_features_are_computed_when_a_part_inside_wants_them():
    network = Zero()
    objective = Objective(Process(Linear(steps=20)), network, Passing(Features(DenoisingLoss())), drop=0)
    terms = objective(torch.zeros(4, 3), labels(4), draws(4))
    torch.testing.assert_close(terms["features"], 2 * network.asked[0][0].mean(1))
    assert len(network.asked) == 1


def test_features_are_refused_by_a_network_without():
    network = TableNetwork(torch.zeros(8, 3))
    with pytest.raises(CbdmError, match="TableNetwork has no features"):
        Objective(Process(Linear(steps=20)), network, Features(DenoisingLoss()), drop=0)(
            torch.zeros(4, 3), labels(4), draws(4)
        )


def test_a_wrapped_adjustment_is_part_of_the_module():
    """The optimiser, the checkpoint and DDP see what an inner adjustment learns."""
    inner = DenoisingLoss()
    inner.learned = torch.nn.Parameter(torch.zeros(1))
    objective = Objective(Process(Linear(steps=20)), Zero(), Passing(inner))
    assert [name for name, _ in objective.named_parameters()] == ["adjustment.inner.learned"]
    assert objective.adjustment.inner is inner


def test_a_step_may_be_cut_by_rows():
    table = torch.arange(16, dtype=torch.float64).reshape(8, 2)
    step = make_step(TableNetwork(table), labels(6), torch.ones(6, 2, dtype=torch.float64))
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(DenoisingLoss()(step[rows])["denoising"], DenoisingLoss()(step)["denoising"][rows])
    assert torch.equal(step[rows].draws.uniform("u", 1), step.draws.uniform("u", 1)[rows])


def test_conditions_with_and_without_augmentation_do_not_join():
    with pytest.raises(CbdmError, match="cannot be joined"):
        Condition.cat([labels(2), Condition.of([1])])
    joined = Condition.cat([labels(2), labels(3).null()])
    assert joined.value.tolist() == [0, 1, 0, 1, 2] and joined.present.tolist() == [True, True, False, False, False]

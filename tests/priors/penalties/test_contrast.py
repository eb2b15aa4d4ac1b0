"""The contrastive penalties against double loops, cases by hand, and what their memory holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from cbdm_core.adjustment import DenoisingLoss, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.mlp import MLP
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_priors.laws.counts import Null, Uniform
from cbdm_priors.penalties.balancing import ClassBalancing
from cbdm_priors.penalties.contrast import Alignment, Separation, SupervisedContrast, supervised_contrast
from cbdm_priors.penalties.penalty import constant
from tests.priors.steps import LawStub, TableNetwork, make_step

TABLE = torch.tensor([[1.0, 2.0], [0.0, 4.0], [-1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
COUNTS = [400, 90, 3]
TIMES = torch.tensor([0.2, 0.5, 1.0, 0.7], dtype=torch.float64)


class FeatureNetwork(TableNetwork):
    """A table for ε̂, and features that are linear in x_t plus a row for what is shown."""

    def __init__(self, table, size=3):
        super().__init__(table)
        random = torch.Generator().manual_seed(0)
        self.inward = nn.Parameter(torch.randn(table.shape[1], size, generator=random).double())
        self.shift = nn.Parameter(torch.randn(len(table), size, generator=random).double())

    def with_features(self, x_t, t, c):
        null = len(self.table) - 1
        told = torch.where(c.present, c.value, torch.full_like(c.value, null))
        return self(x_t, t, c), x_t @ self.inward + self.shift[told]


def a_step(labels, present=None, features=None, t=None, seed=0):
    """A step of FeatureNetwork at times TIMES with random x_t, and its own features unless some are given."""
    labels = torch.as_tensor(labels)
    present = torch.ones(len(labels), dtype=torch.bool) if present is None else torch.tensor(present)
    noise = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed)).double()
    t = TIMES[: len(labels)] if t is None else t
    network = FeatureNetwork(TABLE)
    step = make_step(network, Condition(labels, present), noise, t=t, seed=seed)
    if features is None:
        features = network.with_features(step.x_t, step.t, step.c)[1]
    return replace(step, features=features)


def coral(size=3, projection=4, **options):
    torch.manual_seed(1)
    return SupervisedContrast(DenoisingLoss(), COUNTS, size, **{"projection": projection, **options}).double()


def identity_head(adjustment):
    """The head says the features themselves, so that z is the unit vector of what the step holds."""
    with torch.no_grad():
        adjustment.head.weight.copy_(torch.eye(*adjustment.head.weight.shape))
        adjustment.head.bias.zero_()
    return adjustment


def naive_supcon(z, labels, others, other_labels, temperature):
    """Khosla et al. 2020, eq. 2, written out."""
    rows, names = [*z, *others], [*labels.tolist(), *other_labels.tolist()]
    losses = []
    for i in range(len(z)):
        A = [a for a in range(len(rows)) if a != i]
        P = [p for p in A if names[p] == names[i]]
        total = sum(math.exp(float(rows[i] @ rows[a]) / temperature) for a in A)
        logs = [math.log(math.exp(float(rows[i] @ rows[p]) / temperature) / total) for p in P]
        losses.append(-sum(logs) / len(P) if P else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


# CORAL


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=7),
    other_labels=st.lists(st.integers(0, 2), max_size=4),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 100),
)
def test_supcon_is_its_double_loop(labels, other_labels, temperature, seed):
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(labels) + len(other_labels), 3, generator=random).double()
    z, others = torch.nn.functional.normalize(rows, dim=1).split([len(labels), len(other_labels)])
    y, other_y = torch.tensor(labels), torch.tensor(other_labels, dtype=torch.long)
    ours = supervised_contrast(z, y, others, other_y, temperature=temperature)
    torch.testing.assert_close(ours, naive_supcon(z, y, others, other_y, temperature), rtol=1e-11, atol=1e-11)


def test_coral_by_hand():
    """z = e1, e1, e2, −e1 with labels 0, 0, 1, 1 and τ = 1, whatever the lengths of the features are."""
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [-0.5, 0.0]], dtype=torch.float64)
    adjustment = identity_head(coral(size=2, projection=2, temperature=1.0, strength=0.7, decay=0.4))
    e = math.e
    supcon = [math.log(e + 1 + 1 / e) - 1, math.log(e + 1 + 1 / e) - 1, math.log(3), math.log(1 + 2 / e)]
    expected = 0.7 * torch.exp((1 - TIMES) / 0.4) * torch.tensor(supcon, dtype=torch.float64)
    torch.testing.assert_close(
        adjustment(a_step([0, 0, 1, 1], features=features))["coral"], expected, rtol=1e-12, atol=0
    )


def test_coral_leaves_out_rows_that_see_the_null():
    """The others get what they get in a batch without them, even when their features are not numbers."""
    adjustment = coral()
    whole = a_step([0, 0, 1, 0], present=[True, True, True, False])
    spoilt = whole.features.detach().clone()
    spoilt[3] = math.nan
    term = adjustment(replace(whole, features=spoilt))["coral"]
    three = adjustment(whole[torch.arange(3)])["coral"]
    assert term[3] == 0 and term[0] > 0 and torch.equal(term[:3], three)
    weights = tuple(adjustment.head.parameters())
    gradients = [torch.autograd.grad(value.sum(), weights) for value in (term, three)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("labels", "present"), [([1], [True]), ([0, 0, 1], [False] * 3), ([0, 1, 2], [True] * 3), ([0, 0], [True, False])]
)
def test_coral_of_rows_without_a_positive_is_0_and_so_is_its_gradient(labels, present):
    adjustment, step = coral(), a_step(labels, present)
    term = adjustment(step)["coral"]
    assert term.tolist() == [0.0] * len(labels)
    term.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in adjustment.head.parameters())


def test_coral_moves_the_network_and_its_head_in_full_precision_under_autocast():
    step = a_step([0, 0, 1, 1])
    adjustment = coral(strength=1.0).float()
    rough = replace(step, features=step.features.to(torch.bfloat16).float())
    exact = adjustment(rough)["coral"]
    with torch.autocast("cpu", torch.bfloat16):
        term = adjustment(rough)["coral"]
    assert torch.equal(term, exact)
    term.sum().backward()
    assert step.network.inward.grad.abs().sum() > 0 and adjustment.head.weight.grad.abs().sum() > 0


def test_the_memory_gives_the_rarest_class_a_positive():
    """Alone in its batch it has none; what was seen of it one step earlier is one, and not what is seen now."""
    without, adjustment = coral(), coral(bank=4, rare=20)
    first, second = a_step([0, 2, 0], seed=1), a_step([0, 2, 0], seed=2)
    assert adjustment(first)["coral"][1] == 0
    term = adjustment(second)["coral"]
    assert without(second)["coral"][1] == 0 and term[1] > 0
    z, old = adjustment.project(second), adjustment.project(first)[1:2]
    supcon = naive_supcon(z.detach(), second.c.value, old.detach(), torch.tensor([2]), 0.1)
    expected = 0.5 * torch.exp((1 - TIMES[:3]) / 0.3) * supcon
    torch.testing.assert_close(term.detach(), expected, rtol=1e-11, atol=1e-11)
    (gradient,) = torch.autograd.grad(term[1], [second.features])
    assert 0 < float(gradient[1].abs().sum()) < math.inf


def test_the_memory_holds_the_last_of_each_rare_class_and_no_other():
    adjustment = coral(bank=3, rare=90)  # classes 1 (90 images) and 2 (3 images) are rare
    seen = {1: [], 2: []}
    for seed, (labels, present) in enumerate(
        [([1, 2, 0, 1], [True] * 4), ([0, 1, 1, 0], [True, False, True, True]), ([1, 0, 0, 1], [True] * 4)]
    ):
        step = a_step(labels, present, seed=seed)
        adjustment(step)
        for row, label in enumerate(labels):
            if label in seen and present[row]:
                seen[label].append(adjustment.project(step)[row].detach())
    assert len(seen[1]) == 5 and adjustment.filled.tolist() == [3, 1]
    for kept, label in zip(adjustment.memory, (1, 2), strict=True):
        last = seen[label][::-1][:3]
        torch.testing.assert_close(kept[: len(last)], torch.stack(last), rtol=1e-15, atol=1e-16)
    assert (adjustment.memory[1, 1:] == 0).all() and not adjustment.memory.requires_grad


def test_the_memory_learns_in_training_only():
    adjustment = coral(bank=2).eval()
    adjustment(a_step([2, 2]))
    assert adjustment.filled.tolist() == [0]
    adjustment.train()(a_step([2, 2]))
    assert adjustment.filled.tolist() == [2]


def test_the_memory_survives_a_checkpoint_bit_for_bit():
    one, two = coral(bank=2), coral(bank=2)
    for seed in range(2):
        one(a_step([2, 0, 1], seed=seed))
    step = a_step([2, 0, 1], seed=9)
    assert two.eval()(step)["coral"][0] == 0
    two.load_state_dict(load(save(one.state_dict())))
    assert torch.equal(two.eval()(step)["coral"], one.eval()(step)["coral"]) and two(step)["coral"][0] > 0
    assert not [name for name in coral().state_dict() if not name.startswith("head.")]


# CCUA


def naive_crowding(z, temperature):
    z = [v / v.norm() for v in z]
    value = []
    for i in range(len(z)):
        near = [math.exp(float(z[i] @ z[j]) / temperature) for j in range(len(z)) if j != i]
        value.append(math.log(sum(near) / len(near)))
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("repulsion", "temperature"), [(1.0, 0.1), (0.3, 0.7)])
def test_ccua_is_its_double_loop(repulsion, temperature):
    present = torch.tensor([True, True, False, True])
    step = a_step([0, 1, 2, 0], present.tolist())
    adjustment = Alignment(DenoisingLoss(), strength=2.0, repulsion=repulsion, temperature=temperature)
    null = step.x_t @ step.network.inward + step.network.shift[-1]
    distance = mean_squared(step.eps_hat, TABLE[-1:].expand(4, 2))
    expected = 2.0 * TIMES * (distance + repulsion * naive_crowding(null.detach(), temperature)) * present
    torch.testing.assert_close(adjustment(step)["ccua"], expected, rtol=1e-11, atol=1e-12)


def test_ccua_draws_both_outputs_together_and_null_features_apart():
    step = a_step([0, 0, 0, 0])
    Alignment(DenoisingLoss(), repulsion=0.0, time_weight=constant)(step)["ccua"].sum().backward()
    pull = step.network.table.grad
    torch.testing.assert_close(pull[0], 4 * (TABLE[0] - TABLE[-1]), rtol=1e-13, atol=0)
    torch.testing.assert_close(pull[-1], -pull[0], rtol=1e-13, atol=0)
    apart = Alignment(DenoisingLoss(), temperature=1.0, time_weight=constant)

    def crowding():
        return naive_crowding(step.network.with_features(step.x_t, step.t, step.c.null())[1].detach(), 1.0).sum()

    before = crowding()
    (gradient,) = torch.autograd.grad(apart(step)["ccua"].sum(), [step.network.inward])
    with torch.no_grad():
        step.network.inward -= 1e-3 * gradient
    assert crowding() < before


def test_ccua_of_one_row_has_no_repulsion_and_needs_no_features_without_one():
    one = a_step([1])
    expected = TIMES[:1] * mean_squared(TABLE[1:2], TABLE[-1:])
    torch.testing.assert_close(Alignment(DenoisingLoss())(one)["ccua"], expected, rtol=1e-15, atol=0)
    featureless = make_step(TableNetwork(TABLE), Condition.of([1]), torch.zeros(1, 2).double(), t=TIMES[:1])
    term = Alignment(DenoisingLoss(), repulsion=0.0)(featureless)["ccua"]
    torch.testing.assert_close(term, expected, rtol=1e-15, atol=0)
    with pytest.raises(CbdmError, match="has no features"):
        Alignment(DenoisingLoss())(featureless)


def test_ccua_is_finite_in_full_precision_under_autocast():
    network = MLP((6,), 3, width=8)
    objective = Objective(Process(Linear(steps=50)), network, Alignment(DenoisingLoss()))
    x_0 = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    draws = a_step([0, 1, 2, 0]).draws
    draws = replace(draws, rows=torch.arange(5))
    c = Condition.of([0, 1, 2, 0, 0])
    exact = objective(x_0, c, draws)["ccua"]
    with torch.autocast("cpu", torch.bfloat16):
        term = objective(x_0, c, draws)["ccua"]
    assert term.dtype == torch.float32
    torch.testing.assert_close(term, exact, rtol=0.05, atol=0.1)


# DiffROP


def separation(law, **options):
    return Separation(DenoisingLoss(), law, **{"strength": 1.0, **options})


@pytest.mark.parametrize("margin", [0.5, 3.0, 100.0])
def test_diffrop_is_its_loop(margin):
    present = [True, True, True, False]
    labels, others = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    step = a_step(labels, present)
    expected = []
    for i in range(4):
        distance = float(((TABLE[labels[i]] - TABLE[others[i]]) ** 2).mean())
        counts = present[i] and labels[i] != others[i]
        expected.append(0.3 * float(TIMES[i]) * max(0.0, margin - distance) if counts else 0.0)
    term = separation(LawStub(others), strength=0.3, margin=margin)(step)["diffrop"]
    torch.testing.assert_close(term, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_diffrop_pushes_as_cbdm_with_both_halves_pulls():
    """Below the margin its gradient is minus that of ClassBalancing with γ = 1; beyond it there is none."""
    others = LawStub(torch.tensor([1, 1, 0, 2]))
    gradients = []
    for adjustment in (separation(others, margin=100.0), ClassBalancing(DenoisingLoss(), others, gamma=1.0)):
        step = a_step([0, 1, 2, 0])
        name = list(adjustment(step))[-1]
        adjustment(step)[name].sum().backward()
        gradients.append(step.network.table.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], -gradients[1], rtol=1e-13, atol=1e-14)
    step = a_step([0, 1, 2, 0])
    separation(others, margin=1e-3)(step)["diffrop"].sum().backward()
    assert (step.network.table.grad == 0).all()


def test_diffrop_under_the_null_law_pushes_from_the_unconditional():
    step = a_step([0, 1, 2, 0])
    distance = mean_squared(TABLE[step.c.value], TABLE[-1:].expand(4, 2))
    term = separation(Null(COUNTS), margin=40.0)(step)["diffrop"]
    torch.testing.assert_close(term, TIMES * (40.0 - distance), rtol=1e-13, atol=0)


def test_diffrop_draws_by_its_own_name_and_skips_a_forward_that_says_nothing():
    law = LawStub(torch.tensor([0, 1, 2, 0]))
    step = a_step([0, 1, 2, 0])
    calls = len(step.network.calls)
    term = separation(law)(step)["diffrop"]
    assert term.tolist() == [0.0] * 4 and len(step.network.calls) == calls and law.seen[0].scope == "diffrop/"


# What they share


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: Alignment(DenoisingLoss(), **options),
        lambda **options: separation(LawStub(torch.tensor([1, 2, 0, 2])), margin=5.0, **options),
        coral,
    ],
    ids=["ccua", "diffrop", "coral"],
)
def test_every_kth_step_is_unbiased(make):
    step = a_step([0, 1, 2, 0])
    name = make().term
    plain = make()(step)[name]
    sparse = make(every=3)
    terms = [sparse(replace(step, draws=step.draws.at(number)))[name] for number in range(4, 7)]
    assert plain.abs().sum() > 0
    torch.testing.assert_close(sum(terms) / 3, plain, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: SupervisedContrast(inner, COUNTS, 8, strength=0.0, bank=4),
        lambda inner: Alignment(inner, strength=0.0),
        lambda inner: Separation(inner, Uniform(COUNTS), strength=0.0),
    ],
    ids=["coral", "ccua", "diffrop"],
)
def test_at_strength_0_it_is_the_inner_one_bit_for_bit(wrap):
    found = []
    for adjustment in (DenoisingLoss(), wrap(DenoisingLoss())):
        torch.manual_seed(0)
        network: ScoreNetwork = MLP((6,), 3, width=8)
        objective = Objective(Process(Linear(steps=50)), network, adjustment).double()
        x_0 = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
        terms = objective(x_0, Condition.of([0, 1, 2, 2]), a_step([0, 0, 0, 0]).draws)
        sum(term.mean() for term in terms.values()).backward()
        found.append((terms, [p.grad for p in network.parameters()]))
        assert not adjustment.wants_features()
    (plain, plain_gradients), (ours, our_gradients) = found
    assert ours.keys() == plain.keys() and torch.equal(ours["denoising"], plain["denoising"])
    assert all(torch.equal(a, b) for a, b in zip(our_gradients, plain_gradients, strict=True))


def test_refuses_what_does_not_fit():
    inner = DenoisingLoss()
    for make, message in [
        (lambda: coral(temperature=0.0), "the temperature of coral must be a number above 0, got 0.0"),
        (lambda: coral(decay=-1.0), "the decay of coral"),
        (lambda: coral(projection=0), "projection must be a whole number"),
        (lambda: coral(bank=-1), "the bank and rare of coral"),
        (lambda: Alignment(inner, temperature=math.inf), "the temperature of ccua"),
        (lambda: Alignment(inner, repulsion=-1.0), "the repulsion of ccua must be a number of 0 or more, got -1.0"),
        (lambda: Separation(inner, Uniform(COUNTS), margin=0.0), "the margin of diffrop"),
        (lambda: coral()(replace(a_step([0, 0]), features=None)), "coral needs features"),
        (lambda: coral()(replace(a_step([0, 0]), c=Condition.of(torch.rand(2, 3)))), "coral compares classes"),
    ]:
        with pytest.raises(CbdmError, match=message):
            make()

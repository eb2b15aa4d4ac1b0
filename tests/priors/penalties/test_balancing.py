"""The CBDM term: its value by hand, its strength, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cbdm import ClassBalancing, Null, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import MinSNR
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_priors.laws.affinity import Affinity
from cbdm_priors.laws.counts import Fixed
from cbdm_priors.laws.vectors import Gaussian
from cbdm_priors.penalties.other_conditions import drawn_conditions
from tests.priors.steps import LawStub, TableNetwork, make_step

TABLE = torch.tensor([[1.0, 2.0], [0.0, 4.0], [-1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
OTHERS = torch.tensor([1, 1, 0])
TIMES = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
# mean squared differences of rows (0, 1), (1, 1), (2, 0) of TABLE: (1 + 4)/2, 0, (4 + 4)/2
DISTANCE = torch.tensor([2.5, 0.0, 4.0], dtype=torch.float64)


def a_step(present=(True, True, True)):
    c = Condition(LABELS, torch.tensor(present))
    return make_step(TableNetwork(TABLE), c, torch.zeros(3, 2, dtype=torch.float64), t=TIMES)


def balancing(law=None, inner=None, **options):
    return ClassBalancing(inner or DenoisingLoss(), law or LawStub(OTHERS), **options)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 3.0])
def test_value_by_hand(gamma):
    terms = balancing(tau=2.0, gamma=gamma)(a_step())
    torch.testing.assert_close(terms["balancing"], 2.0 * TIMES * (1 + gamma) * DISTANCE, rtol=1e-15, atol=0)
    torch.testing.assert_close(
        terms["denoising"], torch.tensor([2.5, 8.0, 0.5], dtype=torch.float64), rtol=1e-15, atol=0
    )


def test_rows_that_see_no_condition_get_0():
    term = balancing()(a_step(present=(False, True, True)))["balancing"]
    torch.testing.assert_close(term, torch.tensor([0.0, 0.0, 1.25 * 4.0], dtype=torch.float64), rtol=1e-15, atol=0)


def test_rows_that_see_no_condition_get_0_though_dropout_differs():
    """Between two passes dropout moves the null prediction too; that must not pull."""

    class Restless(TableNetwork):
        def forward(self, x_t, t, c):
            self.p = 0.5  # says that it has dropout, so that rows with c' = c are asked too
            return super().forward(x_t, t, c) + len(self.calls)

    c = Condition(LABELS, torch.tensor([False, True, False]))
    step = make_step(Restless(TABLE), c, torch.zeros(3, 2, dtype=torch.float64), t=TIMES)
    term = balancing()(step)["balancing"]
    assert term[0] == 0 and term[1] > 0 and term[2] == 0


def test_a_batch_dropped_whole_costs_no_forward_pass():
    step = a_step(present=(False, False, False))
    term = balancing()(step)["balancing"]
    assert term.tolist() == [0.0, 0.0, 0.0] and len(step.network.calls) == 1


def test_null_law_compares_with_the_null_branch():
    step = a_step()
    term = balancing(Null([1, 1, 1]), tau=1.0, gamma=0.0)(step)["balancing"]
    # rows 0, 1, 2 of TABLE against its last: (16 + 9)/2, (25 + 1)/2, (36 + 25)/2
    torch.testing.assert_close(term, TIMES * torch.tensor([12.5, 13.0, 30.5], dtype=torch.float64), rtol=1e-15, atol=0)


def test_strength_follows_the_weight_of_the_denoising_loss():
    """With w(t) = min(1, γ σ²/α²) at α = 0.6, σ = 0.8 and γ = 0.36 every term is multiplied by 0.64."""
    weighted = balancing(inner=DenoisingLoss(MinSNR(0.36)))(a_step())
    plain = balancing()(a_step())
    for name in ("denoising", "balancing"):
        torch.testing.assert_close(weighted[name], 0.64 * plain[name], rtol=1e-14, atol=0)


def test_tau_0_is_the_inner_loss_and_asks_nothing():
    step = a_step()
    terms = balancing(tau=0.0)(step)
    assert terms.keys() == {"denoising"} and len(step.network.calls) == 1
    assert torch.equal(terms["denoising"], DenoisingLoss()(step)["denoising"])


@pytest.mark.parametrize(("gamma", "graph"), [(0.0, False), (0.25, True)])
def test_gamma_0_keeps_no_graph_of_the_second_pass(gamma, graph):
    step = a_step()
    term = balancing(gamma=gamma)(step)["balancing"]
    assert [grad for _, grad in step.network.calls] == [True, graph]
    assert term.requires_grad


def test_no_graph_is_built_where_the_caller_wants_none():
    with torch.no_grad():
        step = a_step()
        term = balancing()(step)["balancing"]
    assert [grad for _, grad in step.network.calls] == [False, False] and not term.requires_grad


def test_the_law_draws_under_its_own_scope():
    """Its numbers must not be those that the noise or the times were made of."""
    law, step = LawStub(OTHERS), a_step()
    balancing(law)(step)
    assert law.seen[0].scope == "balancing/" and step.draws.scope == ""


def test_the_same_term_twice_is_refused():
    with pytest.raises(CbdmError, match="'balancing' is there already"):
        balancing(inner=balancing())(a_step())


@pytest.mark.parametrize(
    ("name", "value"), [("tau", -1.0), ("gamma", -0.1), ("tau", float("inf")), ("gamma", float("nan"))]
)
def test_refuses_a_strength_that_is_none(name, value):
    with pytest.raises(CbdmError, match=f"{name} must be a number of 0 or more"):
        ClassBalancing(DenoisingLoss(), Uniform([1, 1]), **{name: value})


class _Watching(ConditionPrior):
    def __init__(self):
        super().__init__()
        self.seen = []

    def sample(self, c, *, draws):
        return c

    def observe(self, c, loss):
        self.seen.append((c, loss))


def test_a_law_is_told_the_denoising_loss_while_training_only():
    law = _Watching()
    step = make_step(TableNetwork(torch.zeros(3, 2)), Condition.of(torch.tensor([0, 2])), torch.ones(2, 2))
    balancing = ClassBalancing(DenoisingLoss(), law)
    balancing(step)
    ((c, loss),) = law.seen
    assert torch.equal(c.value, step.c.value) and not loss.requires_grad
    torch.testing.assert_close(loss, torch.ones(2, dtype=loss.dtype))
    balancing.eval()(step)
    assert len(law.seen) == 1


LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def exact(gamma, law=LAW):
    """Σ_y' π_y' (1 + γ) d(y, y') for rows 0, 1, 2, from the table."""
    square = (TABLE[:3, None] - TABLE[None, :3]).square().mean(-1)
    return (1 + gamma) * square @ law


def test_all_draws_are_the_exact_mean_over_the_law():
    for gamma in (0.0, 0.25):
        term = balancing(Fixed([1, 1, 1], *LAW.tolist()), draws="all", gamma=gamma)(a_step())["balancing"]
        torch.testing.assert_close(term, TIMES * exact(gamma), rtol=1e-14, atol=0)


def test_all_draws_ask_only_for_what_the_law_draws_and_what_differs():
    step = a_step()
    balancing(Fixed([1, 1, 1], 0.5, 0.0, 0.5), draws="all")(step)
    asked = [c.value.tolist() for c, _ in step.network.calls[1:]]
    assert asked == [[0, 0], [2, 2]], "rows 1, 2 under label 0, rows 0, 1 under label 2, none under label 1"


def test_all_draws_in_float32_where_no_row_has_a_label():
    """A label of none of the rows is asked for all of them, another for some; laws' weights are float64."""
    exact = balancing(Uniform([4, 4, 4]), draws="all")(a_step())["balancing"]
    step = make_step(TableNetwork(TABLE.float()), Condition.of(LABELS % 2), torch.zeros(3, 2), t=TIMES)
    term = balancing(Uniform([4, 4, 4]), draws="all")(step)["balancing"]
    assert term.dtype == torch.float32
    torch.testing.assert_close(term[:2].double(), exact[:2], rtol=1e-6, atol=0)


def test_all_draws_under_an_affinity_weigh_each_row_by_its_own_law():
    table = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    term = balancing(Affinity.of_table(table), draws="all", gamma=0.0)(a_step())["balancing"]
    square = (TABLE[:3, None] - TABLE[None, :3]).square().mean(-1)
    torch.testing.assert_close(term, TIMES * (table * square).sum(1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("draws", [1, 2, 3, 7])
def test_fewer_draws_are_unbiased_for_the_mean_over_the_law(draws):
    """Over 6,000 rows of one step, to 4 standard errors."""
    rows = 6000
    c = Condition.of(torch.full((rows,), 2))
    step = make_step(TableNetwork(TABLE), c, torch.zeros(rows, 2, dtype=torch.float64))
    law = Fixed([1, 1, 1], *LAW.tolist())
    term = balancing(law, draws=draws, time_weight="constant", gamma=0.0)(step)["balancing"].detach()
    error = 4 * float(term.std()) / rows**0.5 + 1e-12
    assert abs(float(term.mean()) - float(exact(0.0)[2])) < error
    assert len(step.network.calls) == 1 + draws


def test_draws_are_without_replacement_where_the_law_allows_it():
    """m = 4 of 8 labels, uniform: no row is asked twice for one label."""
    rows = 200
    step = make_step(
        TableNetwork(torch.zeros(9, 2).double()), Condition.of(torch.zeros(rows).long()), torch.zeros(rows, 2)
    )
    drawn = torch.stack([o.value for o, _ in drawn_conditions(Uniform([1] * 8), step, 4, "balancing")], 1)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert len({tuple(sorted(row)) for row in drawn.tolist()}) > 1


def test_a_law_without_a_list_is_drawn_from_independently():
    law = Gaussian(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    step = replace(a_step(), c=Condition.of(torch.zeros(3, 2)))
    drawn = [other.value for other, weight in drawn_conditions(law, step, 3, "x") if weight == 1 / 3]
    assert len(drawn) == 3 and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(CbdmError, match=r'draws = "all" needs a law with a list of conditions, and Gaussian has none'):
        balancing(law, draws="all")


def test_rows_against_themselves_cost_nothing_without_dropout():
    step = a_step()
    balancing()(step)  # OTHERS = 1, 1, 0 for labels 0, 1, 2: row 1 is its own other
    assert [c.value.tolist() for c, _ in step.network.calls] == [[0, 1, 2], [1, 0]]


class Noisy(ScoreNetwork):
    """A label's row of the table, through dropout."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(TABLE.clone())
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_t, t, c):
        return self.dropout(self.table[c.value])


def noisy_objective(dropout, law=None, **options):
    process = Process(Linear(steps=20))
    adjustment = balancing(law or LawStub(LABELS), dropout=dropout, **options)
    return Objective(process, Noisy(), adjustment, drop=0.0)


def run(objective, seed=0):
    torch.manual_seed(seed)
    return objective(torch.zeros(3, 2, dtype=torch.float64), Condition.of(LABELS), Draws(0, 0, torch.arange(3)))


def test_shared_masks_leave_no_distance_between_a_row_and_itself():
    assert run(noisy_objective("shared"))["balancing"].tolist() == [0.0, 0.0, 0.0]
    assert any(run(noisy_objective("independent"), seed)["balancing"].any() for seed in range(5))


def test_shared_masks_are_those_of_the_first_forward():
    """Each coordinate that a mask leaves is doubled, so that the distance is 4 × that of the kept coordinates."""
    objective = noisy_objective("shared", LawStub(OTHERS), gamma=0.0, time_weight="constant")
    outputs = []
    objective.network.register_forward_hook(lambda m, i, output: outputs.append(output.detach()))
    term = run(objective)["balancing"]
    kept = (outputs[0] != 0) | (outputs[1] != 0)
    expected = (4 * kept * (TABLE[LABELS] - TABLE[OTHERS]).square()).mean(1)
    torch.testing.assert_close(term.detach(), expected, rtol=1e-14, atol=0)


def test_shared_masks_draw_no_number_more():
    """The generator stands where one forward left it, so that what comes after does not notice."""
    torch.manual_seed(0)
    network = Noisy()
    network(torch.zeros(3, 2), torch.zeros(3), Condition.of(LABELS))
    after_one = torch.rand(4)
    run(noisy_objective("shared", LawStub(OTHERS)))
    assert torch.equal(torch.rand(4), after_one)


def test_what_shared_masks_cannot_do_is_refused():
    with pytest.raises(CbdmError, match=r"shared dropout needs the whole batch, got fraction = 0.5"):
        balancing(dropout="shared", fraction=0.5)
    with pytest.raises(CbdmError, match=r"unknown dropout 'sharde': did you mean 'shared'"):
        balancing(dropout="sharde")
    with pytest.raises(CbdmError, match="needs the whole batch of an Objective"):
        balancing(dropout="shared")(a_step())


def unet_objective(recompute, K=3, drop=0.3, **options):
    torch.manual_seed(0)
    network = UNet((1, 8, 8), K, width=8, multipliers=[1, 2], attention=[1], blocks=1, dropout=0.3, groups=4).double()
    with torch.no_grad():  # the last layer starts at 0, under which no mask shows
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    options = {"draws": "all", "time_weight": "constant", "recompute": recompute, **options}
    return Objective(Process(Linear(steps=20)), network, balancing(Uniform([9] * K), **options), drop=drop)


def backward(objective, K=3, B=8):
    """The terms and the gradient of one step, and where dropout's generator stands after it."""
    x_0 = torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(2)
    terms = objective(x_0, Condition.of(torch.arange(B) % K), Draws(0, 0, torch.arange(B)))
    after = torch.get_rng_state()
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    return terms, [p.grad for p in objective.parameters() if p.grad is not None], after


@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": "shared"}, {"draws": 2}, {"draws": 1, "fraction": 0.5}, {"gamma": 1.0}],
    ids=lambda options: "-".join(map(str, options.values())) or "all",
)
def test_passes_done_again_have_the_same_masks(options):
    """In float64 terms and gradients agree to 1e-12 of the largest, under dropout; and no number more is drawn."""
    plain, plain_gradients, plain_after = backward(unet_objective(False, **options))
    again, gradients, after = backward(unet_objective(True, **options))
    assert plain["balancing"].any()
    assert torch.equal(plain_after, after) and len(plain_gradients) == len(gradients)
    for name, term in plain.items():
        torch.testing.assert_close(again[name], term, rtol=1e-12, atol=0)
    largest = max(float(g.abs().max()) for g in plain_gradients)
    for one, other in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * largest)


def saved_bytes(objective, K):
    """Of what the forward pass keeps for the backward one, beside the weights."""
    own, saved = {p.untyped_storage().data_ptr() for p in objective.parameters()}, {}

    def keep(value):
        if (place := value.untyped_storage()).data_ptr() not in own:
            saved[place.data_ptr()] = value, place.nbytes()  # the tensor too, or its place is given away
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        backward(objective, K)
    return sum(count for _, count in saved.values())


def test_passes_done_again_keep_what_one_pass_keeps():
    """Ten labels of a U-Net keep eleven times what the first pass keeps, or little more than once."""
    first = saved_bytes(unet_objective(False, 10, drop=0.0, tau=0.0), 10)
    kept, again = (saved_bytes(unet_objective(recompute, 10, drop=0.0), 10) for recompute in (False, True))
    assert 10 * first < kept < 12 * first and again < 1.3 * first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0.0, "recompute": True}, "gamma = 0, whose further passes keep nothing: leave recompute out"),
        ({"recompute": "yes"}, "recompute must be true or false, got 'yes'"),
    ],
)
def test_a_recompute_that_is_none_is_refused(options, words):
    with pytest.raises(CbdmError, match=words):
        balancing(**options)


@pytest.mark.parametrize("draws", [0, -1, 1.5, "al", True])
def test_draws_that_are_none_are_refused(draws):
    with pytest.raises(CbdmError, match=r"draws must be 1, 2, 3, …"):
        balancing(draws=draws)

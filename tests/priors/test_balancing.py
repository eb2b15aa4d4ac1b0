"""The CBDM term: its value by hand, its strength, and what it costs."""

from __future__ import annotations

import pytest
import torch

from cbdm_core.denoising import DenoisingLoss, MinSNR
from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import Condition, ConditionPrior
from cbdm_priors import ClassBalancing, Null, Uniform
from cbdm_priors.balancing import TIME_WEIGHTS, constant, linear, named_time_weight, published
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


def test_time_weights():
    t = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)
    assert torch.equal(linear(t), t) and constant(t).tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(
        published(50)(t), torch.tensor([0, 24, 49], dtype=torch.float64) / 50, rtol=0, atol=1e-16
    )


def test_time_weights_by_name():
    t = torch.tensor([0.5], dtype=torch.float64)
    assert [float(named_time_weight(name, 4)(t)) for name in TIME_WEIGHTS] == [0.5, 1.0, 0.25]
    with pytest.raises(CbdmError, match="did you mean 'linear'"):
        named_time_weight("linaer")
    with pytest.raises(CbdmError, match="needs a table schedule"):
        named_time_weight("published")

"""Another law at sampling time, held to the Gaussian mixture whose class probabilities are that law."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM, Heun
from cbdm_priors.laws.counts import Fixed, Null, Power, Training, Uniform
from cbdm_priors.sampling.posterior import AdjustedNull, MixtureScore, all_predictions, log_weights
from cbdm_priors.sampling.tracking import TrackedWeights
from tests.priors.oracles import (
    COUNTS,
    ORACLE,
    SCHEDULE,
    TRAINING,
    UNIFORM,
    Asked,
    FixedMean,
    f64,
    nobody,
    times,
    under,
)


def log_posterior(oracle):
    """log q(y|x_t) that does not underflow."""
    return lambda x, t: torch.log_softmax(oracle.class_probs.log() + oracle.class_log_densities(x, t), dim=-1)


def laws(classes=4):
    """Laws over `classes` labels, some of which they never draw."""
    weight = st.one_of(st.just(0.0), st.floats(1e-3, 1.0))
    tables = st.lists(weight, min_size=classes, max_size=classes).filter(lambda p: sum(p) > 0)
    return tables.map(lambda p: Fixed([1] * classes, *p))


POINTS = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=3).map(lambda p: f64(*p))
TIMES = st.floats(SCHEDULE.domain[0], SCHEDULE.domain[1])


# The weights


@given(laws(), laws(), st.integers(0, 10**6))
def test_log_weights_are_bayes_rule(law, training, seed):
    posterior = Draws(seed, 0, torch.arange(3)).uniform("posterior", 4)
    pi = law.probs * (training.probs > 0)
    assume(pi.sum() > 0)
    law = Fixed([1] * 4, *pi.tolist())
    w = log_weights(posterior.log(), law, training).exp()
    expected = torch.where(training.probs > 0, posterior * pi / training.probs, torch.zeros(1).double())
    torch.testing.assert_close(w, expected / expected.sum(1, keepdim=True), rtol=1e-12, atol=1e-15)


def test_a_class_that_the_law_never_draws_has_weight_0():
    w = log_weights(f64([0.1, 0.2, 0.3, 0.4]).log(), Fixed(COUNTS, 1, 0, 1, 0), TRAINING)
    assert w[0].isneginf().tolist() == [False, True, False, True]


def test_laws_that_do_not_fit_are_refused():
    posterior = torch.zeros(2, 4, dtype=torch.float64)
    rare = Training([10, 0, 5, 3])
    with pytest.warns(UserWarning, match="no training image"):
        unseen = Fixed([10, 0, 5, 3], 1, 1, 1, 1)
    for make in (
        lambda law, q: log_weights(posterior, law, q),
        lambda law, q: MixtureScore(ORACLE, log_posterior(ORACLE), law, q),
        lambda law, q: AdjustedNull(ORACLE, log_posterior(ORACLE), law, q),
        lambda law, q: TrackedWeights(DDIM(SCHEDULE), law, q),
    ):
        with pytest.raises(CbdmError, match=r"draws the classes \[1\], which the training law never does"):
            make(unseen, rare)
        with pytest.raises(CbdmError, match="the law has 3 classes and the training law 4"):
            make(Uniform([1, 2, 3]), TRAINING)
        with pytest.raises(CbdmError, match="a probability for each label, got Null"):
            make(Null(COUNTS), TRAINING)
    with pytest.raises(CbdmError, match=r"over 4 classes is \(B, 4\), got the shape \(2, 3\)"):
        log_weights(posterior[:, :3], UNIFORM, TRAINING)
    with pytest.raises(CbdmError, match="log_softmax"):
        log_weights(f64([1.0, 0.0, 0.0, 0.0]).log(), Fixed(COUNTS, 0, 1, 0, 0), TRAINING)


# All predictions


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_all_predictions_are_the_networks_and_no_others_are_asked(chunk):
    x, t = Draws(0, 0, torch.arange(5)).normal("x", 2, dtype=torch.float64), f64(0.1, 0.3, 0.5, 0.7, 0.9)
    network = Asked()
    said = all_predictions(network, x, t, torch.tensor([3, 1]), chunk=chunk)
    assert torch.equal(said, ORACLE.all_classes(x, t)[:, [3, 1]])
    assert (network.rows, network.forwards) == (10, {None: 1, 1: 10, 4: 3, 100: 1}[chunk])
    where = torch.tensor([[True, False], [False, False], [True, True], [False, True], [False, False]])
    some = all_predictions(network, x, t, torch.tensor([3, 1]), chunk=chunk, where=where)
    assert torch.equal(some, said * where[..., None]) and network.rows == 10 + 4
    nothing = all_predictions(network, x, t, torch.tensor([3, 1]), chunk=chunk, where=where & False)
    assert torch.equal(nothing, 0 * said) and network.rows == 14


def test_chunks_and_classes_that_are_none_are_refused():
    x, t = torch.zeros(1, 2, dtype=torch.float64), f64(0.5)
    with pytest.raises(CbdmError, match=r"chunk must be 1 .* got 0"):
        all_predictions(ORACLE, x, t, torch.tensor([0]), chunk=0)
    for classes in (torch.tensor([[0]]), torch.tensor([0.5]), torch.tensor([], dtype=torch.long)):
        with pytest.raises(CbdmError, match="a vector of one whole label or more"):
            all_predictions(ORACLE, x, t, classes)


# With a posterior


@given(laws(), POINTS, TIMES)
def test_the_mixture_score_is_that_of_the_mixture_under_the_law(law, x, t):
    """To 1e-10 of the largest class prediction, whatever the condition handed in."""
    t = times(t, len(x))
    score = MixtureScore(ORACLE, log_posterior(ORACLE), law, TRAINING)
    expected = under(law)(x, t, nobody(len(x)))
    for c in (nobody(len(x)), Condition.of(torch.full((len(x),), 2))):
        torch.testing.assert_close(score(x, t, c), expected, rtol=0, atol=1e-10)


@given(laws(), POINTS, TIMES, st.floats(-1, 1))
def test_the_adjusted_null_is_the_mixture_under_the_law_and_the_nulls_own_error(law, x, t, error):
    """A control variate: what the null branch is off by stays, and nothing is added to it."""
    t = times(t, len(x))
    null = AdjustedNull(Asked(error=error), log_posterior(ORACLE), law, TRAINING)
    expected = under(law)(x, t, nobody(len(x))) + error
    torch.testing.assert_close(null(x, t, Condition.of(torch.full((len(x),), 2))), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("law", [TRAINING, Power(COUNTS, 1.0), Fixed(COUNTS, *(n / 7 for n in COUNTS))])
def test_the_null_is_not_touched_where_the_laws_are_one(law):
    """Bit for bit, and for the price of the plain null, also where the table's last digits differ."""
    x, t = f64([0.3, 1.0], [2.0, -1.0]), f64(0.2, 0.8)
    network = Asked(error=0.1)
    null = AdjustedNull(network, log_posterior(ORACLE), law, TRAINING)(x, t, nobody(2))
    assert network.rows == 2
    assert torch.equal(null, network(x, t, nobody(2)))


@given(laws(), POINTS, TIMES, st.floats(-1, 5))
def test_guidance_away_from_the_adjusted_null_is_the_formula(law, x, t, omega):
    t, c = times(t, len(x)), Condition.of(torch.arange(len(x)))
    adjusted = AdjustedNull(ORACLE, log_posterior(ORACLE), law, TRAINING)
    guided = ClassifierFreeGuidance(ORACLE, omega, null=adjusted)(x, t, c)
    e_c = ORACLE.all_classes(x, t)[torch.arange(len(x)), c.value]
    e_null = (under(law).class_posterior(x, t)[..., None] * ORACLE.all_classes(x, t)).sum(1)
    torch.testing.assert_close(guided, e_c + omega * (e_c - e_null), rtol=0, atol=1e-9)


def test_a_mean_of_class_scores_with_fixed_weights_is_another_density():
    """Two Gaussians of width 0.44 at ±2.0636 have the standard deviation 2.11; the fixed mean samples one of 0.44."""
    toy = GaussianMixtureOracle(f64([-2.0636], [2.0636]), f64([[0.44**2]], [[0.44**2]]), f64(0.9, 0.1), SCHEDULE)
    uniform, training = Uniform([9, 1]), Training([9, 1])
    draws = Draws(0, 0, torch.arange(2000))

    def spread(network):
        x = Heun(SCHEDULE).sample(network, nobody(2000), (1,), steps=40, draws=draws, dtype=torch.float64)
        return float(x.std())

    # Four standard errors of 2,000 samples are 6 % of 0.44 and, of two points, under 3 % of 2.11.
    assert spread(FixedMean(toy, f64(0.5, 0.5))) == pytest.approx(0.44, rel=0.07)
    assert spread(MixtureScore(toy, log_posterior(toy), uniform, training)) == pytest.approx(2.11, rel=0.03)

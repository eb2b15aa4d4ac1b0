"""The oracle against scipy, quadrature and autograd: every other truth in the suite leans on it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine, Linear

NOISE = Cosine()
SEEDS, TIMES = st.integers(0, 2**31), st.floats(0.02, 0.98)


def random_mixture(seed, classes=3, dimension=3):
    """Means, correlated covariances and uneven probabilities; the last class has probability 0."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(classes, dimension, dimension, dtype=torch.float64, generator=g)
    probs = torch.rand(classes, dtype=torch.float64, generator=g) + 0.01
    probs[-1] = 0
    covariances = root @ root.mT + 0.1 * torch.eye(dimension, dtype=torch.float64)
    means = 2 * torch.randn(classes, dimension, dtype=torch.float64, generator=g)
    return GaussianMixtureOracle(means, covariances, probs, NOISE), 2 * torch.randn(
        5, dimension, dtype=torch.float64, generator=g
    )


def by_scipy(oracle, x, t):
    """(B, K) log p_t(x | c) from α_t and σ_t alone."""
    alpha, sigma = (float(v) for v in NOISE(torch.tensor(t, dtype=torch.float64)))
    return np.stack(
        [
            multivariate_normal(alpha * mean, alpha**2 * cov + sigma**2 * np.eye(len(mean))).logpdf(x.numpy())
            for mean, cov in zip(oracle.means.numpy(), oracle.covariances.numpy(), strict=True)
        ],
        axis=-1,
    )


@given(SEEDS, TIMES)
def test_densities_and_posteriors_agree_with_scipy(seed, t):
    """log p_t(x | c), the mixture's log p_t(x) and Bayes' q(c | x_t), with a class of probability 0, to 1e-9."""
    oracle, x = random_mixture(seed)
    truth, rows = by_scipy(oracle, x, t), torch.full((5,), t, dtype=torch.float64)
    q = oracle.class_probs.numpy()
    mixed = logsumexp(truth, axis=1, b=q)
    np.testing.assert_allclose(oracle.class_log_densities(x, rows), truth, rtol=1e-9, atol=1e-9)
    c = Condition(torch.tensor([0, 1, 2, 0, 1]), torch.tensor([True, True, True, False, False]))
    expected = np.where(c.present, truth[np.arange(5), c.value], mixed)
    np.testing.assert_allclose(oracle.log_density(x, rows, c), expected, rtol=1e-9, atol=1e-9)
    r = oracle.class_posterior(x, rows)
    np.testing.assert_allclose(r, q * np.exp(truth - mixed[:, None]), rtol=1e-8, atol=1e-12)
    assert (r[:, -1] == 0).all() and float((r.sum(1) - 1).abs().max()) < 1e-12


@given(SEEDS, TIMES)
def test_prediction_is_the_score_of_the_density(seed, t):
    """ε̂(x_t, t, c) = −σ_t ∇ log p_t(x_t | c), the gradient by autograd, for every class and for null."""
    oracle, x = random_mixture(seed)
    rows = torch.full((5,), t, dtype=torch.float64)
    for c in (*(Condition.of(torch.full((5,), y)) for y in range(3)), Condition.of(torch.zeros(5).long()).null()):
        leaf = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(oracle.log_density(leaf, rows, c).sum(), leaf)
        torch.testing.assert_close(oracle(x, rows, c), -NOISE(rows)[1][:, None] * score, rtol=1e-8, atol=1e-9)
        if c.present.all():
            assert torch.equal(oracle.all_classes(x, rows)[:, int(c.value[0])], oracle(x, rows, c))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("x", [-1.5, 0.2])
def test_prediction_is_the_mean_of_the_noise_given_x_t(t, x):
    """E[ε | x_t] = ∫ ε φ(ε) p_0((x_t − σε)/α) dε / ∫ φ(ε) p_0((x_t − σε)/α) dε by quadrature: no score is taken."""
    means, variances, q = [-2.0, 0.5, 1.0], [0.3, 0.1, 0.6], [0.7, 0.2, 0.1]
    parts = (means, [1]), (variances, [1, 1]), (q, [])
    oracle = GaussianMixtureOracle(
        *(torch.tensor(v, dtype=torch.float64).reshape(-1, *tail) for v, tail in parts),
        NOISE,
    )
    alpha, sigma = (float(v) for v in NOISE(torch.tensor(t, dtype=torch.float64)))

    def mean_noise(weights):
        def joint(eps):
            data = (x - sigma * eps) / alpha
            return norm.pdf(eps) * sum(w * norm.pdf(data, m, v**0.5) for w, m, v in zip(weights, means, variances))

        # Split where the noise would have to stand for each mean, and end far outside all of them.
        points = [(x - alpha * m) / sigma for m in means]
        low, high = min(points) - 18, max(points) + 18
        options = {"epsabs": 0, "epsrel": 1e-11, "limit": 500, "points": points}
        return quad(lambda e: e * joint(e), low, high, **options)[0] / quad(joint, low, high, **options)[0]

    point, rows = torch.full((1, 1), x, dtype=torch.float64), torch.full((1,), t, dtype=torch.float64)
    for y in range(3):
        assert float(oracle(point, rows, Condition.of([y]))) == pytest.approx(mean_noise(np.eye(3)[y]), abs=1e-8)
    assert float(oracle(point, rows, Condition.of([0]).null())) == pytest.approx(mean_noise(q), abs=1e-8)


def test_samples_have_the_moments_of_their_class():
    """6,000 a class: means and covariances to five standard errors; null rows draw their class from q."""
    oracle = GaussianMixtureOracle.ring(NOISE, (6, 3, 0, 1))
    labels = torch.arange(24_000) % 4
    x = oracle.sample(Condition.of(labels), draws=Draws(0, 0, torch.arange(24_000)))
    for y in range(4):
        own = x[labels == y]
        assert (own.mean(0) - oracle.means[y]).abs().max() < 5 * (0.3 / 6000) ** 0.5
        assert (own.T.cov() - oracle.covariances[y]).abs().max() < 5 * 0.3 * (2 / 6000) ** 0.5
    null = oracle.sample(Condition.of(labels).null(), draws=Draws(1, 0, torch.arange(24_000)))
    near = torch.cdist(null, oracle.means).argmin(1)  # the ring's ellipses hardly touch
    counts = torch.bincount(near, minlength=4).numpy()
    assert abs(counts / 24_000 - [0.6, 0.3, 0.0, 0.1]).max() < 0.01


def test_a_sample_depends_on_its_row_only():
    oracle, labels = GaussianMixtureOracle.ring(NOISE), torch.arange(9) % 4
    c, draws = Condition(labels, labels != 2), Draws(0, 0, torch.arange(9))
    rows = torch.tensor([7, 2])
    assert torch.equal(oracle.sample(c[rows], draws=draws[rows]), oracle.sample(c, draws=draws)[rows])


def test_the_ring_is_what_it_says():
    """Counts and frequencies are the same law, and the ring's classes stand at their angles."""
    counts = GaussianMixtureOracle.ring(NOISE, (60, 30, 10))
    assert counts.class_probs.tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert torch.linalg.vector_norm(counts.means, dim=1).tolist() == pytest.approx([2, 2, 2])
    assert torch.linalg.eigvalsh(counts.covariances).flatten().tolist() == pytest.approx([0.05, 0.3] * 3)
    assert float(counts.means.sum().abs()) < 1e-12


def test_the_label_of_a_null_row_may_be_anything():
    oracle = GaussianMixtureOracle.ring(Linear())
    x, t = torch.tensor([[0.4, -1.0]] * 2).double(), torch.tensor([0.5, 0.5]).double()
    odd, plain = (Condition(torch.tensor([1, y]), torch.tensor([True, False])) for y in (-7, 0))
    assert torch.equal(oracle(x, t, odd), oracle(x, t, plain))
    assert torch.equal(oracle.log_density(x, t, odd), oracle.log_density(x, t, plain))


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused(label):
    oracle, c = GaussianMixtureOracle.ring(NOISE), Condition.of([0, label])
    x, t = torch.zeros(2, 2).double(), torch.full((2,), 0.5).double()
    for asked in (
        lambda: oracle(x, t, c),
        lambda: oracle.log_density(x, t, c),
        lambda: oracle.sample(c, draws=Draws(0, 0, torch.arange(2))),
    ):
        with pytest.raises(CbdmError, match=f"the label {label} is no class of this mixture: allowed 0 … 3"):
            asked()


EYE = torch.eye(2).expand(3, 2, 2)


@pytest.mark.parametrize(
    ("means", "covariances", "probs", "message"),
    [
        (torch.zeros(3), EYE, torch.ones(3), "means are"),
        (torch.zeros(3, 2), EYE[:2], torch.ones(3), "need covariances"),
        (torch.zeros(3, 2), EYE, torch.ones(2), "need covariances"),
        (torch.zeros(3, 2), -EYE, torch.ones(3), "positive definite"),
        (torch.zeros(3, 2), EYE + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), torch.ones(3), "symmetric"),
        (torch.zeros(3, 2), EYE * float("nan"), torch.ones(3), "positive definite"),
        (torch.zeros(3, 2), EYE, torch.tensor([1.0, -0.1, 1.0]), "class probabilities"),
        (torch.zeros(3, 2), EYE, torch.zeros(3), "class probabilities"),
        (torch.zeros(3, 2), EYE, torch.tensor([1.0, float("inf"), 1.0]), "class probabilities"),
        (torch.zeros(3, 2), EYE, torch.tensor([1.0, float("nan"), 1.0]), "class probabilities"),
    ],
)
def test_another_mixture_is_refused(means, covariances, probs, message):
    with pytest.raises(CbdmError, match=message) as caught:
        GaussianMixtureOracle(means, covariances, probs, NOISE)
    assert "\n" not in str(caught.value)

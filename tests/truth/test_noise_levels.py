"""Statements of docs/noise-levels.md on laws that depend on the noise level and on transplants."""

import torch

from cbdm_core.conditions import Condition
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.levels import Ramp, law_at
from cbdm_core.data.transplant import Transplant
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import VP

COUNTS = torch.tensor([90, 9, 1])
MEANS = torch.tensor([[-1.5], [0.5], [2.0]], dtype=torch.float64)
SCHEDULE = VP()


def test_the_optimum_under_a_law_of_the_level():
    """E[ε | x_t] of draws under π(y|t), regressed in bins, is the null of Statement 61; each class's stays e*_c."""
    training = COUNTS.double() / COUNTS.sum()
    generator = torch.Generator().manual_seed(0)
    for t in (0.15, 0.3, 0.6):
        law = law_at(Ramp(0.2, 0.4), torch.full((3,), 1 / 3, dtype=torch.float64), training, t, 0)
        alpha, sigma = (float(v) for v in SCHEDULE(torch.tensor([t], dtype=torch.float64)))
        y = torch.multinomial(law, 2_000_000, replacement=True, generator=generator)
        x_0 = MEANS[y, 0] + 0.4 * torch.randn(len(y), generator=generator, dtype=torch.float64)
        eps = torch.randn(len(y), generator=generator, dtype=torch.float64)
        x_t = alpha * x_0 + sigma * eps
        means = MEANS[:, 0]
        spread = alpha**2 * 0.4**2 + sigma**2
        for x in (-1.0, 0.2, 1.2):
            near = (x_t - x).abs() < 0.02
            e_c = sigma * (x - alpha * means) / spread
            r = law * torch.exp(-((x - alpha * means) ** 2) / (2 * spread))
            null = (r / r.sum() * e_c).sum()
            tolerance = 5 * eps[near].std() / near.sum().sqrt() + 0.02 * abs(sigma / spread)
            assert abs(eps[near].mean() - null) < tolerance, (t, x)
            for c in range(3):
                own = near & (y == c)
                if own.sum() > 500:
                    error = 5 * eps[own].std() / own.sum().sqrt() + 0.02 * abs(sigma / spread)
                    assert abs(eps[own].mean() - e_c[c]) < error, (t, x, c)


def test_the_oracles_null_is_that_of_its_own_law():
    """The same formula, from the oracle whose class probabilities are π(y|t)."""
    t = torch.tensor([0.3], dtype=torch.float64)
    law = law_at(Ramp(0.2, 0.4), torch.full((3,), 1 / 3, dtype=torch.float64), COUNTS.double() / COUNTS.sum(), 0.3, 0)
    torch.testing.assert_close(law, 0.5 / 3 + 0.5 * COUNTS.double() / COUNTS.sum())
    oracle = GaussianMixtureOracle(MEANS, torch.full((3, 1, 1), 0.16, dtype=torch.float64), law, SCHEDULE)
    x = torch.tensor([[0.7]], dtype=torch.float64)
    alpha, sigma = (float(v) for v in SCHEDULE(t))
    spread = alpha**2 * 0.16 + sigma**2
    e_c = sigma * (0.7 - alpha * MEANS[:, 0]) / spread
    r = law * torch.exp(-((0.7 - alpha * MEANS[:, 0]) ** 2) / (2 * spread))
    null = oracle(x, t, Condition.of(torch.zeros(1, dtype=torch.long)).null())
    torch.testing.assert_close(null[0, 0], (r / r.sum() * e_c).sum(), rtol=1e-10, atol=0)


def test_the_best_linear_denoiser_of_transplants_is_that_of_mean_and_v_sigma():
    """Least squares over every image, lender and corner of noise: slope σ(α²C + σ²)⁻¹ with C of Statement 62."""
    generator = torch.Generator().manual_seed(1)
    y = torch.tensor([0] * 30 + [1] * 3)
    x = torch.randn(33, 2, generator=generator) + torch.tensor([[3.0, 0.0]]) * y[:, None]
    transplant = Transplant(Dataset(x, y, ("many", "few")), rho=0.5, spread=0.7, below=20)
    own, lenders = torch.arange(30, 33), torch.arange(30)
    i, j = (v.flatten() for v in torch.meshgrid(own, lenders, indexing="ij"))
    mixed = transplant._mixed(x[i], y[i], j).double()
    lent, kept = torch.cov(x[:30].double().T), torch.cov(x[30:].double().T, correction=0)
    expected = 0.25 * kept + (0.7 - 0.25 * 2 / 3) * lent
    alpha, sigma = (float(v) for v in SCHEDULE(torch.tensor([0.5], dtype=torch.float64)))
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)  # of mean 0 and covariance 1
    eps = signs.repeat(len(mixed), 1)
    x_t = alpha * mixed.repeat_interleave(4, 0) + sigma * eps
    design = torch.cat([x_t, torch.ones(len(x_t), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, eps).solution
    total = alpha**2 * expected + sigma**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(solution[:2], sigma * torch.linalg.inv(total), rtol=0, atol=1e-5)
    mean = x[30:].double().mean(0)
    torch.testing.assert_close(solution[2], -alpha * mean @ (sigma * torch.linalg.inv(total)), rtol=0, atol=1e-5)

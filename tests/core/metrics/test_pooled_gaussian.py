"""The closed form against an inverse written out, where it has to be exact, and where directions are left out."""

import pytest
import torch
from sklearn.covariance import empirical_covariance

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.pooled_gaussian import PooledGaussian


def images(n, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64), torch.arange(n) % 3


@pytest.mark.parametrize(("n", "shape"), [(40, (1, 2, 3)), (9, (1, 4, 4)), (9, (6,))])
def test_against_the_inverse(n, shape):
    """More images than pixels and fewer, with α and σ of each row."""
    x, y = images(n, shape)
    rows, D = x.flatten(1), x[0].numel()
    means = torch.stack([rows[y == c].mean(0) for c in range(3)])
    pooled = torch.tensor(empirical_covariance((rows - means[y]).numpy(), assume_centered=True)) * n / (n - 3)
    alpha, sigma = torch.linspace(0.1, 0.9, n).double(), torch.linspace(0.5, 0.1, n).double()
    x_t, _ = images(n, shape, seed=1)
    found = PooledGaussian.of(x, y, 3).eps(x_t, y, alpha, sigma)
    for i in range(n):
        spread = alpha[i] ** 2 * pooled + sigma[i] ** 2 * torch.eye(D, dtype=torch.float64)
        expected = sigma[i] * torch.linalg.solve(spread, x_t[i].flatten() - alpha[i] * means[y[i]])
        assert torch.allclose(found[i].flatten(), expected, rtol=1e-9, atol=1e-11)


def test_a_bound_on_the_directions_keeps_the_total_variance():
    x, y = images(300, (20,))
    whole, part = PooledGaussian.of(x, y, 3), PooledGaussian.of(x, y, 3, most=10)
    assert whole.basis.shape == (20, 20) and whole.rest == 0
    assert part.basis.shape == (20, 10) and part.rest > 0
    totals = [float(g.variances.sum()) + g.rest * (20 - len(g.variances)) for g in (whole, part)]
    assert totals[0] == pytest.approx(float(torch.stack([x[y == c].var(0) * 99 for c in range(3)]).sum()) / 297)
    assert float(part.variances.sum()) < 2 * totals[0]


def test_classes_of_one_image_and_of_none():
    x = torch.tensor([[1.0, 0.0], [3.0, 3.0], [5.0, 3.0]])
    y = torch.tensor([0, 2, 2])
    gaussian = PooledGaussian.of(x, y, 4)
    assert gaussian.variances.tolist() == [2.0] and gaussian.rest == 0.0
    ones = torch.ones(1)
    assert gaussian.eps(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), ones, ones).tolist() == [
        [pytest.approx(1 / 3), 0]
    ]
    assert gaussian.eps(torch.zeros(1, 2), torch.tensor([1]), ones, ones).isnan().all()
    with pytest.raises(CbdmError, match="0 images"):
        PooledGaussian.of(torch.zeros(0, 2), torch.zeros(0).long(), 4)

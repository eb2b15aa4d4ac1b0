"""What a free network learns from n images of a class: them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import at_time, per_row
from cbdm_priors.transfer import transfer_weights
from tests.truth.common import NOISE, close, normal, times

IMAGES = normal(7, 8, 2)


def shares(x_t: Tensor, t: float) -> Tensor:
    """(B, n) probability that x_t is the i-th image, noised."""
    alpha, sigma = (torch.full((len(x_t), 1), v, dtype=torch.float64) for v in at_time(NOISE, t))
    return transfer_weights(x_t, IMAGES, alpha, sigma)


class Learned(ScoreNetwork):
    """The minimum of the denoising loss over the images, at every x_t on its own."""

    def forward(self, x_t, t, c):
        alpha, sigma = (per_row(v, x_t) for v in NOISE(t))
        return (x_t - alpha * shares(x_t, float(t[0])) @ IMAGES) / sigma


@pytest.mark.parametrize("t", [0.1, 0.4, 0.8])
def test_the_optimum_over_images_is_their_posterior_mean(t):
    """Σ_i p(i | x_t) ‖ε̂ − (x_t − α x_i)/σ‖² has its only minimum at (x_t − α Σ_i p(i | x_t) x_i)/σ."""
    x_t = normal(1, 5, 2)
    eps_hat = Learned()(x_t, torch.full((5,), t, dtype=torch.float64), Condition.of(torch.zeros(5).long()))
    leaf, (alpha, sigma) = eps_hat.clone().requires_grad_(), at_time(NOISE, t)
    targets = (x_t[:, None] - alpha * IMAGES) / sigma
    loss = (shares(x_t, t) * (leaf[:, None] - targets).square().sum(-1)).sum()
    (grad,) = torch.autograd.grad(loss, leaf)
    close(grad, torch.zeros_like(grad), 1e-8)


def test_samples_of_that_optimum_are_copies():
    """DDIM ends within 0.02 of an image, from 64 starts; the images are 0.25 apart at least."""
    rows = torch.arange(64)
    c = Condition.of(torch.zeros(64).long())
    x = DDIM(NOISE).sample(Learned(), c, (2,), steps=100, draws=Draws(0, 0, rows), dtype=torch.float64)
    apart = torch.cdist(IMAGES, IMAGES) + 9 * torch.eye(8, dtype=torch.float64)
    assert float(apart.min()) > 0.25
    assert float(torch.cdist(x, IMAGES).min(1).values.max()) < 0.02


def test_the_effective_number_of_images_grows_with_the_noise():
    """N_eff = E[1/Σ p(i | x_t)²] rises from 1 to n = 8."""
    found = []
    for t in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        alpha, sigma = at_time(NOISE, t)
        x_t = alpha * IMAGES.repeat(500, 1) + sigma * normal(3, 4000, 2)
        found.append(float((1 / shares(x_t, t).square().sum(1)).mean()))
    assert all(later > earlier for earlier, later in pairwise(found))
    close(times(found[0], found[-1]), times(1.0, 8.0), 1e-2)

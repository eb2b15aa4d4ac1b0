"""Oriented transfer: the published numbers, the posterior it is, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm_core.adjustment import DenoisingLoss, PriorAdjustment
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.process import DenoisingStep
from cbdm_priors.transfer import FullTransfer, HeadToTail, OrientedTransfer, transfer_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "t2h_official.npz"


class Silent(ScoreNetwork):
    def forward(self, x_t, t, c):
        return torch.zeros_like(x_t)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def golden_step(golden, dtype=torch.float32):
    """The published batch: index i of the table stands at t = (i + 1)/T."""
    alphas_bar = golden["alphas_bar"][golden["t"]].double()
    alpha_t, sigma_t = (v.to(dtype)[:, None, None, None] for v in (alphas_bar.sqrt(), (1 - alphas_bar).sqrt()))
    x_0, eps = golden["x0"].to(dtype), golden["eps"].to(dtype)
    c, t = Condition.of(golden["y"]), (golden["t"].double() + 1) / 1000
    x_t = alpha_t * x_0 + sigma_t * eps
    draws = Draws(0, 0, torch.arange(len(x_0)))
    return DenoisingStep(x_0, c, t, eps, alpha_t, sigma_t, x_t, torch.zeros_like(x_0), None, Silent(), draws)


def test_weights_are_the_published_ones(golden):
    """The golden file is float32; near 0 noise its weights are a softmax of differences of some 1e3, so 1e-3."""
    step = golden_step(golden)
    ours = transfer_weights(step.x_t, step.x_0, step.alpha_t, step.sigma_t)
    torch.testing.assert_close(ours, golden["resample_weights"], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("direction", ["full", "t2h", "h2t"])
def test_targets_are_the_published_ones(golden, direction, monkeypatch):
    """With the published draw j: to float32's last bits, as the published code computes ε anew where j = i."""
    monkeypatch.setattr(Draws, "categorical", lambda self, purpose, probs: golden["resample_index"])
    counts = (golden["weight"] * 1000).round().long()
    changed = OrientedTransfer(DenoisingLoss(), counts, direction=direction).transferred(golden_step(golden))
    torch.testing.assert_close(changed.eps, golden[f"target_eps_{direction}"], rtol=1e-4, atol=1e-4)
    moved = (changed.eps != golden["eps"]).flatten(1).any(1)
    assert moved.any() and not moved.all()


def a_step(rows=12, t=0.9, seed=0, present=None):
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = (torch.randn(rows, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    alpha_t, sigma_t = (torch.full((rows, 1), v, dtype=torch.float64) for v in ((1 - t) ** 0.5, t**0.5))
    present = torch.ones(rows, dtype=torch.bool) if present is None else present
    c, times = Condition(torch.arange(rows) % 3, present), torch.full((rows,), t, dtype=torch.float64)
    x_t = alpha_t * x_0 + sigma_t * eps
    draws = Draws(seed, 0, torch.arange(rows))
    return DenoisingStep(x_0, c, times, eps, alpha_t, sigma_t, x_t, torch.zeros_like(x_0), None, Silent(), draws)


COUNTS = [100, 10, 1]


def test_weights_against_bayes():
    """q(x_0 = x_j | x_t,i) for a uniform prior over the batch, from scipy's normal density."""
    from scipy.stats import multivariate_normal

    step = a_step(6)
    ours = transfer_weights(step.x_t, step.x_0, step.alpha_t, step.sigma_t)
    for i in range(6):
        density = [
            multivariate_normal.pdf(step.x_t[i], step.alpha_t[i].item() * x.numpy(), step.sigma_t[i].item() ** 2)
            for x in step.x_0
        ]
        np.testing.assert_allclose(ours[i].numpy(), np.array(density) / np.sum(density), rtol=1e-9)


@pytest.mark.parametrize("direction", ["t2h", "h2t", "full"])
def test_the_step_stays_one_step(direction):
    """x_t = α x_0 + σ ε still holds, with x_t itself as it was, and x_0 one of the batch's."""
    step = a_step()
    changed = OrientedTransfer(DenoisingLoss(), COUNTS, direction=direction).transferred(step)
    assert torch.equal(changed.x_t, step.x_t) and torch.equal(changed.c.value, step.c.value)
    torch.testing.assert_close(changed.alpha_t * changed.x_0 + changed.sigma_t * changed.eps, step.x_t)
    assert all((row == step.x_0).all(1).any() for row in changed.x_0)
    same = (changed.x_0 == step.x_0).all(1)
    assert torch.equal(changed.eps[same], step.eps[same]) and not same.all()


@pytest.mark.parametrize(("direction", "sign"), [("t2h", 1), ("h2t", -1)])
def test_directions_never_go_the_other_way(direction, sign):
    counts = torch.tensor(COUNTS)
    for seed in range(20):
        step = a_step(seed=seed)
        changed = OrientedTransfer(DenoisingLoss(), COUNTS, direction=direction).transferred(step)
        source = (changed.x_0[:, None] == step.x_0[None]).all(-1).double().argmax(1)
        mine, theirs = counts[step.c.value], counts[step.c.value[source]]
        assert (sign * (theirs - mine) >= 0).all()


def test_full_transfer_learns_the_posterior_mean_of_the_batch():
    """The mean target over many draws is Σ_j W_ij ε_ij: 4,000 copies of a batch, 4 standard errors."""
    step = a_step(5)
    weights = transfer_weights(step.x_t, step.x_0, step.alpha_t, step.sigma_t)
    every = (step.x_t[:, None] - step.alpha_t[:, None] * step.x_0[None]) / step.sigma_t[:, None]
    expected = (weights[:, :, None] * every).sum(1)
    adjustment = FullTransfer(DenoisingLoss(), COUNTS)
    drawn = torch.stack(
        [adjustment.transferred(replace(step, draws=step.draws.at(number))).eps for number in range(4000)]
    )
    error = 4 * drawn.std(0) / 4000**0.5 + 1e-9
    assert ((drawn.mean(0) - expected).abs() < error).all()


def test_null_rows_may_go_the_other_way():
    """T2H on rows whose condition is shown, H2T on the others; "none" leaves them."""
    present = torch.arange(12) % 2 == 0
    step = a_step(present=present)
    both = OrientedTransfer(DenoisingLoss(), COUNTS, direction="t2h", null_direction="h2t").transferred(step)
    t2h = OrientedTransfer(DenoisingLoss(), COUNTS, direction="t2h").transferred(step)
    h2t = HeadToTail(DenoisingLoss(), COUNTS).transferred(step)
    assert torch.equal(both.eps, torch.where(present[:, None], t2h.eps, h2t.eps)) and not torch.equal(t2h.eps, h2t.eps)
    none = OrientedTransfer(DenoisingLoss(), COUNTS, direction="full", null_direction="none").transferred(step)
    assert torch.equal(none.eps[~present], step.eps[~present])


def test_only_times_in_the_window_transfer():
    step = a_step()
    step = replace(step, t=torch.linspace(0, 1, 12, dtype=torch.float64))
    changed = FullTransfer(DenoisingLoss(), COUNTS, window=(0.4, 0.6)).transferred(step)
    outside = (step.t < 0.4) | (step.t > 0.6)
    assert torch.equal(changed.eps[outside], step.eps[outside])


class Seeing(PriorAdjustment):
    def forward(self, step):
        self.seen = step
        return DenoisingLoss()(step)


def test_the_inner_adjustment_sees_the_changed_step():
    inner, step = Seeing(), a_step()
    adjustment = FullTransfer(inner, COUNTS)
    terms = adjustment(step)
    assert torch.equal(inner.seen.eps, adjustment.transferred(step).eps)
    torch.testing.assert_close(terms["denoising"], inner.seen.eps.square().mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "t2t"}, "unknown direction 't2t': did you mean 't2h'"),
        ({"null_direction": "up"}, "unknown direction 'up'"),
        ({"window": (0.5, 0.2)}, r"must lie in \[0, 1\], low before high, got \(0.5, 0.2\)"),
    ],
)
def test_refused_in_one_line(options, message):
    with pytest.raises(CbdmError, match=message):
        OrientedTransfer(DenoisingLoss(), COUNTS, **options)

"""From the evidence bound to the squared error of a pair: what each step of the route gives away."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.truth.common import close, times
from tests.truth.line import (
    EVEN,
    GRID,
    LONG_TAIL,
    WIDTH,
    class_kernels,
    densities,
    forward,
    kl,
    levels,
    posterior,
)

PAGE = Path(__file__).parents[2] / "docs/theory/03-from-the-kernel-to-the-regulariser.md"
STEPS = 10


def log(p: Tensor) -> Tensor:
    return p.clamp(min=1e-300).log()


@cache
def marginals(steps: int = STEPS) -> list[float]:
    """D_t = KL[p(x_t) ‖ p*(x_t)] at every level, p under the long tail and p* under the even law."""
    return [kl(densities(t) @ LONG_TAIL, densities(t) @ EVEN) for t in levels(steps)]


@cache
def kernels(steps: int = STEPS) -> list[float]:
    """G_t = E KL[p(x_s | x_t) ‖ p*(x_s | x_t)] for every step, as a sum over the square of (x_s, x_t)."""
    out = []
    for s, t in pairwise(levels(steps)):
        kernel, before, after = forward(s, t), densities(s), densities(t)
        ours = kernel * (before @ LONG_TAIL)[:, None]
        theirs = kernel * (before @ EVEN)[:, None] / (after @ EVEN).clamp(min=1e-300)
        ratio = log(ours / (after @ LONG_TAIL).clamp(min=1e-300)) - log(theirs)
        out.append(float((ours * ratio).sum()) * WIDTH**2)
    return out


def test_divergence_of_the_kernels_is_the_fall_of_the_marginals():
    """G_t = D_{t−1} − D_t where both laws share the forward kernel."""
    close(times(*kernels()), times(*(a - b for a, b in pairwise(marginals()))), 1e-9)
    assert min(kernels()) > 0


def test_the_factor_t_sums_the_marginal_divergences():
    """Σ_t t·G_t = Σ_t D_{t−1} − T·D_T, t counted in steps."""
    weighed = sum(i * k for i, k in enumerate(kernels(), start=1))
    assert weighed == pytest.approx(sum(marginals()[:-1]) - STEPS * marginals()[-1], rel=1e-9)


def test_the_adjusted_loss_of_proposition_1_differs_by_a_constant():
    """−log of Proposition 1, summed over the steps under the training law, is L_DM + D_T − D_0: below L_DM."""
    total = 0.0
    for s, t in pairwise(levels(STEPS)):
        joint = forward(s, t) * (densities(s) @ LONG_TAIL)[:, None]
        before, after = (log(densities(u) @ LONG_TAIL) - log(densities(u) @ EVEN) for u in (s, t))
        total += float((joint * (after[None, :] - before[:, None])).sum()) * WIDTH**2
    assert total == pytest.approx(marginals()[-1] - marginals()[0], rel=1e-9)
    assert total < -0.5


def adjusted_loss(joint: Tensor, star: Tensor, steps: int) -> tuple[float, list[float], list[float]]:
    """(L* − L_DM of the exact class kernels, D_t, KL of the joint laws of (x_t, y)) from two laws of (x_0, y)."""
    total, of_x, of_both = 0.0, [kl(joint.sum(1), star.sum(1))], [kl(joint, star) / WIDTH]
    for s, t in pairwise(levels(steps)):
        kernel = forward(s, t)
        after, star_after = (kernel.T @ law * WIDTH for law in (joint, star))
        before = log(joint) - log(star)
        ratio = before[:, None, :] - (log(after) - log(star_after))[None, :, :]
        total += float((kernel[:, :, None] * joint[:, None, :] * ratio).sum()) * WIDTH**2
        joint, star = after, star_after
        of_x.append(kl(joint.sum(1), star.sum(1)))
        of_both.append(kl(joint, star) / WIDTH)
    return total, of_x, of_both


def test_under_label_shift_the_exact_adjustment_is_none():
    """p(x | y) as it was: the class kernels agree, L* = L_DM, and KL of (x_t, y) is KL(q ‖ π) at every level."""
    start = densities(levels(4)[0])
    total, _, of_both = adjusted_loss(LONG_TAIL * start, EVEN * start, 4)
    assert abs(total) < 1e-9
    close(times(*of_both), times(*[float((LONG_TAIL * (LONG_TAIL / EVEN).log()).sum())] * 5), 1e-8)


def shifted_covariates() -> tuple[Tensor, Tensor]:
    """Two laws of (x_0, y) with one p(y | x_0): the second has a Gaussian marginal of x_0."""
    joint = LONG_TAIL * densities(levels(4)[0])
    star = torch.exp(-((GRID - 0.3) ** 2) / 4)[:, None] * posterior(LONG_TAIL, levels(4)[0])
    return joint, star / star.sum() / WIDTH


def test_with_the_labels_law_given_x_kept_the_loss_gains_the_divergences():
    """p(y | x_0) as it was: L* = L_DM + Σ_t G_t − C_T with C_T = E KL[p(y | x_T) ‖ p*(y | x_T)], between the two."""
    total, of_x, of_both = adjusted_loss(*shifted_covariates(), 4)
    divergences, end = of_x[0] - of_x[-1], of_both[-1] - of_x[-1]
    assert total == pytest.approx(divergences - end, rel=1e-8)
    assert of_both[0] == pytest.approx(of_x[0], rel=1e-9)
    assert 0 < total < divergences


def test_the_ratio_of_the_exact_kernels_is_proposition_1_upside_down():
    """p*/p of (x_s | x_t, y) is p*/p of (x_s | x_t) times p*/p of (y | x_s) times p/p* of (y | x_t), for any shift."""
    s, t = levels(4)[1:3]
    joint, star = shifted_covariates()
    first = forward(levels(4)[0], s)
    joint, star = (first.T @ law * WIDTH for law in (joint, star))
    kernel, at = forward(s, t), 700
    after, star_after = (kernel[:, at] @ law * WIDTH for law in (joint, star))
    class_kernel = kernel[:, at, None] * joint / after
    class_star = kernel[:, at, None] * star / star_after
    ours, theirs = (kernel[:, at] * law.sum(1) / end.sum() for law, end in ((joint, after), (star, star_after)))
    given_s, star_s = joint / joint.sum(1, keepdim=True), star / star.sum(1, keepdim=True)
    given_t, star_t = after / after.sum(), star_after / star_after.sum()
    expected = (theirs / ours)[:, None] * (star_s / given_s) * (given_t / star_t)
    near = (GRID.abs() < 4)[:, None] & (class_kernel > 1e-12)
    close((class_star / class_kernel)[near], expected[near], 1e-8)


@cache
def gaps() -> dict[str, float]:
    """What each step of the route gives away on the line, in nats, summed over the ten steps."""
    out = dict.fromkeys(("evidence", "kernels", "pairs", "one variance", "law for posterior"), 0.0)
    for s, t in pairwise(levels(STEPS)):
        mean, variance, shared = class_kernels(s, t)
        weight = (densities(t) @ LONG_TAIL)[:, None, None] * WIDTH
        pairs = posterior(LONG_TAIL, t)[:, :, None] * posterior(EVEN, t)[:, None, :] * weight
        drawn = posterior(LONG_TAIL, t)[:, :, None] * EVEN * weight
        apart = (mean[:, :, None] - mean[:, None, :]) ** 2
        ratio = variance[:, None] / variance
        exact = 0.5 * (ratio - 1 - ratio.log() + apart / variance)
        out["evidence"] += float((LONG_TAIL * 0.5 * (variance / shared - 1 - (variance / shared).log())).sum())
        out["pairs"] += float((pairs * exact).sum())
        out["one variance"] += float((pairs * apart).sum()) / (2 * shared)
        out["law for posterior"] += float((drawn * apart).sum()) / (2 * shared)
    return out | {"kernels": sum(kernels()), "t": sum(i * k for i, k in enumerate(kernels(), start=1))}


def test_class_kernels_are_bayes_on_the_grid():
    """What the gaps stand on: mean and variance of q(x_s | x_t, c), by the product of forward kernel and density."""
    s, t, at = 0.4, 0.5, 700
    mean, variance, _ = class_kernels(s, t)
    kernel = forward(s, t)[:, at, None] * densities(s) / densities(t)[at]
    centre = (kernel * GRID[:, None]).sum(0) * WIDTH
    close(centre, mean[at], 1e-8)
    close((kernel * (GRID[:, None] - centre) ** 2).sum(0) * WIDTH, variance, 1e-8)


def test_evidence_gap_closes_with_the_number_of_steps():
    """Kernels with the exact mean and the variance σ̃²: the gap of the bound more than halves as T doubles."""

    def gap(steps: int) -> float:
        parts = ((v / shared).double() for _, v, shared in (class_kernels(*p) for p in pairwise(levels(steps))))
        return sum(float((LONG_TAIL * 0.5 * (ratio - 1 - ratio.log())).sum()) for ratio in parts)

    found = [gap(steps) for steps in (10, 20, 40, 80)]
    assert found[0] == pytest.approx(gaps()["evidence"])
    assert all(later < 0.5 * earlier for earlier, later in pairwise(found))


def test_each_step_gives_away_what_the_page_says():
    """0 < Σ G_t < pairs of exact kernels < of one variance < drawn from the law; the page has the figures."""
    found = gaps()
    order = [found[name] for name in ("kernels", "pairs", "one variance", "law for posterior")]
    assert 0 < order[0] < order[1] < order[2] < order[3]
    table = PAGE.read_text(encoding="utf-8").split("(statement-39)=")[1].split("held-by")[0]
    quoted = {float(text) for text in re.findall(r"\d+\.\d+", table)}
    for name, value in found.items():
        assert round(value, 2) in quoted, f"{name} is {value:.2f}, and the page does not say so"

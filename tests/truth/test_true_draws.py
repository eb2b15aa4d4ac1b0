"""Drawing less without bias, and what draws depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm import ClassBalancing, ClassReweighting, Training, make_law
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.generation import generate
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.priors import LabelPrior
from cbdm_core.process import Process
from cbdm_core.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from tests.priors.steps import LawStub
from tests.truth.common import (
    GAMMAS,
    NOISE,
    SEEDS,
    class_name,
    close,
    generator,
    normal,
    quick,
    simplex,
    the_oracle,
    times,
)

# Drawing less, without bias


@quick
@given(SEEDS, st.integers(1, 6), st.integers(1, 9))
def test_systematic_draws_are_as_many_as_they_should_be(seed, classes, count):
    """Each row draws label k ⌊m·p_k⌋ or ⌈m·p_k⌉ times, and over 4,000 rows m·p_k times on average (4 errors)."""
    p, rows = simplex(seed, classes), torch.arange(4000)
    drawn = Draws(seed, 0, rows).systematic("law", p, count)
    times_drawn = torch.stack([(drawn == k).sum(1) for k in range(classes)], 1).double()
    assert (times_drawn >= (count * p - 1e-9).floor()).all() and (times_drawn <= (count * p + 1e-9).ceil()).all()
    part = (count * p) % 1
    error = 4 * (part * (1 - part) / len(rows)).sqrt() + 1e-9
    assert ((times_drawn.mean(0) - count * p).abs() <= error).all()


def test_batches_of_one_class_are_unbiased_for_their_law():
    """Every batch holds one class; over 1,500 of them Σ_i f(x_i)/B has the mean Σ_c π_c mean_c(f): 4 standard errors.

    f is an arbitrary number for each example; classes are of 40, 9, 0 and 3 examples.
    """
    y = torch.arange(4).repeat_interleave(torch.tensor([40, 9, 0, 3]))
    f = normal(5, len(y)) + 3 * y
    data = Dataset(f[:, None].float(), y, ("a", "b", "c", "d"))
    pi = times(0.5, 0.3, 0.0, 0.2)
    batches = Batches(data, 4, seed=1, pure=pi)
    means = []
    for step in range(1500):
        batch = batches.at(step)
        assert (batch.y == batch.y[0]).all()
        means.append(batch.x_0.double().mean())
    expected = sum(pi[c] * f[y == c].mean() for c in (0, 1, 3))
    found = torch.stack(means)
    assert abs(float(found.mean() - expected)) < 4 * float(found.std()) / 1500**0.5


# What draws depend on


SMALL = {"width": 8, "groups": 4, "dropout": 0.0}


def loud(network: ScoreNetwork) -> ScoreNetwork:
    """Every parameter random: a fresh U-Net says almost nothing and would pass anything."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return network.eval()


def every_sample(network, sampler, shape, **options) -> Tensor:
    return torch.cat(list(generate(network, sampler, torch.arange(13) % 4, shape, steps=5, seed=3, **options)))


@pytest.mark.parametrize("sampler", [Ancestral(NOISE), DDIM(NOISE), DPMSolverPP2M(NOISE), Heun(NOISE)], ids=class_name)
def test_samples_do_not_depend_on_their_batch(sampler):
    """Sample i is a function of (seed, i): bit for bit whatever the batch size."""

    class Pointwise(ScoreNetwork):
        def forward(self, x_t, t, c):
            return torch.tanh(x_t) + 0.1 * c.value[:, None]

    network = ClassifierFreeGuidance(Pointwise(), 0.5)
    whole = every_sample(network, sampler, (3,), batch_size=13)
    for batch_size in (1, 4, 500):
        assert torch.equal(every_sample(network, sampler, (3,), batch_size=batch_size), whole)
    assert len(whole.unique(dim=0)) == 13


@pytest.mark.parametrize("sampler", [Ancestral(NOISE), DPMSolverPP2M(NOISE)], ids=class_name)
def test_images_do_not_depend_on_their_batch(sampler):
    """The same through a U-Net in float32, to 1e-4: convolutions may add up in another order."""
    network = ClassifierFreeGuidance(loud(UNet((1, 8, 8), 4, **SMALL)), 0.5)
    whole = every_sample(network, sampler, (1, 8, 8), batch_size=13)
    scale = float(whole.abs().max())
    for batch_size in (1, 4):
        other = every_sample(network, sampler, (1, 8, 8), batch_size=batch_size)
        assert float((other - whole).abs().max()) < 1e-4 * max(scale, 1.0)


class Relabelled(ScoreNetwork):
    """The network that calls class σ(y) what the other calls y."""

    def __init__(self, network: ScoreNetwork, inverse: Tensor) -> None:
        super().__init__()
        self.network, self.inverse = network, inverse

    def forward(self, x_t, t, c):
        return self.network(x_t, t, c.with_value(self.inverse[c.value]))


@quick
@given(SEEDS, st.permutations(range(5)), GAMMAS)
def test_relabelling_classes_changes_no_loss(seed, permutation, gamma):
    """Given the same draws, names of classes are names: every term, row by row, and the gradient are the same bits."""
    sigma = torch.tensor(permutation)
    torch.manual_seed(0)
    network = loud(MLP((3,), 5, width=16, depth=1)).double()
    y, other = (torch.randint(5, (6,), generator=generator(seed + i)) for i in range(2))

    def result(net: ScoreNetwork, y: Tensor, other: Tensor) -> list[Tensor]:
        adjustment = ClassBalancing(DenoisingLoss(), LawStub(other), gamma=gamma)
        objective = Objective(Process(NOISE), net, adjustment, drop=0.3)
        terms = objective(normal(seed, 6, 3), Condition.of(y), Draws(seed, 0, torch.arange(6)))
        network.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        return [*terms.values(), *(p.grad for p in network.parameters() if p.grad is not None)]

    before = result(network, y, other)
    after = result(Relabelled(network, sigma.argsort()), sigma[y], sigma[other])
    assert len(before) == len(after) > 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@quick
@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5).filter(any), st.permutations(range(5)))
def test_relabelling_classes_permutes_the_laws(counts, permutation):
    """π made of permuted counts is π permuted, and so are the weights π/q; entropy and KL do not move."""
    n, sigma = torch.tensor(counts), torch.tensor(permutation)
    for text in ("training", "uniform", "power:0.5", "power:-1", "balanced:0.99"):
        law, moved = make_law(text, n), make_law(text, n[sigma])
        close(moved.probs, law.probs[sigma], 1e-14)
        assert isinstance(law, LabelPrior) and isinstance(moved, LabelPrior)
        assert float(moved.entropy()) == pytest.approx(float(law.entropy()), abs=1e-12)
        assert float(moved.kl(Training(n[sigma]))) == pytest.approx(float(law.kl(Training(n))), abs=1e-12)
        weights = ClassReweighting(DenoisingLoss(), law, Training(n)).weights
        close(ClassReweighting(DenoisingLoss(), moved, Training(n[sigma])).weights, weights[sigma], 1e-6)


def test_relabelling_classes_permutes_the_samples():
    """Asked for the same classes by other names, the same samples come out."""
    sigma = torch.tensor([2, 0, 3, 1])
    oracle, labels = the_oracle(), torch.arange(12) % 4
    one, two = (
        torch.cat(list(generate(ClassifierFreeGuidance(n, 0.5), DDIM(NOISE), y, (2,), steps=5, seed=0)))
        for n, y in ((oracle, labels), (Relabelled(oracle, sigma.argsort()), sigma[labels]))
    )
    assert torch.equal(one, two)

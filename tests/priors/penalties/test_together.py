"""Several other labels of a row in one pass: the terms and gradients of a pass for each, in fewer calls."""

from __future__ import annotations

import pytest
import torch

from cbdm import ClassBalancing, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_priors.laws.affinity import Affinity
from tests.priors.steps import TableNetwork, make_step

K = 5
OWN = Affinity(torch.eye(K) + torch.arange(1.0, K + 1) / 10)  # each row has weights of its own


def stepped(dropout=0.0, drop=0.3, law=Uniform([9] * K), **options):
    """The terms and the gradient of one step of a U-Net in float64, and how many rows each of its passes had."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), K, width=8, multipliers=[1, 2], attention=[1], blocks=1, dropout=dropout, groups=4).double()
    with torch.no_grad():  # the last layer starts at 0
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    asked: list[int] = []
    net.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    balancing = ClassBalancing(DenoisingLoss(), law, time_weight="constant", **options)
    x_0 = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = Condition.of(torch.arange(8) % K)
    terms = Objective(Process(Linear(steps=20)), net, balancing, drop=drop)(x_0, c, Draws(0, 0, torch.arange(8)))
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    return terms, [p.grad for p in net.parameters() if p.grad is not None], asked


@pytest.mark.parametrize(
    "options",
    [
        {"draws": 4, "together": 2},
        {"draws": 4, "together": 3},
        {"draws": "all", "together": 5},
        {"draws": "all", "together": 99},
        {"draws": 4, "together": 4, "gamma": 0.0},
        {"draws": 3, "together": 3, "fraction": 0.5},
        {"draws": 4, "together": 2, "recompute": True},
        {"draws": "all", "together": 3, "law": OWN},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_terms_and_gradients_are_those_of_a_pass_for_each(options):
    """In float64 to 1e-12 of the largest, null rows among them, without dropout."""
    alone, gradients_alone, asked_alone = stepped(**{**options, "together": 1})
    joint, gradients, asked = stepped(**options)
    assert alone["balancing"].any() and len(asked) < len(asked_alone)
    for name, term in alone.items():
        torch.testing.assert_close(joint[name], term, rtol=1e-12, atol=1e-14)
    largest = max(float(g.abs().max()) for g in gradients_alone)
    for one, other in zip(gradients, gradients_alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * largest)


def test_rows_of_a_pass_and_their_number():
    """Five labels of eight rows two at a time, none dropped: 8, then 16, 16 and 8 rows under dropout's masks."""
    assert stepped(dropout=0.3, drop=0.0, draws="all", together=2)[2] == [8, 16, 16, 8]
    assert stepped(dropout=0.0, drop=0.0, draws="all", together=99)[2] == [8, 4 * 8]  # no row against itself


def test_each_draw_has_masks_of_its_own():
    """Two draws of one label under dropout are two passes, though they share one: their distances differ."""
    asked = []

    class Kept(ClassBalancing):
        def _distance(self, step, other, *, same_dropout):
            asked.append(super()._distance(step, other, same_dropout=same_dropout))
            return asked[-1]

    torch.manual_seed(0)
    net = UNet((1, 8, 8), 1, width=8, multipliers=[1], attention=[], blocks=1, dropout=0.5, groups=4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    law = Uniform([9])
    objective = Objective(Process(Linear()), net, Kept(DenoisingLoss(), law, draws=2, together=2), drop=0.0)
    objective(torch.zeros(4, 1, 8, 8, dtype=torch.float64), Condition.of([0] * 4), Draws(0, 0, torch.arange(4)))
    (distances,) = asked
    assert len(distances) == 8 and not torch.isclose(distances[:4], distances[4:]).any()


def test_augmentations_go_with_their_rows():
    table = torch.tensor([[1.0, 2.0], [0.0, 4.0], [-1.0, 0.0]], dtype=torch.float64)
    seen = []

    class Told(TableNetwork):
        def forward(self, x_t, t, c):
            seen.append(c.augment)
            return super().forward(x_t, t, c)

    c = Condition.of(torch.tensor([0, 1]), augment=torch.tensor([[7.0], [8.0]]))
    step = make_step(Told(table), c, torch.zeros(2, 2, dtype=torch.float64), t=torch.tensor([0.5, 1.0]))
    ClassBalancing(DenoisingLoss(), Uniform([3] * 3), draws="all", together=3)(step)
    assert seen[1][:, 0].tolist() == [8.0, 7.0, 7.0, 8.0]  # labels 0, 1, 2; none against itself


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"together": 2}, "together must be a whole number, 1 to draws = 1, got 2"),
        ({"draws": 4, "together": 5}, "1 to draws = 4, got 5"),
        ({"draws": "all", "together": 0}, "1, 2, …, got 0"),
        ({"draws": 4, "together": 1.5}, "got 1.5"),
        ({"draws": 4, "together": "all"}, "got 'all'"),
        ({"draws": 4, "together": True}, "got True"),
        ({"draws": 4, "together": float("nan")}, "got nan"),
        ({"draws": "all", "together": float("inf")}, "1, 2, …, got inf"),
        ({"draws": 4, "together": [2]}, r"got \[2\]"),
        ({"draws": 4, "together": "all", "dropout": "shared"}, "got 'all'"),
        ({"draws": float("inf")}, 'draws must be 1, 2, 3, … or "all", got inf'),
        ({"draws": 4, "together": 2, "dropout": "shared"}, "one batch at a time, got together = 2: leave it out"),
    ],
)
def test_what_cannot_be_asked_together_is_refused(options, words):
    with pytest.raises(CbdmError, match=words):
        ClassBalancing(DenoisingLoss(), Uniform([3] * 3), **options)

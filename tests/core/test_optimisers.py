"""Optimisers against their own recursions by hand, and the course of the learning rate."""

import math
from functools import partial

import pytest
import torch

from cbdm_core.errors import CbdmError
from cbdm_core.optimisers import LR_SCHEDULES, OPTIMISERS, adam, adamw, cosine, sgd
from cbdm_core.training import TrainSettings, learning_rate


def stepped(make, gradients, start=1.0):
    w = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimiser = make([w], 0.1)
    for gradient in gradients:
        w.grad = torch.tensor([gradient], dtype=torch.float64)
        optimiser.step()
    return float(w.detach())


def test_sgd_has_momentum():
    assert stepped(partial(sgd, momentum=0.5), [1.0, 1.0]) == pytest.approx(1 - 0.1 * 1 - 0.1 * 1.5, abs=1e-15)


def test_the_first_step_of_adam_is_the_learning_rate():
    assert stepped(adam, [7.0]) == pytest.approx(0.9, abs=1e-8)


def test_adamw_decays_apart_from_the_gradient_and_adam_in_it():
    """With a gradient of 0, AdamW only multiplies by 1 − η·λ; Adam's first step is η again, whatever λ is."""
    assert stepped(partial(adamw, weight_decay=0.2), [0.0]) == pytest.approx(0.98, abs=1e-15)
    assert stepped(partial(adam, weight_decay=0.2), [0.0]) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_finds_the_bottom_of_a_bowl(name):
    w = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimiser = OPTIMISERS[name]([w], 0.05, weight_decay=0.0)
    for _ in range(300):
        optimiser.zero_grad()
        w.square().sum().backward()
        optimiser.step()
    assert float(w.detach().abs().max()) < 1e-2


def test_the_cosine_goes_from_1_to_its_end():
    course = cosine(over=100, end=0.2)
    assert [course(i) for i in (0, 50, 100, 150)] == pytest.approx([1.0, 0.6, 0.2, 0.2], abs=1e-12)
    assert course(25) == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)), abs=1e-12)
    assert LR_SCHEDULES.build("constant", {})(77) == 1.0


def test_warm_up_and_schedule_multiply():
    settings = TrainSettings(learning_rate=0.4, warmup=4, lr_schedule=cosine(over=8))
    assert learning_rate(settings, 1) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 8)) / 2)
    assert learning_rate(settings, 8) == pytest.approx(0.0, abs=1e-12)


def test_a_cosine_out_of_range_is_refused():
    with pytest.raises(CbdmError, match="end in"):
        cosine(over=3, end=1.5)
    with pytest.raises(CbdmError, match=r"did you mean 'adamw'|allowed"):
        OPTIMISERS["adamx"]

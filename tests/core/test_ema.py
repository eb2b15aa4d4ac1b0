"""Averages of the weights: recursions against explicit sums, and averages made afterwards against those of the run."""

import math

import pytest
import torch

from cbdm_core.ema import Averages, post_hoc, post_hoc_weights, power_exponent, save_snapshot, snapshots
from cbdm_core.errors import CbdmError


def walk(steps, seed=0):
    """A network of 5 weights that moves at random, and its weights after each step."""
    torch.manual_seed(seed)
    network = torch.nn.Linear(4, 1).double()
    with torch.no_grad():
        for _ in range(steps):
            for p in network.parameters():
                p += 0.1 * torch.randn_like(p)
            yield network


def test_the_width_is_the_standard_deviation_of_the_profile():
    """σ_rel of τ^γ on [0, 1], by the moments of a Beta(γ + 1, 1) law."""
    for width in (0.01, 0.05, 0.1, 0.25):
        a = power_exponent(width) + 1
        assert math.sqrt(a / ((a + 1) ** 2 * (a + 2))) == pytest.approx(width, rel=1e-6)
    assert power_exponent(0.288) == pytest.approx(0, abs=0.02)  # nearly the plain mean


def test_a_power_average_is_the_sum_by_its_profile():
    """The recursion's weights of θ_i, i = 1 … n, are those of the product formula, and near i^γ."""
    averages, history = None, []
    for step, network in enumerate(walk(200), 1):
        averages = averages or Averages(network, ["power:0.1", "decay:0.9"])
        averages.update(step)
        history.append(network.weight.detach().clone())
    gamma = power_exponent(0.1)
    keep = [(1 - 1 / i) ** (gamma + 1) for i in range(1, 201)]
    weight = [(1 - keep[i]) * math.prod(keep[i + 1 :]) for i in range(200)]
    assert sum(weight) == pytest.approx(1)
    expected = sum(w * theta for w, theta in zip(weight, history, strict=True))
    torch.testing.assert_close(averages.of["power:0.1"][0], expected, atol=1e-12, rtol=0)
    ideal = torch.arange(1, 201).double() ** gamma
    assert float((torch.tensor(weight) - ideal / ideal.sum()).abs().max()) < 2e-3


def test_what_is_stored_is_found_exactly():
    weights = post_hoc_weights([100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1], 200, 0.05)
    assert weights == pytest.approx([0, 0, 1, 0], abs=1e-6)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.12])
def test_an_average_made_afterwards_is_near_that_of_the_run(tmp_path, width):
    """Of snapshots of two widths the one in the middle is made; its distance is a few per cent of their own."""
    names = ["power:0.05", "power:0.1", f"power:{width}"]
    averages = None
    for step, network in enumerate(walk(2000), 1):
        averages = averages or Averages(network, names)
        averages.update(step)
        if step % 100 == 0:
            two = Averages(network, names[:2])
            two.of = {name: averages.of[name] for name in names[:2]}
            save_snapshot(tmp_path, two, step)
    made = post_hoc(tmp_path, width)
    assert set(made) == {"weight", "bias"} and len(snapshots(tmp_path)) == 40
    truth, near = averages.of[names[2]][0], averages.of["power:0.05"][0]
    distance = float((made["weight"].double() - truth).norm())
    assert distance < 0.25 * float((near - truth).norm())


def test_averages_survive_a_save():
    averages = None
    for step, network in enumerate(walk(5), 1):
        averages = averages or Averages(network, ["decay:0.5"])
        averages.update(step)
    again = Averages(network, ["decay:0.5"])
    again.load_state_dict(averages.state_dict())
    assert torch.equal(again.of["decay:0.5"][0], averages.of["decay:0.5"][0])
    with pytest.raises(CbdmError, match="no average"):
        Averages(network, ["power:0.1"]).load_state_dict(averages.state_dict())


@pytest.mark.parametrize("name", ["decay:1.0", "power:0.5", "power:0", "mean", "decay:x"])
def test_names_of_no_average_are_refused(name):
    with pytest.raises(CbdmError):
        Averages(torch.nn.Linear(1, 1), [name])
    with pytest.raises(CbdmError, match="comes twice"):
        Averages(torch.nn.Linear(1, 1), ["decay:0.5", "decay:0.5"])


def test_nothing_stored_is_said(tmp_path):
    with pytest.raises(CbdmError, match="no power average is stored"):
        post_hoc(tmp_path, 0.1)

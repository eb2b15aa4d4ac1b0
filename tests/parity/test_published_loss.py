"""The published loss through the library's own classes, from a batch to gradients, in float64.

Tolerances: x_t 1e-12, losses 1e-9 absolute, each gradient norm 1e-9 of the total norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cbdm import ClassBalancing
from cbdm_core.adjustment import DenoisingLoss, PriorAdjustment
from cbdm_core.draws import Draws
from cbdm_core.networks.published import published_names
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import DenoisingStep, Process
from cbdm_core.schedules import Linear
from cbdm_priors.penalties.penalty import TimeWeight, linear, published
from tests.golden_weights import TABLE, Golden, load_golden
from tests.priors.steps import LawStub


@dataclass(frozen=True, eq=False)
class GoldenDraws(Draws):
    """The times and the noise that the published program drew."""

    golden: Golden | None = None

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        assert self.golden is not None and purpose == "t"
        return (self.golden["t"].double()[:, None] + 0.5) / self.golden.config["T"]

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        assert self.golden is not None and purpose == "eps"
        return self.golden["eps"].to(dtype)


class Watched(PriorAdjustment):
    """The inner terms, and the step they were made of."""

    def __init__(self, inner: PriorAdjustment) -> None:
        super().__init__()
        self.inner = inner
        self.step: DenoisingStep | None = None

    def forward(self, step):
        assert self.inner is not None
        self.step = step
        return self.inner(step)


@pytest.fixture(scope="module", params=["a", "b"])
def official(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def network(official) -> UNet:
    return official.network()


def rounded(official: Golden) -> TimeWeight:
    """w(t) with τ·w in float32, which is where the published program computes it before it multiplies."""
    tau, steps = official.config["tau"], official.config["T"]
    return lambda t: (tau * published(steps)(t).float()).double() / tau


def objective_for(
    official: Golden, network: UNet, *, gamma: float | None = None, weight: TimeWeight | None = None
) -> Objective:
    config = official.config
    schedule = Linear(steps=config["T"], beta_1=config["beta_1"], beta_T=config["beta_T"])
    balancing = ClassBalancing(
        DenoisingLoss(),
        LawStub(official["y_target"]),
        tau=config["tau"],
        gamma=config["gamma"] if gamma is None else gamma,
        time_weight=weight or rounded(official),
    )
    return Objective(Process(schedule), network, Watched(balancing), drop=0.0)


def run(objective: Objective, official: Golden) -> dict[str, Tensor]:
    draws = GoldenDraws(0, 0, torch.arange(len(official["y"])), golden=official)
    return objective(official["x0"], official.condition(official["y"]), draws)


@pytest.fixture(scope="module")
def result(official, network):
    """(terms, the step, gradient by published name)."""
    objective = objective_for(official, network)
    network.zero_grad(set_to_none=True)
    terms = run(objective, official)
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    grads = {published_names(network)[name]: p.grad for name, p in network.named_parameters()}
    return terms, objective.adjustment.step, grads


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_schedule_and_noised_batch(official, result):
    step = result[1]
    close(step.t, official.t, 1e-15)
    close(step.alpha_t.flatten().square(), official["alphas_bar"][official["t"]], 1e-12)
    close(step.x_t, official["x_t"], 1e-12)
    close(step.eps_hat.detach(), official["h"])


def test_denoising_loss(official, result):
    close(result[0]["denoising"].detach().mean(), official["loss_ddpm"])


def test_balancing_loss(official, result):
    close(result[0]["balancing"].detach().mean(), official["loss_reg"])


def test_balancing_loss_in_float64(official, network):
    """Our own weight is not rounded to float32, and misses the published value by no more than that rounding."""
    objective = objective_for(official, network, weight=published(official.config["T"]))
    with torch.no_grad():
        ours = run(objective, official)["balancing"].mean()
    close(ours, official["loss_reg"], 2**-24 * float(official["loss_reg"]))


def test_published_time_weight_matters(official, network):
    """With t instead of t − 1/T the regulariser is another one, by per cents: the tolerance above sees it."""
    objective = objective_for(official, network, weight=linear)
    with torch.no_grad():
        moved = run(objective, official)["balancing"].mean()
    assert 0.02 < float(moved / official["loss_reg"]) - 1 < 0.12


def test_total_gradient_norm(official, result):
    total = torch.stack([g.square().sum() for g in result[2].values()]).sum().sqrt()
    close(total, official["grad_norm"], 1e-9 * float(official["grad_norm"]))


def test_gradient_norm_of_each_parameter(official, result):
    grads, total = result[2], float(official["grad_norm"])
    assert grads.keys() == set(official.names) - {TABLE}
    for name, theirs in zip(official.names, official["grad_norms"], strict=True):
        if name != TABLE:
            close(grads[name].norm(), theirs, 1e-9 * total)


@pytest.mark.parametrize(("gamma", "graphs"), [(0.0, 1), (0.25, 2)])
def test_gamma_0_costs_no_second_gradient(official, network, gamma, graphs):
    """Two forward passes either way; with γ = 0 that of h' builds no graph, so it has nothing to go back through."""
    outputs = []
    handle = network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        objective = objective_for(official, network, gamma=gamma)
        terms = run(objective, official)
    finally:
        handle.remove()
    assert len(outputs) == 2
    assert sum(output.grad_fn is not None for output in outputs) == graphs
    others = official["y_target"] != official["y"]  # without dropout a row against itself is not asked
    assert 0 < int(others.sum()) < len(others)
    close(outputs[1].detach(), official["h_target"][others])
    assert terms["balancing"].requires_grad


def test_gamma_0_still_moves_the_network(official, network):
    """Its gradient is that of the pull of h alone: 2w(h − h')/N sent back through the first pass."""
    objective = objective_for(official, network, gamma=0.0)
    terms = run(objective, official)
    (grad,) = torch.autograd.grad(terms["balancing"].mean(), objective.adjustment.step.eps_hat)
    weight = official.config["tau"] * official["t"].double() / official.config["T"]
    d = weight[:, None, None, None] * (official["h"] - official["h_target"])
    close(grad, 2 * d / d.numel())

"""Low-rank experts change nothing at the start nor by merging, and the term that steers them is its formula."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from cbdm_core.adjustment import DenoisingLoss, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import MinSNR
from cbdm_core.networks.dit import DiT
from cbdm_core.networks.experts import (
    LowRank,
    add_experts,
    experts_off,
    has_experts,
    merge_experts,
    merged_state,
)
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.predicts import Predicts
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_core.training import TrainSettings, TrainState
from cbdm_priors.penalties.capacity import CapacityManipulation

COUNTS = [80, 15, 0, 5]
LABELS = torch.tensor([0, 1, 3, 0, 3])

NETWORKS = {
    "mlp": lambda: MLP((6,), 4, width=8),
    "unet": lambda: UNet((2, 4, 4), 4, width=8, groups=4, dropout=0.0, attention=(0,)),
    "dit": lambda: DiT((2, 4, 4), 4, width=8, depth=1, heads=2),
    "predicts v": lambda: Predicts(MLP((6,), 4, width=8), "v", Linear(steps=50)),
}


def a_network(name="mlp", seed=0):
    """In float64, every parameter random: a fresh network has silent layers, which would hide their experts."""
    torch.manual_seed(seed)
    network = NETWORKS[name]().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return network


def trained(network, seed=1, size=0.3):
    """The same, its experts moved away from where they start."""
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, LowRank):
            with torch.no_grad():
                module.B.copy_(torch.randn(module.B.shape, generator=random) * size)
    return network


def says(network, rows=5):
    x_t = torch.randn(rows, *network.shape, generator=torch.Generator().manual_seed(3)).double()
    t = torch.linspace(0.1, 0.9, rows, dtype=torch.float64)
    with torch.no_grad():
        return network(x_t, t, Condition(LABELS[:rows], torch.tensor([True, True, False, True, True])[:rows]))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# Experts


@pytest.mark.parametrize("name", list(NETWORKS))
class TestExperts:
    def test_they_start_without_effect_bit_for_bit(self, name):
        network = a_network(name)
        before = says(network)
        add_experts(network)
        assert has_experts(network) and torch.equal(says(network), before)

    def test_off_is_the_general_network_and_on_again_is_not(self, name):
        network = a_network(name)
        general = says(network)
        add_experts(network)
        whole = says(trained(network))
        with experts_off(network):
            assert torch.equal(says(network), general)
            with experts_off(network):
                pass
            assert torch.equal(says(network), general), "an inner switch puts back what it found"
        assert torch.equal(says(network), whole) and not torch.allclose(whole, general)

    def test_merging_leaves_what_the_network_says(self, name):
        network = a_network(name)
        names = set(network.state_dict())
        add_experts(network)
        whole = says(trained(network))
        state = merged_state(network.state_dict())
        merge_experts(network)
        assert not has_experts(network) and set(network.state_dict()) == names == set(state)
        close(says(network), whole)
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())

    def test_the_averaged_weights_of_a_run_load_into_a_plain_network(self, name):
        network = a_network(name)
        add_experts(network)
        state = load(save(trained(copy.deepcopy(network)).eval().requires_grad_(False).state_dict()))
        assert has_experts(state) and not has_experts(merged_state(state))
        plain = a_network(name, seed=5)
        plain.load_state_dict(merged_state(state))
        close(says(plain), says(trained(network)))

    def test_a_copy_is_independent(self, name):
        network = a_network(name)
        add_experts(network)
        other = trained(copy.deepcopy(network))
        assert not torch.allclose(says(other), says(network))
        with experts_off(network):
            trained(network, seed=1)
            assert not torch.allclose(says(other), says(network)), "one switch for each"
        close(says(other), says(network))


def test_the_weight_is_the_sum_and_its_rank_as_said():
    """Linear: ρ·min(out, in); Conv: ρ·min(out, in·kernel), the groups' share of in; never below 1."""
    layers: list[tuple[nn.Module, float, tuple[int, int]]] = [
        (nn.Linear(40, 30), 0.1, (3, 40)),
        (nn.Linear(4, 30), 0.1, (1, 4)),
        (nn.Linear(10, 30), 0.25, (2, 10)),  # 2.5 goes to the even one
        (nn.Conv2d(8, 50, 3), 0.1, (5, 72)),
        (nn.Conv2d(8, 100, 3), 0.5, (36, 72)),
        (nn.Conv2d(8, 52, 3, groups=4), 0.5, (9, 18)),
        (nn.Conv1d(5, 7, 1), 1.0, (5, 5)),
        (nn.Conv3d(2, 60, 3), 0.2, (11, 54)),
    ]
    for layer, ratio, shape in layers:
        general = layer.weight.detach().clone()
        add_experts(layer, ratio)
        (expert,) = (m for m in layer.modules() if isinstance(m, LowRank))
        assert tuple(expert.A.shape) == shape and tuple(expert.B.shape) == (len(general), shape[0])
        trained(layer)
        product = torch.einsum("or,ri->oi", expert.B, expert.A).reshape(general.shape)
        torch.testing.assert_close(layer.weight, general + product, rtol=1e-5, atol=1e-6)


def test_embeddings_norms_and_biases_have_no_expert():
    network = a_network("unet")
    kept = {name for name, module in network.named_modules() if isinstance(module, nn.Embedding | nn.GroupNorm)}
    add_experts(network)
    given = {name.split(".parametrizations")[0] for name in network.state_dict() if "parametrizations" in name}
    assert kept and given and not kept & given
    assert all("bias" not in name for name in network.state_dict() if "parametrizations" in name)


def test_experts_are_drawn_from_the_default_generator():
    """The same seed gives the same network."""
    one, two = a_network(), a_network()
    for network in (one, two):
        torch.manual_seed(4)
        add_experts(network)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_state_without_experts_is_returned_as_it_is():
    state = a_network().state_dict()
    merged = merged_state(state)
    assert list(merged) == list(state) and all(merged[name] is value for name, value in state.items())


def test_merging_under_autocast_says_what_training_said():
    """B·A is summed in the precision of the weights, so the cast to bfloat16 sees the same weight."""
    network = a_network().float()
    add_experts(network)
    trained(network)
    x_t, t = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        before = network(x_t, t, Condition.of([0, 1, 3]))
        merge_experts(network)
        assert torch.equal(network(x_t, t, Condition.of([0, 1, 3])), before)


def test_experts_refuse_what_does_not_fit():
    with pytest.raises(CbdmError, match=r"rank ratio of experts must lie in \(0, 1\], got 1.5"):
        add_experts(nn.Linear(2, 2), 1.5)
    with pytest.raises(CbdmError, match="Embedding has no Linear or Conv layer"):
        add_experts(nn.Embedding(2, 2))
    network = a_network()
    add_experts(network)
    with pytest.raises(CbdmError, match="is parametrised already"):
        add_experts(network)


# The term


def capacity(network, inner=None, **options):
    return CapacityManipulation(inner or DenoisingLoss(), COUNTS, network, **options)


def objective_of(network, adjustment, **options):
    return Objective(Process(Linear(steps=50)), network, adjustment, **{"drop": 0.0, **options}).double()


def terms_of(objective, step=0):
    x_0 = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    return objective(x_0, Condition.of(LABELS), Draws(0, step, torch.arange(5)))


def a_step(network, present=(True, True, True, False, True)):
    x_0 = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).double()
    return Process(Linear(steps=50)).denoise(
        network, x_0, Condition(LABELS, torch.tensor(present)), Draws(0, 0, torch.arange(5))
    )


def by_hand(common, rare):
    """K·(a·p − b·u) with p = n/N and u ∝ 1/n over the classes 0, 1 and 3."""
    inverse = {0: 1 / 80, 1: 1 / 15, 3: 1 / 5}
    total = sum(inverse.values())
    table = {y: 4 * (common * COUNTS[y] / 100 - rare * u / total) for y, u in inverse.items()}
    return torch.tensor([table[y] for y in LABELS.tolist()], dtype=torch.float64)


@pytest.mark.parametrize(
    ("common", "rare", "bound"), [(1.0, 0.2, 1.0), (1.0, 0.2, 1e-3), (0.0, 2.0, 1e9), (0.7, 0.0, 1.0)]
)
def test_the_term_is_its_formula(common, rare, bound):
    """f_g is a network of its own here, made before the experts were."""
    general = a_network()
    network = copy.deepcopy(general)
    adjustment = capacity(network, DenoisingLoss(MinSNR(0.5)), common=common, rare=rare, bound=bound, strength=1.7)
    step = a_step(trained(network))
    distance = mean_squared(step.eps_hat, general(step.x_t, step.t, step.c))
    factor = by_hand(common, rare)
    clamped = torch.where(factor < 0, distance.clamp(max=bound), distance)
    weight = 1.7 * MinSNR(0.5)(step.alpha_t[:, 0], step.sigma_t[:, 0]) * step.c.present
    close(adjustment(step)["capacity"], weight * factor * clamped)
    assert (distance > 1e-3).all()


@pytest.mark.parametrize(("row", "label", "grows"), [(0, 0, False), (2, 3, True)])
def test_common_classes_do_without_the_experts_and_rare_ones_use_them(row, label, grows):
    """One small step down the term of a row brings f_{g+e} nearer to f_g for 80 images, and further for 5."""
    network = a_network()
    adjustment = capacity(network, bound=1e9)
    trained(network)

    def distance():
        return adjustment(a_step(network))["capacity"][row] / adjustment.factor()[label]

    before = distance()
    adjustment(a_step(network))["capacity"][row].backward()
    torch.optim.SGD([p for p in network.parameters() if p.grad is not None], 1e-4).step()
    assert LABELS[row] == label and bool(distance() > before) == grows


def test_the_bound_holds_the_loss_from_below_and_stops_the_push():
    network = a_network()
    adjustment = capacity(network, bound=0.5, strength=3.0)
    trained(network, size=30.0)
    step = a_step(network, present=(True,) * 5)
    term = adjustment(step)["capacity"]
    factor = by_hand(1.0, 0.2)
    assert (factor[[2, 4]] < 0).all() and (term >= 3.0 * 0.5 * factor.clamp(max=0) - 1e-12).all()
    close(term[[2, 4]], 3.0 * 0.5 * factor[[2, 4]])
    gradient = torch.autograd.grad(term[[2, 4]].sum(), list(network.parameters()), allow_unused=True)
    assert all(g is None or (g == 0).all() for g in gradient)


def test_both_networks_draw_the_same_dropout_masks():
    """Experts that do nothing have no distance, whatever dropout does; with a fraction the masks are not known."""
    torch.manual_seed(0)
    network = MLP((6,), 4, width=16, dropout=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    assert (terms_of(objective_of(network, capacity(network)))["capacity"] == 0).all()
    partly = objective_of(network, capacity(network, fraction=0.9))
    assert (terms_of(partly)["capacity"] != 0).any() and not partly.adjustment.wants_dropout_state()


def test_at_strength_0_it_is_the_inner_one_bit_for_bit():
    found = []
    for wrap in (lambda network: DenoisingLoss(), lambda network: capacity(network, strength=0.0)):
        network = a_network()
        terms = terms_of(objective_of(network, wrap(network)))
        terms["denoising"].mean().backward()
        gradients = {
            name.replace("parametrizations.weight.original", "weight"): p.grad for name, p in network.named_parameters()
        }
        found.append((terms, gradients))
    (plain, plain_gradients), (ours, our_gradients) = found
    assert ours.keys() == plain.keys() and torch.equal(ours["denoising"], plain["denoising"])
    assert all(torch.equal(our_gradients[name], gradient) for name, gradient in plain_gradients.items())


def test_the_objective_holds_each_tensor_once():
    network = a_network()
    objective = objective_of(network, capacity(network))
    state = objective.state_dict()
    assert set(state) == {f"network.{name}" for name in network.state_dict()}
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert len(list(objective.parameters())) == len(list(network.parameters()))
    assert set(load(save(state))) == set(state)


def test_training_moves_the_experts_and_their_average():
    """The optimiser and the averaged network take the experts as they take any weight."""
    network = a_network()
    state = TrainState.start(objective_of(network, capacity(network)), TrainSettings(ema_decay=0.5))
    start = copy.deepcopy(network)
    for step in range(2):
        state.optimizer.zero_grad()
        sum(term.mean() for term in terms_of(state.objective, step).values()).backward()
        state.optimizer.step()
        state.step = step + 1
        state.average()
    for now, mean, before in zip(
        *([m for m in n.modules() if isinstance(m, LowRank)] for n in (network, state.ema, start)), strict=True
    ):
        assert not torch.equal(now.B, before.B) and not torch.equal(mean.B, before.B)
        assert not torch.equal(now.B, mean.B)


def test_every_kth_step_is_unbiased():
    network = a_network()
    plain, sparse = capacity(network), capacity(network, every=4)
    step = a_step(trained(network))
    terms = [sparse(replace(step, draws=step.draws.at(number)))["capacity"] for number in range(1, 5)]
    torch.testing.assert_close(sum(terms) / 4, plain(step)["capacity"], rtol=1e-15, atol=0)


def test_a_network_keeps_the_experts_it_has():
    network = a_network()
    capacity(network, rank_ratio=1.0)
    shapes = [p.shape for p in network.parameters()]
    capacity(network, rank_ratio=0.1)
    assert [p.shape for p in network.parameters()] == shapes


def test_capacity_refuses_what_does_not_fit():
    for make, message in [
        (lambda: capacity(a_network(), bound=0.0), "bound > 0, got 1.0, 0.2 and 0.0"),
        (lambda: capacity(a_network(), rare=-1.0), "rare ≥ 0"),
        (lambda: capacity(a_network(), rank_ratio=0.0), "rank ratio of experts"),
        (lambda: CapacityManipulation(DenoisingLoss(), [0, 0], a_network()), r"class counts .* got \[0, 0\]"),
        (lambda: capacity(a_network())(a_step(a_network())), "capacity was built with another network"),
    ]:
        with pytest.raises(CbdmError, match=message):
            make()

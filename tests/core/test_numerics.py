"""Low precision, recomputed activations, memory layout and compilation change cost, not results."""

import pytest
import torch

from cbdm import (
    Batches,
    ClassBalancing,
    Condition,
    Dataset,
    DenoisingLoss,
    Linear,
    Objective,
    Process,
    TrainSettings,
    TrainState,
    train,
)
from cbdm_core import training
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.dit import DiT
from cbdm_core.networks.efficiency import channels_last, checkpoint_blocks
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.unet import UNet
from cbdm_core.numerics import in_precision, numerics
from cbdm_core.optimisers import sgd
from cbdm_priors.laws.counts import Uniform
from cbdm_priors.penalties.capacity import CapacityManipulation

SHAPE = (1, 8, 8)


def unet(dropout=0.2):
    torch.manual_seed(0)
    return UNet(SHAPE, 3, width=16, attention=(1,), groups=4, dropout=dropout)


def images(n=24):
    x = (torch.arange(n * 64).reshape(n, *SHAPE) * 7919 % 256).to(torch.uint8)
    return Dataset(x, torch.arange(n) % 3, ("a", "b", "c"))


def weights(steps=3, dropout=0.2, make=unet, **settings):
    """The weights after some steps of CBDM; by plain descent, since Adam makes a step of any rounding error."""
    adjustment = ClassBalancing(DenoisingLoss(), Uniform([8, 8, 8]), dropout="shared")
    settings = TrainSettings(learning_rate=1e-2, optimiser=sgd, **settings)
    state = TrainState.start(Objective(Process(Linear(steps=100)), make(dropout), adjustment), settings)
    for _ in train(state, Batches(images(), 8, seed=0), steps=steps):
        pass
    return {name: value.clone() for name, value in state.objective.network.state_dict().items()}


@pytest.mark.parametrize(("option", "dropout"), [("checkpointing", 0.2), ("channels_last", 0.0)])
def test_an_option_of_cost_leaves_the_training_as_it_is(option, dropout):
    """Of dropout too; but its masks follow the layout in memory, so channels last draws others."""
    plain, other = weights(dropout=dropout), weights(dropout=dropout, **{option: True})
    assert plain.keys() == other.keys()
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_uncompiled():
    def small(dropout):
        torch.manual_seed(0)
        return DiT(SHAPE, 3, width=16, depth=1, heads=2, patch=4, dropout=dropout)

    plain, other = weights(dropout=0.0, make=small), weights(dropout=0.0, make=small, compile=True)
    assert plain.keys() == other.keys()
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_draws_are_compiled_with_the_network(compiled, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "compile_network", lambda network: None)
    monkeypatch.setattr(training, "Draws", lambda *a, fused: seen.append(fused) or Draws(*a))
    weights(steps=2, compile=compiled)
    assert seen == [compiled] * 2


def seen_in_training(look, **settings):
    """What `look` finds at the first convolution, given the network and what came out, at each pass of training."""
    found = []

    def make(dropout):
        network = unet(dropout)
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, out: found.append(look(network, out)))
        return network

    weights(steps=2, make=make, **settings)
    assert len(found) >= 2
    return set(found)


@pytest.mark.parametrize("asked", [False, True])
def test_channels_last_is_how_the_weights_lie_in_training(asked):
    def lies_so(network, _out):
        kernels = [p for p in network.parameters() if p.dim() == 4]
        return all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)

    assert seen_in_training(lies_so, channels_last=asked) == {asked}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_training_computes_in_the_precision_that_is_asked_for(precision, dtype):
    def computed(_network, out):
        return torch.is_autocast_enabled("cpu"), out.dtype

    assert seen_in_training(computed, precision=precision) == {(precision == "bf16", dtype)}


@pytest.mark.parametrize("asked", [False, True])
def test_training_calls_the_compiled_network(asked, monkeypatch):
    """Every pass of training goes through what torch.compile gave, and none without the option."""
    inside = [False]

    def compiled(function, **_options):
        def call(*args, **kwargs):
            inside[0] = True
            try:
                return function(*args, **kwargs)
            finally:
                inside[0] = False

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(training, "Draws", lambda *a, fused: Draws(*a))  # whose compiled kernels are kept for good
    assert seen_in_training(lambda _network, _out: inside[0], compile=asked) == {asked}


def held(network):
    """Bytes that the backward pass keeps."""
    total, seen = 0, set()

    def pack(tensor):
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            total += tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen |= own
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(torch.zeros(16, *network.shape), torch.full((16,), 0.5), Condition.of(torch.arange(16) % 3))
    assert out.requires_grad
    return total


@pytest.mark.parametrize("make", [unet, lambda: DiT(SHAPE, 3, width=32, depth=4, heads=2, patch=2)])
def test_checkpointing_keeps_less(make):
    network = make()
    before = held(network)
    checkpoint_blocks(network)
    assert held(network) < 0.5 * before


def test_checkpointing_and_layout_refuse_what_they_do_not_fit():
    with pytest.raises(CbdmError, match="2-D convolutions"):
        channels_last(MLP((2,), 3))
    network = unet()
    CapacityManipulation(DenoisingLoss(), torch.tensor([3, 2, 1]), network)
    with pytest.raises(CbdmError, match="experts of capacity"):
        checkpoint_blocks(network)
    with pytest.raises(CbdmError, match="no blocks"):
        checkpoint_blocks(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_samples_in_low_precision_are_near_those_in_full(precision):
    network = unet().eval()
    with torch.no_grad():
        for p in network.parameters():
            p += 0.05 * torch.randn_like(p)
    x, t, c = torch.randn(4, *SHAPE), torch.full((4,), 0.5), Condition.of([0, 1, 2, 0])
    low = in_precision(network, precision)
    with torch.no_grad():
        full, near = network(x, t, c), low(x, t, c)
    assert near.dtype == torch.float32 and low.shape == SHAPE
    assert 0 < float((near - full).abs().max()) < 0.05 * float(full.abs().max())
    with torch.no_grad():
        eps_hat, features = low.with_features(x, t, c)
    assert torch.equal(eps_hat, near) and features.dtype == torch.float32
    assert in_precision(network, "fp32") is network
    with pytest.raises(CbdmError, match="precision"):
        in_precision(network, "fp8")


def test_switches_stand_inside_and_go_back():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    with numerics(tf32=False, determinism="full"):
        assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic) == (False, False, True)
        assert torch.are_deterministic_algorithms_enabled()
    with numerics(tf32=True, determinism="off"):
        assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (True, True, False, True)
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(CbdmError, match="determinism"), numerics(tf32=True, determinism="all"):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "fp16"}, {"compile": True}, {}])
def test_on_a_gpu_each_way_learns(options):
    from cbdm_core.distributed import World

    def losses(**settings):
        network = UNet(SHAPE, 3, width=16, attention=(1,), groups=4, dropout=0.0)
        objective = Objective(Process(Linear(steps=100)), network, DenoisingLoss())
        both = {"channels_last": True, "checkpointing": not settings.get("compile")}
        state = TrainState.start(
            objective, TrainSettings(learning_rate=1e-3, **both, **settings), World(0, 1, torch.device("cuda"))
        )
        return [r.loss for r in train(state, Batches(images(), 24, seed=0), steps=60)]

    with numerics(tf32=True, determinism="cudnn"):
        torch.manual_seed(0)
        found = losses(**options)
    assert sum(found[-10:]) < 0.9 * sum(found[:10])

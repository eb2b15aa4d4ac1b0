"""A network that is spread over two processes trains as a whole one does, and is saved as one."""

import errno
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cbdm import (
    MLP,
    Cosine,
    Dataset,
    DenoisingLoss,
    DiT,
    Objective,
    PriorAdjustment,
    Process,
    TrainSettings,
    TrainState,
    UNet,
    train,
)
from cbdm_core import checkpoint
from cbdm_core.checkpoint import load_checkpoint, save_checkpoint
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.muon import muon
from cbdm_core.optimisers import sgd
from cbdm_core.sharding import in_parts, own_bytes, shard, whole
from cbdm_priors.laws.counts import Null
from cbdm_priors.penalties.balancing import ClassBalancing
from tests.core.test_distributed import DoubleBatches, agree, launch, run

pytestmark = pytest.mark.slow  # two processes and some twenty trainings
ROOT = Path(__file__).parents[2]
SHAPE = (1, 8, 8)
NETWORKS = {
    "unet": lambda dropout: UNet(SHAPE, 3, width=8, attention=(1,), groups=4, dropout=dropout),
    "dit": lambda dropout: DiT(SHAPE, 3, width=16, depth=2, heads=2, patch=4, dropout=dropout),
}
STEPS = {"unet": 6, "dit": 20}
# Several passes, stopped gradients, rows of one process alone, rows compared, own weights, weights made of others.
SPREAD = ["ddpm", "cbdm-null", "cbdm-fraction", "ccua", "coral", "capacity"]
OPTIONS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.02, "optimiser": sgd},
    "checkpointed": {"checkpointing": True},
    "turned": {"optimiser": partial(muon, narrowest=4)},  # whose matrices have to be whole
}


def started(name, world=None, seed=0, dropout=0.0, adjustment: PriorAdjustment | None = None, **settings):
    """A state of images in float64, under CBDM with the null law and with averages of both rules."""
    torch.manual_seed(seed)
    adjustment = adjustment or ClassBalancing(DenoisingLoss(), Null([8, 8, 8]), gamma=0.25)
    objective = Objective(Process(Cosine()), NETWORKS[name](dropout), adjustment).double()
    options = {"learning_rate": 1e-3, "ema_decay": 0.9, "averages": ("power:0.1", "decay:0.5")} | settings
    return TrainState.start(objective, TrainSettings(**options), world)


def go_on(state, steps):
    """Train up to that step."""
    x = (torch.arange(24 * 64).reshape(24, *SHAPE) * 7919 % 256).to(torch.uint8)
    batches = DoubleBatches(Dataset(x, torch.arange(24) % 3, tuple("abc")), 8, seed=0)
    return [(record.loss, record.grad_norm) for record in train(state, batches, steps=steps)]


def trained(state, steps):
    """(losses and norms, weights and all averages) after training up to that step."""
    records = go_on(state, steps)
    values = {**state.objective.state_dict(), **{f"ema {k}": v for k, v in state.ema.state_dict().items()}}
    return records, {name: whole(v).cpu().clone() for name, v in values.items()} | state.averages.state_dict()


def near(one, other, tolerance=1e-6):
    torch.testing.assert_close(torch.tensor(one[0]), torch.tensor(other[0]), atol=tolerance, rtol=0)
    torch.testing.assert_close(one[1], other[1], atol=tolerance, rtol=0)


def saved_and_resumed(world, folder):
    """What three steps saved, three more without a break, and the same from the checkpoint, elsewhere begun."""
    state = started("dit", world, dropout=0.2, shard=True)
    go_on(state, 3)
    checkpoint = save_checkpoint(folder / "spread", state)
    torch.distributed.barrier()  # the leader writes
    again = load_checkpoint(checkpoint, started("dit", world, seed=5, dropout=0.2, shard=True))
    return trained(state, 6), trained(again, 6)


def resumed_by_two(world, folder):
    """Six steps, of which one process did the first three and saved them; saved once more."""
    state = started("dit", world, seed=5, shard=True)
    found = trained(load_checkpoint(folder / "alone" / "step-00000003", state), 6)
    save_checkpoint(folder / "by two", state)
    return found


def saved_in_vain(world, folder):
    """Three steps; after the first the leader's disk is full at the second file of a checkpoint."""
    state = started("dit", world, shard=True)
    go_on(state, 1)

    def full(tensors, path):
        if path.name == "ema.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(CbdmError, match="the disk is full") if world.leads else nullcontext():
            save_checkpoint(folder / "full", state)
    return trained(state, 3)


def held(world):
    """Bytes of weights, averages and moments that each process keeps, and of what they are parts of."""
    state = started("dit", world, shard=True)
    go_on(state, 1)
    moments = [v for of in state.optimizer.state.values() for v in of.values() if in_parts(v)]
    tensors = [*state.objective.parameters(), *state.ema.parameters(), *state.averages.tensors().values(), *moments]
    return sum(map(own_bytes, tensors)), sum(t.numel() * t.element_size() for t in tensors)


def asked_whole(world):
    """The averaged network made whole, its weights, and what it says of one image."""
    state = started("unet", world, shard=True)
    go_on(state, 2)
    kept = {name: whole(value) for name, value in state.ema.state_dict().items()}
    network = state.averaged()
    assert not any(map(in_parts, network.parameters())) and not any(p.requires_grad for p in network.parameters())
    return kept, network.state_dict()


def started_twice(world):
    """What is said where a network that is spread already is to be spread."""
    state = started("dit", world, shard=True)
    with pytest.raises(CbdmError) as said:
        TrainState.start(state.objective, state.settings, world)
    return str(said.value)


_PEER = """
import sys, torch
from pathlib import Path
from typing import Any
from cbdm_core.distributed import join, leave
from tests.core import test_sharding as t
torch.set_num_threads(1)
folder, world = Path(sys.argv[1]), join(sys.argv[2])
results = {method: t.run(method, world, shard=True) for method in t.SPREAD}
results |= {name: t.run("cbdm", world, shard=True, **options) for name, options in t.OPTIONS.items()}
results |= {name: t.trained(t.started(name, world, shard=True), steps) for name, steps in t.STEPS.items()}
results["resumed"] = t.saved_and_resumed(world, folder)
results["by two"] = t.resumed_by_two(world, folder)
results["in vain"] = t.saved_in_vain(world, folder)
results["held"], results["whole"], results["twice"] = t.held(world), t.asked_whole(world), t.started_twice(world)
if world.leads:
    torch.save(results, folder / "two.pt")
leave()
"""


def of_two(folder, device):
    """What two processes made, in one launch, beside a checkpoint of one."""
    state = started("dit")
    go_on(state, 3)
    save_checkpoint(folder / "alone", state)
    (folder / "peer.py").write_text(_PEER)
    launch(folder / "peer.py", folder, device, cwd=ROOT)
    return torch.load(folder / "two.pt", weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spread")


@pytest.fixture(scope="module")
def two(folder):
    return of_two(folder, "cpu")


@pytest.mark.parametrize("method", SPREAD)
def test_a_spread_network_trains_as_a_whole_one(two, method):
    """After 20 steps in float64 without dropout the weights and all that was learned differ by less than 1e-6."""
    agree(run(method), two[method])


@pytest.mark.parametrize("name", OPTIONS)
def test_so_it_does_under_the_options_of_memory_and_clipping(two, name):
    options = {key: value for key, value in OPTIONS[name].items() if key in ("clip", "optimiser")}
    one = run("cbdm", **options)
    agree(one, two[name])
    if "clip" in options:
        with pytest.raises(AssertionError):  # the bound is one that is felt
            agree(run("cbdm", **{**options, "clip": 1e9}), two[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_images_are_spread_block_by_block(two, name):
    """Norms of the gradient, weights and averages of every rule, to 1e-6."""
    near(trained(started(name), STEPS[name]), two[name])


def test_a_spread_run_resumes_to_the_bit(two):
    (records, values), (again, other) = two["resumed"]
    assert records == again and values.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in values.items())


def test_a_run_may_change_its_number_of_processes_at_a_checkpoint(two, folder):
    """One process, then two with the network spread, then one: the same as one all along, for there is no dropout."""
    spread, alone = folder / "by two" / "step-00000006", folder / "alone" / "step-00000003"
    assert sorted(f.name for f in spread.iterdir()) == sorted(f.name for f in alone.iterdir())
    one = started("dit")
    go_on(one, 3)
    near(trained(one, 6), two["by two"])
    near(trained(one, 9), trained(load_checkpoint(spread, started("dit", seed=7)), 9))


def test_a_write_that_fails_leaves_no_process_waiting(two, folder):
    """They go on together, after the parts of the files that were not written."""
    one = started("dit")
    go_on(one, 1)
    near(trained(one, 3), two["in vain"])
    assert not list((folder / "full").iterdir())


def test_each_process_keeps_its_half(two):
    """Rows that are odd in number leave one process a row more."""
    kept, of = two["held"]
    assert 0.5 * of <= kept < 0.55 * of


def test_the_averaged_network_is_made_whole(two):
    kept, of_network = two["whole"]
    assert kept.keys() == of_network.keys() and all(torch.equal(v, of_network[name]) for name, v in kept.items())


def test_what_cannot_be_spread_is_refused(two):
    with pytest.raises(CbdmError, match="over processes, and there is 1: start it under torchrun"):
        started("dit", shard=True)
    for option in ("compile", "channels_last"):
        with pytest.raises(CbdmError, match=f"shard = True does not go with {option} = True"):
            TrainSettings(shard=True, **{option: True})
    network = MLP((2,), 3, width=8, depth=1)
    network.blocks = torch.nn.ModuleList()
    with pytest.raises(CbdmError, match="MLP has no blocks that say repeats = True"):
        shard(Objective(Process(Cosine()), network, DenoisingLoss()), network, World(0, 2, torch.device("cpu")))
    assert "spread over the processes already" in two["twice"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_a_spread_network_as_one_cpu_does(tmp_path):
    two = of_two(tmp_path, "cuda")
    for method in SPREAD:
        agree(run(method), two[method])
    for name in NETWORKS:
        near(trained(started(name), STEPS[name]), two[name])

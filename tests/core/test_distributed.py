"""Two processes do what one does: the gathered rows and their gradient, training, and sampling."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cbdm import (
    ADJUSTMENTS,
    DDIM,
    Batches,
    Cosine,
    Dataset,
    DenoisingLoss,
    Objective,
    Process,
    TrainSettings,
    TrainState,
)
from cbdm import train as trained
from cbdm_core import distributed
from cbdm_core.distributed import join, own_rows, rows_of_all_ranks
from cbdm_core.errors import CbdmError
from cbdm_core.generation import generate
from cbdm_core.networks.mlp import MLP
from cbdm_core.sharding import whole
from cbdm_priors.laws.counts import Null, Uniform
from cbdm_priors.laws.learned import Learned

COUNTS = [16, 12, 8, 4]


class DoubleBatches(Batches):
    """Batches in float64."""

    def at(self, step, rank=0, world=1):
        batch = super().at(step, rank, world)
        return batch._replace(x_0=batch.x_0.double())


def data():
    y = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    angle = y.double() + torch.linspace(0, 0.5, len(y), dtype=torch.float64)
    return Dataset(torch.stack([angle.cos(), angle.sin()], 1).float(), y, tuple("abcd"))


# Each of the laws and adjustments that a rank could get wrong: by rows compared, drawn, learned from or left out.
METHODS = {
    "ddpm": [],
    "cbdm": [("cbdm", {"target": Uniform(COUNTS), "gamma": 0.25})],
    "cbdm-null": [("cbdm", {"target": Null(COUNTS), "gamma": 0.25})],
    "cbdm-fraction": [("cbdm", {"target": Uniform(COUNTS), "fraction": 0.1})],  # one row or two, often all of one rank
    "cbdm-draws": [("cbdm", {"target": Uniform(COUNTS), "draws": 2})],
    "cbdm-every": [("cbdm", {"target": Uniform(COUNTS), "every": 3})],
    "learned": [("cbdm", {"target": "learned"})],
    "shrink": [("shrink", {"target": Uniform(COUNTS)})],
    "reweight": [("reweight", {"target": Uniform(COUNTS)})],
    "t2h": [("t2h", {"window": (0.0, 1.0)})],
    "h2t": [("h2t", {})],
    "transfer": [("transfer", {})],
    "coral": [("coral", {"bank": 3, "rare": 8, "projection": 4})],
    "ccua": [("ccua", {})],
    "diffrop": [("diffrop", {"target": Uniform(COUNTS), "margin": 5.0})],
    "capacity": [("capacity", {})],
    "t2h+coral+cbdm": [("t2h", {}), ("coral", {"projection": 4}), ("cbdm", {"target": Uniform(COUNTS)})],
}


def objective(method, drop=0.3):
    torch.manual_seed(0)
    network = MLP((2,), 4, width=16, depth=1, dropout=0.0)
    adjustment = DenoisingLoss()
    for name, options in reversed(METHODS[method]):
        cls = ADJUSTMENTS[name]
        values = {"counts": torch.tensor(COUNTS), "network": network, "num_features": network.num_features}
        values |= {"training": Uniform(COUNTS)}
        options = {**options, **({"target": Learned(COUNTS)} if options.get("target") == "learned" else {})}
        adjustment = cls(adjustment, **{k: values[k] for k in cls.needs if k != "target"}, **options)
    return Objective(Process(Cosine()), network, adjustment, drop=drop).double()


def run(method, world=None, steps=20, **settings):
    """(losses, weights, averages and all that was learned, losses by group) of 20 steps in float64."""
    settings = TrainSettings(learning_rate=1e-2, ema_decay=0.9, **settings)
    state = TrainState.start(objective(method), settings, world)
    groups = {"groups": torch.tensor([0, 0, 1, 1]), "group_names": ("head", "tail")}
    records = list(trained(state, DoubleBatches(data(), 12, seed=0), steps=steps, **groups))
    values = state.objective.state_dict() | {f"ema {name}": value for name, value in state.ema.state_dict().items()}
    return (
        [r.loss for r in records],
        {k: whole(v).cpu().clone() for k, v in values.items()},
        [r.groups for r in records],
    )


def agree(one, other, tolerance=1e-6):
    assert one[0] == pytest.approx(other[0], abs=tolerance)
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert len(one[2]) == len(other[2]) and {key for by_group in one[2] for key in by_group} == {"head", "tail"}
    for mine, theirs in zip(one[2], other[2], strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)


def launch(script, *arguments, processes=2, cwd=None):
    """Run a text of Python under torchrun, which finds the modules of this test run."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, str(script), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=240, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


_PEER = """
import sys, torch
from cbdm_core.distributed import join, leave
from tests.core.test_distributed import METHODS, compared, drawn, run
torch.set_num_threads(1)
world = join("cpu")
results = {method: run(method, world) for method in METHODS}
results["accumulated"] = run("cbdm", world, accumulate=2)
results["gathered"] = compared(world)
results["drawn"] = drawn(world)
torch.save(results, f"{sys.argv[1]}.{world.rank}")
leave()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes of half a batch made, in one launch."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "peer.py").write_text(_PEER)
    launch(folder / "peer.py", folder / "two.pt", cwd=Path(__file__).parents[2])
    return [torch.load(folder / f"two.pt.{rank}", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def two(both):
    """What two processes of half a batch each made, in one launch: that of the leader."""
    return both[0]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_of_half_a_batch_are_one(two, method):
    """After 20 steps in float64 without dropout the weights and all that was learned differ by less than 1e-6."""
    one = run(method)
    assert one[0][0] != one[0][-1]
    agree(one, two[method])


@pytest.mark.parametrize("method", METHODS)
def test_both_processes_hold_the_same_bits(both, method):
    (losses, state, groups), (other_losses, other_state, other_groups) = (of[method] for of in both)
    assert losses == other_losses and groups == other_groups and state.keys() == other_state.keys()
    assert all(torch.equal(value, other_state[name]) for name, value in state.items())


@pytest.mark.parametrize(("method", "learned", "by"), [("learned", "log_pi", 1e-2), ("shrink", "distance", 1e-4)])
def test_what_is_learned_has_moved(two, method, learned, by):
    """That both say the same would say nothing of what stands still."""
    starts = objective(method).state_dict()
    moved = [float((two[method][1][name] - start).abs().max()) for name, start in starts.items() if learned in name]
    assert moved and max(moved) > by


def test_the_memory_of_coral_is_full(two):
    assert [bool((v == 3).all()) for name, v in two["coral"][1].items() if name.endswith("filled")] == [True]


def test_every_adjustment_is_among_them():
    assert {name for parts in METHODS.values() for name, _ in parts} >= set(ADJUSTMENTS)


def test_two_processes_may_cut_their_shares(two):
    agree(run("cbdm"), two["accumulated"])


def compared(world):
    """The gradient of a loss that compares all rows, as distributed training would average it."""
    x = torch.arange(6, dtype=torch.float64).sin().reshape(6, 1).requires_grad_()
    count = 6 // world.size
    mine = x[world.rank * count : (world.rank + 1) * count]
    everyone = rows_of_all_ranks(mine)
    ((mine - everyone.T) ** 3).abs().sum(1).mean().backward()
    if world.size > 1:
        torch.distributed.all_reduce(x.grad)
    return x.grad / world.size, own_rows(count).start, rows_of_all_ranks(mine[:, 0] > 0)


def test_gathered_rows_have_the_gradient_of_the_whole(two):
    from cbdm_core.distributed import World

    grad, first, positive = compared(World(0, 1, torch.device("cpu")))
    assert first == 0 == two["gathered"][1]
    torch.testing.assert_close(two["gathered"][0], grad, atol=1e-14, rtol=0)
    assert torch.equal(two["gathered"][2], positive) and positive.dtype == torch.bool


def drawn(world):
    """37 samples in batches of 8, so that the last turn has a rank without work and the last batch is short."""
    network, sampler = objective("ddpm").network.float().eval(), DDIM(Cosine(), eta=1.0)
    options = {"steps": 4, "seed": 3, "batch_size": 8}
    return torch.cat(list(generate(network, sampler, torch.arange(37) % 4, (2,), world=world, **options)))


def test_samples_are_the_same_for_any_number_of_processes(two):
    assert torch.equal(two["drawn"], drawn(None))


ACCUMULATED = [
    "ddpm",
    "cbdm",
    "cbdm-null",
    "cbdm-fraction",
    "cbdm-draws",
    "cbdm-every",
    "reweight",
    "diffrop",
    "capacity",
]


@pytest.mark.parametrize("method", ACCUMULATED)
def test_parts_of_a_batch_add_up_to_it(method):
    agree(run(method), run(method, accumulate=5))  # 12 rows in parts of 2 and 3


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(ACCUMULATED)))
def test_what_needs_a_batch_whole_refuses_its_parts(method):
    with pytest.raises(CbdmError, match=r"compares the rows|learns from the batch"):
        run(method, accumulate=2)


def test_more_parts_than_rows_are_refused():
    with pytest.raises(CbdmError, match="parts of 12 rows"):
        run("ddpm", accumulate=13, steps=1)


def test_a_group_on_gpus_also_takes_what_is_still_on_the_cpu(monkeypatch):
    """NCCL alone refuses it, and a method is rehearsed before it is moved."""
    begun = []
    monkeypatch.setattr(distributed, "pick_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: begun.append(backend))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    join("cuda")
    config = torch.distributed.distributed_c10d.BackendConfig(torch.distributed.Backend(begun[0]))
    assert config.get_device_backend_map() == {"cpu": "gloo", "cuda": "nccl"}


def test_processes_started_again_do_not_meet_at_the_addresses_of_the_dead(monkeypatch):
    """torchrun keeps one store over its restarts on one node."""
    kept, places = torch.distributed.HashStore(), []
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(kept, 0, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, store=kept, **__: places.append(store))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    for restarts in range(3):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        join("cpu")
        assert not places[-1].check(["address"])
        places[-1].set("address", str(restarts))

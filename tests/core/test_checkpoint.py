"""Checkpoints give back every bit, keep the newest, and refuse what is not whole."""

import copy
import json
import pickle
import weakref

import pytest
import torch
from torch.utils._pytree import tree_leaves

from cbdm import (
    Batches,
    ClassBalancing,
    Cosine,
    Dataset,
    DenoisingLoss,
    Objective,
    Process,
    Training,
    TrainSettings,
    TrainState,
    train,
)
from cbdm_core import checkpoint as module
from cbdm_core.checkpoint import (
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
)
from cbdm_core.errors import CbdmError
from cbdm_core.networks.mlp import MLP

DATA = Dataset(torch.arange(80.0).reshape(40, 2) / 40 - 1, torch.arange(40) % 4, tuple("abcd"))


def started(width=8, seed=0, **settings):
    torch.manual_seed(seed)
    adjustment = ClassBalancing(DenoisingLoss(), Training(DATA.counts()))
    objective = Objective(Process(Cosine()), MLP((2,), 4, width=width, depth=1, dropout=0.1), adjustment)
    return TrainState.start(objective, TrainSettings(learning_rate=1e-2, ema_decay=0.9, **settings))


def losses(state, until):
    return [record.loss for record in train(state, Batches(DATA, 8, seed=0), steps=until)]


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of step 3, and the state it was taken of."""
    state = started()
    losses(state, 3)
    save_checkpoint(tmp_path, state)
    return tmp_path, state


def test_training_goes_on_bit_for_bit(saved):
    """Weights, averages, optimiser and step, put into a state that began elsewhere."""
    folder, state = saved
    again = load_checkpoint(latest_checkpoint(folder), started(seed=9))
    assert again.step == 3 and losses(again, 8) == losses(state, 8)
    for ours, theirs in ((again.objective, state.objective), (again.ema, state.ema)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_only_the_newest_stay(tmp_path):
    state = started()
    for step in (5, 10, 20, 100):
        state.step = step
        path = save_checkpoint(tmp_path, state, keep=2)
        assert latest_checkpoint(tmp_path) == path
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000020", "step-00000100"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_that_fails_leaves_the_one_before(saved, monkeypatch):
    folder, state = saved

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CbdmError, match="the disk is full"):
        save_checkpoint(folder, state)
    monkeypatch.undo()
    assert [p.name for p in folder.iterdir()] == ["step-00000003"]
    assert load_checkpoint(latest_checkpoint(folder), started(seed=1)).step == 3


def test_one_file_at_a_time_is_in_memory(tmp_path, monkeypatch):
    """Whole tensors as a GPU gives them: copies on the host, none of which is there when those of the next are made."""
    made = []

    def copied(gather):
        def gathered(*of, **how):
            assert not any(tensor() is not None for tensor in made)
            found = copy.deepcopy(gather(*of, **how))
            made.extend(weakref.ref(leaf) for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))
            return found

        return gathered

    monkeypatch.setattr(module, "whole_on_cpu", copied(module.whole_on_cpu))
    monkeypatch.setattr(module, "whole_optimizer", copied(module.whole_optimizer))
    averages = ("power:0.1", "decay:0.5")
    state = started(averages=averages)
    losses(state, 2)
    again = load_checkpoint(save_checkpoint(tmp_path, state), started(seed=9, averages=averages))
    count = len(state.objective.state_dict())
    assert len(made) > 6 * count  # the network, its average, three of a parameter in the optimiser, two averages
    assert losses(again, 4) == losses(state, 4)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, altered, lambda path: path.unlink()], ids=["cut", "altered", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt"])
def test_a_damaged_file_is_named_before_anything_is_loaded(saved, name, harm):
    folder, _ = saved
    harm(latest_checkpoint(folder) / name)
    state = started(seed=1)
    before = {key: value.clone() for key, value in state.objective.state_dict().items()}
    with pytest.raises(CbdmError, match=rf"{name} is damaged: \d+ bytes, expected \d+ with another hash"):
        load_checkpoint(latest_checkpoint(folder), state)
    assert all(torch.equal(before[key], value) for key, value in state.objective.state_dict().items())


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ("{", "is no complete checkpoint .* in state.json"),
        ("{}", "is no complete checkpoint"),
        (None, "is no complete checkpoint"),
        ({"format": 9}, "has format 9; this version reads format 1"),
    ],
)
def test_facts_that_are_none_are_refused(saved, facts, words):
    file = latest_checkpoint(saved[0]) / "state.json"
    if facts is None:
        file.unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **facts}) if isinstance(facts, dict) else facts)
    with pytest.raises(CbdmError, match=words):
        load_checkpoint(file.parent, started())


def test_weights_of_another_network_are_refused(saved):
    weights = latest_checkpoint(saved[0]) / "ema.safetensors"
    with pytest.raises(CbdmError, match="holds the weights of another network"):
        load_weights(weights, started(width=16).ema)
    altered(weights)
    with pytest.raises(CbdmError, match="is damaged"):
        load_weights(weights, started().ema, verify=True)


class Harm:
    """Its pickle would end the process."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_no_pickle_is_executed(saved):
    """Also where the hashes agree, as after an attack on the whole folder."""
    target = latest_checkpoint(saved[0])
    (target / "optimizer.pt").write_bytes(pickle.dumps(Harm(), protocol=2))
    facts = json.loads((target / "state.json").read_text())
    facts["files"]["optimizer.pt"] = module._fingerprint(target / "optimizer.pt")
    (target / "state.json").write_text(json.dumps(facts))
    with pytest.raises(CbdmError, match=r"optimizer\.pt"):
        load_checkpoint(target, started())


def test_a_file_that_is_no_safetensors_and_an_empty_folder_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CbdmError, match="cannot be read as safetensors"):
        read_tensors(tmp_path / "x.safetensors")
    with pytest.raises(CbdmError, match=r"no checkpoint in .* train first"):
        latest_checkpoint(tmp_path)

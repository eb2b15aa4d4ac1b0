"""The presets of the papers train, at tiny sizes, on files in CIFAR's binary format."""

import numpy as np
import pytest
import torch

from cbdm_cli.assemble import assemble
from cbdm_cli.overlay import load_config
from cbdm_cli.preset_files import preset_names
from cbdm_cli.resolve import resolved
from cbdm_core.distributed import World
from cbdm_core.training import train

TINY = [
    "network.options={width=8, groups=4, multipliers=[1, 2], attention=[1], blocks=1}",
    "training.batch_size=8",
    "data.imbalance=0.25",
]
PRESETS = [name for name in preset_names() if name.startswith("cifar")]


def records(labels, per_class, seed):
    """Records of random pixels with `labels(y)` before them, in a drawn order."""
    random = np.random.default_rng(seed)
    rows = [[*label, *random.integers(0, 256, 3072)] for label in labels for _ in range(per_class)]
    return np.array(rows, np.uint8)[random.permutation(len(rows))]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The folders of both sets, by name of the preset's data."""
    ten, hundred = tmp_path_factory.mktemp("cifar10"), tmp_path_factory.mktemp("cifar100")
    for number in range(1, 6):
        (ten / f"data_batch_{number}.bin").write_bytes(records([[y] for y in range(10)], 8, number).tobytes())
    (hundred / "train.bin").write_bytes(records([[y // 5, y] for y in range(100)], 24, 7).tobytes())
    return {"cifar10lt": ten, "cifar100lt": hundred}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(roots, name):
    root = roots[name.split("-")[0]]
    settings = [*TINY, f"data.options.root='{root}'", "data.options.verify=false"]
    experiment = assemble(resolved(load_config(name, None, settings), {}))
    state = experiment.start(World(0, 1, torch.device("cpu")))
    losses = [record.loss for record in train(state, experiment.batches, steps=3)]
    assert state.step == 3 and all(0 < loss < 20 for loss in losses)

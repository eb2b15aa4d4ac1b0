"""The presets of the papers train, at tiny sizes, on files in CIFAR's binary format and on photographs."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

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
# Their levels and their attention stay.
NARROW = [f"network.options.{option}" for option in ("width=8", "groups=4", "blocks=1")]
HAIR = {"Black_Hair": 12, "Blond_Hair": 8, "Brown_Hair": 6, "Gray_Hair": 3, "Bald": 1}  # class → images
SYNSETS = {f"n{y:08d}": 1 + (y < 250) + (y < 50) for y in range(1000)}
PHOTOGRAPHS = {"celeba5": (HAIR, (218, 178)), "imagenetlt64": (SYNSETS, (66, 75))}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """By name of the preset's data: class folders of JPEGs, and a CSV of them beside, where the classes are 0, 1, …"""
    random = np.random.default_rng(0)
    folders = {name: tmp_path_factory.mktemp(name) / "images" for name in PHOTOGRAPHS}
    for name, (classes, size) in PHOTOGRAPHS.items():
        rows = [(f"{cls}/{i:06d}.jpg", y) for y, cls in enumerate(classes) for i in range(classes[cls])]
        for file, _ in rows:
            path = folders[name] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        with folders[name].with_suffix(".csv").open("w", newline="") as table:
            csv.writer(table).writerows([("file_name", "class"), *rows])
    return folders


def trained_three_steps(name, settings):
    """The experiment of a preset after three steps."""
    experiment = assemble(resolved(load_config(name, None, settings), {}))
    state = experiment.start(World(0, 1, torch.device("cpu")))
    losses = [record.loss for record in train(state, experiment.batches, steps=3)]
    assert state.step == 3 and all(0 < loss < 20 for loss in losses)
    return experiment


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(cifar_roots, name):
    root = cifar_roots[name.split("-")[0]]
    trained_three_steps(name, [*TINY, f"data.options.root='{root}'", "data.options.verify=false"])


@pytest.mark.parametrize("listed", [False, True], ids=["class folders", "csv"])
@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith(tuple(PHOTOGRAPHS))])
def test_a_preset_of_photographs_trains(photographs, name, listed):
    """On the long tail as it lies there, cut to 64×64."""
    data = name.split("-")[0]
    folder, classes = photographs[data], PHOTOGRAPHS[data][0]
    settings = [*NARROW, "training.batch_size=4", f"data.options.path='{folder}'"]
    settings += [f"data.options.labels='{folder.with_suffix('.csv')}'"] if listed else []
    tail = trained_three_steps(name, settings).data
    names = [str(y) for y in range(len(classes))] if listed else list(classes)
    counts = dict(zip(names, classes.values(), strict=True))
    assert tail.shape == (3, 64, 64)
    assert dict(zip(tail.class_names, tail.counts().tolist(), strict=True)) == counts


def given(*settings):
    """Settings as words of a command."""
    return [word for text in settings for word in ("--set", text)]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-finetune")])
def test_a_preset_fine_tunes_a_run(run, cifar_roots, tmp_path, name):
    """It begins at the run's averaged weights, bit for bit, from which three steps of warm-up hardly move."""
    data = name.split("-")[0]
    asked = [*given(*TINY, f"data.options.root='{cifar_roots[data]}'", "data.options.verify=false"), "--no-evaluate"]
    quick = given("training.learning_rate=1e-2", "training.warmup=0", "training.ema_decay=0.5")
    assert run("train", f"{data}-ddpm", *asked, *quick, "--steps", 2, "--out", "ddpm")[0] == 0
    code, out, err = run("train", name, "--from", "ddpm", *asked, "--steps", 3, "--out", "fine")
    assert code == 0 and "the averaged weights of ddpm, trained for 2 steps" in " ".join(out.split()), err
    before = load_file(tmp_path / "ddpm" / "checkpoints" / "step-00000002" / "ema.safetensors")
    begun, ended = (
        load_file(tmp_path / "fine" / "checkpoints" / f"step-0000000{step}" / "model.safetensors") for step in (0, 3)
    )
    assert all(torch.equal(begun[f"network.{key}"], value) for key, value in before.items())
    assert 0 < max(float((ended[f"network.{key}"] - value).abs().max()) for key, value in before.items()) < 1e-5

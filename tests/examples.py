"""How each registered name is made for a test: as `EXAMPLES` says, or from its defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cbdm import ADJUSTMENTS, ClassBalancing, ClassReweighting, Training, Uniform
from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.data.sources import DATASETS
from cbdm_core.networks import NETWORKS
from cbdm_core.priors import ConditionPrior, LabelPrior
from cbdm_priors.penalties.capacity import CapacityManipulation
from cbdm_priors.penalties.contrast import Alignment, Separation, SupervisedContrast
from cbdm_priors.penalties.shrinkage import Shrinkage
from cbdm_priors.transfer import OrientedTransfer
from tests.core.data.cifar_files import cifar_archive, tar
from tests.core.data.idx_files import fashion_files

CLASSES = 5
COUNTS = [400, 90, 0, 25, 3]


def reweight(inner: PriorAdjustment, law: ConditionPrior, network: Any = None) -> PriorAdjustment:
    assert isinstance(law, LabelPrior)
    return ClassReweighting(inner, law, Training(COUNTS))


def capacity(inner: PriorAdjustment, law: ConditionPrior, network: Any) -> PriorAdjustment:
    """With experts that say something: they start at nothing."""
    adjustment = CapacityManipulation(inner, COUNTS, network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2 and not parameter.any():
                parameter.fill_(0.05)
    return adjustment


def a_folder_of_arrays(where: Path) -> Path:
    random = np.random.default_rng(0)
    for shard in range(2):
        np.save(where / f"images-{shard}.npy", random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
        np.save(where / f"labels-{shard}.npy", (np.arange(6) + shard) % 5)
    return where


def a_file(where: Path) -> Path:
    random = np.random.default_rng(0)
    path = where / "data.npz"
    np.savez(path, images=random.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8), labels=np.arange(12) % 5)
    return path


def a_medmnist(where: Path) -> Path:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = random.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(12)[:, None] % 5
    np.savez(where / "bloodmnist.npz", **arrays)
    return where / "bloodmnist.npz"


def a_tar(where: Path) -> Path:
    files: dict[str, bytes] = {}
    for i, image in enumerate(sorted(a_folder(where / "images").glob("*/*.png"))):
        files |= {f"{i}.png": image.read_bytes(), f"{i}.cls": image.parent.name.encode()}
    return tar(where / "shard-000000.tar", files, "w")


def a_parquet(where: Path) -> Path:
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    images = sorted(a_folder(where / "images").glob("*/*.png"))
    columns = {
        "image": [{"bytes": p.read_bytes(), "path": p.name} for p in images],
        "label": [p.parent.name for p in images],
    }
    files.write_table(arrow.table(columns), where / "train.parquet")
    return where / "train.parquet"


def a_folder(where: Path) -> Path:
    random = np.random.default_rng(0)
    for name, count in (("apple", 3), ("pear", 1)):
        (where / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image.save(where / name / f"{i}.png")
    return where


# Kind → name → how to build it. Schedules, samplers and loss weights are built from their defaults when not named, and
# laws from their name alone.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "schedule": {},
    "sampler": {},
    "loss weight": {},
    "network": {
        "dit": lambda: NETWORKS["dit"]((2, 8, 8), CLASSES, width=8, depth=2, heads=2),
        "mlp": lambda: NETWORKS["mlp"]((6,), CLASSES),
        "unet": lambda: NETWORKS["unet"]((2, 8, 8), CLASSES, width=8, groups=4, dropout=0.0),
        "published": lambda: NETWORKS["published"](
            (3, 8, 8), CLASSES, width=8, multipliers=(1, 2), groups=4, blocks=1, dropout=0.0, time_steps=100
        ),
    },
    "law": {
        "balanced": "balanced:0.99",
        "power": "power:0.5",
        "fixed": "fixed:0.5,0.2,0,0.2,0.1",
        "affinity": "affinity:2",
        "learned": "learned:0.1,0.1",
        "knn": "knn:1,3",
        "kde": "kde:1",
        "gaussian": "gaussian:1.5",
        "combinations": "combinations:0",
    },
    # (inner, law, network) → adjustment, and the same at a strength that must change nothing.
    "adjustment": {
        "cbdm": (
            lambda inner, law, network: ClassBalancing(inner, law),
            lambda inner, network: ClassBalancing(inner, Uniform(COUNTS), tau=0.0),
        ),
        "reweight": (reweight, lambda inner, network: reweight(inner, Training(COUNTS))),
        "shrink": (
            lambda inner, law, network: Shrinkage(inner, law, COUNTS, rule="counts"),
            lambda inner, network: Shrinkage(inner, Uniform(COUNTS), COUNTS, strength=0.0),
        ),
        "t2h": (
            lambda inner, law, network: OrientedTransfer(inner, COUNTS),
            lambda inner, network: OrientedTransfer(inner, COUNTS, direction="none"),
        ),
        "h2t": (
            lambda inner, law, network: ADJUSTMENTS["h2t"](inner, COUNTS),
            lambda inner, network: ADJUSTMENTS["h2t"](inner, COUNTS, window=(0.0, 0.0)),
        ),
        "transfer": (
            lambda inner, law, network: ADJUSTMENTS["transfer"](inner, COUNTS),
            lambda inner, network: ADJUSTMENTS["transfer"](inner, COUNTS, window=(0.0, 0.0)),
        ),
        "coral": (
            lambda inner, law, network: SupervisedContrast(inner, COUNTS, network.num_features, bank=4),
            lambda inner, network: SupervisedContrast(inner, COUNTS, network.num_features, strength=0.0),
        ),
        "ccua": (
            lambda inner, law, network: Alignment(inner),
            lambda inner, network: Alignment(inner, strength=0.0),
        ),
        "diffrop": (
            lambda inner, law, network: Separation(inner, law, margin=100.0),
            lambda inner, network: Separation(inner, Uniform(COUNTS), strength=0.0),
        ),
        "capacity": (capacity, lambda inner, network: CapacityManipulation(inner, COUNTS, network, strength=0.0)),
    },
    # A folder to write in → the data set.
    "data set": {
        "digits": lambda where: DATASETS["digits"](),
        "digits-pose": lambda where: DATASETS["digits-pose"](),
        "digits-attributes": lambda where: DATASETS["digits-attributes"](),
        "fashion": lambda where: DATASETS["fashion"](root=str(fashion_files(where))),
        "cifar10": lambda where: DATASETS["cifar10"](root=cifar_archive(where / "ten.tar.gz")),
        "cifar100": lambda where: DATASETS["cifar100"](root=cifar_archive(where / "hundred.tar.gz", 100)),
        "mnist": lambda where: DATASETS["mnist"](root=str(fashion_files(where))),
        "medmnist": lambda where: DATASETS["medmnist"](root=a_medmnist(where)),
        "mixture": lambda where: DATASETS["mixture"](num_classes=4, per_class=20, dimension=3),
        "npz": lambda where: DATASETS["npz"](path=a_file(where)),
        "npy": lambda where: DATASETS["npy"](path=a_folder_of_arrays(where)),
        "parquet": lambda where: DATASETS["parquet"](root=a_parquet(where)),
        "webdataset": lambda where: DATASETS["webdataset"](root=a_tar(where)),
        "folder": lambda where: DATASETS["folder"](path=a_folder(where)),
    },
}


def example(kind: str, name: str) -> Any:
    if name not in EXAMPLES[kind]:
        place = f"EXAMPLES[{kind!r}] of tests/examples.py"
        pytest.fail(f"{kind} {name!r} has no arguments to be tested with: add an example to {place}")
    return EXAMPLES[kind][name]


def by_default(kind: str, name: str, *arguments: Any, registry: Mapping[str, Any]) -> Any:
    """`registry[name](*arguments)`, or the example where the class has further arguments without a default."""
    if name in EXAMPLES[kind]:
        return EXAMPLES[kind][name](*arguments)
    try:
        inspect.signature(registry[name]).bind(*arguments)
    except TypeError:
        example(kind, name)
    return registry[name](*arguments)

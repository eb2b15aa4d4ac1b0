"""Where data come from: the names of all sources, the embedded digits and a Gaussian mixture."""

from __future__ import annotations

import gzip
import math
from importlib.resources import files

import numpy as np
import torch

from cbdm_core.data.clusters import split_classes
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry

__all__ = ["DATASETS", "digits", "mixture"]

DATASETS = Registry(
    "data set",
    "cbdm.datasets",
    {
        "digits": "cbdm_core.data.sources:digits",
        "digits-pose": "cbdm_core.data.digits_measured:digits_pose",
        "digits-attributes": "cbdm_core.data.digits_measured:digits_attributes",
        "fashion": "cbdm_core.data.fashion:fashion",
        "cifar10": "cbdm_core.data.cifar:cifar10",
        "cifar100": "cbdm_core.data.cifar:cifar100",
        "mnist": "cbdm_core.data.mnist:mnist",
        "medmnist": "cbdm_core.data.medmnist:medmnist",
        "mixture": "cbdm_core.data.sources:mixture",
        "npz": "cbdm_core.data.npz:npz",
        "npy": "cbdm_core.data.npy:npy",
        "parquet": "cbdm_core.data.parquet:parquet",
        "webdataset": "cbdm_core.data.webdataset:webdataset",
        "folder": "cbdm_core.data.folders:folder",
    },
)


def digits(*, clusters: int = 1) -> Dataset:
    """1,797 handwritten digits of 8×8 pixels, ten classes of 174 to 183, embedded in the package.

    The values 0 … 16 become bytes: round(255 v/16).

    Args:
        clusters: M, into how many classes each digit is split (`split_classes`); 4 makes forty classes of 43 to 46.

    Raises:
        CbdmError: M < 1 or more than a digit's examples.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
    """
    packed = (files("cbdm_core.data") / "digits" / "digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.int64)
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    whole = Dataset(torch.from_numpy(pixels), torch.from_numpy(table[:, -1]), tuple("0123456789"))
    return split_classes(whole, clusters)


def mixture(*, num_classes: int = 10, per_class: int = 1000, dimension: int = 2, seed: int = 0) -> Dataset:
    """A labelled Gaussian mixture in float32, one Gaussian a class; the same arguments give the same data.

    The mean of class c is (cos 2πc/K, sin 2πc/K, 0, …); the standard deviation is 0.15 along the ray from the origin
    through the mean, 0.06 across it in the plane, and 0.1 in every further dimension.

    Args:
        num_classes: K ≥ 1.
        per_class: examples of each class, ≥ 1.
        dimension: of the vectors, ≥ 2.
        seed: of the examples.

    Raises:
        CbdmError: any of these too small.
    """
    if num_classes < 1 or per_class < 1 or dimension < 2:
        raise CbdmError(
            f"a mixture needs num_classes ≥ 1, per_class ≥ 1 and dimension ≥ 2, got {num_classes}, {per_class} and "
            f"{dimension}: raise the smaller ones"
        )
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(num_classes), per_class)
    angle = 2 * math.pi * y / num_classes
    z = random.standard_normal((len(y), dimension))
    x = 0.1 * z
    along, across = 1 + 0.15 * z[:, 0], 0.06 * z[:, 1]
    x[:, 0] = along * np.cos(angle) - across * np.sin(angle)
    x[:, 1] = along * np.sin(angle) + across * np.cos(angle)
    names = tuple(str(c) for c in range(num_classes))
    return Dataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), names)

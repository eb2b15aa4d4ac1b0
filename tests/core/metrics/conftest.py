"""The digits, one classifier of them a process, two classes of vectors, the published numbers, a meter of memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import digits as load_digits
from cbdm_core.metrics.features.classifier import train_classifier


@pytest.fixture(scope="package")
def digits():
    return load_digits()


@pytest.fixture(scope="package")
def classifier(digits):
    return train_classifier(digits)


@pytest.fixture
def two_classes():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 3, generator=g)
    x[:, 0] = (2 * y - 1) * (x[:, 0].abs() + 0.1)
    return Dataset(x, y, ("minus", "plus"))


@pytest.fixture
def official():
    """real, fake, k → precision, recall, fid of the published program."""
    path = Path(__file__).parents[2] / "golden" / "metrics_official.npz"
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


class LargestTensor(TorchDispatchMode):
    """Within the block, the most elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


@pytest.fixture
def largest_tensor():
    return LargestTensor()

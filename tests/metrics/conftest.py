"""The digits, one classifier of them for all the tests of a process, and the published numbers."""

from pathlib import Path

import numpy as np
import pytest

from cbdm_core.data.sources import digits as load_digits
from cbdm_core.metrics.features import train_classifier


@pytest.fixture(scope="package")
def digits():
    return load_digits()


@pytest.fixture(scope="package")
def classifier(digits):
    return train_classifier(digits)


@pytest.fixture
def official():
    """real, fake, k → precision, recall, fid of the published program."""
    path = Path(__file__).parents[1] / "golden" / "metrics_official.npz"
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}

"""One thread per process, deterministic properties, and README.md's Python blocks as tests.

Two processes with two threads each on two cores run many times slower than with one each.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import pytest
import torch
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

torch.set_num_threads(1)
settings.register_profile("cbdm", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("cbdm")

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md"], excludes=["tests/**"]).pytest()


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)

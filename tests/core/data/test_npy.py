"""Data that stay on the disk: the same set as in memory, of which only what is asked for is read."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.data.batches import Batches
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.data.npy import npy
from cbdm_core.data.npz import npz
from cbdm_core.errors import CbdmError

RNG = np.random.default_rng(0)
SHARDS = (7, 40, 13)
SHAPES = {
    "grey": ((5, 4), np.uint8, None),
    "rgb": ((5, 4, 3), np.uint8, None),
    "channels first": ((3, 5, 4), np.uint8, None),
    "said": ((5, 4, 3), np.uint8, "last"),
    "vectors": ((6,), np.float32, None),
    "signals": ((2, 9), np.float64, None),
    "signals, said": ((9, 2), np.float32, "last"),
}


def written(folder, shape, dtype, shards=SHARDS):
    """Shards of random examples, and all of them in one npz beside."""
    folder.mkdir()
    parts = [RNG.normal(100, 50, (n, *shape)).clip(0, 255).astype(dtype) for n in shards]
    labels = [RNG.integers(0, 3, n) for n in shards]
    for number, (x, y) in enumerate(zip(parts, labels, strict=True)):
        np.save(folder / f"images-{number:03d}.npy", x)
        np.save(folder / f"labels-{number:03d}.npy", y)
    np.savez(folder.with_suffix(".npz"), images=np.concatenate(parts), labels=np.concatenate(labels))
    return folder


@pytest.mark.parametrize("kind", SHAPES)
def test_it_is_the_set_that_memory_would_hold(tmp_path, kind):
    """Examples, hash, units, long tail and batches, bit for bit."""
    shape, dtype, layout = SHAPES[kind]
    folder = written(tmp_path / "d", shape, dtype)
    values = {} if dtype == np.uint8 else {"kind": "values"}
    there = npy(path=folder, layout=layout)
    here = npz(path=folder.with_suffix(".npz"), layout=layout, **values)
    assert isinstance(there.x, MappedRows) and there.shape == here.shape and there.units == here.units
    assert there.content_hash() == here.content_hash()
    tails = [make_long_tail(data, imbalance=0.2, n_max=10, seed=3)[0] for data in (there, here)]
    assert tails[0].content_hash() == tails[1].content_hash() and isinstance(tails[0].x, MappedRows)
    batches = [Batches(tail, 8, seed=1).at(5) for tail in tails]
    assert torch.equal(batches[0].x_0, batches[1].x_0)


@given(st.lists(st.integers(-60, 59), max_size=30), st.lists(st.integers(0, 29), min_size=1, max_size=9))
def test_rows_of_rows_are_those_of_the_whole(first, second):
    arrays = [np.arange(a, b, dtype=np.uint8).reshape(-1, 1, 1, 1) for a, b in ((0, 7), (7, 47), (47, 60))]
    whole, rows = torch.from_numpy(np.concatenate(arrays)), MappedRows(arrays, "first")
    assert torch.equal(rows[first], whole[torch.tensor(first, dtype=torch.long)])
    some = rows.subset(torch.arange(10, 40))
    assert torch.equal(some[second], whole[10:40][second])
    assert torch.equal(some.subset(torch.tensor(second))[:], whole[10:40][second])
    assert torch.equal(torch.cat(list(some.split(7))), whole[10:40])
    for outside in ([60], [-61], [0, 99]):
        with pytest.raises(IndexError):
            rows[outside]
    assert torch.equal(rows[whole.flatten() > 30], whole[31:]) and rows.numel() == 60 and rows.ndim == 4


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: (f / "labels-001.npy").unlink(), "give each images file its labels file"),
        (lambda f: [p.unlink() for p in f.glob("images*")], "has no images.npy and no images-"),
        (lambda f: (f / "images-001.npy").write_bytes(b"\x93NUMPY"), "images-001.npy is no npy file of numbers"),
        (lambda f: np.save(f / "images-001.npy", np.zeros((40, 2, 2), np.uint8)), "arrays of 2 kinds"),
        (lambda f: np.save(f / "images-001.npy", np.array([{}] * 40)), "images-001.npy is no npy file of numbers"),
        (lambda f: np.save(f / "labels-001.npy", np.full(40, 10**12)), "number the classes from 0"),
        (lambda f: np.save(f / "labels-001.npy", np.zeros(40)), "labels are float64"),
        (lambda f: np.save(f / "images-001.npy", np.uint8(3)), "images-001.npy holds no rows"),
        (lambda f: (f / "class_names.txt").write_text("a\nb\n"), "2 classes have labels"),
        (lambda f: (f / "class_names.txt").write_bytes(b"\xff"), "no text in UTF-8"),
        (lambda f: os.truncate(f / "images-001.npy", 200), "images-001.npy is no npy file of numbers"),
        (lambda f: ((f / "images-001.npy").unlink(), os.mkfifo(f / "images-001.npy")), "pipe or device"),
    ],
)
def test_files_that_do_not_fit_are_told(tmp_path, break_it, words):
    folder = written(tmp_path / "d", (5, 4), np.uint8)
    break_it(folder)
    with pytest.raises(CbdmError, match=words):
        npy(path=folder)


def test_conditions_without_bytes_are_refused_before_they_are_joined(tmp_path, monkeypatch):
    """A file of 128 bytes may claim rows of any length."""
    folder = written(tmp_path / "d", (5, 4), np.uint8)
    for number, rows in enumerate(SHARDS):
        with (folder / f"conditions-{number}.npy").open("wb") as file:
            header = {"descr": "|V0", "fortran_order": False, "shape": (rows, 10**12)}
            np.lib.format.write_array_header_1_0(file, header)
    monkeypatch.setattr(np, "concatenate", lambda parts: pytest.fail("they were joined"))
    with pytest.raises(CbdmError, match=r"conditions are \|V0 of shape"):
        npy(path=folder)


def test_other_mistakes_are_told(tmp_path):
    images, values = written(tmp_path / "i", (5, 4), np.uint8), written(tmp_path / "v", (6,), np.float32)
    with pytest.raises(CbdmError, match="did you mean 'last'"):
        npy(path=images, layout="lats")
    with pytest.raises(CbdmError, match="standardise is for values"):
        npy(path=images, standardise=False)
    assert npy(path=values, standardise=False).units is None
    with pytest.raises(CbdmError, match="save images as uint8"):
        MappedRows([np.zeros((3, 2), np.int16)], "first")
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    x[3, 2] = np.nan
    np.save(values / "images-000.npy", x[:0])
    np.save(values / "labels-000.npy", np.zeros(0, int))
    np.save(values / "images-001.npy", x)
    np.save(values / "labels-001.npy", np.zeros(5, int))
    with pytest.raises(CbdmError, match="1 values in 1 examples are NaN or infinite, the first in row 3"):
        npy(path=values)


def test_more_than_memory_at_once_is_refused(tmp_path, monkeypatch):
    from cbdm_core import memory
    from cbdm_core.data import mapped_rows

    data = npy(path=written(tmp_path / "d", (5, 4), np.uint8))
    monkeypatch.setattr(mapped_rows, "_LARGE", 100)
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 500)
    assert len(data.x[:20]) == 20
    with pytest.raises(CbdmError, match="60 examples at once needs at least"):
        data.x[:]


@pytest.mark.slow
def test_twice_the_memory_is_trained_on(tmp_path):
    """2 GB of shards by a process that may allocate 1 GiB, in which the same arrays do not fit."""
    count, side = 40_000, 128
    for shard in range(2):
        file = tmp_path / "d" / f"images-{shard}.npy"
        file.parent.mkdir(exist_ok=True)
        x = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count // 2, side, side, 3))
        x[::1000] = RNG.integers(0, 256, (count // 2000, side, side, 3), dtype=np.uint8)
        np.save(file.with_name(f"labels-{shard}.npy"), np.arange(count // 2) % 5)
        del x
    options = ["--no-evaluate", "--steps", "3", "--batch-size", "4", "--device", "cpu", "--out", "r"]
    small = ["--set", "network.options={width=8, multipliers=[1,1,1], attention=[], blocks=1, groups=4}"]
    train = [sys.executable, "-m", "cbdm_cli", "train", "--data", "d", *options, *small]
    within = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, preexec_fn=_capped)
    assert within.returncode == 0, within.stderr[-2000:]
    read = "import numpy as np; [np.load(f'd/images-{i}.npy') for i in range(2)]"
    beyond = subprocess.run(
        [sys.executable, "-c", read], cwd=tmp_path, capture_output=True, text=True, preexec_fn=_capped
    )
    assert "Unable to allocate" in beyond.stderr


def _capped():
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

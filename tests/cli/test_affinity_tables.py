"""A table of similarities given to the law affinity: what a run keeps of it, and files that are none."""

import pickle

import numpy as np
import pytest
import torch

from cbdm import load_run
from tests.cli.evil import Evil
from tests.cli.tiny import UNJUDGED


@pytest.mark.parametrize("ending", ["npy", "csv"])
def test_load_run_rebuilds_the_affinity_of_a_table(run, refused, tmp_path, ending):
    """At T = 1 the law is the table with rows of sum 1, and the run keeps it when the file is gone."""
    table = np.random.default_rng(0).uniform(0, 3, (10, 10))
    table[2, :9] = 0
    file = tmp_path / f"table.{ending}"

    def write(values):
        np.save(file, values) if ending == "npy" else np.savetxt(file, values, delimiter=",")

    write(table)
    options = ["--method", "cbdm:affinity", *UNJUDGED, "--set", f"method.affinity={file.name}"]
    assert run("train", "--steps", 1, *options, "--out", "r")[0] == 0
    write(table[::-1])
    assert "another similarity.cbdm than at the start" in refused("train", "--resume", "r", "--steps", 2)
    write(table)
    assert run("train", "--resume", "r", "--steps", 2, "--no-evaluate")[0] == 0
    file.unlink()
    law = load_run(tmp_path / "r").laws["cbdm"]
    expected = torch.from_numpy(table / table.sum(1, keepdims=True))
    torch.testing.assert_close(law.table, expected, rtol=0, atol=1e-12)


def _npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones((10, 10)))


def _changed(value):
    table = np.ones((10, 10))
    table[3] = value
    return table


TABLES = {
    "small.npy": (lambda p: np.save(p, np.ones((3, 3))), "10 × 10 finite numbers of 0 or more"),
    "flat.npy": (lambda p: np.save(p, np.ones(100)), "has the shape (100,)"),
    "negative.npy": (lambda p: np.save(p, _changed(-1)), "10 × 10 finite numbers of 0 or more"),
    "nan.csv": (lambda p: np.savetxt(p, _changed(np.nan), delimiter=","), "10 × 10 finite numbers of 0 or more"),
    "nothing.csv": (lambda p: np.savetxt(p, _changed(0), delimiter=","), "none all 0"),
    "words.csv": (lambda p: p.write_text("a,b\nc,d\n"), "cannot be read"),
    "words.npy": (lambda p: np.save(p, np.full((10, 10), "a")), "cannot be read"),
    "complex.npy": (lambda p: np.save(p, np.full((10, 10), 1j)), "cannot be read"),
    "ragged.csv": (lambda p: p.write_text("1,2\n3\n"), "cannot be read"),
    "empty.csv": (lambda p: p.write_text("\n"), "it is empty"),
    "empty.npy": (lambda p: p.write_bytes(b""), "cannot be read"),
    "archive.npy": (_npz, "cannot be read"),
    "objects.npy": (lambda p: np.save(p, np.array([Evil()] * 4, dtype=object)), "allow_pickle=False"),
    "pickle.npy": (lambda p: p.write_bytes(pickle.dumps(Evil())), "cannot be read"),
    "missing.npy": (lambda p: None, "No such file"),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.filterwarnings("error")  # a warning would be a second line
def test_a_table_of_affinities_that_is_none_is_refused(refused, tmp_path, name):
    write, words = TABLES[name]
    write(tmp_path / name)
    line = refused("train", "--method", "cbdm:affinity", "--set", f"method.affinity={name}")
    assert name in line and words in line
    assert {p.name for p in tmp_path.iterdir()} <= {name}


def test_a_table_of_affinities_goes_with_the_law(refused, tmp_path):
    np.save(tmp_path / "table.npy", np.ones((10, 10)))
    line = refused("train", "--set", "method.affinity=table.npy")
    assert "no part of 'cbdm:null' has the law affinity" in line

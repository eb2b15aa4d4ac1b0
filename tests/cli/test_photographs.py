"""Photographs through the command line: PNGs of unequal size, a CSV of their classes, a run, its samples."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.cli.tiny import TINY, cbdm

pytestmark = pytest.mark.slow  # two children that load torch
SIZES = ((20, 30), (33, 18), (16, 16), (40, 25))


@pytest.fixture
def photographs(tmp_path):
    """24 cats and 8 dogs in colour, of four sizes, and a CSV that names them."""
    rng, place = np.random.default_rng(0), tmp_path / "photos"
    place.mkdir()
    rows = [(f"{i}.png", "cat" if i < 24 else "dog") for i in range(32)]
    for i, (name, _) in enumerate(rows):
        Image.fromarray(rng.integers(0, 256, (*SIZES[i % 4], 3), dtype=np.uint8)).save(place / name)
    with (place / "who.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "class"), *rows])
    return place


def test_a_folder_of_pngs_is_trained_on_and_drawn_from(photographs):
    tmp_path = photographs.parent
    told = ("--set", "data.options.labels=who.csv", "--set", "data.options.size=16")
    asked = ("train", "--data", "photos", *told, "--steps", 3, *TINY, "--no-evaluate", "--out", "r")
    trained = cbdm(*asked, cwd=tmp_path, check=0)
    assert "3×16×16" in trained.stdout and "2 classes" in trained.stdout and trained.stderr == ""
    assert "training from step 0 to 3; to look on: cbdm watch r\nstep 3 of 3 saved" in trained.stdout
    assert [step.name for step in (tmp_path / "r" / "checkpoints").iterdir()] == ["step-00000003"]
    drawn = cbdm("sample", "r", "--labels", "dog,cat,dog", "--format", "npz", "--out", "a.npz", cwd=tmp_path, check=0)
    assert "a.npz" in drawn.stdout
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert arrays["labels"].tolist() == [1, 0, 1] and arrays["images"].shape == (3, 16, 16, 3)

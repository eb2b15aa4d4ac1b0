"""The preset fashion-lt on small files in the format of Fashion-MNIST: trained on one part, held against the other."""

import json

import pytest

from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config
from cbdm_cli.run_data import ReadData, load_data
from tests.cli.tiny import TINY
from tests.core.data.idx_files import fashion_files

SMALL = [*TINY, "--set", "data.n_max=4", "--set", "data.imbalance=0.5"]


def test_samples_are_held_against_images_that_no_training_saw(run, tmp_path):
    files = fashion_files(tmp_path / "files", train=60, test=40)
    options = ["--set", f"data.options.root={str(files)!r}", "--set", "evaluation.features=pixels"]
    code, out, err = run("train", "fashion-lt", "--steps", 2, *SMALL, *options, "--out", "r")
    assert code == 0, err
    result = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert result["reference"] == "the test part of fashion" and result["reference_counts"] == [4] * 10
    assert [entry["training_count"] for entry in result["classes"]] == [4, 3, 3, 3, 2, 2, 2, 2, 2, 2]
    assert result["overall"]["n_reference"] == 40 and "the test part of fashion" in " ".join((out + err).split())


def test_without_the_files_the_line_says_where_they_come_from(refused):
    line = refused("train", "fashion-lt", "--set", "data.options.root='nowhere'")
    assert "nowhere has no train-images-idx3-ubyte.gz: install the Debian package dataset-fashion-mnist" in line


@pytest.mark.parametrize(
    ("other", "same"),
    [([], True), (["data.options.clusters=2"], False), (["data.source=digits-pose"], False), (["data.n_max=9"], True)],
)
def test_data_that_were_read_serve_those_that_are_named_alone(other, same):
    """How the tail is made is no part of what is read."""
    first, second = (validated(load_config("digits-lt", None, settings)) for settings in ([], other))
    read = ReadData.of(first.data)
    full, tail, split = load_data(second, read)
    plain, plain_tail, plain_split = load_data(second)
    assert (full is read.full) == same
    assert full.content_hash() == plain.content_hash() and split == plain_split
    assert tail.content_hash() == plain_tail.content_hash()

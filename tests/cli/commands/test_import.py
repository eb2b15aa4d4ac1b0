"""`cbdm import`: checkpoints of the published program become runs, and no pickle is executed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm import load_run
from tests.cli.evil import Evil
from tests.golden_weights import load_golden


def published_checkpoint(path):
    """A checkpoint in the published layout, filled by the golden formula."""
    state = {k: v.float() for k, v in load_golden("a").state_dict().items()}
    torch.save(
        {"net_model": state, "ema_model": state, "step": 7, "sched": {}, "optim": {}, "fixed_x_T": torch.zeros(1)}, path
    )


def test_import_makes_a_run_that_samples(run, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    code, out, err = run("import", "ckpt.pt", "--out", "theirs", "--image-size", 8)
    assert code == 0 and "5 classes" in out, err
    code, _, err = run("sample", "theirs", "--n", 5, "--steps", 3, "--format", "npz", "--out", "s.npz")
    assert code == 0, err
    assert np.load("s.npz", allow_pickle=False)["images"].shape == (5, 8, 8, 3)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--method", "cbdm:power:x"], "no list of numbers"),
        (["--method", "cbdm:fixed:0.5,0.5"], "one number per class, 5"),
        (["--image-size", 1_000_000], "--image-size 1000000"),
    ],
)
def test_an_import_of_what_cannot_be_is_refused(refused, tmp_path, asked, words):
    published_checkpoint(tmp_path / "ckpt.pt")
    size = [] if "--image-size" in asked else ["--image-size", 8]
    assert words in refused("import", "ckpt.pt", *asked, *size, "--out", "theirs")
    assert not (tmp_path / "theirs").exists()


def test_an_import_says_what_it_was_trained_with_and_how_the_published_program_weighs_it(run, refused, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    asked = ["import", "ckpt.pt", "--image-size", 8, "--method"]
    assert run(*asked, "cbdm:training", "--out", "theirs")[0] == 0
    loaded = load_run(tmp_path / "theirs")
    (part,) = loaded.config["method"]
    assert (part["part"], part["time_weight"], part["tau"], part["gamma"]) == ("cbdm", "published", 1.0, 0.25)
    assert type(loaded.laws["cbdm"]).__name__ == "Training"
    assert "cbdmm" in refused(*asked, "cbdmm", "--out", "o") and not (tmp_path / "o").exists()
    assert run(*asked, "resample:uniform@0.2", "--out", "split")[0] == 0


def test_a_pickle_that_would_execute_is_not_loaded(refused, tmp_path):
    torch.save({"net_model": Evil()}, tmp_path / "evil.pt")
    assert "was not loaded" in refused("import", "evil.pt", "--out", "o")
    assert not Path("executed").exists() and not Path("o").exists()


def test_a_truncated_import_is_refused(refused, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").write_bytes((tmp_path / "ckpt.pt").read_bytes()[:20_000])
    assert "ckpt.pt" in refused("import", "ckpt.pt", "--out", "o")
    assert "cannot be read" in refused("import", "nowhere.pt", "--out", "o")
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "empty.pt" in refused("import", "empty.pt", "--out", "o")


def test_an_imported_run_carries_no_data(run, refused, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    assert run("import", "ckpt.pt", "--out", "theirs", "--image-size", 8)[0] == 0
    assert "carries no data" in refused("evaluate", "theirs")
    assert "carries no data" in refused("train", "--resume", "theirs", "--steps", 9)

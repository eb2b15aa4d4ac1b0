"""`cbdm import`: checkpoints of the published program become runs, and no pickle is executed."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm import load_run
from cbdm_cli.run_data import known_counts
from cbdm_cli.sample_request import SampleRequest, conditions_to_draw
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
        (
            ["--method", "cbdm:training@0.2"],
            "only resample reads noise levels, got 'training@0.2'; write cbdm:training",
        ),
        (["--method", "t2h:uniform"], "'t2h' takes no law"),
        (["--image-size", 1_000_000], "--image-size 1000000"),
        (["--counts", "5,4,3,2"], "--counts has 4 numbers, and the checkpoint has 5 classes"),
        (["--counts", "5,000,4,3,2,1"], "'000' is no number of images"),
        (["--counts", "5,4,3,2,1,1"], "--counts has 6 numbers"),
        (["--counts", "5,4,0,2,1"], "'0' is no number of images; write 5 whole numbers from 1"),
        (["--counts", "5,4,3,2,-1"], "'-1' is no number"),
        (["--counts", "5,4,3.5,2,1"], "'3.5' is no number"),
        (["--counts", "5,4,3,2,9999999999999"], "'9999999999999' is no number"),
        (["--counts", "5,4,many,2,1"], "'many' is no number"),
        (["--counts", ""], "'' is no number"),
    ],
)
def test_an_import_of_what_cannot_be_is_refused(refused, tmp_path, asked, words):
    published_checkpoint(tmp_path / "ckpt.pt")
    size = [] if "--image-size" in asked else ["--image-size", 8]
    assert words in refused("import", "ckpt.pt", *asked, *size, "--out", "theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(("step", "kept"), [(7, 7), (True, 1), (2**63 - 1, 2**63 - 1), (2**63, 0), (-1, 0), ("7", 0)])
def test_a_step_that_no_checkpoint_can_have_is_none(run, tmp_path, step, kept):
    """The imported run could not be opened."""
    published_checkpoint(tmp_path / "ckpt.pt")
    torch.save({**torch.load(tmp_path / "ckpt.pt"), "step": step}, tmp_path / "ckpt.pt")
    assert run("import", "ckpt.pt", "--out", "theirs", "--image-size", 8)[0] == 0
    assert load_run("theirs").step == kept


@pytest.mark.parametrize(("method", "law"), [("resample", "uniform"), ("pure", "training"), ("cbdm:null", "null")])
def test_a_law_that_is_not_said_is_that_of_a_training(run, tmp_path, method, law):
    published_checkpoint(tmp_path / "ckpt.pt")
    assert run("import", "ckpt.pt", "--out", "theirs", "--image-size", 8, "--method", method)[0] == 0
    assert load_run("theirs").config["facts"]["laws"] == {method.partition(":")[0]: law}


def test_counts_that_are_told_reach_laws_card_and_pictures(run, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    asked = ["import", "ckpt.pt", "--image-size", 8, "--method", "cbdm:power:0.5", "--counts", "1600, 900,400,100,100"]
    code, out, err = run(*asked, "--out", "theirs")
    assert code == 0 and "unknown" not in out, err
    loaded = load_run(tmp_path / "theirs")
    assert loaded.config["facts"]["counts"] == [1600, 900, 400, 100, 100] == known_counts(loaded)
    torch.testing.assert_close(loaded.laws["training"].probs.double(), loaded.counts.double() / 3100)
    root = loaded.counts.double().sqrt()
    torch.testing.assert_close(loaded.laws["cbdm"].probs.double(), root / root.sum())
    assert run("export", "theirs", "card", "--to", "safetensors")[0] == 0
    card = (tmp_path / "card" / "README.md").read_text()
    assert "| 0 | 1,600 |" in card and "3,100 examples" in card and "unknown" not in card
    assert conditions_to_draw(SampleRequest(), loaded, 0)[3] == [1600, 900, 400, 100, 100]
    drawn = ["sample", "theirs", "--n", 5, "--steps", 2, "--omega", 1, "--format", "npz"]
    for law in ("uniform", "training"):
        assert run(*drawn, "--guidance-prior", law, "--out", f"{law}.npz")[0] == 0
    uniform, training = (np.load(f"{law}.npz")["images"] for law in ("uniform", "training"))
    assert (uniform != training).any()  # the null branch is known to have learned another law than uniform


def test_an_import_without_counts_says_that_they_are_unknown_and_claims_none(run, tmp_path):
    published_checkpoint(tmp_path / "ckpt.pt")
    code, out, err = run("import", "ckpt.pt", "--image-size", 8, "--out", "theirs")
    (line,) = [line for line in out.splitlines() if "unknown" in line]
    assert code == 0 and "every class as equally frequent" in line and "--counts" in line, err
    loaded = load_run(tmp_path / "theirs")
    assert known_counts(loaded) == [None] * 5 == conditions_to_draw(SampleRequest(), loaded, 0)[3]
    assert run("export", "theirs", "card", "--to", "safetensors")[0] == 0
    card = (tmp_path / "card" / "README.md").read_text()
    assert "| 0 | unknown |" in card and "an unknown number of examples" in card and "| 1 |\n" not in card


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


@pytest.mark.parametrize(
    ("method", "weight"), [("cbdm:training", "published"), ("ccua", "published"), ("t2h", None), ("coral", None)]
)
def test_only_penalties_with_a_time_weight_get_the_published_one(run, tmp_path, method, weight):
    """The targets of t2h have none, and coral's is its own, exp((1 − t)/τ)."""
    published_checkpoint(tmp_path / "ckpt.pt")
    code, _, err = run("import", "ckpt.pt", "--image-size", 8, "--method", method, "--out", "theirs")
    assert code == 0, err
    (part,) = load_run(tmp_path / "theirs").config["method"]
    assert part["part"] == method.partition(":")[0] and part.get("time_weight") == weight


def test_a_pickle_that_would_execute_is_not_loaded(refused, tmp_path):
    torch.save({"net_model": Evil()}, tmp_path / "evil.pt")
    assert "was not loaded" in refused("import", "evil.pt", "--out", "o")
    assert not Path("executed").exists() and not Path("o").exists()


def test_a_bare_pickle_is_refused_without_a_warning_beside(refused, tmp_path):
    (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Evil(), protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "could execute code" in refused("import", "ckpt.pt", "--out", "theirs")
    assert not (tmp_path / "executed").exists()


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

"""`cbdm diagnose` on a small run: its files agree with the library, and what it refuses."""

import json

import pytest

from cbdm import load_run
from cbdm_cli.config import validated
from cbdm_cli.run_data import load_data
from cbdm_core.metrics.diagnosis import diagnose, noise_levels
from cbdm_core.metrics.recognition import held_out_rows


def test_the_files_and_the_maps(run, trained):
    code, out, err = run("diagnose", "r", "--levels", "3", "--n", "5", "--seed", "2")
    assert code == 0, err
    saved = json.loads((trained / "diagnosis-levels3-n5-seed2.json").read_text())
    loaded = load_run(trained)
    full, training, _ = load_data(validated(loaded.config))
    held_out = full[held_out_rows(full.x, training.x)]
    times = noise_levels(loaded.schedule, 3)
    found = diagnose(loaded.network, loaded.schedule, training, held_out, times, queries=5, seed=2).to_dict()
    assert {name: saved[name] for name in found} == json.loads(json.dumps(found))
    assert saved["step"] == loaded.step and saved["held_out_counts"] == held_out.counts().tolist()
    for sentence in saved["verdict"]:
        assert sentence in out
    assert (trained / "diagnosis-levels3-n5-seed2.svg").read_text().startswith(
        "<?xml"
    ) and "underfitted: error over" in out


def test_folds_leave_another_file(run, trained):
    code, out, _ = run("diagnose", "r", "--levels", "2", "--n", "3", "--folds", "3")
    saved = json.loads((trained / "diagnosis-folds3-levels2-n3.json").read_text())
    assert code == 0 and saved["folds"] == 3 and saved["memorised_ratio"][0] == [None, None]
    assert "what is memorised is not known" in out and not (trained / "diagnosis.json").exists()


def test_without_held_out_images_folds_are_the_mend(run, refused, tmp_path):
    settings = ["--set", "data.profile=none", "--set", "evaluation.per_class=8", "--set", "data.options.per_class=20"]
    assert run("train", "mixture-lt", "--steps", "2", *settings, "--set", "sampling.steps=2", "--out", "m")[0] == 0
    assert "--folds 5" in refused("diagnose", "m")
    assert run("diagnose", "m", "--levels", "2", "--n", "3", "--folds", "5")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--folds", "1"), "--folds 2 or more"), (("--n", "0"), "--n is 1"), (("--levels", "0"), "0 noise levels")],
)
def test_refused(refused, trained, options, words):
    assert words in refused("diagnose", "r", *options)

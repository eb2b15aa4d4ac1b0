"""Runs that are told vectors or attributes instead of classes: the two presets, from training to samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cbdm import load_run
from cbdm_cli.__main__ import main
from cbdm_cli.config import validated
from cbdm_cli.run_data import load_data
from cbdm_cli.sampling import solver
from cbdm_core.conditions import MultiLabel, Vectors
from cbdm_core.data.dataset import to_uint8
from cbdm_core.data.npz import npz
from cbdm_core.generation import conditions_for, generate
from cbdm_core.run_config import read_config
from tests.cli.tiny import TINY, fingerprint, shared_classifiers

PRESETS = {"digits-pose": Vectors(2), "digits-attributes": MultiLabel(4)}
# Few steps at a high rate, so that the condition shows in 8-bit samples.
OPTIONS = [*TINY, "--set", "evaluation.per_class=6", "--set", "training.learning_rate=1e-2", "--set",
           "training.ema_decay=0.5"]  # fmt: skip
SHOWN = {"digits-pose": ("3,-2", "-3,2"), "digits-attributes": ("1,1,1,1", "0,0,0,0")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of four steps of each preset, trained once for the file."""
    folder = tmp_path_factory.mktemp("runs")
    shared = shared_classifiers(tmp_path_factory.getbasetemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBDM_CACHE", str(shared))
        for preset in PRESETS:
            with pytest.raises(SystemExit) as end:
                main(["train", preset, "--steps", "4", *OPTIONS, "--out", str(folder / preset)])
            assert not end.value.code
    return folder


@pytest.fixture(params=PRESETS)
def trained(request, runs):
    return runs / request.param


def drawn_by_api(folder, told, seed=0):
    """The pixels that the network and sampler of a run give for these conditions."""
    loaded = load_run(folder)
    network, sampler = solver(validated(loaded.config), loaded.network, loaded.schedule)
    x = torch.cat(list(generate(network, sampler, told, loaded.shape, steps=2, seed=seed)))
    return to_uint8(x)[:, 0].int().numpy()


def sampled(file):
    arrays = np.load(file, allow_pickle=False)
    return arrays["images"].astype(int), arrays["labels"].tolist(), arrays["class_names"].tolist()


def test_a_run_keeps_the_conditions_that_it_was_trained_on(trained):
    config = validated(read_config(trained))
    _, data, _ = load_data(config)
    kept = load_file(trained / "law_data.safetensors")
    assert kept.keys() == {"conditions", "labels"}
    assert torch.equal(kept["conditions"], data.condition) and torch.equal(kept["labels"], data.y)
    loaded = load_run(trained)
    assert loaded.space == PRESETS[trained.name] and loaded.counts.tolist() == data.counts().tolist()
    law, observed = loaded.laws["cbdm"], {tuple(row) for row in data.condition.tolist()}
    values, probs = law.atoms(None)
    assert {tuple(row) for row in values.tolist()} == observed
    if trained.name == "digits-attributes":  # combinations:0
        assert probs.tolist() == pytest.approx([1 / len(observed)] * len(observed))
    else:  # knn:1 draws regions of low density more often than their share
        region = torch.tensor([int(data.y[(data.condition == v).all(1)][0]) for v in values])
        assert float(probs[region == 2].sum()) > 2 * float(loaded.counts[2] / loaded.counts.sum())


def test_evaluation_is_by_region_and_comes_out_the_same_again(run, trained):
    before = json.loads((trained / "evaluation.json").read_text())
    assert [entry["name"].split()[0] for entry in before["classes"]] == ["high", "medium", "low"]
    assert [entry["scores"]["n_samples"] for entry in before["classes"]] == [6, 6, 6]
    assert [entry["training_count"] for entry in before["classes"]] == load_run(trained).counts.tolist()
    code, out, err = run("evaluate", trained)
    assert code == 0 and "low density" in out, err
    assert json.loads((trained / "evaluation-omega-1-dpm++2m-2-n6.json").read_text()) == before


def test_cyclic_samples_are_told_training_conditions_of_each_region(run, trained):
    code, _, err = run("sample", trained, "--n", 9, "--format", "npz", "--out", "s.npz")
    assert code == 0, err
    images, labels, names = sampled("s.npz")
    assert labels == [0, 1, 2] * 3 and len(names) == 3
    kept = load_file(trained / "law_data.safetensors")
    told = conditions_for(torch.tensor(labels), kept["conditions"], kept["labels"])
    assert np.array_equal(np.load("s.npz", allow_pickle=False)["conditions"], told.numpy())
    assert abs(images - drawn_by_api(trained, told)).max() <= 1  # a grey level of rounding


def test_conditions_on_the_command_line_reach_the_network(run, trained):
    one, other = SHOWN[trained.name]
    options = ["--condition", one, "--condition", other, "--n", 5, "--format", "npz", "--out", "s.npz"]
    code, _, err = run("sample", trained, *options)
    assert code == 0, err
    images, labels, names = sampled("s.npz")
    assert labels == [0, 1, 0, 1, 0] and names == [one, other]
    rows = torch.tensor([[float(v) for v in text.split(",")] for text in (one, other)])
    rows = rows.to(load_run(trained).law_data["conditions"].dtype)
    assert abs(images - drawn_by_api(trained, rows[labels])).max() <= 1
    assert abs(images - drawn_by_api(trained, rows[[1 - y for y in labels]])).max() > 5, "the condition did not show"


def test_attributes_are_told_by_their_names_too(run, runs):
    """The names come from the data and stay with the run; what is drawn is data again, with them."""
    folder = runs / "digits-attributes"
    assert load_run(folder).condition_names == ("hole", "slanted", "bold", "wide")
    for text, out in (("wide, hole", "named"), ("1,0,0,1", "numbered")):
        assert run("sample", folder, "--condition", text, "--n", 3, "--format", "npz", "--out", f"{out}.npz")[0] == 0
    named, numbered = (np.load(f"{out}.npz", allow_pickle=False) for out in ("named", "numbered"))
    assert named["conditions"].tolist() == [[1, 0, 0, 1]] * 3 == numbered["conditions"].tolist()
    assert np.array_equal(named["images"], numbered["images"])
    assert npz(path="named.npz").condition_names == ("hole", "slanted", "bold", "wide")


def test_a_grid_and_a_folder_of_conditions(run, trained):
    one, other = SHOWN[trained.name]
    assert run("sample", trained, "--condition", one, "--condition", other, "--n", 4, "--out", "grid.png")[0] == 0
    code, _, err = run("sample", trained, "--condition", one, "--n", 3, "--format", "folder", "--out", "pngs")
    assert code == 0 and Path("grid.png").exists(), err
    assert [len(list((Path("pngs") / one).iterdir()))] == [3]


def test_resume_is_bit_identical(run, trained, tmp_path):
    assert run("train", trained.name, "--steps", 2, *OPTIONS, "--out", "parts")[0] == 0
    assert run("train", "--resume", "parts", "--steps", 4)[0] == 0
    assert fingerprint(trained) == fingerprint(tmp_path / "parts")
    for file in ("metrics.jsonl", "samples.png", "config.toml", "law_data.safetensors", "evaluation.json"):
        assert (trained / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("cbdm:uniform", "draws class labels"),
        ("diffrop", "try diffrop:null, diffrop:knn or diffrop:combinations"),
        ("cbdm:learned", "draws class labels"),
        ("cbdm:affinity", "affinity compares classes"),
        # Another law would not mend these, so none is offered.
        ("reweight", "'reweight' counts classes"),
        ("reweight:knn", "'reweight' counts classes"),
        ("shrink:uniform", "'shrink' counts classes"),
        ("t2h", "'t2h' counts classes"),
        ("coral", "'coral' counts classes"),
        ("resample:null", "needs a law with probabilities"),
    ],
)
def test_a_method_of_classes_is_refused(refused, tmp_path, preset, method, words):
    line = refused("train", preset, "--method", method)
    assert words in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("preset", "condition", "words"),
    [
        ("digits-pose", "0.5", "2 values (numbers)"),
        ("digits-pose", "1,1,1", "2 values (numbers)"),
        ("digits-pose", "nan,1", "2 values (numbers)"),
        ("digits-pose", "1,inf", "2 values (numbers)"),
        ("digits-pose", "a,b", "2 values (numbers)"),
        ("digits-pose", "", "2 values (numbers)"),
        ("digits-pose", "slant", "2 values (numbers), parted by commas, of slant, thickness"),
        (
            "digits-attributes",
            "0,1,1",
            "4 values (0 or 1), parted by commas, of hole, slanted, bold, wide; or the names",
        ),
        ("digits-attributes", "bold,wid", "did you mean 'wide'? this run is told 4 values"),
        ("digits-attributes", "bold,1", "this run is told 4 values"),
        ("digits-attributes", "", "this run is told 4 values"),
        ("digits-attributes", "0.5,1,0,0", "4 values (0 or 1)"),
        ("digits-attributes", "2,0,0,0", "4 values (0 or 1)"),
        ("digits-attributes", "nan,0,0,0", "4 values (0 or 1)"),
    ],
)
def test_a_condition_that_is_none_is_refused(refused, runs, tmp_path, preset, condition, words):
    assert words in refused("sample", runs / preset, "--condition", condition, "--out", tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels", "0,3"], "label 3 is out of range; the run has labels 0 … 2"),
        (["--labels", "-1"], "label -1 is out of range"),
        (["--labels", "low densty"], "'low densty' is no class of this run: did you mean 'low density'?"),
        (["--labels", "high density, unform"], "'unform' is no class of this run: allowed: cyclic, classes by number"),
        (["--condition", "1,1", "--n", "0"], "--n must be 1 or more, got 0"),
        (["--condition", "1,1", "--n", "-1"], "--n must be 1 or more, got -1"),
        (["--condition", "1,1", "--labels", "0"], "give one of them"),
        (["--unconditional"], "this run is told vectors"),
        (["--guidance-prior", "uniform"], "this run is told vectors"),
    ],
)
@pytest.mark.parametrize("format_", ["grid", "folder"])
def test_a_mistake_in_sample_leaves_nothing_behind(refused, runs, tmp_path, arguments, words, format_):
    options = ["--format", format_, "--out", tmp_path / "s"]
    assert words in refused("sample", runs / "digits-pose", *arguments, *options)
    assert not list(tmp_path.iterdir())

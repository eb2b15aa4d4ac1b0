"""`cbdm classify` on small runs: its result file, its sentence, the samples it takes, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t

from cbdm import load_run
from cbdm_cli.__main__ import main
from cbdm_cli.classification import Classified
from cbdm_cli.commands import classify
from cbdm_cli.config import validated
from cbdm_cli.run_data import load_data
from cbdm_cli.sampling import balanced_samples, drawn_with_bar
from cbdm_core.metrics.features import classifier as features
from cbdm_core.metrics.recognition import ARMS, Recognition
from tests.cli.tiny import TINY, shared_classifiers

# 60 points a class, of which the commonest keeps all unless data.n_max says less.
MIXTURE = [
    "mixture-lt",
    "--set", "training.batch_size=8",
    "--set", "training.warmup=2",
    "--set", "sampling.steps=2",
    "--set", "data.options.per_class=60",
    "--set", "data.imbalance=0.1",
    "--set", "evaluation.per_class=8",
]  # fmt: skip


def trained(folder, *options):
    """A run of four steps."""
    shared = shared_classifiers(folder.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBDM_CACHE", str(shared))
        with pytest.raises(SystemExit) as end:
            main(["train", *options, "--steps", "4", "--out", str(folder / "r")])
        assert not end.value.code
    return folder / "r"


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("mixture"), *MIXTURE, "--set", "data.n_max=50")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Classifiers of 40 steps: how good they are is no matter here."""
    monkeypatch.setattr(features, "_STEPS", (40, 40))


def test_the_result_and_the_table(run, mixture_run):
    """Means, paired differences and intervals agree with the values at each seed; run again, the file is the same."""
    code, out, _ = run("classify", mixture_run)
    assert code == 0
    file = mixture_run / "classify-omega-0.75-heun-2-fill50-seeds3.json"
    text = file.read_text()
    result = json.loads(text)
    counts = torch.tensor(result["training_counts"])
    assert result["generated"] == int((50 - counts).sum()) and result["test_counts"] == (60 - counts).tolist()
    assert result["reference"].startswith("images of the balanced set that are not in the training set")
    assert (result["omega"], result["fill"], result["seeds"]) == ("0.75", 50, 3)
    assert result["nfe"] == 2 * 3  # guidance doubles the rows of heun's 2 · 2 − 1 forwards
    for group in ("overall", "head", "medium", "tail", "medium-shot", "few"):
        filled, alone = (np.array(result["values"][arm][group]) for arm in ("filled", "alone"))
        told = result["differences"]["filled - alone"][group]
        d = filled - alone
        assert told["mean"] == pytest.approx(d.mean(), abs=1e-12)
        assert told["half_width"] == pytest.approx(t.ppf(0.975, 2) * d.std(ddof=1) / 3**0.5, abs=1e-12)
        assert result["accuracy"]["filled"][group]["mean"] == pytest.approx(filled.mean(), abs=1e-12)
        classes = np.array(result["classes"]["filled"], float)[:, result["groups"][group]]
        np.testing.assert_allclose(classes.mean(1), filled, atol=1e-12)
    table = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ") and line.split()}
    assert f"{100 * result['accuracy']['oversampled']['tail']['mean']:.1f}" in table["tail"].split()
    assert table["overall"].split()[1:3] == [str(int(counts.sum())), str(600 - int(counts.sum()))]
    assert result["verdict"] in out and str(file) in out
    assert run("classify", mixture_run)[0] == 0
    assert file.read_text() == text


def test_samples_are_of_no_evaluation_and_go_up_to_n(run, mixture_run, monkeypatch):
    """Each seed draws anew, with seeds that no run can have, and never one of the evaluation's samples."""
    calls = []

    def kept(config, network, schedule, told, *rest):
        x = drawn_with_bar(config, network, schedule, told, *rest)
        calls.append((config, told, x))
        return x

    monkeypatch.setattr(classify, "drawn_with_bar", kept)
    assert run("classify", mixture_run, "--fill", "20", "--omega", "0", "--seeds", "2")[0] == 0
    assert (mixture_run / "classify-omega-0-heun-2-fill20-seeds2.json").exists()
    loaded = load_run(mixture_run)
    config = validated(loaded.config)
    labels, told = balanced_samples(config, load_data(config)[0])
    at_0 = config.model_copy(update={"sampling": config.sampling.model_copy(update={"omega": "0"})})
    evaluated = drawn_with_bar(at_0, loaded.network, loaded.schedule, told, loaded.shape, torch.device("cpu"))
    counts = loaded.counts
    seen = {row.tobytes() for row in evaluated.numpy()}
    assert len({config.seed for config, *_ in calls}) == len(calls) == 2
    for config, told, x in calls:
        assert config.seed >= 2**32 and config.sampling.omega == "0"
        assert torch.equal(counts + torch.bincount(told, minlength=10), counts.clamp(min=20))
        rows = {row.tobytes() for row in x.numpy()}
        assert seen.isdisjoint(rows)
        seen |= rows


def test_a_class_without_test_images_is_told(run, tmp_path):
    """All 60 of the commonest class are in training: it is left out of the means, and the line says so."""
    folder = trained(tmp_path, *MIXTURE)
    code, out, _ = run("classify", folder, "--seeds", "1")
    assert code == 0
    assert "no test image is left of class 0: left out of every mean" in out
    assert "No verdict: one seed has no interval" in out
    result = json.loads((folder / "classify-omega-0.75-heun-2-fill60-seeds1.json").read_text())
    assert result["classes"]["alone"][0][0] is None
    assert result["differences"]["filled - alone"]["overall"]["half_width"] is None


def test_images_are_seen_with_eight_bits(run, tmp_path, monkeypatch):
    """Generated images have the same 256 values as the training images, so that bits do not tell them apart."""
    seen = []
    original = classify.training_sets

    def kept(x, y, generated, *rest):
        seen.append(generated)
        return original(x, y, generated, *rest)

    monkeypatch.setattr(classify, "training_sets", kept)
    folder = trained(tmp_path, *TINY)
    code, _, err = run("classify", folder, "--seeds", "1", "--fill", "30", "--omega", "0")
    assert code == 0, err
    values = ((seen[0] + 1) * 127.5).double()
    assert seen[0].shape[1:] == (1, 8, 8) and seen[0].abs().max() <= 1
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-4)


def classified(filled, alone):
    """Two classes with one accuracy a class at each seed."""

    def arm(rows):
        return [Recognition(tuple(row), {"overall": sum(row) / 2, "medium": row[0], "tail": row[1]}) for row in rows]

    values = dict(zip(ARMS, (arm(alone), arm(alone), arm(filled)), strict=True))
    return Classified(("a", "b"), (150, 5), (9, 9), 150, 145, values)


def test_the_sentence_says_where_the_interval_holds_0(monkeypatch):
    """The tail gains 0.3, 0.31, 0.29 (± 0.025), the head 0.1, −0.1, 0: only the first is told as a difference."""
    monkeypatch.setattr(Classified, "groups", {"medium": (0,), "tail": (1,)})
    result = classified([[0.9, 0.6], [0.7, 0.61], [0.8, 0.59]], [[0.8, 0.3]] * 3)
    assert result.verdict().startswith(
        "Filled against training alone: accuracy differs in tail by +30.0 ± 2.5 points; nothing is shown for medium, "
        "where the 95 % interval holds 0. Filled against oversampling: "
    )
    same = classified([[0.8, 0.3]] * 3, [[0.8, 0.3]] * 3).verdict()
    lost = classified([[0.8, 0.3]] * 3, [[0.8, 0.6], [0.8, 0.61], [0.8, 0.59]]).verdict()
    assert "differs in tail by −30.0 ± 2.5 points" in lost
    assert "differs" not in same and "nothing is shown for medium, tail" in same


def test_what_is_refused(refused, mixture_run, tmp_path):
    assert "--seeds 0: it must be 1 or more" in refused("classify", mixture_run, "--seeds", "0")
    assert "--fill 0: it is the number" in refused("classify", mixture_run, "--fill", "0")
    assert "5 examples or more; fill up to 6" in refused("classify", mixture_run, "--fill", "5")
    assert "nonsense" in refused("classify", mixture_run, "--omega", "nonsense")
    assert "is no run folder" in refused("classify", tmp_path)
    assert not list(Path(mixture_run).glob("*nonsense*"))


def test_a_run_on_everything_leaves_nothing_to_test_on(refused, tmp_path):
    folder = trained(tmp_path, *MIXTURE, "--set", "data.profile='none'")
    assert "no test image is left" in refused("classify", folder)


def test_a_run_whose_data_have_changed_is_refused(refused, mixture_run, tmp_path):
    """By what classifies it and by what evaluates it, in the same words."""
    shutil.copytree(mixture_run, tmp_path / "r")
    text = (tmp_path / "r" / "config.toml").read_text()
    (tmp_path / "r" / "config.toml").write_text(text.replace("per_class = 60", "per_class = 61"))
    for command in ("classify", "evaluate"):
        assert "r: the data are not those the run was trained on" in refused(command, "r")


def test_a_run_told_vectors_is_refused(refused, tmp_path):
    folder = trained(tmp_path, "digits-pose", *TINY)
    assert "this run is told vectors, and a classifier needs classes" in refused("classify", folder)

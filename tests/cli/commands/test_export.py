"""`cbdm export`: what is written says what the run says, in diffusers too, and other averages may be chosen."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cbdm import DDIM, ClassifierFreeGuidance, generate, load_run
from cbdm_cli.commands import export
from cbdm_core.checkpoint import latest_checkpoint
from cbdm_core.ema import post_hoc
from cbdm_core.metrics.scores import known_scores
from tests.cli.tiny import TINY, cbdm, shared_classifiers

AVERAGES = ["--set", 'training.averages=["power:0.05", "power:0.1", "decay:0.3"]', "--set", "training.snapshot_every=2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of 6 steps with further averages; nothing is written into it."""
    folder, cache = tmp_path_factory.mktemp("source"), shared_classifiers(tmp_path_factory.getbasetemp())
    env = {"CBDM_CACHE": str(cache)}
    cbdm("train", "--steps", 6, *TINY, *AVERAGES, "--out", "r", cwd=folder, check=0, env=env)
    return folder / "r"


@pytest.mark.parametrize("omega", [0.0, 1.5])
def test_ddim_in_diffusers_and_here_agree(source, run, tmp_path, omega):
    """To 1e-5 of the largest value, in float32, from the same noise."""
    assert run("export", source, "out", "--to", "diffusers")[0] == 0
    from cbdm_core.pipeline import CbdmPipeline

    pipeline = CbdmPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    loaded, y = load_run(source), torch.arange(12) % 10
    guided = ClassifierFreeGuidance(loaded.network, omega).eval()
    here = torch.cat(list(generate(guided, DDIM(loaded.schedule), y, loaded.shape, steps=20, seed=5)))
    there = pipeline(y, num_inference_steps=20, omega=omega, seed=5).images
    assert float((here - there).abs().max()) < 1e-5 * float(here.abs().max())
    assert pipeline.model.config.class_names == list(loaded.class_names)


def test_safetensors_are_the_averaged_weights_with_their_card(source, run, tmp_path):
    assert run("export", source, "out", "--to", "safetensors")[0] == 0
    weights, loaded = load_file(tmp_path / "out" / "model.safetensors"), load_run(source)
    assert all(torch.equal(weights[name], value) for name, value in loaded.network.state_dict().items())
    card = (tmp_path / "out" / "README.md").read_text()
    fid = json.loads((source / "evaluation.json").read_text())["overall"]["fid"]
    assert "| 0 | 174 |" in card and "cbdm: null" in card and f"| overall | {fid:.2f} |" in card and "Verdict:" in card


def test_the_card_tells_the_scores_of_the_one_table(source, run, tmp_path):
    """Labels and digits are those of every other table, so that a new score reaches the card too."""
    assert run("export", source, "out", "--to", "safetensors")[0] == 0
    overall = json.loads((source / "evaluation.json").read_text())["overall"]
    shown = [score for score in known_scores() if score.shown and overall[score.key] is not None]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| | {' | '.join(score.label for score in shown)} |" in card and len(shown) >= 4
    assert f"| overall | {' | '.join(f'{overall[s.key]:.{s.digits}f}' for s in shown)} |" in card


def test_the_verdict_of_a_study_stands_in_the_card_of_its_runs(source, run, tmp_path):
    import shutil

    shutil.copytree(source, tmp_path / "study" / "runs" / "a")
    (tmp_path / "study" / "results.json").write_text(json.dumps({"verdict": "cbdm is better."}))
    assert run("export", "study/runs/a", "out", "--to", "safetensors")[0] == 0
    assert "that it was trained in: cbdm is better." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("average", ["decay:0.3", "power:0.1", "power:0.07"])
def test_a_run_with_another_average_is_one_to_sample_and_evaluate(source, run, tmp_path, average):
    assert run("export", source, "out", "--to", "run", "--average", average)[0] == 0
    chosen = load_run(tmp_path / "out").network.state_dict()
    stored = load_file(latest_checkpoint(source / "checkpoints") / "averages.safetensors")
    expected = {k.partition("/")[2]: v for k, v in stored.items() if k.startswith(f"{average}/")}
    for name, value in (expected or post_hoc(source / "averages", 0.07)).items():
        torch.testing.assert_close(chosen[name], value, atol=0, rtol=0)
    assert not all(torch.equal(v, chosen[k]) for k, v in load_run(source).network.state_dict().items())
    assert run("sample", "out", "--n", 3, "--steps", 2, "--format", "npz", "--out", "x.npz")[0] == 0


def test_an_exported_run_is_not_trained_further(source, run, refused):
    assert run("export", source, "out", "--to", "run")[0] == 0
    assert "has no optimizer.pt, as in an exported run" in refused("train", "--resume", "out", "--steps", 99)
    assert "--resume" not in refused("export", source, "out", "--to", "run")


def test_a_width_of_a_run_without_averages_says_what_to_train_with(source, run, refused):
    assert run("export", source, "bare", "--to", "run")[0] == 0
    line = refused("export", "bare", "o", "--to", "run", "--average", "power:0.1")
    assert "no power average is stored: train with training.averages" in line


def test_mistakes_are_told(source, refused, tmp_path):
    assert "did you mean 'diffusers'" in refused("export", source, "o", "--to", "diffuser")
    assert "decay:0.3" in refused("export", source, "o", "--to", "run", "--average", "decay:0.7")
    assert "power:0.08" in refused("export", source, "o", "--to", "run", "--average", "power:x")
    assert "width in (0, 0.288], got 0.5" in refused("export", source, "o", "--to", "run", "--average", "power:0.5")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    line = refused("export", source, source, "--to", "run")
    assert f"continue with cbdm train --resume {source}" in line
    line = refused("export", source, "full", "--to", "run")
    assert "full is not empty: choose a new folder" in line and "--resume" not in line and "--out" not in line
    assert not (tmp_path / "o").exists()


def damaged(source, tmp_path):
    """A copy of a run that may be written into."""
    return shutil.copytree(source, tmp_path / "damaged")


def test_a_damaged_checkpoint_is_not_given_new_hashes(source, refused, tmp_path):
    copy = damaged(source, tmp_path)
    file = latest_checkpoint(copy / "checkpoints") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x99")
    assert "model.safetensors is damaged" in refused("export", copy, "out", "--to", "run")
    file.unlink()
    assert "model.safetensors is damaged" in refused("export", copy, "out", "--to", "run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        *["[]", "null", "[" * 9999, '{"report": 3}', '{"report": {"overall": {"fid": "x"}}}'],
        f'{{"overall": {{"fid": {10**400}}}}}',
    ],
)
def test_an_evaluation_that_cannot_be_read_is_said_to_be_such_in_the_card(source, run, tmp_path, content):
    copy = damaged(source, tmp_path)
    (copy / "evaluation.json").write_text(content)
    (tmp_path / "results.json").write_text(content)
    code, _, err = run("export", copy, "out", "--to", "safetensors")
    assert code == 0 and "Its evaluation cannot be read." in (tmp_path / "out" / "README.md").read_text(), err


def test_words_of_an_evaluation_do_not_steer_the_terminal_from_the_card(source, run, tmp_path):
    copy = damaged(source, tmp_path)
    evaluation = {"overall": {"fid": 1}, "features": "\x1b[2J", "groups": {"\x1b": {}}}
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "results.json").write_text(json.dumps({"verdict": "\x1b[2J"}))
    assert run("export", copy, "out", "--to", "safetensors")[0] == 0
    assert "\x1b" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("to", ["run", "safetensors"])
def test_a_full_disk_is_one_line(source, refused, monkeypatch, to):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "from", None, "out/config.toml")

    monkeypatch.setattr(export.shutil, "copyfile", full)
    monkeypatch.setattr(export, "write_tensors", full)
    assert "cannot write out/config.toml: the disk is full" in refused("export", source, "out", "--to", to)

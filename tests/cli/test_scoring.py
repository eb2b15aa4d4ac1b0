"""Scores while a training goes: they are those of an evaluation, change nothing, resume, and keep the best weights."""

import json

import pytest

from cbdm_cli.run_folder import is_scored
from cbdm_cli.scoring import best_checkpoint
from cbdm_core.metrics.scores import compared_scores
from tests.cli.tiny import TINY, fingerprint

SCORED = [*TINY, "--set", "training.score_every=2", "--set", "training.score_per_class=8", "--set"]
BY_FID = [*SCORED, "training.keep_best=fid"]


def scores(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


@pytest.fixture
def scored(run, tmp_path):
    """A run of 6 steps that is scored at 2, 4 and 6."""
    code, out, err = run("train", "--steps", 6, *BY_FID, "--out", "r")
    assert code == 0, (out, err)
    return tmp_path / "r"


def test_the_scores_are_those_of_an_evaluation_of_so_many_samples(scored):
    assert [r["step"] for r in scores(scored)] == [2, 4, 6]
    report, last = json.loads((scored / "evaluation.json").read_text()), scores(scored)[-1]["scores"]
    assert last["fid"] == pytest.approx(report["overall"]["fid"], rel=1e-6)
    assert last["tail recall"] == pytest.approx(report["groups"]["tail"]["recall"])


def test_scoring_changes_no_weight(scored, run, tmp_path):
    assert run("train", "--steps", 6, *TINY, "--out", "plain")[0] == 0
    assert fingerprint(tmp_path / "plain") == fingerprint(scored)
    assert not (tmp_path / "plain" / "scores.jsonl").exists()


@pytest.mark.parametrize("name", ["fid", "recall"])
def test_the_best_checkpoint_is_that_of_the_best_score(run, tmp_path, name):
    assert run("train", "--steps", 6, *SCORED, f"training.keep_best={name}", "--out", "r")[0] == 0
    turn = 1 if compared_scores()[name][1].less_is_better else -1
    best = min(scores(tmp_path / "r"), key=lambda r: turn * r["scores"][name])  # the first of equals
    assert best_checkpoint(tmp_path / "r").name == f"step-{best['step']:08d}"
    assert run("export", "r", "b", "--to", "run", "--best")[0] == 0
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == [f"step-{best['step']:08d}"]
    assert run("export", "r", "c", "--to", "run", "--best", "--average", "decay:0.9")[0] == 2


def test_a_resumed_run_has_the_same_scores_and_the_same_best(scored, run, tmp_path):
    assert run("train", "--steps", 4, *BY_FID, "--out", "cut")[0] == 0
    assert run("train", "--resume", "cut", "--steps", 6)[0] == 0
    assert scores(tmp_path / "cut") == scores(scored)
    assert best_checkpoint(tmp_path / "cut").name == best_checkpoint(scored).name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.keep_best=fidd", "training.score_every=2"], "keep_best: allowed are fid"),
        (["training.keep_best=fid"], "needs score_every"),
        (["training.score_every=0"], "score_every"),
    ],
)
def test_what_cannot_be_scored_is_refused(run, settings, words):
    code, _, err = run("train", *TINY, *(part for setting in settings for part in ("--set", setting)), "--out", "r")
    assert code == 2 and words in err


def test_a_run_without_a_best_says_how_to_have_one(run):
    assert run("train", "--steps", 2, *TINY, "--out", "r")[0] == 0
    code, _, err = run("export", "r", "b", "--to", "run", "--best")
    assert code == 2 and "training.keep_best" in err


def test_a_score_whose_package_is_gone_stays_in_the_record(run, tmp_path):
    """Going on without it must not make the run forget its scores, and so its best."""
    assert run("train", "--steps", 4, *BY_FID, "--out", "r")[0] == 0
    lines = [{**r, "scores": {**r["scores"], "theirs": 1.0}} for r in scores(tmp_path / "r")]
    (tmp_path / "r" / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("train", "--resume", "r", "--steps", 6)[0] == 0
    assert scores(tmp_path / "r")[: len(lines)] == lines
    code, out, err = run("watch", "r", "--once")
    assert code == 0, err
    assert "at step 6: FID" in out


def test_a_foreign_line_is_no_score():
    good = {"step": 1, "scores": {"fid": 2.0}}
    assert is_scored(good) and is_scored({**good, "scores": {"of another package": 1.0}})
    for bad in (1, {}, {"step": 1}, {**good, "scores": {"fid": "x"}}):
        assert not is_scored(bad)

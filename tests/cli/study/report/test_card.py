"""The card of a comparison, on results that are formulas (`tests/cli/study/report/by_hand.py`)."""

import json

import pytest

from cbdm_cli.study.plan import load_plan
from cbdm_cli.study.report.card import card
from cbdm_cli.study.report.collect import collect
from cbdm_cli.study.report.page import page
from cbdm_cli.study.summary import summarise
from tests.cli.study.report.by_hand import write_comparison, write_run


def changed(folder, change):
    """Every reading of the methods with τ is changed."""
    for file in folder.glob("runs/cbdm*/seed-*/readings/*.json"):
        found = json.loads(file.read_text())
        change(found)
        file.write_text(json.dumps(found))


@pytest.fixture
def folder(tmp_path):
    write_comparison(tmp_path / "c")
    return tmp_path / "c"


def test_the_best_of_each_score_and_what_decides_are_named(folder):
    lines = dict(card(collect([folder])))
    best = ["Best FID", "Best tail FID", "Best tail recall", "Fewest tail copies"]
    assert list(lines) == [*best, "What decides", "Next"]
    assert lines["Best FID"].startswith("ddpm at ω 0: 10.50")  # the formula's bottom, mean of seeds 0, 1, 2
    # The first method's own bottom is 12 and the plain one's 10, each with the seeds' 0.5.
    assert lines["What decides"] == "cbdm τ=0.1 against ddpm: FID +2.00 ± 0.00, worse"


def test_a_method_that_wins_by_copying_is_told_to_stop_earlier(folder):
    def better(found):
        found["overall"]["fid"] -= 8
        found["groups"]["tail"]["memorised"] += 0.3

    changed(folder, better)
    lines = dict(card(collect([folder])))
    assert lines["What decides"].endswith("better") and "keep_best" in lines["Next"]
    verdict = summarise(folder, load_plan(folder)).verdict
    assert "Against ddpm, ω_eff(t), τ=0.1: cbdm τ=0.1 is better by −6.50 ± 0.00" in verdict


def test_differences_have_the_minus_of_all_numbers_of_the_page(folder):
    def better(found):
        found["overall"]["fid"] -= 8

    changed(folder, better)
    lines = dict(card(collect([folder])))
    assert "(−6.00 against ddpm)" in lines["Best FID"] and "FID −6.00 ± 0.00, better" in lines["What decides"]


def test_a_best_that_others_have_too_is_told_as_such(folder):
    for file in folder.glob("runs/*/seed-*/readings/*.json"):
        found = json.loads(file.read_text())
        found["groups"]["tail"]["recall"] = 1.0
        file.write_text(json.dumps(found))
    story = collect([folder])
    lines, others = dict(card(story)), len(story.method_scores) - 1
    assert lines["Best tail recall"].endswith(f"1.000 ± 0.000, as {others} other rows have") and others > 1
    assert "as " not in lines["Best FID"]


def test_what_is_missing_comes_first(folder):
    next(folder.glob("runs/*/seed-2/readings/*.json")).unlink()
    lines = dict(card(collect([folder])))
    there, _, asked = lines["Unfinished"].split()[:3]
    assert int(there) == int(asked) - 1 and lines["Next"].startswith("finish")


def test_few_seeds_and_an_edge_are_what_to_do_next(tmp_path):
    write_comparison(tmp_path / "few", seeds=2)
    assert "seeds" in dict(card(collect([tmp_path / "few"])))["Next"]
    write_comparison(tmp_path / "edge", omegas=(0.0, 0.25))
    assert dict(card(collect([tmp_path / "edge"])))["Next"].startswith("widen the grid of ω")


def test_runs_have_no_card_and_the_page_shows_that_of_a_comparison(folder, tmp_path):
    assert card(collect([write_run(tmp_path / "r", "ddpm", None, 0, law=False)])) == []
    text = page(collect([folder]))
    assert '<dl class="card">' in text and text.index("What decides") < text.index('class="verdict"')

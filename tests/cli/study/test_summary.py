"""The statistics of a comparison, on results written by hand: intervals, pairing, the best ω, the verdict."""

import json
import math
import statistics
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cbdm_cli.study.plan import INTERVAL, READINGS, Plan, Variant, readings_of, run_folder
from cbdm_cli.study.results import estimate
from cbdm_cli.study.summary import summarise
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.scores import compared_scores

A, B, C = (Variant(name=name, parts=name) for name in ("cbdm:null", "cbdm:uniform", "cbdm:training"))
PLAIN = Variant(name="ddpm", parts="ddpm")
# Magnitudes like FIDs; 1e-3 apart, so that rounding does not rule the comparison with scipy.
FIDS = st.integers(0, 100_000).map(lambda n: n / 1000)


def plan_of(*variants, seeds=3, omegas=("0", "0.5", "1")):
    return Plan(preset="digits-lt", seeds=seeds, omegas=omegas, variants=variants)


def result(fid, recall=0.5, precision=0.25):
    """What a reading holds, in the places that the summary looks at."""
    overall = {"fid": fid, "precision": precision, "recall": recall}
    tail = {"fid": 2 * fid, "recall": recall, "memorised": 0.01, "memorised_pixels": 0.02, "authenticity": 0.5}
    return {"features": "classifier/abc", "overall": overall, "groups": {"tail": tail}}


def write(folder, variant, seed, reading, value):
    file = run_folder(folder, variant, seed) / READINGS / reading.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def fill(folder, plan, score):
    """Write score(variant, reading, seed) of every reading; None leaves the reading out."""
    for variant in plan.variants:
        for reading in readings_of(plan, variant):
            for seed in range(plan.seeds):
                value = score(variant, reading, seed)
                if value is not None:
                    write(folder, variant, seed, reading, value)


def by_variant(table):
    """A score that depends on the variant and the seed only: name → FIDs by seed."""
    return lambda variant, reading, seed: result(table[variant.name][seed])


@given(st.lists(FIDS, min_size=2, max_size=12))
def test_the_interval_is_student_s(values):
    """mean ± t_{0.975, n−1} s/√n, as scipy has it; 1e-9 of the largest value for the order of the sums."""
    found, scale = estimate(values), max(values) + 1
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-12 * scale)
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=stats.sem(values))
        assert found.mean - found.half_width == pytest.approx(low, abs=1e-9 * scale)
        assert found.mean + found.half_width == pytest.approx(high, abs=1e-9 * scale)
        assert found.excludes_zero == (low > 0 or high < 0)
    else:
        assert found.half_width == pytest.approx(0, abs=1e-9 * scale)


def test_one_seed_has_no_interval():
    found = estimate([3.0])
    assert found.mean == 3 and found.half_width == math.inf and not found.excludes_zero


def test_no_difference_at_all_is_not_shown_to_be_one():
    assert not estimate([0.0, 0.0, 0.0]).excludes_zero
    assert estimate([0.5, 0.5, 0.5]).excludes_zero


@given(st.lists(st.tuples(FIDS, FIDS), min_size=3, max_size=6))
def test_differences_are_those_of_a_paired_t_test(pairs):
    """The interval of `ttest_rel` for method − baseline, whichever ω each was best at."""
    with tempfile.TemporaryDirectory() as text:
        folder, plan = Path(text), plan_of(A, B, seeds=len(pairs))

        def score(variant, reading, seed):  # A is best at 0.5, B at 1; elsewhere both are far worse
            best = {"cbdm:null": "0.5", "cbdm:uniform": "1"}[variant.name]
            return result(pairs[seed][variant is B] + (0 if reading.omega == best else 500))

        fill(folder, plan, score)
        summary = summarise(folder, plan)
    baseline, other = summary.rows
    assert (baseline.omega, other.omega) == ("0.5", "1") and baseline.differences is None
    found, (a, b) = other.differences["fid"], zip(*pairs)
    differences = [y - x for x, y in pairs]
    assert found.mean == pytest.approx(statistics.fmean(differences), abs=1e-9)
    if statistics.stdev(differences) > 1e-9:
        truth = stats.ttest_rel(b, a).confidence_interval(0.95)
        assert found.mean - found.half_width == pytest.approx(truth.low, abs=1e-7)
        assert found.mean + found.half_width == pytest.approx(truth.high, abs=1e-7)
        # tail FID is twice the FID here, so that its difference is too
        assert other.differences["tail fid"].half_width == pytest.approx(2 * found.half_width, abs=1e-7)


def test_omega_is_picked_on_the_mean_and_never_per_seed(tmp_path):
    """Per seed the best ω are 0, 1 and 1 with mean 2; on the mean it is 0.5, and its mean is 4."""
    plan = plan_of(A)
    fids = {"0": (2, 9, 9), "0.5": (4, 4, 4), "1": (20, 2, 2)}
    fill(tmp_path, plan, lambda variant, reading, seed: result(fids[reading.omega][seed]))
    (row,) = summarise(tmp_path, plan).rows
    assert row.omega == "0.5" and row.scores["fid"].mean == 4 and row.values["fid"] == {0: 4, 1: 4, 2: 4}
    assert [omega for omega, _ in row.curve] == ["0", "0.5", "1"]
    assert [means["fid"] for _, means in row.curve] == pytest.approx([20 / 3, 4, 8])


@given(st.lists(st.lists(FIDS, min_size=3, max_size=3), min_size=4, max_size=4))
def test_the_best_omega_has_the_least_mean(grid):
    omegas = ("0", "0.5", "1", "1.5")
    with tempfile.TemporaryDirectory() as text:
        plan = plan_of(A, omegas=omegas)
        table = dict(zip(omegas, grid))
        fill(Path(text), plan, lambda variant, reading, seed: result(table[reading.omega][seed]))
        (row,) = summarise(Path(text), plan).rows
    assert row.scores["fid"].mean == pytest.approx(min(map(statistics.fmean, grid)), abs=1e-9)


def test_a_score_of_which_more_is_better_picks_the_largest(tmp_path):
    """By recall ω = 1 is best and B is better; by FID ω = 0 is best and B is worse."""
    plan = plan_of(A, B)
    recall = {"0": 0.1, "0.5": 0.2, "1": 0.3}

    def score(variant, reading, seed):
        more = variant is B
        return result(10 + float(reading.omega) + 3 * more + 0.1 * seed, recall[reading.omega] + 0.3 * more)

    fill(tmp_path, plan, score)
    by_recall, by_fid = summarise(tmp_path, plan, "recall"), summarise(tmp_path, plan)
    assert [row.omega for row in by_recall.rows] == ["1", "1"] and [row.omega for row in by_fid.rows] == ["0", "0"]
    assert by_recall.verdict.startswith("Better than cbdm:null at its best ω (1) in recall: cbdm:uniform by +0.30")
    assert by_fid.verdict.startswith("Worse than cbdm:null at its best ω (0) in FID: cbdm:uniform by +3.00")


def test_only_common_seeds_are_paired(tmp_path):
    """The baseline lacks seed 4 and the other seed 0: the difference is that of seeds 1, 2 and 3."""
    plan = plan_of(A, B, seeds=5)
    fids = {"cbdm:null": (50, 10, 20, 30, None), "cbdm:uniform": (None, 9, 17, 28, 0)}

    def score(variant, reading, seed):
        fid = fids[variant.name][seed]
        return None if fid is None else result(fid)

    fill(tmp_path, plan, score)
    baseline, other = summarise(tmp_path, plan).rows
    assert (baseline.seeds, other.seeds) == ((0, 1, 2, 3), (1, 2, 3, 4))
    assert other.differences["fid"] == estimate([-1, -3, -2])
    assert baseline.scores["fid"] == estimate([50, 10, 20, 30])  # its own mean is over its own seeds


def test_seeds_that_are_not_paired_give_no_verdict(tmp_path):
    """Three seeds each, two in common: that is no interval to speak of."""
    plan = plan_of(A, B, seeds=4)
    without = {"cbdm:null": 3, "cbdm:uniform": 0}
    fill(tmp_path, plan, lambda v, r, seed: None if without[v.name] == seed else result(10 if v is A else 90))
    assert summarise(tmp_path, plan).verdict.startswith("No verdict: 2 paired seeds")


def test_a_seed_without_every_omega_is_left_out(tmp_path):
    """Else a method would be judged at fewer ω than the others."""
    plan = plan_of(A, B)

    def score(variant, reading, seed):
        missing = variant is B and (seed == 1 and reading.omega == "1")
        return None if missing else result(10 + seed)

    fill(tmp_path, plan, score)
    baseline, other = summarise(tmp_path, plan).rows
    assert baseline.seeds == (0, 1, 2) and other.seeds == (0, 2) and set(other.values["fid"]) == {0, 2}
    assert [omega for omega, _ in other.curve] == ["0", "0.5", "1"]


def test_a_method_that_no_seed_has_finished_is_no_row_yet(tmp_path):
    plan = plan_of(A, B)
    fill(tmp_path, plan, lambda v, reading, seed: None if v is B and reading.omega == "1" else result(10))
    summary = summarise(tmp_path, plan)
    assert [row.name for row in summary.rows] == ["cbdm:null"]


def test_without_the_baseline_there_is_no_table(tmp_path):
    plan = plan_of(PLAIN, B)
    assert summarise(tmp_path, plan) is None
    fill(tmp_path, plan, lambda v, reading, seed: result(10) if v is B else None)
    assert summarise(tmp_path, plan) is None
    # ways to sample the plain model are no baseline either
    fill(tmp_path, plan, lambda v, reading, seed: result(10) if reading.kind else None)
    assert summarise(tmp_path, plan) is None


def test_a_score_that_is_none_is_left_out(tmp_path):
    """An ω whose primary score some seed lacks is not picked; another score that is missing leaves a gap."""
    plan = plan_of(A, B)

    def score(variant, reading, seed):
        fid = None if reading.omega == "1" and seed == 2 else 5 - float(reading.omega)
        return {**result(5), "overall": {"fid": fid, "precision": None, "recall": 0.5 if variant is A else None}}

    fill(tmp_path, plan, score)
    baseline, other = summarise(tmp_path, plan).rows
    assert baseline.omega == "0.5" and [omega for omega, _ in baseline.curve] == ["0", "0.5"]
    assert "precision" not in baseline.scores and "recall" in baseline.scores and "recall" not in other.scores
    assert set(other.differences) == set(compared_scores()) - {"precision", "recall"}


def test_a_primary_score_that_no_seed_has_makes_no_row(tmp_path):
    plan = plan_of(A, B)
    fill(tmp_path, plan, lambda v, r, seed: {**result(5), "overall": {"fid": 5 if v is A else None}})
    summary = summarise(tmp_path, plan)
    assert [row.name for row in summary.rows] == ["cbdm:null"] and "nothing to compare" in summary.verdict
    assert summarise(tmp_path, plan, "recall") is None


@pytest.mark.parametrize(
    ("omegas", "best", "edge"),
    [
        (("0", "0.5", "1"), "1", True),
        (("0", "0.5", "1"), "0.5", False),
        (("0", "0.5", "1"), "0", False),  # plain conditional: there is nothing below to try
        (("0.0", "0.5", "1"), "0.0", False),
        (("0.5", "1", "2"), "0.5", True),
        (("1", "0.5", "0"), "1", True),  # the order of the options says nothing
        (("0.5", "0", "1"), "0.5", False),
        (("-0.5", "0", "1"), "-0.5", True),
        (("1",), "1", False),
        (("0", "1", "implied:0.5,0.1", "implied:1,0.1"), "implied:1,0.1", True),
        (("0", "1", "implied:0.5,0.1", "implied:1,0.1", "implied:2,0.1"), "implied:1,0.1", False),
        (("1", "linear:1,0,2", "linear:2,1,2", "linear:3,2"), "linear:2,1,2", True),  # another τ, another grid
    ],
)
def test_the_end_of_the_grid_is_told(tmp_path, omegas, best, edge):
    plan = plan_of(A, omegas=omegas)
    fill(tmp_path, plan, lambda v, reading, seed: result(1 if reading.omega == best else 2))
    (row,) = [row for row in summarise(tmp_path, plan).rows if row.scores["fid"].mean == 1]
    assert (row.omega, row.at_edge) == (best, edge)
    told = {"implied:1,0.1": "1", "linear:2,1,2": "2,1"}.get(best, best)
    assert row.omega_text() == f"{float(told):g}" if "," not in told else told


@pytest.mark.parametrize(
    ("best", "edges"),
    [("linear:1,0", (False, True)), ("1", (True, True)), ("linear:1.5,0.25", (False, False))],
)
def test_schedules_of_the_grid_are_a_row_of_their_own_after_the_constants(tmp_path, best, edges):
    """Each row has the edges of its own grid; the baseline is the constant ω, wherever the option stands."""
    plan = plan_of(A, omegas=("linear:1,0", "0", "1", "linear:1.5,0.25", "linear:2,0.5"))
    fill(tmp_path, plan, lambda v, reading, seed: result(1 if reading.omega == best else 2))
    constant, schedule = summarise(tmp_path, plan).rows
    assert (constant.name, schedule.name) == ("cbdm:null", "cbdm:null, aτt + b")
    assert [omega for omega, _ in constant.curve] == ["0", "1"] and constant.differences is None
    assert [omega for omega, _ in schedule.curve] == ["linear:1,0", "linear:1.5,0.25", "linear:2,0.5"]
    assert (constant if best == "1" else schedule).omega == best
    assert (constant.at_edge, schedule.at_edge) == edges


@pytest.mark.parametrize(
    ("copies", "told"),
    [
        (
            [0.41, 0.39, 0.40],
            "Of these, more tail samples are copies of training images: cbdm:uniform 40%; against cbdm:null 5%.",
        ),
        ([0.05, 0.41, 0.04], None),  # an interval that holds 0
        ([0.01, 0.02, 0.01], None),  # fewer copies
        ([None, None, None], None),
    ],
)
def test_the_verdict_says_of_a_better_method_that_it_copies(tmp_path, copies, told):
    """A model that gives its few training images back is near a reference that holds them."""
    shares = {"cbdm:null": [0.05, 0.06, 0.04], "cbdm:uniform": copies, "cbdm:training": [0.9, 0.91, 0.9]}
    fids = {"cbdm:null": [5.0, 5.2, 5.1], "cbdm:uniform": [1.0, 1.1, 1.2], "cbdm:training": [9.0, 9.2, 9.3]}

    def score(variant, reading, seed):
        found = result(fids[variant.name][seed])
        found["groups"]["tail"]["memorised"] = shares[variant.name][seed]
        return found

    plan = plan_of(A, B, C, omegas=("0",))
    fill(tmp_path, plan, score)
    summary = summarise(tmp_path, plan)
    assert summary.verdict.startswith("Better than cbdm:null") and "Worse than cbdm:null" in summary.verdict
    assert told in summary.verdict if told else "copies" not in summary.verdict
    assert ("tail copies" in summary.rows[1].scores) == (copies[0] is not None)


def test_the_ways_to_sample_the_plain_model_are_rows_of_its_own_only(tmp_path):
    """ω_eff(t) and an interval for every ω but 0 of ddpm; other methods have constant ω."""
    plan = plan_of(PLAIN, A)
    ways = [(reading.kind, reading.omega, reading.interval) for reading in readings_of(plan, PLAIN)]
    assert ways == [
        ("", "0", (0, 1)), ("", "0.5", (0, 1)), ("", "1", (0, 1)),
        ("ω_eff(t)", "implied:0.5", (0, 1)), ("ω_eff(t)", "implied:1", (0, 1)),
        ("interval", "0.5", INTERVAL), ("interval", "1", INTERVAL),
    ]  # fmt: skip
    assert {reading.kind for reading in readings_of(plan, A)} == {""}
    fids = {"": 10, "ω_eff(t)": 7, "interval": 8}
    fill(tmp_path, plan, lambda v, r, seed: result(5 + seed if v is A else fids[r.kind] + seed))
    summary = summarise(tmp_path, plan)
    names = ["ddpm", "ddpm, ω_eff(t)", "ddpm, interval", "cbdm:null"]
    assert [row.name for row in summary.rows] == names
    assert [row.differences and row.differences["fid"].mean for row in summary.rows] == [None, -3, -2, -5]
    assert all(f"{name} by −" in summary.verdict for name in names[1:])


SMALL, LARGE = (10.0, 11.0, 12.0), (20.0, 21.5, 22.0)


@pytest.mark.parametrize(
    ("fids", "verdict"),
    [
        (
            {"cbdm:null": LARGE, "cbdm:uniform": SMALL},
            "Better than cbdm:null at its best ω (0) in FID: cbdm:uniform by −10.17 ± 0.72.",
        ),
        (
            {"cbdm:null": SMALL, "cbdm:uniform": LARGE},
            "Worse than cbdm:null at its best ω (0) in FID: cbdm:uniform by +10.17 ± 0.72.",
        ),
        (
            {"cbdm:null": SMALL, "cbdm:uniform": (11.0, 10.0, 12.0)},
            "No method is shown to differ from cbdm:null at its best ω (0) in FID: the 95 % interval holds 0.",
        ),
        (
            {"cbdm:null": LARGE, "cbdm:uniform": SMALL, "cbdm:training": (20.0, 22.0, 21.0)},
            "Better than cbdm:null at its best ω (0) in FID: cbdm:uniform by −10.17 ± 0.72. "
            "Of the other 1, none is shown to differ from cbdm:null at its best ω (0) in FID: the 95 % interval holds",
        ),
        ({"cbdm:null": LARGE, "cbdm:uniform": SMALL[:2]}, "No verdict: 2 paired seeds, and at least 3 are needed"),
        ({"cbdm:null": LARGE, "cbdm:uniform": SMALL[:1]}, "No verdict: 1 paired seed, and at least 3 are needed"),
        ({"cbdm:null": LARGE}, "Only cbdm:null has been judged: there is nothing to compare it with yet."),
    ],
    ids=["better", "worse", "not shown", "mixed", "two seeds", "one seed", "baseline only"],
)
def test_the_verdict_says_what_the_intervals_say(tmp_path, fids, verdict):
    """−10, −10.5, −10: mean −10.17, half width 4.303 · 0.2887/√3 = 0.72."""
    plan = plan_of(*(v for v in (A, B, C) if v.name in fids))
    fill(tmp_path, plan, lambda v, r, seed: result(fids[v.name][seed]) if seed < len(fids[v.name]) else None)
    assert summarise(tmp_path, plan).verdict.startswith(verdict)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_results_are_plain_json(tmp_path, seeds):
    """No NaN and no infinity, and reading them back changes nothing; the width of one seed's interval is null."""
    plan = plan_of(PLAIN, A, seeds=seeds)
    fill(tmp_path, plan, by_variant({"ddpm": LARGE, "cbdm:null": SMALL}))
    told = summarise(tmp_path, plan).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    rows = {row["name"]: row for row in told["rows"]}
    assert set(rows["ddpm"]["scores"]) == set(compared_scores()) and rows["ddpm"]["differences"] == {}
    width = rows["cbdm:null"]["differences"]["fid"]["half_width"]
    assert (width is None) == (seeds == 1)
    assert rows["cbdm:null"]["values"]["fid"] == {str(seed): SMALL[seed] for seed in range(seeds)}
    assert told["features"] == "classifier/abc"


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"overall": '])
def test_a_damaged_result_is_named(tmp_path, text):
    plan = plan_of(A, B)
    fill(tmp_path, plan, by_variant({"cbdm:null": LARGE, "cbdm:uniform": SMALL}))
    file = run_folder(tmp_path, B, 1) / READINGS / "omega-0.5.json"
    file.write_text(text)
    with pytest.raises(CbdmError) as told:
        summarise(tmp_path, plan)
    assert str(file) in str(told.value) and "remove it" in str(told.value) and "\n" not in str(told.value)

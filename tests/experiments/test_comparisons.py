"""The programs in experiments/: what they keep of readings, what their tables say of it, and that they go on."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from cbdm_cli.locking import held
from cbdm_cli.study import pool
from cbdm_cli.study.job import config_of
from cbdm_cli.study.plan import READINGS, load_plan, readings_of, run_folder
from cbdm_core.errors import CbdmError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(programs):
    c = programs["comparisons"]
    cell = c.Cell("cell", {"ddpm": "ddpm", "cbdm:null": "cbdm:null"}, ("training.drop=0.2",), ("0", "1", "2"), steps=5)
    return c.Experiment("small", "mixture-lt", (cell,), ("evaluation.per_class=4",), seeds=3)


def write_readings(work, plans, fid):
    """A reading of every variant, seed and ω, with fid(row, ω, seed)."""
    for name, plan in plans.items():
        for variant in plan.variants:
            for seed in range(plan.seeds):
                run = run_folder(work / name, variant, seed)
                run.mkdir(parents=True)
                (run / "config.toml").write_text(
                    "[facts]\ncounts = [9, 1]\n[training]\nsteps = 5\nbatch_size = 4\n[evaluation]\nper_class = 7\n"
                )
            for reading in readings_of(plan, variant):
                for seed in range(plan.seeds):
                    scores = {"fid": fid(variant.name, reading.kind, reading.omega, seed), "recall": 0.5}
                    result = {"overall": {**scores, "precision": 0.9, "label_accuracy": 1.0}}
                    result["groups"] = {"tail": {**scores, "memorised": None}}
                    file = run_folder(work / name, variant, seed) / READINGS / reading.file
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(result))


def test_every_row_is_kept_by_seed_and_a_missing_reading_is_noticed(programs, small, tmp_path):
    plans = small.plans(3)
    write_readings(tmp_path, plans, lambda row, kind, omega, seed: 1.234567 + seed)
    cells = programs["tables"].gathered(plans, tmp_path)
    rows = cells["cell"]["rows"]
    assert [cells["cell"][name] for name in ("counts", "epochs", "samples")] == [[9, 1], 2, 14]
    assert set(rows) == {"ddpm", "ddpm, ω_eff(t)", "ddpm, interval", "cbdm:null"}
    assert rows["ddpm, ω_eff(t)"].keys() == {"implied:1", "implied:2"}
    assert rows["cbdm:null"]["2"]["fid"] == [1.2346, 2.2346, 3.2346]
    assert "tail copies" not in rows["cbdm:null"]["2"]  # it is known for no sample
    next(run_folder(tmp_path / "cell", plans["cell"].variants[1], 2).rglob("*.json")).unlink()
    with pytest.raises(CbdmError, match="seed 2 has no reading yet"):
        programs["tables"].gathered(plans, tmp_path)


def test_omega_is_picked_on_the_mean_and_differences_are_paired(programs):
    Best = programs["tables"].Best

    def row(**fids):
        scores = ("fid", "tail fid", "precision", "recall", "tail recall")
        return {omega.replace("_", ":").lstrip("w"): dict.fromkeys(scores, values) for omega, values in fids.items()}

    a = Best.of(row(w0=[1.0, 5.0, 3.0], w1=[2.0, 2.0, 4.0], w2=[9.0, 9.0, 0.0]))
    assert (a.omega, a.at_edge) == ("1", False)  # not 2, which one seed likes best
    b = Best.of(row(implied_1=[3.0, 3.5, 4.2], implied_2=[1.0, 1.5, 3.2]))
    assert (b.omega, b.at_edge, b.text()) == ("implied:2", True, "ω_eff 2 (edge)")
    low, high = ttest_rel(a.scores["fid"], b.scores["fid"]).confidence_interval(0.95)
    e = a.minus(b, "fid")
    assert (e.mean - e.half_width, e.mean + e.half_width) == pytest.approx((low, high), rel=1e-12)
    assert Best.of({"linear:1,0": {"fid": [1.0]}, "linear:1.5,0.5": {"fid": [2.0]}}).text() == "1τt + 0 (edge)"
    assert Best.of({"linear:1,0": {"fid": [2.0]}, "linear:1.5,0.5": {"fid": [1.0]}}).text() == "1.5τt + 0.5 (edge)"
    (line,) = programs["tables"].differences_table([("one", a, b)], "what").splitlines()[2:]
    assert line.startswith("| one | 1 / ω_eff 2 (edge) | 2.67 / 1.90 | **+0.77 ±")


def test_one_seed_has_no_interval_to_tell(programs):
    tables = programs["tables"]
    assert tables.text(tables.estimate([1.5])) == "+1.50"
    rows = {"ddpm": {"1": dict.fromkeys([*tables.DIFFERENCES, "tail copies"], (0.5,))}}
    assert tables.methods_table(rows).splitlines()[-1].endswith("| 50.0 % |")


def test_the_change_of_a_difference_is_paired_over_all_four(programs):
    tables = programs["tables"]

    def best(*values):
        return tables.Best("1", False, dict.fromkeys(tables.DIFFERENCES, values))

    a, b, c, d = best(3.0, 4.0, 5.5), best(1.0, 1.5, 1.0), best(2.0, 3.0, 3.5), best(1.0, 2.5, 1.5)
    (line,) = tables.changes_table([("one", (a, b), (c, d))], "what").splitlines()[2:]
    low, high = ttest_rel([2.0, 2.5, 4.5], [1.0, 0.5, 2.0]).confidence_interval(0.95)
    assert line.split(" | ")[1] == f"+1.83 ± {(high - low) / 2:.2f}"
    (line,) = tables.changes_table([("one", (a, b), (a, b))], "what").splitlines()[2:]
    assert line.split(" | ")[1] == "+0.00 ± 0.00"


def test_a_difference_is_bold_only_where_its_interval_excludes_0(programs, small, tmp_path):
    tables, plans = programs["tables"], small.plans(3)
    pulled = {0: 2.0, 1: 2.1, 2: 2.2}  # always 1 below plain: no spread in the difference
    unsure = {0: 1.0, 1: 5.0, 2: 3.0}
    write_readings(
        tmp_path,
        plans,
        lambda row, kind, omega, seed: (
            9.0 if omega != "1" and omega != "implied:1"
            else pulled[seed] if row == "cbdm:null"
            else unsure[seed] if kind
            else pulled[seed] + 1
        ),
    )  # fmt: skip
    text = tables.methods_table(tables.gathered(plans, tmp_path)["cell"]["rows"])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()}
    assert "| 1 | 3.10 | baseline | 3.10 | baseline | 0.900 | 0.500 | 0.500 | — |" in lines["ddpm"]
    assert "| 1 | 2.10 | **−1.00 ± 0.00** |" in lines["cbdm:null"]
    low, high = ttest_rel([1.0, 5.0, 3.0], [3.0, 3.1, 3.2]).confidence_interval(0.95)
    assert f"| −0.10 ± {(high - low) / 2:.2f} |" in lines["ddpm, ω_eff(t)"]


def test_where_the_data_lie_is_no_part_of_the_result(programs, small, tmp_path, monkeypatch):
    """Runs go on where the data have been moved, and the kept result does not tell the folder."""
    comparisons, root = programs["comparisons"], programs["tables"].ROOT
    monkeypatch.setattr(comparisons, "run_jobs", lambda children, jobs: [])
    comparisons.run(small, tmp_path, 2, 3)
    moved = replace(small, shared=(*small.shared, f"{root}'/elsewhere'"))
    comparisons.run(moved, tmp_path, 2, 3)
    assert f"{root}'/elsewhere'" in load_plan(tmp_path / "cell").settings
    write_readings(tmp_path, moved.plans(3), lambda row, kind, omega, seed: 1.0)
    assert "elsewhere" not in json.dumps(programs["tables"].gathered(moved.plans(3), tmp_path))
    assert programs["fashion"].with_root("/elsewhere").shared[-1] == f"{root}'/elsewhere'"


def test_a_result_that_is_not_there_is_named(programs, small, tmp_path, monkeypatch):
    comparisons = programs["comparisons"]
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path)
    asked = comparisons.Namespace(work=tmp_path, jobs=2, seeds=3, print=True, cells=None)
    with pytest.raises(SystemExit, match=r"small.json is not there: run the experiment first"):
        comparisons.main(small, asked, lambda result: "")


def test_a_shared_folder_keeps_the_variants_of_both(programs, small, tmp_path, monkeypatch):
    comparisons = programs["comparisons"]
    monkeypatch.setattr(comparisons, "run_jobs", lambda children, jobs: [])
    comparisons.run(small, tmp_path, 2, 3)
    (cell,) = small.cells
    fewer = replace(small, cells=(replace(cell, variants={"t2h": "t2h", "ddpm": "ddpm"}, omegas=("0", "3")),))
    comparisons.run(fewer, tmp_path, 2, 2)
    plan = load_plan(tmp_path / "cell")
    assert [variant.name for variant in plan.variants] == ["t2h", "ddpm", "cbdm:null"]
    assert plan.seeds == 3 and set(plan.omegas) == {"0", "1", "2", "3"}
    for other in (replace(small, shared=()), replace(small, preset="digits-lt")):
        with pytest.raises(CbdmError, match=r"holds runs of other settings: name another folder with --work"):
            comparisons.run(other, tmp_path, 2, 2)


def test_a_cell_may_have_more_seeds_than_the_others(programs, small):
    more = replace(small, cells=(*small.cells, replace(small.cells[0], name="more", seeds=5)))
    counts = {asked: {name: plan.seeds for name, plan in more.plans(asked).items()} for asked in (1, 3, 4, 8)}
    assert counts[1] == {"cell": 1, "more": 1}  # a quick look
    assert counts[3] == {"cell": 3, "more": 5} and counts[4] == {"cell": 4, "more": 5}
    assert counts[8] == {"cell": 8, "more": 8}


def test_some_cells_alone(programs, small, tmp_path, monkeypatch):
    """Only these are run, and no result is written, which would lack the others."""
    comparisons = programs["comparisons"]
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path / "results")
    ran = []
    monkeypatch.setattr(
        comparisons,
        "run_jobs",
        lambda children, jobs: ran.extend(child.name.split(", ")[0] for child in children) or [],
    )
    two = replace(small, cells=(*small.cells, replace(small.cells[0], name="other")))
    asked = comparisons.Namespace(work=tmp_path, jobs=2, seeds=1, print=False, cells=["other"])
    assert comparisons.main(two, asked, lambda result: "") == 0
    assert set(ran) == {"other"} and not (tmp_path / "results").exists()
    asked.cells = ["othr"]
    with pytest.raises(SystemExit, match="--cells othr: the cells are cell, other"):
        comparisons.main(two, asked, lambda result: "")


class Started:
    """A job that stands in for a process: it ends at the second look, with its code."""

    def __init__(self, code):
        self.returncode, self.looks, self.ended = code, 0, False

    def poll(self):
        self.looks += 1
        return self.returncode if self.looks > 1 else None

    def terminate(self):
        self.ended = True

    def wait(self):
        self.waited = True


@pytest.fixture
def started(programs, monkeypatch, tmp_path):
    """Jobs by name, in the order they were started; those named ddpm fail."""
    found = {}

    def launch(child, threads):
        name = child.name.removeprefix("cell, ")
        found[name] = Started(1 if name.startswith("ddpm") else 0)
        return found[name]

    monkeypatch.setattr(pool.Child, "_launch", launch)
    monkeypatch.setattr(pool.time, "sleep", lambda seconds: None)
    return found


def test_what_failed_is_named_and_the_rest_goes_on(programs, small, tmp_path, started, capfd):
    """One job at a time, the first broken: the second is started all the same, and the end is code 1."""
    comparisons = programs["comparisons"]
    asked = comparisons.Namespace(work=tmp_path, jobs=1, seeds=2, print=False, cells=None)
    assert comparisons.main(small, asked, lambda result: "") == 1
    assert list(started) == ["ddpm, seed 0", "cbdm:null, seed 0", "ddpm, seed 1", "cbdm:null, seed 1"]
    assert "2 jobs failed: cell, ddpm, seed 0; cell, ddpm, seed 1" in capfd.readouterr().err


def test_a_signal_ends_the_jobs_too(programs, small, tmp_path, started, monkeypatch):
    """SIGTERM to the program: no further job is started, those that run are told to end and waited for."""
    comparisons = programs["comparisons"]
    monkeypatch.setattr(Started, "poll", lambda self: None)
    monkeypatch.setattr(pool.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        comparisons.run(small, tmp_path, 2, 3)
    assert end.value.code == 128 + signal.SIGTERM
    assert len(started) == 2 and all(job.ended and job.waited for job in started.values())


def test_two_in_one_cell_are_refused(programs, small, tmp_path):
    comparisons = programs["comparisons"]
    (tmp_path / "cell").mkdir()
    asked = comparisons.Namespace(work=tmp_path, jobs=1, seeds=1, print=False, cells=None)
    with held(tmp_path / "cell", "a test"), pytest.raises(SystemExit, match=r"already runs in .*cell"):
        comparisons.main(small, asked, lambda result: "")


def test_fewer_seeds_do_not_take_the_place_of_the_result(programs, small, tmp_path, monkeypatch, capfd):
    comparisons = programs["comparisons"]
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path)
    monkeypatch.setattr(comparisons, "run", lambda *arguments: [])
    monkeypatch.setattr(comparisons, "gathered", lambda plans, work: {"seeds": plans["cell"].seeds})
    (tmp_path / "small.json").write_text("the whole")
    asked = comparisons.Namespace(work=tmp_path, jobs=1, seeds=2, print=False, cells=None)
    assert comparisons.main(small, asked, lambda result: f"{result['cells']['seeds']} seeds") == 0
    assert "2 seeds" in capfd.readouterr().out and (tmp_path / "small.json").read_text() == "the whole"
    asked.seeds = 3
    assert comparisons.main(small, asked, lambda result: "") == 0
    assert json.loads((tmp_path / "small.json").read_text())["cells"] == {"seeds": 3}


@pytest.mark.parametrize("name", ["digits", "ablations", "regimes", "fashion"])
def test_every_cell_is_a_configuration(programs, name):
    """What the cells set is known to the configuration, and lies within its limits."""
    experiment = programs[name].EXPERIMENT
    assert experiment.seeds >= 3
    for cell, plan in experiment.plans(experiment.seeds).items():
        for variant in plan.variants:
            config = config_of(plan, variant, 1)
            assert config.training.steps == plan.steps and config.method_text == variant.parts, cell


@pytest.mark.slow
def test_an_experiment_runs_and_goes_on(programs, small, tmp_path, monkeypatch):
    """Two methods of five steps, then nothing is left to do and the table is printed again."""
    comparisons, tables = programs["comparisons"], programs["tables"]
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path / "results")
    small = replace(small, seeds=1)
    asked = comparisons.Namespace(work=tmp_path / "work", jobs=2, seeds=1, print=False, cells=None)
    pages = []

    def page(result):
        pages.append(tables.methods_table(result["cells"]["cell"]["rows"]))
        return pages[-1]

    assert comparisons.main(small, asked, page) == 0
    monkeypatch.setattr(pool.Child, "_launch", None)  # nothing may be started again
    assert comparisons.main(small, asked, page) == 0
    asked.print = True
    assert comparisons.main(small, asked, page) == 0
    assert len(set(pages)) == 1 and pages[0].count("\n") == 5


# What was measured

PAGES = {
    "digits": "experiments.md",
    "fashion": "experiments.md",
    "ablations": "experiments.md",
    "regimes": "regimes.md",
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_holds_the_tables_of_the_results(programs, name):
    """`python experiments/NAME.py --print` prints them."""
    program = programs[name]
    result = json.loads((programs["comparisons"].RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / PAGES[name]).read_text(encoding="utf-8")
    assert all(table in page for table in program.page(result).split("\n\n"))
    assert result["cells"].keys() == {cell.name for cell in program.EXPERIMENT.cells}
    for cell in program.EXPERIMENT.cells:
        found = result["cells"][cell.name]
        assert found["seeds"] >= max(program.EXPERIMENT.seeds, cell.seeds) and found["steps"] == cell.steps
        for row in found["rows"].values():
            assert all(len(values) == found["seeds"] for scores in row.values() for values in scores.values())


def test_the_figure_is_that_of_the_results(programs):
    """Of this file, and with these regimes in this order: matplotlib writes each text as a comment beside its lines."""
    regimes = programs["regimes"]
    figure = regimes.FIGURE.read_text(encoding="utf-8")
    assert regimes.digest() in figure
    result = json.loads((programs["comparisons"].RESULTS / "regimes.json").read_text(encoding="utf-8"))
    names = [name for name, _, _ in regimes.pairs(result, schedule=True)]
    assert [text for text in re.findall("<!-- (.*?) -->", figure) if text in names] == names[::-1]

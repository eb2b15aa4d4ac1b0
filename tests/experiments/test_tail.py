"""The tail's experiment: a job, what is gathered, and the page and the README held to the results."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"digits": "noise-levels.md", "sparing": "experiments.md"}  # the others' are in noise-levels-further.md
# With a kept result.
CELLS = (
    "digits",
    "digits-long",
    "fashion",
    "fashion-long",
    "fashion-28",
    "pulled",
    "sparing",
    "steep",
    "mild",
    "classes-40",
    "no-dropout",
    "held-out",
    "ablation",
    "budget-chosen",
    "budget",
)


@pytest.fixture(scope="module")
def tables(programs):
    return importlib.import_module("tail_tables")


@pytest.fixture(scope="module")
def tail(programs):
    return importlib.import_module("tail")


@pytest.mark.parametrize("cell", CELLS)
def test_the_page_holds_the_tables_of_the_result(tail, cell):
    page = (ROOT / "docs" / PAGES.get(cell, "noise-levels-further.md")).read_text(encoding="utf-8")
    result = json.loads(tail.result_file(cell).read_text(encoding="utf-8"))
    for table in tail.page(cell, result).split("\n\n"):
        assert table in page, "python experiments/tail.py --print, and put the tables in the page"


@pytest.mark.slow
def test_a_job_trains_once_and_judges_every_length(tail, tmp_path):
    runs = importlib.import_module("tail_runs")
    job = runs.Job("c", "digits-lt", ("evaluation.per_class=8", "sampling.steps=2"), "mine", "ddpm", 0, (2, 4), ("0",))
    file = runs.run(job, tmp_path)
    record = json.loads(file.read_text())
    assert [(r["steps"], r["omega"]) for r in record["readings"]] == [(2, "0"), (4, "0")]
    alone = runs.run(runs.Job(**{**vars(job), "name": "alone", "lengths": (4,)}), tmp_path)
    assert json.loads(alone.read_text())["readings"][0] == record["readings"][1]
    assert "tail_runs" in sys.modules and runs.run(job, tmp_path) == file


def test_the_readme_gives_the_figures_of_the_result(tail, tables):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = json.loads(tail.result_file("digits").read_text(encoding="utf-8"))
    for figure in tables.readme_figures(result):
        assert figure in readme, f"the README does not say {figure}: python experiments/tail.py was run anew"
    pulled = json.loads(tail.result_file("pulled").read_text(encoding="utf-8"))
    same_cost = tables.above_table(pulled, result).splitlines()[3].split("|")
    assert [cell.strip() for cell in same_cost[1:4]] == ["`cbdm:null+resample:uniform@0.2`", "1000", "2000"]
    assert f"{same_cost[-2].strip(' *−')} points" in readme
    assert tables.readme_on_resampling(json.loads(tail.result_file("fashion").read_text(encoding="utf-8"))) in " ".join(
        readme.split()
    )


def test_the_readme_and_the_guide_give_what_the_transplant_does_on_clothes(tail, tables):
    result = json.loads(tail.result_file("fashion-long").read_text(encoding="utf-8"))
    name = "transplant+resample:uniform@0.2"
    change, *_ = tables.ratios(result, name, 8000, 0.9)
    less = [100 * (1 - math.exp(change.mean + width)) for width in (0, change.half_width, -change.half_width)]
    bests = (tables.best(result["methods"][m], 8000) for m in ("resample:uniform", name))
    copies = [f"{100 * sum(b['tail copies']) / len(b['tail copies']):.0f} %" for b in bests]
    for page in ("README.md", "docs/guides/choose.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"{less[0]:.0f} % below DDPM's at recall 0.90 [{less[1]:.0f}, {less[2]:.0f}]" in text, page
        assert f"it copies {copies[0]}, and the transplant {copies[1]}" in text, page


def test_the_guide_gives_what_resampling_does_with_more_images_and_with_fewer(tail, tables):
    guide = " ".join((ROOT / "docs" / "guides" / "choose.md").read_text(encoding="utf-8").split())
    mild, steep = (json.loads(tail.result_file(cell).read_text(encoding="utf-8")) for cell in ("mild", "steep"))
    change, *_ = tables.ratios(mild, "resample:uniform", 1000, 0.95)
    copies = tables.best(steep["methods"]["resample:uniform"], 1000)["tail copies"]
    assert f"with {min(mild['counts'])} in the rarest class its tail FID at equal recall was" in guide
    assert change.excludes_zero and f"was {100 * (1 - math.exp(change.mean)):.0f} % below DDPM's" in guide
    assert min(steep["counts"]) == 1 and f"{100 * sum(copies) / len(copies):.0f} % of its tail were copies" in guide


def test_the_change_of_reference_is_the_ratio_of_the_same_readings(tables):
    """Twice the FID at each ω of a seed, eight times of another's: e^{(log 2 + log 8)/2} = 4; copies by their mean."""
    known = {"0": {"tail fid": [1.0, 3.0]}, "1": {"tail fid": [2.0, 5.0]}, "2": {"tail fid": [9.0, 9.0]}}
    mine = {omega: {"tail fid": [2 * known[omega]["tail fid"][0], 8 * known[omega]["tail fid"][1]]} for omega in "01"}
    mine = {omega: {**scores, "tail copies": [0.1, 0.3]} for omega, scores in mine.items()}
    found = tables.judged_table({"methods": {"t2h": {"5": mine}}}, {"methods": {"t2h": {"5": known}}})
    assert found.splitlines()[2].startswith("| `t2h` | 5 | +300 % [") and found.endswith("| 20 % |")


def test_methods_without_jobs_keep_what_the_result_file_has(tail, tmp_path, monkeypatch):
    """One method has jobs and their values, one has those of before, one is left out."""
    cell = importlib.import_module("tail_cells").Cell("digits-lt", (), {"ddpm": 2, "t2h": 1, "h2t": 1}, (5,), ("0",))
    monkeypatch.setitem(tail.CELLS, "made", cell)
    before = {"counts": [3, 1], "methods": {"t2h": {"5": {"0": {"fid": [9.0]}}}}}
    (tmp_path / "result.json").write_text(json.dumps(before))
    monkeypatch.setattr(tail, "result_file", lambda cell: tmp_path / "result.json")
    for seed in range(2):
        tail_scores = {"fid": 2.0, "recall": 0.5, "memorised": 0.1, "copied_pixels": 0.2}
        reading = {"steps": 5, "omega": "0", "overall": {"fid": 1.0 + seed}, "tail": tail_scores}
        job = tail.job_of("made", "ddpm", seed).file(tmp_path)
        job.parent.mkdir(exist_ok=True)
        job.write_text(json.dumps({"counts": [4, 2], "readings": [reading]}))
    result = tail.gathered("made", tmp_path)
    assert result["counts"] == [4, 2] and list(result["methods"]) == ["ddpm", "t2h"]
    assert result["methods"]["ddpm"]["5"]["0"]["fid"] == [1.0, 2.0]
    assert result["methods"]["t2h"] == before["methods"]["t2h"]


def test_a_seed_more_is_put_beside_those_of_before(tail, tmp_path, monkeypatch):
    """Seeds 0 and 1 are known, 1 is run anew, 2 is new; 3 is not there yet, and 4 waits for it."""
    cell = importlib.import_module("tail_cells").Cell("digits-lt", (), {"ddpm": 5}, (5,), ("0",))
    monkeypatch.setitem(tail.CELLS, "made", cell)
    known = {score: [7.0, 8.0] for score in tail.KEPT}
    (tmp_path / "result.json").write_text(json.dumps({"counts": [3], "methods": {"ddpm": {"5": {"0": known}}}}))
    monkeypatch.setattr(tail, "result_file", lambda cell: tmp_path / "result.json")
    for seed in (1, 2, 4):
        tail_scores = {"fid": 2.0, "recall": 0.5, "memorised": 0.1, "copied_pixels": 0.2}
        reading = {"steps": 5, "omega": "0", "overall": {"fid": 1.0 + seed}, "tail": tail_scores}
        job = tail.job_of("made", "ddpm", seed).file(tmp_path)
        job.parent.mkdir(exist_ok=True)
        job.write_text(json.dumps({"counts": [3], "readings": [reading]}))
    found = tail.gathered("made", tmp_path)["methods"]["ddpm"]["5"]["0"]
    assert found["fid"] == [7.0, 2.0, 3.0] and found["tail recall"] == [7.0, 0.5, 0.5]


def test_what_another_cell_knows_is_cut_to_the_lengths_and_seeds_of_this_one(tail, tmp_path, monkeypatch):
    cells = importlib.import_module("tail_cells")
    cell = cells.Cell("digits-lt", (), {"t2h": 2}, (5,), ("0",), known=("ddpm",))
    monkeypatch.setitem(tail.CELLS, "made", cell)
    scores = {omega: {"fid": [1.0, 2.0, 3.0]} for omega in ("0", "1")}
    (tmp_path / "digits.json").write_text(json.dumps({"methods": {"ddpm": {"5": scores, "9": scores}, "h2t": {}}}))
    monkeypatch.setattr(tail, "result_file", lambda cell: tmp_path / f"{cell}.json")
    own = {"counts": [3], "methods": {"t2h": {"5": {}}}}
    assert tail.with_known("made", own) == {
        "counts": [3],
        "methods": {"ddpm": {"5": {"0": {"fid": [1.0, 2.0]}, "1": {"fid": [1.0, 2.0]}}}, "t2h": {"5": {}}},
    }
    assert tail.with_known("mild", own) == own


def test_runs_that_begin_in_another_cell_differ_from_its_runs_in_their_lengths_alone(tail):
    begun = {name: cell for name, cell in tail.CELLS.items() if cell.begun}
    assert list(begun) == ["digits-long", "fashion-long"]
    for cell in begun.values():
        short = tail.CELLS[cell.begun]
        assert (cell.preset, cell.settings, cell.omegas) == (short.preset, short.settings, short.omegas)
        assert max(short.lengths) < min(cell.lengths)


def test_a_cell_that_has_not_been_run_says_so(tail, monkeypatch, tmp_path):
    monkeypatch.setattr(tail, "result_file", lambda cell: tmp_path / f"tail-{cell}.json")
    monkeypatch.setattr("sys.argv", ["tail.py", "--cell", "mild", "--print"])
    with pytest.raises(SystemExit, match=r"tail-mild\.json is not there: run the experiment first, without --print"):
        tail.main()

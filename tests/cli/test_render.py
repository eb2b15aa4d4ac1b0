"""What the lines beside a table say."""

import math
import re
import sys

import pytest

from cbdm_cli import render
from cbdm_cli.live import LiveJobs
from cbdm_cli.render import comparison_table, report_table, sweep_table
from cbdm_cli.study.results import Estimate
from cbdm_cli.study.summary import Row, Summary
from cbdm_core.metrics.report import Report, Scores


def report(memorised):
    scores = Scores(1.0, 1.0, 1.0, 1.0, n_samples=9, n_reference=9, memorised=memorised)
    return Report(scores, {"tail": scores}, (), features="f", note="", held_out_accuracy=None, k=5)


@pytest.mark.parametrize(
    ("memorised", "told"),
    [
        (0.0644, "6.4% beyond chance"),
        (0.00051, "0.1% beyond chance"),
        (0.0004, "none beyond what held-out images give"),
        (0.0, "none beyond what held-out images give"),
        (-0.064, "none beyond what held-out images give"),
    ],
)
def test_copies_are_told_as_an_excess_and_never_below_0(capsys, memorised, told):
    report_table(report(memorised), "title", "caption")
    out = capsys.readouterr().out
    assert f"copies of training images {told} · tail copies of training images {told}" in out
    assert not re.search(r"[-−]\d", out)


def test_unknown_copies_are_not_told(capsys):
    report_table(report(None), "title", "caption")
    assert "copies" not in capsys.readouterr().out


def cells(out):
    """The cells of the tables' lines, by their first."""
    lines = [[cell.strip() for cell in re.split(r"[│┃|]|\s{2,}", line) if cell.strip()] for line in out.splitlines()]
    return {line[0]: line for line in lines if line}


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no cell is broken."""
    monkeypatch.setattr(render.CONSOLE, "width", 200)


def test_a_sweep_tells_copies_of_the_tail(wide, capsys):
    sweep_table([("a", "0", report(0.378)), ("b", "1", report(None))], "title")
    found = cells(capsys.readouterr().out)
    assert found["a"][-3] == "0.378" and found["b"][-3] == "–"


def test_a_comparison_tells_copies_of_the_tail(wide, capsys):
    scores = {"fid": Estimate(2.0, 0.5), "tail copies": Estimate(0.378, 0.01)}
    plain = Row("ddpm", "ddpm", "", "1", False, (0,), {"fid": Estimate(1.0, 0.5)}, None, (), {})
    row = Row("mine", "mine", "", "1", False, (0,), scores, {"fid": Estimate(1.0, 0.25)}, (), {})
    comparison_table(Summary((plain, row), "verdict", "features"), "title")
    found = cells(capsys.readouterr().out)
    assert found["mine"][-3] == "0.378" and "+1.00 ± 0.25" in found["mine"] and found["ddpm"][-3] == "–"


def test_the_end_of_the_grid_is_told_beside_the_best(wide, capsys):
    plain = Row("ddpm", "ddpm", "", "1", True, (0,), {"fid": Estimate(1.0, 0.5)}, None, (), {})
    row = Row("mine", "mine", "", "0.5", False, (0,), plain.scores, {"fid": Estimate(1.0, 0.25)}, (), {})
    comparison_table(Summary((plain, row), "verdict", "features"), "title")
    found = cells(capsys.readouterr().out)
    assert found["ddpm"][1] == "1 (edge)" and found["mine"][1] == "0.5"


def test_a_number_below_0_has_a_true_minus(wide, capsys):
    plain = Row("ddpm", "ddpm", "", "1", True, (0,), {"fid": Estimate(1.0, 0.5)}, None, (), {})
    scores = {"fid": Estimate(0.5, 0.5), "tail copies": Estimate(-0.012, 0.01)}
    row = Row("mine", "mine", "", "0", False, (0,), scores, {"fid": Estimate(-0.5, math.inf)}, (), {})
    comparison_table(Summary((plain, row), "verdict", "features"), "title")
    found = cells(capsys.readouterr().out)["mine"]
    assert found[2:4] == ["0.50 ± 0.50", "−0.50"] and "−0.012" in found


def test_title_and_facts_of_live_jobs_are_whole_lines_and_names_are_text(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    title, facts = "digits-lt: 2 methods × 3 paired seeds, each at its best ω", "1 of 6 jobs done, about 2.1 min left"
    with LiveJobs(title) as live:
        live.show([("a[b]", "0", "waiting")], facts)
        live.line(":cat:[b]: done")
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;?]*\w", "", capsys.readouterr().err).splitlines()]
    assert title in lines and facts in lines and "a[b]     0      waiting" in lines
    assert ":cat:[b]: done" in lines


def test_a_narrow_terminal_gets_several_tables_and_no_number_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(render.CONSOLE, "width", 80)
    names = [f"runs/digits-lt-{i:03d}" for i in range(2)]
    sweep_table([(name, "implied:0.75,1", report(0.378)) for name in names], "title")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for name in names:
        lines = [line.split() for line in out.splitlines() if line.split()[:1] == [name]]
        assert len(lines) > 1 and all(line[1] == "implied:0.75,1" for line in lines)
        assert [cell for line in lines for cell in line[2:]].count("0.378") == 1
        assert sum(len(line) - 2 for line in lines) == 11  # every score once


def test_a_heat_map_keeps_every_number_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setattr(render.CONSOLE, "width", 40)
    columns = ["class ", "n ", *[f".{i}5 " for i in range(9)]]
    rows = [((name, "12"), [(f"{y}.{i}", i / 4 - 1, i % 2 == 0) for i in range(9)]) for y, name in enumerate("ab")]
    render.heat_table("a map", columns, rows)
    out = capsys.readouterr().out
    assert all(len(line) <= 40 for line in out.splitlines()) and "…" not in out
    assert all(f"{y}.{i}" in out for y in range(2) for i in range(9)) and out.count("class") == 2

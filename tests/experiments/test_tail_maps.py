"""The tail's errors by noise level: what a table says of made errors, and the page held to the result."""

import importlib
import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maps(programs):
    return importlib.import_module("tail_maps")


def made(*tails):
    """Errors of a method of which only the tail's are asked, the same after every length."""
    held_out, training = ([list(row) for row in rows] for rows in zip(*tails, strict=True))
    return {steps: {"tail": {"held out": held_out, "training": training}} for steps in ("1000", "3000")}


def test_a_change_is_of_each_seed_and_level_and_bold_where_its_interval_leaves_out_0(maps):
    plain = made(((1.0, 2.0), (0.5, 2.0)), ((2.0, 4.0), (1.0, 1.0)), ((1.0, 1.0), (0.5, 1.0)))
    other = made(((0.9, 1.0), (0.3, 2.0)), ((1.8, 8.0), (0.6, 1.0)), ((0.88, 1.0), (0.22, 1.0)))
    result = {"times": [0.25, 0.75], "methods": {"ddpm": plain, "mine": other}}
    spread = 4.303 * 2 / math.sqrt(3) / math.sqrt(3)  # −10, −10 and −12: a standard deviation of 2/√3
    lines = maps.learned_table(result).splitlines()
    assert lines[0] == "| method | steps | t = 0.25 | t = 0.75 |" and len(lines) == 4
    assert lines[2] == f"| `mine` | 1000 | **−11 ± {spread:.0f}** | +17 ± 190 |"
    assert maps.memorised(other["3000"]["tail"]) == pytest.approx([(3 + 3 + 4) / 3, (0.5 + 8 + 1) / 3])
    assert maps.memorised_table(result).splitlines()[2] == "| `ddpm` | 1000 | 2.00 | 2.00 |"


def test_longer_training_is_held_against_shorter_seed_by_seed(maps):
    short, long = ({"tail": {"held out": [[4.0], [2.0], [1.0]]}}, {"tail": {"held out": [[2.0], [1.0], [0.5]]}})
    result = {"times": [0.5], "methods": {"ddpm": {"1000": short, "3000": long}}}
    assert maps.longer_table(result).splitlines()[2] == "| tail | **−50 ± 0** |"


def test_the_page_holds_the_tables_of_the_result(maps):
    result = json.loads(maps.RESULT.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "noise-levels.md").read_text(encoding="utf-8")
    for table in maps.page(result).split("\n\n"):
        assert table in page, "python experiments/tail_maps.py --print, and put the tables in the page"


def test_jobs_are_gathered_by_method_steps_group_and_seed(maps, tmp_path):
    for place, method in enumerate(maps.METHODS):
        for seed in maps.SEEDS:
            of = {"held out": [1.0 + seed], "training": [2.0 + place]}
            reading = {"head": of, "tail": of}
            file = maps.job_file(tmp_path, method, seed)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"times": [0.5], "readings": {"1000": reading, "3000": reading}}))
    result = maps.gathered(tmp_path)
    assert result["times"] == [0.5] and list(result["methods"]) == list(maps.METHODS)
    tail = result["methods"][maps.METHODS[1]]["3000"]["tail"]
    assert tail == {"held out": [[1.0], [2.0], [3.0]], "training": [[3.0]] * 3}

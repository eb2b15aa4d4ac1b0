"""The section on diagnoses: its cells are the file's, its words are no markup, and a damaged file is told."""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from cbdm_cli.study.report import heat_maps
from cbdm_cli.study.report.collect import collect
from cbdm_cli.study.report.diagnosis import read_diagnosis
from cbdm_cli.study.report.drawing import diverging
from cbdm_cli.study.report.page import page
from tests.cli.study.report.by_hand import COUNTS, NAMES, write_run
from tests.cli.study.report.pages import Page, alts, contrast

TIMES = [0.25, 0.75]
UNDER = [[1.0, 1.21], [0.52, 2.34], [None, 1234.0]]
MEMORY = [[1.03, 1.0], [0.97, 1.1], [3.14, 21.7]]
SENTENCE = "the tail is <b>lost</b>\x1b[2J"


def minus_one(table):
    return [[None if v is None else v - 1 for v in row] for row in table]


def diagnosis(**changes):
    """As `cbdm diagnose` writes it, with errors of 1 on the other side, known to 0.2."""
    errors = {"underfitted": minus_one(UNDER), "memorised": minus_one(MEMORY)}
    known = {f"{name}_standard_error": [[0.2, 0.2]] * 3 for name in errors}
    return {
        "step": 4,
        "held_out": "the rest",
        "class_names": list(NAMES),
        "times": TIMES,
        "training_counts": list(COUNTS),
        "folds": 0,
        "eps_error": {**errors, **known},
        "underfitted_ratio": UNDER,
        "memorised_ratio": MEMORY,
        "verdict": [SENTENCE, "second"],
        **changes,
    }


def write(run, name="diagnosis.json", **changes):
    (run / name).write_text(json.dumps(diagnosis(**changes)))
    return run


def section(text):
    found = re.search(r'<section id="diagnosis".*?</section>', text, re.DOTALL)
    return found and found[0]


def drawn(svg):
    """(text, bold) of what stands in an SVG, in its order."""
    found = re.findall(r"<text ([^>]*)>([^<]*)</text>", svg)
    return [(text, bool(re.search(r"\b(bold|700)\b", style))) for style, text in found]


def cells(svg):
    """The numbers: after the names of classes, three rows of two."""
    return [(text, bold) for text, bold in drawn(svg) if re.fullmatch(r"[\d.]+\d|–|≥1k", text)]


def test_the_cells_are_those_of_the_file_and_bold_beyond_chance(tmp_path):
    under, memory = re.findall(r"<svg.*?</svg>", section(page(collect([write(write_run(tmp_path / "r"))]))), re.DOTALL)
    known = [[("1.0", False), ("1.2", False)], [("0.5", True), ("2.3", True)], [("–", False), ("≥1k", True)]]
    assert [cell for row in known for cell in row] == [c for c in cells(under) if c[0] not in (".25", ".75")]
    known = [[("1.0", False), ("1.0", False)], [("1.0", False), ("1.1", False)], [("3.1", True), ("22", True)]]
    assert [cell for row in known for cell in row] == [c for c in cells(memory) if c[0] not in (".25", ".75")]
    names = [text for text, _ in drawn(under) if re.search(r"\(\d+\)$", text)]
    assert names == ["common (100)", "&lt;b&gt;&amp;$x$ (20)", "rare (3)"]


def test_the_words_tell_the_finding_and_are_no_markup(tmp_path):
    text = page(collect([write(write_run(tmp_path / "r"))]))
    parsed = Page(text)
    assert "where the tail is lost" in section(text).lower() and 'href="#diagnosis"' in text
    assert not parsed.all("b") and "\x1b" not in text
    assert "the tail is &lt;b&gt;lost&lt;/b&gt;\\x1b[2J" in section(text) and "<li>second</li>" in section(text)
    under, memory = (alt for alt in alts(parsed) if alt.startswith("Heat map"))
    assert "3 of 6 cells" in under and "rare (3 training images) 1234.00 at t = 0.75" in under
    assert "common (100 training images) 1.21 at t = 0.75, within chance" in under
    assert "2 of 6 cells" in memory and "rare (3 training images) 21.70 at t = 0.75" in memory
    assert text == page(collect([tmp_path / "r"]))


def test_no_section_without_a_diagnosis_and_one_map_by_folds(tmp_path):
    run = write_run(tmp_path / "r")
    assert section(page(collect([run]))) is None
    unknown = [[None, None]] * 3
    write(run, "diagnosis-folds5.json", folds=5, memorised_ratio=unknown)
    found = section(page(collect([run])))
    assert found.count("<svg") == 1 and "by a Gaussian fitted without them" in found


def test_the_usual_file_goes_before_others_and_a_method_shows_its_first_run_that_has_one(tmp_path):
    runs = [write_run(tmp_path / f"r{seed}", seed=seed) for seed in range(3)]
    for name in ("diagnosis-n5.json", "diagnosis-folds5.json"):
        write(runs[1], name)
    write(runs[2])
    (found,) = heat_maps.diagnoses(collect(runs))
    assert "seed 1, step 4, diagnosis-folds5.json" in found.facts
    write(runs[1])
    (found,) = heat_maps.diagnoses(collect(runs))
    assert "seed 1, step 4, diagnosis.json" in found.facts


def test_two_methods_have_ids_of_their_own(tmp_path):
    runs = [write(write_run(tmp_path / name, name)) for name in ("ddpm", "cbdm")]
    text = page(collect(runs))
    ids = [e["id"] for e in Page(text).elements if "id" in e]
    assert len(ids) == len(set(ids)) and section(text).count("<svg") == 4


def errors(**changes):
    return {"eps_error": {**diagnosis()["eps_error"], **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ["a", "b", "c"]}, "not the run's"),
        ({"training_counts": [1, 2]}, "training_counts"),
        ({"training_counts": [1, 2, True]}, "training_counts"),
        ({"times": []}, "times"),
        ({"times": [0.5] * 10_001}, "noise levels"),
        ({"times": [0.1, 0.2, 0.3]}, "3 times 3 numbers"),
        ({"underfitted_ratio": [[1.0, math.nan]] * 3}, "underfitted_ratio"),
        ({"underfitted_ratio": [[1.0, -1.0]] * 3}, "below 0"),
        ({"memorised_ratio": [[1.0, 10**400]] * 3}, "memorised_ratio"),
        ({"memorised_ratio": None}, "memorised_ratio"),
        ({"eps_error": []}, "eps_error"),
        (errors(underfitted=[["1", "2"]] * 3), "underfitted"),
        (errors(memorised_standard_error=[[0.2]] * 3), "memorised_standard_error"),
        ({"verdict": "words"}, "verdict"),
        ({"verdict": [1]}, "verdict"),
        ({"verdict": ["x" * 1001]}, "1000 characters"),
        ({"verdict": ["x"] * 3}, "verdict"),
        ({"held_out": None}, "held_out"),
        ({"folds": -1}, "folds"),
        ({"step": "4"}, "step"),
    ],
)
def test_a_forged_file_is_told_in_a_line(refused, tmp_path, changes, words):
    run = write(write_run(tmp_path / "run"), **changes)
    line = refused("report", run, "--no-samples", "-o", tmp_path / "r.html")
    assert str(run / "diagnosis.json") in line and words in line and "run cbdm diagnose again" in line
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_diagnosis_is_told_in_a_line(refused, tmp_path, content):
    run = write_run(tmp_path / "run")
    (run / "diagnosis.json").write_bytes(content)
    line = refused("report", run, "--no-samples", "-o", tmp_path / "r.html")
    assert "diagnosis.json holds no diagnosis" in line and "run cbdm diagnose again" in line


def test_a_huge_file_and_a_folder_are_not_read(refused, tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "diagnosis.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "fewer --levels" in refused("report", run, "-o", tmp_path / "r.html")
    (run / "diagnosis.json").unlink()
    (run / "diagnosis.json").mkdir()
    assert "is a folder" in refused("report", run, "-o", tmp_path / "r.html")


def test_large_maps_have_colours_where_they_are_sure_and_some_names(tmp_path):
    names, counts = [f"a very long name of class {i}" for i in range(90)], list(range(900, 0, -10))
    ratio, difference = [[1.5, 4.0]] * 90, [[0.5, 3.0]] * 90
    tables = {f"{word}_ratio": ratio for word in ("underfitted", "memorised")}
    known = {"underfitted": difference, "memorised": difference}
    known |= {f"{word}_standard_error": [[0.4, 0.4]] * 90 for word in known}
    file = diagnosis(class_names=names, training_counts=counts, eps_error=known, **tables)
    (tmp_path / "diagnosis.json").write_text(json.dumps(file))
    found = read_diagnosis(tmp_path, names)
    assert found.underfitted.sure.tolist() == [[False, True]] * 90
    first, _ = heat_maps._maps(0, "m", found)
    assert "a very long nam… (900)" in first.svg and not [text for text, _ in cells(first.svg) if text == "4.0"]
    packed = re.search(r'href="data:image/png;base64,([^"]*)"', first.svg)[1]
    opacity = np.array(Image.open(io.BytesIO(base64.b64decode(packed))).convert("RGBA"))[..., 3]
    assert opacity.shape == (90, 2) and (opacity[:, 0] == 0).all() and (opacity[:, 1] > 60).all()
    assert first.svg.count("a very long nam…") <= 20 and "90 of 180 cells" in first.svg and len(first.svg) < 60_000


def test_numbers_can_be_read_on_all_shades_of_both_grounds():
    """WCAG 2: a contrast of 4.5 for what is read, with the ink and grounds of style.css."""
    for ground, ink in (("#ffffff", "#1b1f24"), ("#15181c", "#e4e7ea")):
        below = [int(ground[i : i + 2], 16) for i in (1, 3, 5)]
        for *shade, alpha in diverging():
            mixed = [round(alpha * 255 * s + (1 - alpha) * b) for s, b in zip(shade, below)]
            assert contrast(ink, "#" + "".join(f"{part:02x}" for part in mixed)) >= 4.5

"""`cbdm report`: the page tells what the files hold, safely, and for everyone."""

import base64
import json
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cbdm_cli.render import comparison_table
from cbdm_cli.study.plan import Variant, load_plan
from cbdm_cli.study.report import figures
from cbdm_cli.study.report.collect import collect
from cbdm_cli.study.report.drawing import COLOURS, ramp, style_of
from cbdm_cli.study.report.neighbours import nearest_training
from cbdm_cli.study.report.page import page
from cbdm_cli.study.summary import summarise
from cbdm_core.metrics.scores import compared_scores
from tests.cli.study.report import by_hand
from tests.cli.study.report.by_hand import (
    QUESTION,
    fid,
    result,
    scores,
    write_comparison,
    write_picture,
    write_run,
)
from tests.cli.study.report.pages import Page, alts, contrast, luminance

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "cmp"
    write_comparison(folder)
    return folder


@pytest.fixture(scope="module")
def text(comparison):
    return page(collect([comparison]))


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def test_the_table_holds_the_numbers_of_the_summary(comparison, parsed):
    summary = summarise(comparison, load_plan(comparison))
    head, *rows = parsed.rows()
    names = [h["text"].strip() for h in head]
    assert names[:5] == ["method", "best ω", "FID", "FID − baseline", "FID − ω_eff(t)"]
    assert len(rows) == len(summary.rows) == 6
    for cells, row in zip(rows, summary.rows):
        assert cells[0]["text"] == cells[0]["data-value"] == row.name
        for score in compared_scores().keys() & row.scores.keys():
            cell, digits = cells[names.index(score.replace("fid", "FID"))], 2 if "fid" in score else 3
            assert float(cell["data-value"]) == row.scores[score].mean
            told = f"{row.scores[score].mean:.{digits}f} ± {row.scores[score].half_width:.{digits}f}"
            assert cell["text"] == told.replace("-", "−")
    assert rows[0][3]["text"] == "baseline"
    for cells, row in zip(rows[1:], summary.rows[1:]):
        assert float(cells[3]["data-value"]) == row.differences["fid"].mean


def test_the_caption_says_what_each_column_of_copies_is_by_its_heading(tmp_path, monkeypatch, capsys, parsed):
    """On the page and in the terminal, and of no column that is not there."""
    whole, said = by_hand.scores, ("tail copies:", "tail copies in pixels:", "tail authenticity:")
    caption = parsed.all("caption")[0]["text"]
    assert [words in caption for words in said] == [True, False, False]
    more = {"memorised_pixels": 0.02, "authenticity": 0.5}
    monkeypatch.setattr(by_hand, "scores", lambda *given: {**whole(*given), **more})
    write_comparison(tmp_path / "cmp", law=False)
    page_ = Page(page(collect([tmp_path / "cmp"])))
    headings, caption = [cell["text"] for cell in page_.rows()[0]], page_.all("caption")[0]["text"]
    assert {words[:-1] for words in said} <= set(headings) and all(words in caption for words in said)
    comparison_table(summarise(tmp_path / "cmp", load_plan(tmp_path / "cmp")), "title")
    out = " ".join(capsys.readouterr().out.split())
    assert all(words in out for words in said)


def test_numbers_follow_from_the_formula_of_the_made_up_scores(parsed):
    """Variant v is best at ω = v/2, there with FID 10 + 2v + mean(0, ½, 1); its difference to the baseline is 2v."""
    rows = {cells[0]["text"]: cells for cells in parsed.rows()[1:]}
    for v, (name, best) in enumerate([("ddpm", "0"), ("cbdm τ=0.1", "0.5"), ("cbdm τ=1", "1 (edge)")]):
        assert rows[name][1]["text"] == best
        assert float(rows[name][2]["data-value"]) == pytest.approx(10.5 + 2 * v, abs=1e-12)
        assert float(rows[name][3]["data-value"]) == pytest.approx(2 * v, abs=1e-12)
    for tau, more in (("0.1", 0.0), ("1", 0.03)):
        difference = float(rows[f"ddpm, ω_eff(t), τ={tau}"][3]["data-value"])
        assert difference == pytest.approx(0.5 + more, abs=1e-12)  # ½² + ¼
        assert rows[f"ddpm, ω_eff(t), τ={tau}"][1]["text"] == "0.5 (edge)"
    assert rows["ddpm, ω_eff(t), τ=0.1"][4]["text"] == "itself"  # the better of the two, ½ above the baseline
    for name, above in (("ddpm", 0.0), ("cbdm τ=0.1", 2.0), ("cbdm τ=1", 4.0), ("ddpm, ω_eff(t), τ=1", 0.53)):
        assert float(rows[name][4]["data-value"]) == pytest.approx(above - 0.5, abs=1e-12)


def test_verdict_and_question_are_told_and_nothing_the_user_wrote_is_markup(comparison, text, parsed):
    assert summarise(comparison, load_plan(comparison)).verdict in text
    assert "&lt;script&gt;alert" in text and "<script>alert" not in text
    assert len(parsed.all("script")) == 1
    assert not parsed.all("b")  # a class is called <b>&$x$
    assert text.count("&lt;b&gt;&amp;$x$</text>") >= 3  # and figures write it as it is, dollars too


def test_a_name_cannot_break_out_of_an_attribute(tmp_path):
    name = '"><img src=x onerror=alert(1)>'
    write_comparison(tmp_path / "cmp", variants=[Variant(name="ddpm", parts="ddpm"), Variant(name=name, parts="cbdm")])
    parsed = Page(page(collect([tmp_path / "cmp"])))
    assert all(e["src"].startswith("data:image/png;base64,") for e in parsed.all("img"))
    assert not [e for e in parsed.elements if any(key.startswith("on") for key in e)]
    assert parsed.rows()[-1][0]["data-value"] == name


def test_the_same_folder_gives_the_same_bytes_and_leaves_matplotlib_alone(comparison, text):
    before = dict(mpl.rcParams)
    assert page(collect([comparison])) == text
    assert dict(mpl.rcParams) == before


def test_nothing_is_fetched(text, parsed):
    assert not re.search(r"https?://", text)
    assert not parsed.all("link") and "@import" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'" in next(e["content"] for e in parsed.all("meta") if "http-equiv" in e)


def test_headings_step_by_one_ids_are_unique_and_references_lead_somewhere(text, parsed):
    levels = [int(e["tag"][1]) for e in parsed.elements if re.fullmatch(r"h[1-6]", e["tag"])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(e["id"] for e in parsed.elements if "id" in e)
    assert max(ids.values()) == 1
    wanted = [e["href"][1:] for e in parsed.all("a")] + re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text)
    wanted += [e["aria-labelledby"] for e in parsed.elements if "aria-labelledby" in e]
    assert len(wanted) > 20 and set(wanted) <= ids.keys()


def test_every_picture_has_words(parsed):
    assert all(e["alt"].strip() for e in parsed.all("img"))
    assert all(e["role"] == "img" and len(e["aria-label"]) > 30 for e in parsed.all("svg"))
    assert len(parsed.all("svg")) == 9  # histogram, 2 × classes, plane, ω, τ, loss, 2 laws
    places = [i for i, e in enumerate(parsed.elements) if e["tag"] == "table"]
    assert len(places) == 2 and all(parsed.elements[i + 1]["tag"] == "caption" for i in places)


def test_alternatives_tell_the_numbers_that_matter(parsed):
    told = alts(parsed)
    assert "common: 100, <b>&$x$: 20, rare: 3" in told[0]
    # FID of class y is 10 y above the overall one, at the best ω of the method: 10.5 for ddpm.
    assert "ddpm: class common (100 training images) 10.50, class <b>&$x$ (20 training images) 20.50" in told[1]
    assert "ddpm: precision 0.410 ± 0.025, recall 0.590 ± 0.025" in told[3]
    # FID of cbdm τ=1 is 14.5 + (ω − 1)².
    assert "FID, cbdm τ=1: 15.50 at ω 0, 14.75 at ω 0.5, 14.50 at ω 1" in told[4]
    assert "FID, cbdm: 12.50 ± 1.24 at τ 0.1, 14.50 ± 1.24 at τ 1" in told[5]
    assert "ddpm, all classes: 1 to 0.25 at step 4" in told[6] and "ddpm, tail: 2 to 0.5 at step 4" in told[6]
    assert "class common from 0.4500 to 0.3000, class rare from 0.2500 to 0.4000, by step 4" in told[7]


def test_sections_without_content_are_left_out(tmp_path):
    two = [Variant(name="ddpm", parts="ddpm"), Variant(name="cbdm", parts="cbdm")]
    write_comparison(tmp_path / "cmp", omegas=(0.0,), variants=two, law=False)
    for png in (tmp_path / "cmp").rglob("samples.png"):
        png.unlink()
    sections = {e["id"] for e in Page(page(collect([tmp_path / "cmp"]))).all("section")}
    assert sections == {"results", "data", "classes", "plane", "loss", "configuration", "provenance"}


def test_a_comparison_that_has_just_begun_shows_what_there_is(tmp_path):
    plan = write_comparison(tmp_path / "cmp")
    for found in (tmp_path / "cmp").rglob("readings"):
        shutil.rmtree(found)
    shutil.rmtree(tmp_path / "cmp" / "runs" / plan.variants[2].folder)
    story = collect([tmp_path / "cmp"])
    assert [m.name for m in story.methods] == ["ddpm", "cbdm τ=0.1"] and not story.method_scores
    text = page(story)
    assert "the baseline has not been judged yet" in text and 'id="results"' not in text


def test_a_seed_that_lacks_a_reading_is_left_out_of_its_row_everywhere(tmp_path):
    write_comparison(tmp_path / "cmp")
    (tmp_path / "cmp" / "runs" / "ddpm" / "seed-2" / "readings" / "omega-1.json").unlink()
    story = collect([tmp_path / "cmp"])
    assert [j.row.seeds for j in story.method_scores if not j.row.kind] == [(0, 1), (0, 1, 2), (0, 1, 2)]
    told = alts(Page(page(story)))
    # Mean of the shifts 0 and ½ by seed, without the third seed's 1.
    assert "ddpm: class common (100 training images) 10.25" in told[1]
    assert "FID, ddpm: 10.25 at ω 0, 10.50 at ω 0.5, 11.25 at ω 1;" in told[4]


def test_data_that_are_no_images_have_no_neighbours_to_show(tmp_path):
    run = write_run(tmp_path / "r")
    file = run / "config.toml"
    vectors = re.sub(r"shape = \[[^\]]*\]", "shape = [2]", file.read_text())
    file.write_text(vectors)
    assert nearest_training(collect([run]), "cpu") == ()


def test_configuration_and_provenance_are_told(parsed, text):
    rows = [e["text"] for e in parsed.all("tr")]
    assert "methodddpmcbdmcbdm" in [r.strip() for r in rows], "one row a difference, one cell a method"
    told = dict(zip([e["text"] for e in parsed.all("dt")], [e["text"] for e in parsed.all("dd")]))
    assert told["seeds"] == "0, 1, 2" and told["data hash"] == "d" * 8 and told["split hash"] == "s" * 8
    assert told["features"] == "classifier/abc, 8-bit images" and told["samples in a result"] == "30"
    assert told["sampler"] == "dpm++2m" and told["sampler steps"] == "5" and told["device"] == "cpu"
    (toml,) = parsed.all("pre")
    assert tomllib.loads(toml["text"])["question"] == QUESTION


def test_grids_are_the_files_and_the_caption_says_when_they_are_paired(comparison, text, tmp_path):
    file = comparison / "runs" / "ddpm" / "seed-0" / "samples.png"
    assert base64.b64encode(file.read_bytes()).decode() in text
    assert "All grids have the same noise and labels" in text
    runs = [write_run(tmp_path / f"r{s}", parts, seed=s) for s, parts in enumerate(("ddpm", "cbdm"))]
    for run in runs:
        write_picture(run)
    assert "does not hold the same draw" in page(collect(runs))
    for run in runs:
        config = run / "config.toml"
        config.write_text(re.sub(r"shape = \[[^\]]*\]", "shape = [2]", config.read_text()))
    told = page(collect(runs))
    assert "A colour per class, with its number of training examples;" in told and "A row per class" not in told


def test_the_page_stays_below_five_megabytes_whatever_the_grids_are(tmp_path):
    runs = [write_run(tmp_path / f"r{s}", parts) for s, parts in enumerate(("ddpm", "cbdm", "t2h"))]
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    for run in runs:
        Image.fromarray(noise).save(run / "samples.png")
    assert sum((run / "samples.png").stat().st_size for run in runs) > 12_000_000
    assert len(page(collect(runs)).encode()) < 5_000_000


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path):
    runs = [write_run(tmp_path / f"r{s}", "ddpm", seed=s) for s in range(2)]
    runs.append(write_run(tmp_path / "c", "cbdm"))
    for run, (variant, seed) in zip(runs, [(0, 0), (0, 1), (1, 0)]):
        (run / "evaluation.json").write_text(json.dumps(result(variant, seed, 1.0, "m")))
        (run / "evaluation-omega-0.json").write_text(json.dumps(result(variant, seed, 0.0, "m")))
        other = {**result(variant, seed, 0.5, "m"), "sampler_steps": 99}  # no point of the same curve
        (run / "evaluation-omega-0.5.json").write_text(json.dumps(other))
    parsed = Page(page(collect(runs)))
    head, *rows = parsed.rows()
    assert [h["text"].strip() for h in head[:3]] == ["method", "ω", "FID"] and "baseline" not in parsed.rows()[0][3][
        "text"
    ]
    means = {cells[0]["text"]: float(cells[2]["data-value"]) for cells in rows}
    assert means == {"ddpm": pytest.approx((fid(0, 0, 1) + fid(0, 1, 1)) / 2), "cbdm": pytest.approx(fid(1, 0, 1))}
    assert rows[1][2]["text"] == f"{fid(1, 0, 1):.2f}"  # one seed has no interval
    curve = next(alt for alt in alts(parsed) if "strength ω" in alt)
    assert f"FID, cbdm: {fid(1, 0, 0):.2f} at ω 0, {fid(1, 0, 1):.2f} at ω 1;" in curve


def test_one_run_without_a_result_is_a_page_too(tmp_path):
    text = page(collect([write_run(tmp_path / "r")]))
    assert "one run is no comparison" in text and 'id="loss"' in text and 'id="results"' not in text


def test_runs_named_alike_are_told_apart_by_what_differs(tmp_path):
    runs = [write_run(tmp_path / f"r{t}", "cbdm", tau=t) for t in (0.1, 1.0)]
    story = collect(runs)
    assert [m.name for m in story.methods] == ["cbdm, method.cbdm.tau = 0.1", "cbdm, method.cbdm.tau = 1.0"]
    assert [m.tau for m in story.methods] == [0.1, 1.0]


def test_mistakes_are_one_line(refused, comparison, tmp_path):
    assert "no folder" in refused("report", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "neither compare.json nor config.toml" in refused("report", tmp_path / "empty")
    run = write_run(tmp_path / "run")
    assert "report it alone" in refused("report", comparison, run)
    assert "name each run once" in refused("report", run, run)
    (tmp_path / "there.html").write_text("mine")
    assert "is there already" in refused("report", run, "-o", tmp_path / "there.html")
    assert (tmp_path / "there.html").read_text() == "mine"
    assert "there is no folder" in refused("report", run, "-o", tmp_path / "no" / "r.html")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\x00", '{"overall": {"fid": "many"}}'])
def test_a_damaged_result_is_named_and_nothing_is_written(refused, tmp_path, content):
    write_comparison(tmp_path / "cmp", seeds=1)
    file = tmp_path / "cmp" / "runs" / "ddpm" / "seed-0" / "readings" / "omega-0.5.json"
    file.write_text(content)
    assert str(file) in refused("report", tmp_path / "cmp", "--no-samples", "-o", tmp_path / "r.html")
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples.png", b"no picture"),
        ("environment.json", b"{"),
        ("metrics.jsonl", b'{"step": 1}\n'),
        ("config.toml", b"="),
    ],
)
def test_a_damaged_file_of_a_run_is_named(refused, tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content)
    assert name in refused("report", run, "--no-samples", "-o", tmp_path / "r.html")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_runs_of_other_classes_are_refused(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "cbdm")]
    file = runs[1] / "config.toml"
    file.write_text(file.read_text().replace('"rare"', '"scarce"'))
    with pytest.raises(ValueError, match="other classes"):
        collect(runs)


def test_colours_can_be_read_on_both_grounds_and_are_never_all_there_is(text):
    """WCAG 2: 3 for what is drawn, 4.5 for what is read."""
    light, dark, paper = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", text)
    )
    assert luminance(dark["ground"]) < luminance(light["ground"]) == luminance(paper["ground"]) == 1
    for theme in (light, dark, paper):
        assert min(contrast(colour, theme["ground"]) for colour in (*COLOURS, *ramp(12))) >= 3
        read = [contrast(theme[n], theme[g]) for n in ("ink", "quiet", "link") for g in ("ground", "tint")]
        assert min(read) >= 4.5
    styles = [style_of(i) for i in range(30)]
    assert len({(s.colour, s.marker) for s in styles}) == 30 and len({s.marker for s in styles[:10]}) == 10
    kinds = ("", "ω_eff(t)", "interval", "aτt + b", "ω_eff(t), τ=0.1", "ω_eff(t), τ=1")
    assert len({style_of(0, kind).line for kind in kinds}) == len({style_of(0, kind).marker for kind in kinds}) == 6
    assert "#0b0c0d" not in text and "currentColor" in text


@pytest.mark.parametrize(
    ("omega", "value"), [("0", 0.0), ("1.5", 1.5), ("implied:0.5,2", 0.5), ("implied:0.5", 0.5), ("linear:1,0", None)]
)
def test_a_schedule_of_omega_has_no_place_on_the_axis(omega, value):
    assert figures.omega_value(omega) == value


def test_many_classes_and_methods_are_drawn_too(tmp_path, monkeypatch):
    monkeypatch.setattr(by_hand, "COUNTS", tuple(int(500 * 0.93**i) + 1 for i in range(60)))
    monkeypatch.setattr(by_hand, "NAMES", tuple(f"class number {i}" for i in range(60)))
    names = [
        "ddpm",
        "cbdm:null",
        "shrink:null",
        "t2h",
        "ccua",
        "pure",
        "capacity",
        "coral",
        "h2t",
        "transfer",
        "reweight:uniform",
    ]
    write_comparison(tmp_path / "cmp", seeds=1, variants=[Variant(name=n, parts=n) for n in names], law=False)
    text = page(collect([tmp_path / "cmp"]))
    told = alts(Page(text))
    # The rarest class has FID 590 above the overall one.
    assert f"class class number 59 ({by_hand.COUNTS[59]} training images) {fid(0, 0, 0) + 590:.2f}" in told[1]
    assert len(text) < 2_000_000


@pytest.mark.parametrize(("recall", "classes"), [(0.0, 3), (0.004, 60), (1.0, 3)])
def test_axes_of_fractions_name_no_number_below_0_or_above_1(tmp_path, monkeypatch, recall, classes):
    """Precision is 1 less the recall, so that each stands at both ends; seeds and methods differ by 0.006 at most."""
    whole, made = scores, {"COUNTS": tuple(range(60, 60 - classes, -1)), "NAMES": tuple("abc" * (classes // 3))}
    made["scores"] = lambda value, share: whole(value, float(np.clip(1 - recall + (share - 0.4) / 20, 0, 1)))
    for name, value in made.items():
        monkeypatch.setattr(by_hand, name, value)
    write_comparison(tmp_path / "cmp", seeds=2, omegas=(0.0, 1.0), law=False)
    ticks = {
        e["aria-label"].split(".")[0]: [
            float(w) for w in re.findall(r"[−-]?\d+(?:\.\d+)?\b", e["text"].replace("−", "-"))
        ]
        for e in Page(page(collect([tmp_path / "cmp"]))).all("svg")
    }
    assert {"Precision against recall", "recall of each class by method"} <= ticks.keys()
    assert all(numbers and min(numbers) >= 0 for numbers in ticks.values())
    assert max(ticks["Precision against recall"]) <= 1 and len(ticks["Precision against recall"]) >= 4


def browse(page_file, tmp_path, *options):
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", *options, "--dump-dom", page_file.as_uri()],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_runs_the_page_under_its_own_policy_and_sorts_by_clicks(comparison, text, tmp_path):
    (tmp_path / "page.html").write_text(text)
    dom = Page(browse(tmp_path / "page.html", tmp_path))
    assert len(dom.all("button")) == len(dom.rows()[0])  # the script ran, so its hash is the policy's
    clicks = """<script>
    const told = [], heads = [...document.querySelectorAll("table[data-sortable] thead th")];
    for (const column of [2, 2, 1, 0]) {
      heads[column].querySelector("button").click();
      told.push([heads.map((h) => h.getAttribute("aria-sort")),
                 [...document.querySelectorAll("table[data-sortable] tbody th")].map((th) => th.dataset.value)]);
    }
    document.title = JSON.stringify(told);
    </script></body>"""
    changed = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", clicks)
    (tmp_path / "changed.html").write_text(changed)
    told = json.loads(Page(browse(tmp_path / "changed.html", tmp_path)).all("title")[0]["text"])
    rows = summarise(comparison, load_plan(comparison)).rows
    rising = [row.name for row in sorted(rows, key=lambda row: row.scores["fid"].mean)]
    assert told[0][1] == rising and told[1][1] == rising[::-1]
    assert [told[0][0][2], told[1][0][2]] == ["ascending", "descending"] and told[2][0][2] is None
    omegas = {row.name: figures.omega_value(row.omega) for row in rows}
    assert [omegas[name] for name in told[2][1]] == sorted(omegas.values())
    assert told[3][1] == [
        "cbdm τ=0.1",
        "cbdm τ=1",
        "ddpm",
        "ddpm, interval",
        "ddpm, ω_eff(t), τ=0.1",
        "ddpm, ω_eff(t), τ=1",
    ]
    assert all(sum(state is not None for state in states) == 1 for states, _ in told)

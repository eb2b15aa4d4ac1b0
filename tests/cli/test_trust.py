"""Code that a run's configuration names: it runs where the command line names it, and nowhere else."""

import contextlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbdm_cli.overlay import setting
from cbdm_cli.run_folder import COMPARISON_FILE
from cbdm_cli.study.job import run_job
from cbdm_cli.study.plan import READINGS, Plan, Variant, load_plan, run_folder, save_plan
from cbdm_cli.study.pool import Child
from cbdm_cli.trust import features_setting, quoted, runs_code
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import classifier as features
from cbdm_core.metrics.features import named as sources
from tests.cli.tiny import TINY, fingerprint

MODULE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
def pixels(x): return x.flatten(1)
"""


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A module `theirs` with features, and whether it has been imported since the last look."""
    marker = tmp_path / "marker"
    (tmp_path / "theirs.py").write_text(MODULE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path))

    def look():
        found = marker.exists()
        marker.unlink(missing_ok=True)
        sys.modules.pop("theirs", None)
        return found

    yield look
    sys.modules.pop("theirs", None)


@pytest.fixture
def theirs(trained):
    """A run that somebody else has made, which names features of their own."""
    name_features(trained, "theirs:pixels")
    return trained


def name_features(run, text):
    file = run / "config.toml"
    file.write_text(file.read_text().replace('features = "classifier"', f"features = {json.dumps(text)}"))


def command_of(line):
    """What the refusal says to repeat, as a shell would part it."""
    return shlex.split(line.partition("repeat ")[2].partition(" if you trust it")[0])


@pytest.mark.parametrize("text", ["theirs:pixels", "torchscript:net.pt", " theirs:pixels", "classifier:x", "this:s"])
def test_evaluate_runs_no_code_that_only_the_run_names(refused, ran, trained, text):
    name_features(trained, text)
    np.savez("s.npz", images=digits().x[:40, 0].numpy(), labels=digits().y[:40].numpy())
    for command in (["r"], ["s.npz", "--data", "r"], ["r", "--reference", "training"]):
        line = refused("evaluate", *command)
        assert f"r/config.toml: evaluation.features = {text!r} names code to run: repeat --features" in line
        assert not ran() and "this" not in sys.modules
    assert not list(Path().rglob("*evaluation-*")) and not Path("s.evaluation.json").exists()


def test_evaluate_takes_them_from_the_command_line(run, refused, ran, theirs):
    repeat = command_of(refused("evaluate", "r"))
    assert not ran()
    code, out, err = run("evaluate", "r", *repeat)
    assert code == 0 and "features: module/theirs:pixels" in out and ran(), out + err
    assert run("evaluate", "r", "--features", "pixels")[0] == 0 and not ran()


def test_resume_takes_them_from_the_command_line(run, refused, ran, theirs):
    """And goes on as a run does whose features run nothing; a signal's line names the same words."""
    shutil.copytree(theirs, "plain")
    name = (theirs / "config.toml").read_text().replace("theirs:pixels", "pixels")
    (Path("plain") / "config.toml").write_text(name)
    assert run("train", "--resume", "plain", "--steps", 4)[0] == 0
    repeat = command_of(refused("train", "--resume", "r", "--steps", 4))
    assert repeat == ["--set", "evaluation.features=theirs:pixels"] and not ran()
    code, out, err = run("train", "--resume", "r", "--steps", 4, *repeat)
    assert code == 0 and "features: module/theirs:pixels" in out and ran(), out + err
    assert fingerprint(theirs) == fingerprint(Path("plain"))


@given(text=st.text(st.sampled_from("m:f \t\n\x7f\u202e\u00a0'\"\\\\=.#1[é漢\U0001f600"), max_size=12))
@example(" m:f")
@example("true")
@example("'m:f'\nother = 1")
def test_features_are_read_from_a_setting_as_they_were_written_there(text):
    """And the line that tells it is one that a shell gives back, whatever it holds."""
    told = features_setting(text)
    assert setting(told) == {"evaluation": {"features": text}} and shlex.split(quoted(told)) == [told]


def test_resume_takes_features_with_blanks_around_them(run, refused, ran, trained):
    name_features(trained, " theirs:pixels")
    repeat = command_of(refused("train", "--resume", "r", "--steps", 4))
    assert not ran()
    code, out, err = run("train", "--resume", "r", "--steps", 4, *repeat)
    assert code == 0 and "features: module/theirs:pixels" in out and ran(), out + err


def test_resume_refuses_features_that_have_gone_before_it_trains(refused, trained):
    name_features(trained, "inception:gone.pth")
    before = fingerprint(trained)
    assert "gone.pth" in refused("train", "--resume", "r", "--steps", 4)
    assert fingerprint(trained) == before


def test_report_and_classify_run_nothing(run, ran, theirs, monkeypatch):
    """The page looks for neighbours in the classifier's features, as it says."""
    code, _, err = run("report", "r", "-o", "page.html")
    assert code == 0 and not ran(), err
    assert "Nearest training images" in Path("page.html").read_text()
    monkeypatch.setattr(features, "_STEPS", (40, 40))
    code, _, err = run("classify", "r", "--seeds", 1, "--fill", 4)
    assert code == 0 and not ran(), err


def test_a_comparisons_jobs_take_those_of_its_plan(ran, cache, tmp_path, capsys):
    """Trained, then continued after it was trained and not judged, then judged at the readings."""
    settings = (*TINY[1::2], "evaluation.features=theirs:pixels")
    variant = Variant(name="cbdm", parts="cbdm")
    plan = Plan(preset="digits-lt", settings=settings, steps=4, seeds=1, omegas=("0",), variants=(variant,))
    run_job(tmp_path, plan, variant, 0, "cpu")
    path = run_folder(tmp_path, variant, 0)
    found = (path / "evaluation.json").read_text()
    assert json.loads(found)["features"].startswith("module/theirs:pixels") and ran()
    (path / "evaluation.json").unlink()
    shutil.rmtree(path / READINGS)
    run_job(tmp_path, plan, variant, 0, "cpu")
    assert (path / "evaluation.json").read_text() == found and ran()
    reading = json.loads((path / READINGS / "omega-0.json").read_text())
    assert reading["features"] == json.loads(found)["features"]
    capsys.readouterr()


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """The folder `c` of a comparison that names features of its own, and the jobs that were started; none runs."""
    begun = []

    def launch(child, *_):
        begun.append(child.name)
        raise OSError("no job in this test")

    monkeypatch.setattr(Child, "_launch", launch)
    (tmp_path / "c").mkdir()
    settings = (*TINY[1::2], "evaluation.features=theirs:pixels")
    variants = (Variant(name="ddpm", parts="ddpm"),)
    save_plan(tmp_path / "c", Plan(preset="digits-lt", settings=settings, seeds=1, omegas=("0",), variants=variants))
    return begun


def test_compare_runs_no_code_that_only_the_plan_names(refused, ran, launched):
    before = Path("c", COMPARISON_FILE).read_bytes()
    for options in ([], ["--seeds", 2], ["--add", "t2h"]):
        line = refused("compare", "c", *options)
        assert f"c/{COMPARISON_FILE}: evaluation.features = 'theirs:pixels' names code to run: repeat --set" in line
    own = "evaluation.features=theirs:pixels"
    for others in (
        ["evaluation.features=pixels"],
        [own, "seed=1"],
        ["evaluation.k=3"],
        ["evaluation.features=theirs:p"],
    ):
        options = [word for text in others for word in ("--set", text)]
        assert "--set: the comparison c has its own" in refused("compare", "c", *options)
    assert not ran() and not launched and Path("c", COMPARISON_FILE).read_bytes() == before


def test_compare_takes_the_plans_features_from_the_command_line(run, refused, ran, launched):
    """Its last line says how to go on in words that are taken again."""
    repeat = command_of(refused("compare", "c", "--seeds", 2))
    assert not ran()
    code, _, err = run("compare", "c", "--seeds", 2, *repeat)
    assert code == 2 and launched == ["ddpm, seed 0", "ddpm, seed 1"] and ran(), err
    assert load_plan(Path("c")).seeds == 2
    again = shlex.split(err.strip().rpartition("go on with: cbdm ")[2])
    assert again == ["compare", "c", *repeat]
    assert run(*again)[0] == 2 and len(launched) == 4 and ran()


def test_compare_may_be_told_harmless_features_again(run, refused, launched):
    plan = load_plan(Path("c"))
    save_plan(Path("c"), plan.model_copy(update={"settings": tuple(TINY[1::2])}))
    run("compare", "c", "--set", "evaluation.features=classifier")
    run("compare", "c", "--seeds", 2)
    assert launched == ["ddpm, seed 0", "ddpm, seed 0", "ddpm, seed 1"]
    assert "--set: the comparison c has its own" in refused("compare", "c", "--set", "evaluation.features=pixels")


@pytest.mark.parametrize(
    "text",
    ["classifier", " pixels ", "inception:no.pth", "pixels:", "unknown", "torchscript:no.pt", "json:dumps", "pixels:no",
     "Inception:no", "torchscript :no", ":no"],
)  # fmt: skip
def test_whatever_leads_to_code_is_known_to(text, monkeypatch):
    """Against what `feature_extractor` does: features are taken for harmless only where it reaches no code."""
    reached = []
    monkeypatch.setattr(sources, "_torchscript", lambda *_: reached.append(text))
    monkeypatch.setattr(sources, "_importable", lambda *_: reached.append(text))
    monkeypatch.setattr(sources, "cached_classifier", lambda *_, **__: None)
    with contextlib.suppress(CbdmError):
        sources.feature_extractor(text, digits())
    assert runs_code(text) == bool(reached)

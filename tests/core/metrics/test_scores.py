"""The table of scores, and scores of other packages: computed, kept in files, shown, compared."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch

from cbdm_core import registry
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics import evaluation, scores
from cbdm_core.metrics.evaluation import evaluate
from cbdm_core.metrics.report import Report, Scores
from cbdm_core.metrics.scores import Score, compared_scores, digits_of, known_scores, label_of
from tests.cli.tiny import TINY, cbdm, one_line

A_SCORE = '''
from cbdm import Score


def gap(real, fake):
    """The distance of the means of the first feature; None without rows."""
    if not (len(real) and len(fake)):
        return None
    return float((real.features[:, 0].mean() - fake.features[:, 0].mean()).abs())


GAP = Score("gap", "mean gap", digits=4, less_is_better=True, shown=True, compared=("tail",), of=gap)
'''


def named(key, of=lambda real, fake: 1.0):
    return Score(key, key, of=of)


@pytest.fixture
def images():
    x = torch.randint(0, 256, (40, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Dataset(x, torch.arange(40) % 2, ("a", "b"))


class Plain:
    convention, note, held_out_accuracy = "pixels", "", None

    def __call__(self, x):
        return x.flatten(1).double(), torch.zeros(len(x), 0, dtype=torch.float64)


def judged(data, monkeypatch, *more):
    monkeypatch.setattr(evaluation, "known_scores", lambda: (*known_scores(), *more))
    return evaluate(data.model_input(), data.y, data, Plain(), [30, 10])


def test_a_registered_score_is_computed_of_each_group_and_kept_in_the_file(images, monkeypatch):
    report = judged(images, monkeypatch, named("rows", lambda real, fake: 100.0 * len(real) + len(fake)))
    assert report.overall.value("rows") == 4040 and report.groups["tail"].further == {"rows": 2020}
    assert report.classes[0].scores.value("rows") == 2020
    table = json.loads(json.dumps(report.to_dict()))
    assert table["overall"]["rows"] == 4040 and "further" not in table["overall"]
    assert Report.from_dict(table) == report


def test_an_undefined_value_is_none_and_nan_is_refused(images, monkeypatch):
    assert judged(images, monkeypatch, named("x", lambda real, fake: None)).overall.value("x") is None
    with pytest.raises(CbdmError, match="the score 'x' gave nan: let it give None"):
        judged(images, monkeypatch, named("x", lambda real, fake: math.nan))


def test_a_value_is_known_by_its_key_and_another_key_is_unknown():
    own = Scores(1.0, None, 0.5, None, 3, 4)
    assert own.value("fid") == 1.0 and own.value("precision") is None and own.value("theirs") is None
    assert replace(own, further={"theirs": 2.0}).value("theirs") == 2.0


@pytest.fixture
def registered(monkeypatch):
    """Scores as if another distribution had declared this one."""

    def declare(name, score):
        monkeypatch.setattr(scores, "_OTHER", score, raising=False)
        entry = EntryPoint(name, "cbdm_core.metrics.scores:_OTHER", "cbdm.scores")
        monkeypatch.setattr(registry, "_declared", lambda group, places: [entry])
        return scores._known.__wrapped__

    return declare


@pytest.mark.parametrize(
    ("name", "score", "fault"),
    [
        ("x", named("other"), "whose key is that name"),
        ("x", Score("x", "x"), "with of=…"),
        ("x", "no score", "register a Score"),
        ("fid", named("fid"), "other than authenticity"),
        ("density", named("density"), "other than authenticity"),
        ("copies", named("copies"), "other than authenticity"),
        ("x", replace(named("x"), name="copies"), "other than authenticity"),
        ("x", replace(named("x"), compared="tail"), "must be a tuple of '', 'head'"),
        ("x", replace(named("x"), compared=("few",)), "must be a tuple of '', 'head'"),
    ],
)
def test_what_is_no_new_score_is_refused(registered, name, score, fault):
    with pytest.raises(CbdmError, match=re.escape(f"the score {name!r} is registered as")) as caught:
        registered(name, score)()
    assert fault in str(caught.value)


def test_a_new_score_stands_after_ours(registered):
    score = replace(named("x"), compared=("", "tail"))
    assert registered("x", score)() == (*scores._OWN, score)


def test_names_of_a_study_lead_back_to_their_score():
    for name, (where, score) in compared_scores().items():
        assert where[-1] == score.key and digits_of(name) == score.digits and label_of(name).endswith(score.label)
    assert label_of("their score") == "their score" and digits_of("their score") == 3  # of a package that is not here
    assert label_of("tail fid") == "tail FID" and label_of("kid") == "KID" and digits_of("tail copies") == 3


@pytest.fixture
def site(tmp_path):
    """A folder with a distribution that declares a score."""
    info = tmp_path / "site" / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cbdm.scores]\ngap = their_score:GAP\n")
    (tmp_path / "site" / "their_score.py").write_text(A_SCORE)
    return tmp_path / "site"


@pytest.mark.slow
def test_a_score_of_another_package_is_one_file_there_and_none_here(site, tmp_path):
    env = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = cbdm("train", "--steps", 1, *TINY, "--out", "r", cwd=tmp_path, env=env, check=0)
    assert "mean gap" in done.stdout
    written = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    assert written["overall"]["gap"] > 0 and written["groups"]["tail"]["gap"] > 0
    sweep = cbdm("evaluate", "r", "--omega", "0,1", cwd=tmp_path, env={**env, "COLUMNS": "200"}, check=0).stdout
    assert "tail mean gap" in " ".join(sweep.split())
    plain = cbdm("evaluate", "r", "--omega", "0", cwd=tmp_path, env={**env, "PYTHONPATH": ""}, check=0).stdout
    assert "mean gap" not in plain


def test_its_module_may_be_the_first_that_is_imported(site):
    """As in the tests of its own package; and it may take more of the façade than the score."""
    source = (site / "their_score.py").read_text()
    (site / "their_score.py").write_text(f"from cbdm import evaluate\n{source}")
    code = "import their_score, cbdm_core.metrics.scores as s; assert s.known_scores()[-1] is their_score.GAP"
    env = {**os.environ, "PYTHONPATH": str(site)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_a_score_that_cannot_be_loaded_is_one_line_where_scores_are_needed(site, tmp_path):
    (site / "their_score.py").write_text("import no_such_module\n")
    env = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    cbdm("presets", cwd=tmp_path, env=env, check=0)
    message = one_line(cbdm("train", *TINY, "--out", "r", cwd=tmp_path, env=env))
    assert not (tmp_path / "r").exists()  # before training, not after
    assert "score 'gap' is registered as 'their_score:GAP', which fails" in message

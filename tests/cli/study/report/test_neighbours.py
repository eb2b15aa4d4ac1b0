"""Nearest training images of tail samples, in a report of a real run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm_cli.evaluated_run import EvaluatedRun
from cbdm_cli.study.report.collect import collect
from cbdm_cli.study.report.neighbours import HOW_MANY, nearest_training, tail_labels
from tests.cli.study.report.pages import Page
from tests.cli.tiny import TINY, cbdm, shared_classifiers


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A real run of four steps, for its network."""
    shared = shared_classifiers(tmp_path_factory.getbasetemp())
    folder = tmp_path_factory.mktemp("tiny")
    cbdm(
        "train", "digits-lt", "--steps", "4", *TINY, "--out", "r", cwd=folder, check=0, env={"CBDM_CACHE": str(shared)}
    )
    return folder / "r"


def test_neighbours_are_the_nearest_rows_of_the_training_set(tiny_run, cache):
    """Found again by brute force from the shown pictures: all distances in feature space, one by one."""
    (found,) = nearest_training(collect([tiny_run]), "cpu")
    assert len(found.pairs) == HOW_MANY and found.omega == "1"
    assert [p.asked for p in found.pairs[:5]] == ["9", "8", "7", "6", "9"]  # digits-lt: a third and what is left over
    evaluated = EvaluatedRun.of(tiny_run, "cpu")

    def features(pictures):
        pixels = torch.tensor(np.stack([np.asarray(p) for p in pictures]))[:, None]
        return evaluated.classifier(pixels.float() / 127.5 - 1)[0].numpy()

    rows = evaluated.classifier(evaluated.data.model_input())[0].numpy()
    for pair, sample in zip(found.pairs, features([p.sample for p in found.pairs])):
        distances = [math.dist(sample, row) for row in rows]
        best = int(np.argmin(distances))
        assert pair.distance == pytest.approx(distances[best], rel=1e-9)
        assert np.array_equal(np.asarray(pair.neighbour), evaluated.data.x[best, 0].numpy())
        assert pair.found == evaluated.data.class_names[evaluated.data.y[best]]
    rare = [i for i, y in enumerate(evaluated.data.y.tolist()) if y in (6, 7, 8, 9)]
    usual = np.median([min(math.dist(rows[i], rows[j]) for j in range(len(rows)) if j != i) for i in rare])
    assert found.usual == pytest.approx(usual, rel=1e-9)


def test_the_command_writes_the_neighbours_of_a_real_run_and_the_same_bytes_twice(tiny_run, run):
    for name in ("a.html", "b.html"):
        assert run("report", tiny_run, "-o", name) == (0, f"report: {name}\n", "")
    text = Path("a.html").read_text()
    assert text == Path("b.html").read_text()
    parsed = Page(text)
    assert [e["text"].strip() for e in parsed.all("h3")] == ["cbdm:null"]
    shown = [e for e in parsed.all("img") if "Sample asked for" in e["alt"]]
    assert len(shown) == HOW_MANY
    assert run("report", tiny_run, "--no-samples", "-o", "c.html")[0] == 0
    assert "Nearest training images" not in Path("c.html").read_text()


def test_tail_labels_are_the_rarest_third_around_and_around():
    assert tail_labels(torch.tensor([50, 3, 20, 9, 1, 40]), 5).tolist() == [4, 1, 4, 1, 4]

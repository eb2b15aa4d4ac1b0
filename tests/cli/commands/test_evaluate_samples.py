"""What `cbdm evaluate` holds samples against, and the protocol that every result tells."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cbdm_cli.config import validated
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.overlay import load_config
from cbdm_cli.run_data import load_data, load_reference
from cbdm_cli.sampling import counted
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import DATASETS, digits
from cbdm_core.errors import CbdmError
from tests.cli.tiny import TINY


def read(file):
    return json.loads(Path(file).read_text())


def config_of(*settings):
    return validated(load_config("digits-lt", None, settings))


# --- what samples are held against


def _references(config):
    return [config.evaluation.model_copy(update={"reference": kind}) for kind in ("balanced", "training")]


def test_each_reference_is_the_set_that_it_names():
    """Held out are the rows whose bytes are in no training row: counted by hand."""
    config = config_of()
    full, training, _ = load_data(config)
    seen = {row.tobytes() for row in training.x.numpy()}
    expected = [i for i, row in enumerate(full.x.numpy()) if row.tobytes() not in seen]
    assert load_reference(config, full, training) == (full, "the balanced full set")
    whole = config_of("data.profile=none")
    assert load_reference(whole, *load_data(whole)[:2])[1] == "the training set, all of the data"
    assert load_reference(config_of("evaluation.reference=training"), full, training)[0] is training
    own = config_of("data.profile=held-out", "data.held_out=0.25", "evaluation.reference=held-out")
    kept, (out, name) = load_data(own)[1], load_reference(own, *load_data(own)[:2])
    assert "training has not seen" in name and out.counts().tolist() == (full.counts() - kept.counts()).tolist()
    assert [load_reference(own.model_copy(update={"evaluation": e}), full, kept)[1] for e in _references(own)] == [
        "all of the data",
        "the training set",
    ]
    held_out, name = load_reference(config_of("evaluation.reference=held-out"), full, training)
    assert torch.equal(held_out.x, full.x[expected]) and torch.equal(held_out.y, full.y[expected])
    assert "training has not seen" in name


def _parted(*, part="train", wide=8):
    """A source with a test part of its own, which no row of the training part is in."""
    both = digits()
    rows = torch.arange(len(both)) % 3 == 0
    chosen = both[(rows if part == "test" else ~rows).nonzero()[:, 0]]
    return Dataset(chosen.x[..., : wide if part == "train" else 8], chosen.y, chosen.class_names)


def test_a_source_with_parts_is_held_against_its_test_part(monkeypatch):
    monkeypatch.setitem(DATASETS.builtin, "parted", "tests.cli.commands.test_evaluate_samples:_parted")
    settings = ["data.source=parted", "evaluation.reference=held-out"]
    full, training, _ = load_data(config_of(*settings))
    reference, name = load_reference(config_of(*settings), full, training)
    assert torch.equal(reference.x, digits().x[::3]) and name == "the test part of parted"
    with pytest.raises(CbdmError, match="is what training saw"):
        load_reference(config_of(*settings, "data.options.part=test"), full, training)
    narrow = config_of(*settings, "data.options.wide=7")
    with pytest.raises(CbdmError, match="the test part of parted has examples"):
        load_reference(narrow, *load_data(narrow)[:2])


def test_a_run_is_held_against_what_was_asked(run, trained):
    """Result, caption and file name say it; ω is read at twice with the features taken once; copies stay known."""
    for kind in ("held-out", "training"):
        code, out, err = run("evaluate", "r", "--reference", kind, "--omega", "0,1")
        assert code == 0, err
        found = read(f"r/evaluation-omega-1-{kind}-dpm++2m-2-n8.json")
        assert "a mix that figures over several classes measure too" in out
        assert sum(found["reference_counts"]) == found["overall"]["n_reference"]
        assert found["reference"] in out and found["reference"] != "the balanced full set"
        assert found["overall"]["memorised"] is not None and found["reference_lacks"] == []
    counts = validated(load_config("digits-lt", None, ["data.n_max=150"]))
    full, training, _ = load_data(counts)
    assert found["overall"]["n_reference"] == len(training)
    plain = read("r/evaluation.json")
    assert plain["reference"] == "the balanced full set" and plain["overall"]["n_reference"] == len(full)
    assert plain["overall"]["memorised"] == pytest.approx(found["overall"]["memorised"])  # whatever the reference


def test_the_reference_is_read_from_the_configuration_and_refused_before_training(run, refused, cache):
    options = ["--set", "evaluation.reference=held-out", *TINY]
    assert "training has seen every example" in refused("train", "--set", "data.profile=none", *options, "--out", "r")
    assert not Path("r").exists()
    code, out, err = run("train", "--steps", 1, *options, "--out", "r")
    assert code == 0 and "reference: the rows of the full set that training has not seen" in out, err
    assert read("r/evaluation.json")["reference"] == "the rows of the full set that training has not seen"


class _Once:
    """Pixels of the centre as features; counts the rows it is asked for."""

    convention, note, held_out_accuracy, asked = "centre", "", None, 0

    def __call__(self, x):
        self.asked += len(x)
        features = x[:, 0, 2:6, 2:6].flatten(1).double()
        return features, features.new_empty(len(x), 0)


@pytest.mark.parametrize("kind", ["balanced", "held-out", "training"])
def test_features_of_the_data_are_taken_once(kind):
    """Further readings take those of the samples alone."""
    config = config_of(f"evaluation.reference={kind}")
    full, training, _ = load_data(config)
    extractor = _Once()
    evaluator = Evaluator(full, training, *load_reference(config, full, training), extractor, kept=False)
    x, y = full.model_input(slice(300)), full.y[:300]
    first = evaluator(config, x, y)
    before = extractor.asked
    assert evaluator(config, x, y) == first and extractor.asked == before + 300


def test_a_class_that_the_reference_lacks_has_no_figures_and_is_named():
    config = config_of("data.counts=[178,9,9,9,9,9,9,9,9,9]", "evaluation.reference=held-out")
    full, training, _ = load_data(config)
    evaluator = Evaluator(full, training, *load_reference(config, full, training), _Once(), kept=False)
    report = evaluator(config, full.model_input(), full.y)
    zero = report.classes[0].scores
    assert zero.n_reference == 0 and zero.n_samples == 178 and zero.fid is zero.precision is zero.memorised is None
    assert report.overall.n_samples == len(full) and report.overall.fid > 0
    assert evaluator.facts(report)["reference_lacks"] == ["0"] and "which lacks 0" in evaluator.caption(report)


# --- the protocol in every result


@pytest.mark.parametrize(
    ("sampler", "settings", "nfe"),
    [
        ("dpm++2m", {"omega": "1"}, 2 * 6),
        ("ddim", {"omega": "0"}, 6),
        ("heun", {"omega": "0"}, 2 * 6 - 1),
        ("heun", {"omega": "0.5"}, 2 * (2 * 6 - 1)),
        ("ancestral", {"omega": "1", "interval": (0.45, 0.55)}, 6 + 1),
        ("ddim", {"omega": "1", "guidance_prior": "uniform"}, 6 * 12),
    ],
)
def test_evaluations_are_those_the_network_saw(trained, sampler, settings, nfe):
    """6 steps, heun twice a step but the last, guidance twice the rows, in an interval only at the step within it.

    A null of another law asks for the ten classes, the null and the condition, as docs/methods.md counts.
    """
    from cbdm_cli.evaluated_run import EvaluatedRun

    evaluated = EvaluatedRun.of(trained, "cpu", "pixels")
    _, _, found = evaluated.report({"sampler": sampler, "steps": 6, "per_class": 3, **settings}, "")
    assert found == nfe
    assert not evaluated.run.network._forward_hooks


def test_rows_are_counted_within_the_block_only():
    layer = nn.Linear(3, 2)
    layer(torch.zeros(5, 3))
    with counted(layer) as rows:
        layer(torch.zeros(4, 3))
        layer(torch.zeros(2, 3))
    layer(torch.zeros(7, 3))
    assert rows.total == 6 and rows.per(3) == 2


def test_every_result_of_a_run_tells_its_protocol(run, trained):
    assert run("evaluate", "r", "--omega", "0.5")[0] == 0
    for file, omega in (("evaluation.json", "1"), ("evaluation-omega-0.5-dpm++2m-2-n8.json", "0.5")):
        found = read(trained / file)
        told = {name: found[name] for name in ("sampler", "sampler_steps", "omega", "ema_decay", "seed", "n_samples")}
        assert told == {
            "sampler": "dpm++2m", "sampler_steps": 2, "omega": omega, "ema_decay": 0.999, "seed": 0, "n_samples": 80,
        }  # fmt: skip
        assert found["nfe"] == 4 and found["weights"] == "ema" and found["labels"] == "cyclic, exactly balanced"
        assert found["omega_convention"] == "eps_c + ω (eps_c − eps_null); 0 is plain conditional"
        assert found["reference"] == "the balanced full set" and found["features"].startswith("classifier/")

"""`cbdm evaluate` of samples from any program, and what samples are held against."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from cbdm_cli.config import load_config, validated
from cbdm_cli.judging import Judge, counted
from cbdm_cli.loading import load_data, load_reference
from cbdm_cli.samples import read_samples
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import DATASETS, digits
from cbdm_core.errors import CbdmError
from cbdm_core.evaluation import Report
from tests.cli.tiny import TINY, cbdm

SCORES = ("overall", "groups", "classes", "by_count", "features", "k", "held_out_accuracy", "n_samples")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, with a held-out part in every class, made once."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if base.name.startswith("popen-") else base) / "classifiers"
    folder = tmp_path_factory.mktemp("made")
    tail = ["--set", "data.n_max=150"]
    cbdm("train", "--steps", 2, *TINY, *tail, "--out", "r", cwd=folder, check=0, env={"CBDM_CACHE": str(shared)})
    return folder / "r"


@pytest.fixture
def trained(made, tmp_path):
    """A copy of the run in the test's own folder, where `run` works."""
    shutil.copytree(made, tmp_path / "r")
    return tmp_path / "r"


def read(file):
    return json.loads(Path(file).read_text())


def same(one, other):
    return {name: one[name] for name in SCORES} == {name: other[name] for name in SCORES}


def config_of(*settings):
    return validated(load_config("digits-lt", None, settings))


# --- samples of any program


def test_drawn_samples_have_the_figures_of_their_run(run, trained):
    """The same samples by way of a file: `sample` and `evaluate` draw alike, and 8 bits are what is judged anyway."""
    assert run("sample", "r", "--n", 80, "--format", "npz", "--out", "drawn.npz")[0] == 0
    assert run("evaluate", "r")[0] == 0
    code, out, err = run("evaluate", "drawn.npz", "--data", "r")
    assert code == 0 and "drawn.npz · data r" in out and "the balanced full set (1,797 examples)\n" in out, out + err
    theirs, ours = read("r/evaluation-omega-1-dpm++2m-2-n8.json"), read("drawn.evaluation.json")
    assert same(ours, theirs) and ours["labels"] == "exactly balanced: 8 a class"
    assert ours["overall"]["memorised"] is not None
    # The preset with that run's tail and seed is the same data.
    assert run("evaluate", "drawn.npz", "--data", "digits-lt", "--seed", 0, "--set", "data.n_max=150")[0] == 0
    assert same(read("drawn.evaluation.json"), theirs)


def test_class_folders_have_the_figures_of_the_same_samples_in_a_file(run, trained):
    """Up to the order of the rows, which sums of floats feel: 1e-6 relative."""
    for kind, name in (("npz", "s.npz"), ("folder", "pngs")):
        assert run("sample", "r", "--n", 80, "--format", kind, "--out", name)[0] == 0
    code, out, err = run("evaluate", "s.npz", "pngs", "--data", "r")
    assert code == 0 and sum(line.startswith(("  s.npz ", "  pngs ")) for line in out.splitlines()) == 2, out + err
    one, other = (Report.from_dict(read(f"{name}.evaluation.json")) for name in ("s", "pngs"))
    for a, b in zip([one.overall, *one.groups.values()], [other.overall, *other.groups.values()], strict=True):
        assert (a.precision, a.recall, a.coverage, a.n_samples) == (b.precision, b.recall, b.coverage, b.n_samples)
        assert a.fid == pytest.approx(b.fid, rel=1e-6) and a.kid == pytest.approx(b.kid, rel=1e-6)


@pytest.mark.parametrize("keys", [("images", "labels"), ("samples", "y"), ("arr_0", "arr_1"), ("x", "labels")])
def test_the_reference_itself_is_perfect(run, trained, keys):
    data = digits()
    arrays = (data.x[:, 0].numpy(), data.y.numpy())
    np.savez("same.npz", **dict(zip(keys, arrays, strict=True)))
    assert run("evaluate", "same.npz", "--data", "digits-lt")[0] == 0
    found = read("same.evaluation.json")
    overall = found["overall"]
    assert abs(overall["fid"]) < 1e-3 and (overall["precision"], overall["recall"]) == (1.0, 1.0)
    assert found["labels"] == "not balanced: 174 to 183 a class"
    assert found["n_samples"] == overall["n_reference"] == 1797


def test_unbalanced_labels_and_unknown_sampling_are_told(run, cache):
    rows = torch.cat([(digits().y == c).nonzero()[: 3 + 4 * c, 0] for c in range(10)])
    np.savez("few.npz", images=digits().x[rows, 0].numpy(), labels=digits().y[rows].numpy())
    code, out, err = run("evaluate", "few.npz", "--data", "digits-lt", "--intervals", 5, "--prd-runs", 1)
    assert code == 0 and "few.npz: labels not balanced: 3 to 39 a class" in out, out + err
    found = read("few.evaluation.json")
    assert found["labels"] == "not balanced: 3 to 39 a class" and "not known here" in found["drawn_by"]
    assert found["split_seed"] == 0 and found["data"] == "digits-lt" and found["intervals"]["overall"]["fid"]
    assert found["training_counts"][0] == 174 and "sampler" not in found and "omega" not in found


@given(c=st.sampled_from([1, 3]), order=st.permutations(range(3)), layout=st.sampled_from(["first", "last", "none"]))
def test_every_layout_and_number_means_the_same_pixels(tmp_path_factory, c, order, layout):
    """Bytes and floats, channels first, last or without an axis, labels as numbers or in the file's order of names."""
    random = np.random.default_rng(c)
    x = random.integers(0, 256, (6, c, 5, 4), dtype=np.uint8)
    names = ("one", "two", "three")
    data = Dataset(torch.from_numpy(x), torch.arange(6) % 3, names)
    if layout == "none" and c == 3:
        layout = "last"
    shaped = {"first": x, "last": np.moveaxis(x, 1, -1), "none": x[:, 0]}[layout]
    file = tmp_path_factory.mktemp("s") / "s.npz"
    y = np.array([order.index(label) for label in data.y.tolist()])  # numbers in the order of these names
    np.savez(file, samples=shaped / 127.5 - 1, labels=y[:, None], class_names=np.array([names[i] for i in order]))
    found = read_samples(file, data)
    assert torch.allclose(found.x, data.model_input(), atol=1e-6)  # float32
    assert torch.equal(found.labels, data.y) and found.told_labels == "exactly balanced: 2 a class"
    np.savez(file, samples=shaped, labels=data.y.numpy())
    assert torch.equal(read_samples(file, data).x, data.model_input())


def test_vectors_are_taken_as_they_are(run, cache):
    data = DATASETS["mixture"](per_class=40)
    np.savez("v.npz", x=3 * data.x.numpy().astype(np.float64), y=data.y.numpy())
    assert torch.equal(read_samples(Path("v.npz"), data).x, 3 * data.x)
    np.savez("v.npz", x=data.x.numpy(), y=data.y.numpy())
    settings = ["--set", "data.options.per_class=40", "--set", "data.imbalance=0.1"]
    assert run("evaluate", "v.npz", "--data", "mixture-lt", *settings)[0] == 0
    found = read("v.evaluation.json")["overall"]
    assert abs(found["fid"]) < 1e-3 and found["precision"] == 1.0


def test_grey_files_of_a_colour_model_are_three_equal_channels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    data = Dataset(torch.from_numpy(np.repeat(x[:, None], 3, 1)), torch.tensor([0, 1]), ("a", "b"))
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        Image.fromarray(x[i]).save(tmp_path / name / "0.png")
    assert torch.equal(read_samples(tmp_path, data).x, data.model_input())


def test_the_commands_of_the_page_run(run, trained):
    """Those of "Samples of any program" in docs/cli.md, in the order in which they stand there."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    block = page.split("### Samples of any program")[1].split("```sh\n")[1].split("```")[0]
    Path("runs").mkdir()
    trained.rename("runs/tempered")
    np.savez("theirs.npz", **good())
    assert run("sample", "runs/tempered", "--format", "folder", "--n", 20, "--out", "pngs")[0] == 0
    for line in block.splitlines():
        code, _, err = run(*shlex.split(line)[1:])
        assert code == 0, (line, err)
    assert read("drawn.evaluation.json")["labels"] == "exactly balanced: 200 a class"
    assert read("pngs.evaluation-held-out.json")["split_seed"] == read("theirs.evaluation-held-out.json")["split_seed"]
    assert read("pngs.evaluation-held-out.json")["split_seed"] == 1


# --- mistakes, each in one line


def good(**over):
    """Two images of each digit as arrays of a file, with some replaced or, by None, left out."""
    arrays = {"images": np.full((20, 8, 8), 7, np.uint8), "labels": np.arange(20) % 10, **over}
    return {name: value for name, value in arrays.items() if value is not None}


FLOATS = np.linspace(-1, 1, 20 * 64).reshape(20, 8, 8)


def holding(value):
    floats = FLOATS.copy()
    floats[3, 2, 2] = value
    return floats


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"labels": None}, "has no labels, and figures are by class"),
        ({"images": None}, "has no samples: save them as one of x, samples, images, arr_0"),
        ({"x": FLOATS}, "holds x and images, which mean the same here"),
        ({"images": np.zeros((20, 9, 8), np.uint8)}, "images of shape (9, 8), the data (1, 8, 8)"),
        ({"images": np.zeros((20, 8, 8, 3), np.uint8)}, "images of shape (8, 8, 3), the data (1, 8, 8)"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "0 samples"),
        ({"images": np.uint8(3)}, "0 samples"),
        ({"images": np.zeros((20, 8, 8), np.int64)}, "images are int64: save uint8 from 0 to 255, or floats"),
        ({"images": holding(np.nan)}, "1 of 20 samples hold NaN or infinite values, the first is row 3"),
        ({"images": holding(np.inf)}, "1 of 20 samples hold NaN"),
        ({"images": holding(1.5)}, "float images go from -1 to 1.5, and are read in [-1, 1]"),
        ({"images": FLOATS / 2 + 0.5}, "seem to be in [0, 1], and are read in [-1, 1]: save 2x - 1"),
        ({"labels": np.arange(20) % 11}, "label 10 is out of range: 10 classes have labels 0 … 9"),
        ({"labels": np.arange(20) % 10 - 1}, "label -1 is out of range"),
        ({"labels": np.arange(20) % 9}, "no sample of class 9"),
        ({"labels": np.arange(19) % 10}, "20 samples need 20 labels, got labels of shape (19,)"),
        ({"labels": np.arange(20.0) % 10}, "labels are float64, they must be whole numbers"),
        ({"labels": np.array([object()] * 20)}, "holds pickled objects"),
        ({"class_names": np.array(list("abcdefghij"))}, "class 'a', which the data do not have: their classes are 0"),
        ({"class_names": np.arange(10)}, "save a one-dimensional array of text"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_judged_is_told_in_a_line(refused, cache, over, words):
    np.savez("bad.npz", **good(**over))
    assert words in refused("evaluate", "bad.npz", "--data", "digits-lt")
    assert not Path("bad.evaluation.json").exists()


def test_a_damaged_file_is_told_in_a_line(refused, cache):
    np.savez("s.npz", **good())
    whole = Path("s.npz").read_bytes()
    for content in (b"", b"PK", whole[:400], whole[:200] + bytes(100) + whole[300:]):
        Path("cut.npz").write_bytes(content)
        told = refused("evaluate", "cut.npz", "--data", "digits-lt")
        assert "cut.npz" in told and ("damaged" in told or "no npz file" in told)
    np.save("one.npy", np.zeros(3))
    assert "one array without a name" in refused("evaluate", "one.npy", "--data", "digits-lt")


def test_a_folder_that_cannot_be_judged_is_told_in_a_line(refused, cache):
    for name in "0123456789":
        (Path("pngs") / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(Path("pngs") / name / "a.png")

    def refuse(data="digits-lt"):
        return refused("evaluate", "pngs", "--data", data)

    assert "save the samples as npz" in refuse("mixture-lt")
    (Path("pngs") / "7" / "a.png").rename("a.png")
    assert "class '7' has no image" in refuse()
    (Path("pngs") / "7").rmdir()
    assert "no sample of class 7" in refuse()
    (Path("pngs") / "seven").mkdir()
    shutil.move("a.png", "pngs/seven/a.png")
    assert "class 'seven', which the data do not have: their classes are 0, 1, 2" in refuse()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("pngs/0/a.png")
    assert "crop or resize" in refuse()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s.npz"], "with --data which preset or run"),
        (["folder"], "no run folder (it has no config.toml)"),
        (["nowhere.npz"], "is no run folder"),
        (["nowhere.npz", "--data", "digits-lt"], "nowhere.npz is not there"),
        (["s.npz", "--data", "digts-lt"], "neither a run folder nor a preset: presets are digits-"),
        (["s.npz", "--data", "r", "--seed", 3], "--seed 3: the run r has its own data and split"),
        (["s.npz", "--data", "r", "--set", "data.n_max=9"], "--set data.n_max=9: the run r has its own"),
        (["s.npz", "--data", "digits-lt", "--set", "network.name=mlp"], "only the tables data and evaluation"),
        (["s.npz", "--data", "digits-lt", "--omega", 1], "--omega says how to draw"),
        (["s.npz", "--data", "digits-lt", "--n", 5], "--n says how to draw"),
        (["s.npz", "r", "--data", "digits-lt"], "judge runs and samples in two commands"),
        (["s.npz", "./s.npz", "--data", "digits-lt"], "two of the samples would have the result"),
        (["s.npz", "--data", "digits-lt", "--reference", "heldout"], "evaluation.reference = 'heldout'"),
        (["r", "--data", "digits-lt"], "--data is for samples of another program"),
        (["r", "--set", "data.n_max=9"], "--set is for samples of another program"),
        (["s.npz", "--data", "digits-lt", "--set", "data.profile=none", "--reference", "held-out"],
         "training has seen every example of the data"),
    ],
)  # fmt: skip
def test_a_command_that_means_nothing_is_told_in_a_line(refused, trained, arguments, words):
    np.savez("s.npz", **good())
    Path("folder").mkdir()
    assert words in refused("evaluate", *arguments)


# --- what samples are held against


def test_each_reference_is_the_set_that_it_names():
    """Held out are the rows whose bytes are in no training row: counted by hand."""
    config = config_of()
    full, training, _ = load_data(config)
    seen = {row.tobytes() for row in training.x.numpy()}
    expected = [i for i, row in enumerate(full.x.numpy()) if row.tobytes() not in seen]
    assert load_reference(config, full, training)[0] is full
    assert load_reference(config_of("evaluation.reference=training"), full, training)[0] is training
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
    monkeypatch.setitem(DATASETS.builtin, "parted", "tests.cli.test_evaluate_files:_parted")
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
    judge = Judge(full, training, *load_reference(config, full, training), extractor, kept=False)
    x, y = full.model_input(slice(300)), full.y[:300]
    first = judge(config, x, y)
    before = extractor.asked
    assert judge(config, x, y) == first and extractor.asked == before + 300


def test_a_class_that_the_reference_lacks_has_no_figures_and_is_named():
    config = config_of("data.counts=[178,9,9,9,9,9,9,9,9,9]", "evaluation.reference=held-out")
    full, training, _ = load_data(config)
    judge = Judge(full, training, *load_reference(config, full, training), _Once(), kept=False)
    report = judge(config, full.model_input(), full.y)
    zero = report.classes[0].scores
    assert zero.n_reference == 0 and zero.n_samples == 178 and zero.fid is zero.precision is zero.memorised is None
    assert report.overall.n_samples == len(full) and report.overall.fid > 0
    assert judge.facts(report)["reference_lacks"] == ["0"] and "which lacks 0" in judge.told(report)


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
    from cbdm_cli.evaluate import Judged

    judged = Judged.of(trained, "cpu", "pixels")
    _, _, found = judged.report({"sampler": sampler, "steps": 6, "per_class": 3, **settings}, "")
    assert found == nfe
    assert not judged.run.network._forward_hooks


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

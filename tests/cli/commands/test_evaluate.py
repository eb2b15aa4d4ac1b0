"""`cbdm evaluate` of samples from any program."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cbdm_cli.config import validated
from cbdm_cli.foreign_samples import read_samples
from cbdm_cli.overlay import load_config
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import DATASETS, digits
from cbdm_core.metrics.report import Report

SCORES = ("overall", "groups", "classes", "by_count", "features", "k", "held_out_accuracy", "n_samples")


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
    assert same(read("drawn.evaluation-data.n_max=150.json"), theirs)


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
    assert torch.equal(found.labels, data.y) and found.labels_text == "exactly balanced: 2 a class"
    np.savez(file, samples=shaped, labels=data.y.numpy())
    assert torch.equal(read_samples(file, data).x, data.model_input())


def test_vectors_are_taken_as_they_are(run, cache):
    data = DATASETS["mixture"](per_class=40)
    np.savez("v.npz", x=3 * data.x.numpy().astype(np.float64), y=data.y.numpy())
    assert torch.equal(read_samples(Path("v.npz"), data).x, 3 * data.x)
    np.savez("v.npz", x=data.x.numpy(), y=data.y.numpy())
    settings = ["--set", "data.options.per_class=40", "--set", "data.imbalance=0.1"]
    assert run("evaluate", "v.npz", "--data", "mixture-lt", *settings)[0] == 0
    (file,) = Path().glob("v.evaluation-data.imbalance=0.1-*.json")
    found = read(file)["overall"]
    assert abs(found["fid"]) < 1e-3 and found["precision"] == 1.0


@pytest.mark.parametrize("value", [1e30, -2e19, 1e300, -np.inf, np.nan])
def test_numbers_that_float32_cannot_square_are_told_in_a_line(refused, cache, recwarn, value):
    data = DATASETS["mixture"](per_class=4)
    x = data.x.numpy().astype(np.float64)
    x[3, 1] = value
    np.savez("v.npz", x=x, y=data.y.numpy())
    words = f"a sample holds {value:g}, whose square overflows float32" if np.isfinite(value) else "the first is row 3"
    assert words in refused("evaluate", "v.npz", "--data", "mixture-lt")
    assert not recwarn and not list(Path().glob("*.json"))


def test_the_largest_numbers_that_are_taken_are_judged(run, cache):
    """Just below the bound, 2**64, whose square is the first that float32 cannot hold."""
    data = DATASETS["mixture"](per_class=40)
    x = data.x.numpy() * np.float32(2**63 / data.x.abs().max())
    x[0] = np.nextafter(np.float32(2**64), np.float32(0))
    np.savez("v.npz", x=x, y=data.y.numpy())
    settings = ["--set", "data.options.per_class=40", "--set", "data.imbalance=0.1"]
    code, _, err = run("evaluate", "v.npz", "--data", "mixture-lt", *settings)
    assert code == 0, err
    (file,) = Path().glob("v.evaluation*.json")
    assert np.isfinite(read(file)["overall"]["fid"])


def test_grey_files_of_a_colour_model_are_three_equal_channels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    data = Dataset(torch.from_numpy(np.repeat(x[:, None], 3, 1)), torch.tensor([0, 1]), ("a", "b"))
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        Image.fromarray(x[i]).save(tmp_path / name / "0.png")
    assert torch.equal(read_samples(tmp_path, data).x, data.model_input())


def test_the_commands_of_the_page_run(run, trained):
    """Those of "Samples of any program" in docs/cli.md, in the order in which they stand there."""
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    block = page.split("### Samples of any program")[1].split("```sh\n")[1].split("```")[0]
    Path("runs").mkdir()
    trained.rename("runs/tempered")
    np.savez("theirs.npz", **good())
    assert run("sample", "runs/tempered", "--format", "folder", "--n", 20, "--out", "pngs")[0] == 0
    for line in block.splitlines():
        code, _, err = run(*shlex.split(line)[1:])
        assert code == 0, (line, err)
    assert read("drawn.evaluation.json")["labels"] == "exactly balanced: 200 a class"
    assert [read(f"{name}.evaluation-seed-1-held-out.json")["split_seed"] for name in ("pngs", "theirs")] == [1, 1]


# --- where the result goes


def test_a_result_takes_the_place_of_none_that_was_judged_otherwise(run, trained, cache):
    """Each of the eight has a file of its own, the plain case the plain name; again, each is written in its place."""
    np.savez("s.npz", **good())
    save_maps(Path("maps.py"))
    named = {
        "": ["--data", "digits-lt"],
        "-r": ["--data", "r"],  # other data than the file of the plain name was judged by
        "-seed-1": ["--data", "digits-lt", "--seed", 1],
        "-seed-2": ["--data", "digits-lt", "--seed", 2],
        "-data.n_max=99": ["--data", "digits-lt", "--set", "data.n_max=99"],
        "-training": ["--data", "digits-lt", "--reference", "training"],
        "-maps-sums": ["--data", "digits-lt", "--features", "maps:sums"],
        "-seed-1-maps-ends": ["--data", "digits-lt", "--features", "maps:ends", "--seed", 1, "--intervals", 2],
    }
    files = {f"s.evaluation{words}.json" for words in named}
    for _ in range(2):
        for words, options in named.items():
            code, out, err = run("evaluate", "s.npz", *options)
            assert code == 0 and f"/s.evaluation{words}.json" in out, out + err
        assert {p.name for p in Path().glob("s.evaluation*")} == files
    assert read("s.evaluation-r.json")["data"] == "r" and read("s.evaluation.json")["data"] == "digits-lt"
    assert run("evaluate", "s.npz", "--data", "digits-lt", "--seed", 0)[0] == 0  # the preset's own seed
    assert {p.name for p in Path().glob("s.evaluation*")} == files


def test_results_of_a_run_in_two_features_of_one_kind_are_two_files(run, trained, monkeypatch):
    save_maps(Path("maps.py"))
    found = {}
    for name in ("sums", "ends"):
        assert run("evaluate", "r", "--features", f"maps:{name}")[0] == 0
        found[name] = read(f"r/evaluation-omega-1-maps-{name}-dpm++2m-2-n8.json")
        assert found[name]["features"].startswith(f"module/maps:{name}")
    assert found["sums"]["overall"]["fid"] != found["ends"]["overall"]["fid"]


def test_a_run_that_is_refused_stops_the_others_before_any_is_judged(refused, trained, monkeypatch):
    """Whatever is known of it without sampling: its configuration, data, reference and features."""
    monkeypatch.setattr("cbdm_cli.evaluated_run.drawn_with_bar", lambda *_: pytest.fail("samples were drawn"))
    text = (trained / "config.toml").read_text()
    features = 'features = "classifier"'
    damage = {
        "names code to run": (features, 'features = "maps:sums"'),
        "gone.pth": (features, 'features = "inception:gone.pth"'),
        "unknown key 'evaluation.k2'": (features, f"{features}\nk2 = 1"),
        "the data are not those": ("n_max = 150", "n_max = 149"),
        "evaluation.reference = 'heldout'": ('reference = "balanced"', 'reference = "heldout"'),
    }
    for words, (old, new) in damage.items():
        shutil.copytree(trained, "other", dirs_exist_ok=True)
        assert old in text
        Path("other/config.toml").write_text(text.replace(old, new))
        assert words in refused("evaluate", "r", "other")
    assert "no run folder" in refused("evaluate", "r", "nowhere")
    assert not list(Path().rglob("*evaluation-*"))


@pytest.fixture(autouse=True)
def own_folder_first(monkeypatch, tmp_path):
    """Modules are found in the test's folder, and those of another test's are forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "maps", raising=False)


def save_maps(file):
    """Two maps of images, of two and three numbers."""
    file.write_text(
        "import torch\n"
        "def sums(x): return torch.stack([x.sum((1, 2, 3)), x.square().sum((1, 2, 3))], 1)\n"
        "def ends(x): return torch.stack([x.mean((1, 2, 3)), x[:, 0, 3, 3], x[:, 0, 4, 4]], 1)\n"
    )


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
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "samples of shape (0, 8, 8), which hold nothing"),
        ({"images": np.zeros((20, 0, 8), np.float32)}, "samples of shape (20, 0, 8), which hold nothing"),
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
        (["s.npz", "--data", "digts-lt"], "neither a run folder nor a preset: presets are celeba5-"),
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

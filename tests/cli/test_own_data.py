"""`cbdm train --data`: every kind of path finds its source, and what is chosen fits the data."""

from __future__ import annotations

import base64
import functools
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbdm_cli.own_data import condition_words, own_table, source_of, suited
from cbdm_core.conditions import Classes
from cbdm_core.data import npz
from cbdm_core.errors import CbdmError
from cbdm_core.networks import NETWORKS

SMALL = ["--set", "network.options.width=8", "--set", "sampling.steps=2", "--set", "evaluation.features=pixels"]
SIDES = st.one_of(
    st.tuples(st.integers(1, 64)),
    st.tuples(st.integers(1, 48), st.integers(1, 48)),
    st.tuples(*[st.integers(1, 16)] * 3),
)


@pytest.fixture
def images(tmp_path):
    """60, 20 and 5 grey images of 12×12."""
    labels = np.repeat(np.arange(3), [60, 20, 5])
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels, labels=labels)
    return tmp_path / "mine.npz"


@pytest.mark.parametrize(
    ("name", "inside", "source", "options"),
    [
        ("a.npz", None, "npz", {"path": "a.npz"}),
        ("a.parquet", None, "parquet", {"root": "a.parquet"}),
        ("a.tar", None, "webdataset", {"root": "a.tar"}),
        ("faces.csv", None, "folder", {"path": ".", "labels": "faces.csv"}),
        ("photos", "cat/1.png", "folder", {"path": "photos"}),
        ("tables", "train-0.parquet", "parquet", {"root": "tables"}),
        ("tars", "0.tar", "webdataset", {"root": "tars"}),
        ("faces", "who.csv", "folder", {"path": "faces", "labels": "who.csv"}),
        ("ecg", "ecg.npz", "npz", {"path": "ecg/ecg.npz"}),
        ("cifar-10-batches-bin", "data_batch_1.bin", "cifar10", {"root": "cifar-10-batches-bin"}),
        ("cifar-100-python", "train", "cifar100", {"root": "cifar-100-python"}),
        ("B.NPZ", None, "npz", {"path": "B.NPZ"}),
    ],
)
def test_a_path_has_its_source(tmp_path, monkeypatch, name, inside, source, options):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name / (inside or "")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert source_of(Path(name)) == {"source": source, "options": options}


@given(st.integers(1, 3), SIDES, st.integers(1, 100_000), st.integers(1, 300))
@settings(max_examples=25)
def test_the_network_fits_any_shape(channels, sides, n, num_classes):
    """It can be built, which it refuses for axes that it cannot halve, and its coarsest level keeps 4 places or all."""
    shape = (channels, *sides)
    network = suited(shape, n, num_classes)["network"]
    NETWORKS[network["name"]](shape, Classes(num_classes), **network["options"])
    halvings = len(network["options"]["multipliers"]) - 1
    assert halvings == 0 or min(sides) // 2**halvings >= 4


@pytest.mark.parametrize(
    ("shape", "n", "steps", "batch", "width", "levels"),
    [
        ((1, 8, 8), 482, 2_300, 64, 16, 2),  # 300·482/64 = 2,259
        ((1, 28, 28), 1_500, 7_100, 64, 96, 3),  # 28 = 4·7
        ((3, 32, 32), 50_000, 117_200, 128, 96, 4),
        ((3, 64, 64), 10, 2_000, 10, 48, 4),
        ((3, 64, 64), 10**6, 200_000, 128, 96, 4),
        ((3, 128, 96), 2_000, 9_400, 64, 128, 4),
    ],
)
def test_length_and_width_go_with_number_and_size(shape, n, steps, batch, width, levels):
    chosen = suited(shape, n, 10)
    options = chosen["network"]["options"]
    assert (chosen["training"]["steps"], chosen["training"]["batch_size"]) == (steps, batch)
    assert (options["width"], len(options["multipliers"])) == (width, levels)


@pytest.mark.parametrize(("images", "choice"), [(True, ("linear", "eps")), (False, ("cosine", "v"))])
def test_floats_are_learned_by_what_needs_no_clipping(images, choice):
    chosen = suited((4, 8, 8), 500, 3, images=images)
    assert (chosen["schedule"]["name"], chosen["network"]["predicts"]) == choice


def test_the_length_goes_with_a_batch_that_is_given():
    """300·10,000 showings at 250 a step are 12,000 steps."""
    training = suited((1, 8, 8), 10_000, 10, 250)["training"]
    assert (training["steps"], training["batch_size"]) == (12_000, 250)


def test_a_run_on_ones_own_data_says_what_was_chosen(run, images):
    options = ["--steps", 3, "--batch-size", 7, "--lr", 0.01, "--device", "cpu", "--out", "r"]
    code, out, err = run("train", "--data", "mine.npz", *options, *SMALL)
    assert code == 0, err
    assert "custom: 85 examples of 1×12×12 in 3 classes of 5 … 60" in out and "the training set (85 examples)" in out
    config = tomllib.loads((images.parent / "r" / "config.toml").read_text())
    assert (config["preset"], config["method"]) == ("custom", [])
    assert (config["training"]["batch_size"], config["training"]["learning_rate"]) == (7, 0.01)
    assert config["facts"]["counts"] == [60, 20, 5] and config["network"]["options"]["multipliers"] == [1, 2]
    assert run("train", "--resume", "r", "--steps", 4)[0] == 0


def test_options_of_a_method_that_the_command_line_names_are_its_own(run, refused, images):
    asked = ["train", "--data", images, "--steps", 1, "--dry-run", "--set", "method.cbdm.draws=2"]
    code, _, err = run(*asked, "--method", "cbdm:null")
    assert code == 0, err
    assert "'ddpm' has no such part" in refused(*asked)


@pytest.mark.parametrize("named", [[], ["digits-lt"]])
def test_the_data_are_read_once(run, images, monkeypatch, named):
    """Those that the network and the length were chosen for are those that are trained on."""
    read, whole = [], npz.npz

    @functools.wraps(whole)
    def counting(**options):
        read.append(options)
        return whole(**options)

    monkeypatch.setattr(npz, "npz", counting)
    code, _, err = run("train", *named, "--data", "mine.npz", "--steps", 1, "--device", "cpu", "--out", "r", *SMALL)
    assert code == 0, err
    assert read == [{"path": "mine.npz"}]


def test_a_preset_keeps_its_settings_on_ones_own_data(run, images):
    code, out, _ = run("train", "digits-lt", "--data", "mine.npz", "--dry-run", "--device", "cpu", *SMALL)
    config = tomllib.loads(out[: out.index("would train")])
    assert code == 0 and (config["preset"], config["training"]["steps"]) == ("digits-lt", 2400)
    assert (config["data"]["source"], config["data"]["profile"]) == ("npz", "none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "no"], "cbdm: no is not there: give a folder"),
        (["--data", ""], "the path of the data is empty: give a file or a folder, . for the current one"),
        (["--data", "mine.txt"], "mine.txt ends in '.txt': files that end in .npz, .parquet, .tar or .csv can be read"),
        (["--data", "two"], "two holds a.csv, b.npz: give the one that is meant"),
        (["--data", "mine.npz", "--batch-size", 0], "training.batch_size = 0"),
        (["--data", "mine.npz", "--lr", "nan"], "training.learning_rate"),
        (
            ["--data", "mine.npz", "--set", "data.source=digits"],
            "is read by the source 'npz', and --set names other data",
        ),
        (["--data", "mine.npz", "--set", "data.options.path=b.npz"], "--set names other data"),
        (["--data", "mine.npz", "--set", "data.imbalance=0.1"], "data.imbalance = 0.1 makes no tail"),
        (["--data", "mine.npz", "--set", "data.n_max=9"], "data.n_max = 9 makes no tail"),
        (
            ["--data", "mine.npz", "--set", "data.held_out=0.1"],
            "data.held_out = 0.1 holds nothing of --data mine.npz out",
        ),
        (["--data", "mine.npz", "--set", "data.profile=held-out", "--set", "data.held_out=1"], "data.held_out = 1"),
        (["--data", "mine.npz", "--resume", "r"], "leave out --out, --dry-run, --from and --data"),
    ],
)
def test_a_mistake_is_a_line(refused, images, arguments, words):
    (images.parent / "mine.txt").touch()
    (images.parent / "two").mkdir()
    for name in ("a.csv", "b.npz"):
        (images.parent / "two" / name).touch()
    assert words in refused("train", *arguments)
    assert not (images.parent / "runs").exists()


def planned(run, *arguments):
    """(the configuration, what is said of it) of a training that is not begun."""
    code, out, err = run("train", *arguments, "--dry-run", "--device", "cpu")
    assert code == 0, err
    text = out[: out.index("would train")]
    return tomllib.loads(text[text.index("preset = ") :]), out


@pytest.mark.parametrize("preset", [[], ["mixture-lt"]])
def test_a_file_does_not_replace_the_data_that_are_named(run, images, preset):
    """A preset's or a run's own TOML may be laid over: all of it counts but its data, their tail and their name."""
    Path("other.toml").write_text(run("presets", "digits-lt")[1] + "\n[facts]\nshape = [9]\n")
    config, _ = planned(run, *preset, "--data", "mine.npz", "--config", "other.toml", *SMALL)
    assert config["data"]["source"] == "npz" and config["data"]["options"] == {"path": "mine.npz"}
    assert config["facts"]["counts"] == [60, 20, 5] and config["facts"]["shape"] == [1, 12, 12]
    assert config["training"]["steps"] == 2400 and config["preset"] == (preset[0] if preset else "custom")


def test_a_file_that_names_no_data_speaks_of_those_that_are_named(run, images):
    Path("tail.toml").write_text('[data]\nprofile = "step"\nimbalance = 0.5\nn_max = 4\n')
    assert planned(run, "--data", "mine.npz", "--config", "tail.toml", *SMALL)[0]["facts"]["counts"] == [4, 4, 2]
    Path("other.toml").write_text('[data]\nsource = "npz"\noptions = {path = "b.npz", labels = "who"}\n')
    config, _ = planned(run, "--data", "mine.npz", "--config", "other.toml", *SMALL)
    assert config["data"]["options"] == {"path": "mine.npz"}


def test_a_tail_can_be_made_of_ones_own_data(run, images):
    asked = ["--data", "mine.npz", "--set", "data.profile=step", "--set", "data.imbalance=0.5"]
    assert planned(run, *asked, "--set", "data.n_max=4", *SMALL)[0]["facts"]["counts"] == [4, 4, 2]
    assert planned(run, "--data", "mine.npz", "--set", "data.counts=[5,4,3]", *SMALL)[0]["facts"]["counts"] == [5, 4, 3]


def test_units_are_those_of_the_data_that_are_named(run, tmp_path):
    """Not those that a saved configuration knows of the data it was trained on."""
    x, labels = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", images=x, labels=labels)
    np.savez(tmp_path / "b.npz", images=x * 100 + 1000, labels=labels)
    assert run("train", "--data", "a.npz", "--steps", 2, "--device", "cpu", "--out", "r")[0] == 0
    mean = planned(run, "--data", "b.npz", "--config", "r/config.toml")[0]["facts"]["units"]["mean"]
    assert np.allclose(mean, (x * 100 + 1000).mean(0), rtol=1e-4)


def test_warm_up_and_averages_go_by_the_steps_that_are_asked_for(run, images):
    config, out = planned(run, "--data", "mine.npz", "--steps", 300, *SMALL)
    assert config["training"]["warmup"] == 15 and "300 steps of 64, warm-up 15" in out
    assert suited((3,), 100_000, 10)["training"]["warmup"] == 500


PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAAAAACMmsGiAAAAC0lEQVR4nGNgwAQAABQAAX3+Hu4AAAAASUVORK5CYII=")


def lay(place, *files, **texts):
    """Files of one image each, and tables by their text."""
    for name in files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(PNG)
    for name, text in texts.items():
        (place / f"{name}.csv").write_text(text)
    return place


@pytest.mark.parametrize(
    ("files", "texts", "said"),
    [
        (["a.parquet", "b.tar"], {}, "holds a.parquet, b.tar: give the one that is meant, or move the others away"),
        (["0.tar", "1.tar"], {"who": ""}, "holds 0.tar, who.csv: give the one"),
        (["a.npz", "b.npz"], {}, "holds a.npz, b.npz: give the one"),
        (
            ["cat/1.png", "dog/1.png"],
            {"notes": "name,kind\nfoo,1\n"},
            "holds notes.csv, which names no file that is there, and images in class folders such as ",
        ),
        (["cat/1.png"], {"notes": "buy milk"}, "move notes.csv away to read the folders, or mend its names to read"),
        (["cat/1.JPG", "0.tar", "1.tar"], {}, "holds 0.tar, and images in class folders such as cat: move 0.tar away"),
    ],
)
def test_a_folder_of_several_readings_is_refused(tmp_path, files, texts, said):
    with pytest.raises(CbdmError) as caught:
        source_of(lay(tmp_path, *files, **texts))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_attributes_are_told_as_such(tmp_path, capsys):
    """By what training says it is told, and `cbdm data`."""
    x = np.zeros((20, 1, 8, 8), np.uint8)
    for name, told, words in (
        ("a", np.eye(3, dtype=int)[[0] * 20], "3 attributes"),
        ("v", np.ones((20, 2)), "2 numbers"),
    ):
        np.savez(tmp_path / f"{name}.npz", images=x, conditions=told)
        own_table(tmp_path / f"{name}.npz", None, None, [])
        assert f"told {words} each, no label" in capsys.readouterr().out
        assert words == condition_words(npz.npz(path=tmp_path / f"{name}.npz"))


def test_a_table_of_images_in_folders_is_read(tmp_path):
    lay(tmp_path, "cat/1.png", ".git/1.png", who="file,kind\ngone/1.png,a\ncat/1.png,b\n")
    assert source_of(tmp_path)["options"]["labels"] == "who.csv"


def test_folders_without_images_are_no_class_folders(tmp_path):
    lay(tmp_path, "notes/read.me", ".cache/1.png", "0.tar")
    assert source_of(tmp_path)["source"] == "webdataset"


def test_one_split_of_a_folder_is_named_by_a_setting(run, refused, tmp_path):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    (tmp_path / "f").mkdir()
    for name, n in (("train-0", 5), ("test-0", 3)):
        files.write_table(arrow.table({"image": [PNG] * n, "label": [0] * n}), tmp_path / "f" / f"{name}.parquet")
    said = refused("data", "f")
    assert "f holds the splits test and train: name a file, or a subset by root='f/*test*.parquet'" in said
    code, out, err = run("data", "f", "--set", "data.options.root=f/*train*.parquet")
    assert code == 0 and "parquet: 5 8-bit images" in out, err
    code, out, err = run("train", "--data", "f", "--set", "data.options.root=f/*train*.parquet", "--dry-run")
    assert code == 0 and "5 examples of 1×4×4" in out, err


def test_the_version_is_printed(run):
    from cbdm import __version__

    assert run("--version")[:2] == (0, f"cbdm {__version__}\n")

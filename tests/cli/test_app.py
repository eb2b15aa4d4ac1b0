"""The other commands, and every mistake in one clear line."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from cbdm_cli.app import app
from cbdm_cli.commands import presets
from cbdm_cli.one_command import app_for
from tests.cli.evil import Evil
from tests.cli.tiny import PROBE, TINY, cbdm, shared_classifiers


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, made once; nothing of its data is held out."""
    folder, cache = tmp_path_factory.mktemp("made"), shared_classifiers(tmp_path_factory.getbasetemp())
    cbdm("train", "--steps", 2, *TINY, "--out", "r", cwd=folder, check=0, env={"CBDM_CACHE": str(cache)})
    return folder / "r"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["presets"]])
def test_help_imports_no_torch(tmp_path, arguments):
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("named", [["presets"], ["train", "--help"], ["import"], ["--version"], [], ["pressets"]])
def test_a_command_is_made_alone(named):
    """What is asked of it is answered alike; where none is named all are there, to be listed or to be meant."""
    group, whole = (get_command(made) for made in (app_for(named), app))
    alone = named and named[0] in whole.commands
    assert [*group.commands] == (named[:1] if alone else [*whole.commands])
    assert [p.opts for p in group.params] == [p.opts for p in whole.params]


def test_watching_needs_no_torch():
    """So that it draws within half a second, on a machine that trains."""
    code = "import sys, cbdm_cli.commands.watch as _; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_training_begins_without_the_parts_of_scipy():
    """Each takes a tenth of a second or more to import, and is imported where it is used."""
    code = "import sys, cbdm_cli.commands.train as _; print([name for name in sys.modules if name.startswith('scipy')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_list_of_presets_pays_for_no_configuration(tmp_path):
    """It is read as plain values: neither the models that check one nor bars of progress are loaded."""
    probe = PROBE.replace('{"torch", "scipy", "matplotlib"}', '{"cbdm_cli.config", "cbdm_cli.method", "rich.progress"}')
    done = subprocess.run([sys.executable, "-c", probe, "presets"], capture_output=True, text=True, cwd=tmp_path)
    assert "digits-lt" in done.stdout and "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_samples_in_each_format(run, trained):
    code, out, err = run("sample", "r", "--n", 20, "--omega", "1", "--steps", 2)
    assert code == 0 and "drawn-001.png" in out, err
    assert run("sample", "r", "--labels", "3,3,7", "--format", "npz")[0] == 0
    arrays = np.load(trained / "drawn-002.npz", allow_pickle=False)
    assert arrays["labels"].tolist() == [3, 3, 7] and arrays["images"].shape == (3, 8, 8)
    assert run("sample", "r", "--labels", "uniform", "--n", 6, "--format", "folder", "--out", "pngs")[0] == 0
    assert len(list(Path("pngs").rglob("*.png"))) == 6


def test_a_sample_does_not_depend_on_its_batch(run, trained):
    run("sample", "r", "--n", 12, "--format", "npz", "--out", "a.npz")
    run("sample", "r", "--n", 5, "--format", "npz", "--out", "b.npz")
    a, b = (np.load(f, allow_pickle=False)["images"].astype(int) for f in ("a.npz", "b.npz"))
    assert abs(a[:5] - b).max() <= 1  # one grey level: rounding of an image that agrees to 1e-4


def test_drawn_samples_are_a_data_set(run, trained):
    run("sample", "r", "--n", 40, "--format", "npz", "--out", "drawn.npz")
    code, out, err = run("priors", "--set", "data.source=npz", "--set", "data.options.path=drawn.npz", "--set",
                         "data.imbalance=0.5")  # fmt: skip
    assert code == 0 and "10 classes with images" in out, err


def test_evaluate_in_other_features_names_them_and_knows_no_classes(run, trained):
    """The second time the reference is read from the cache, and says the same."""
    for _ in range(2):
        code, out, err = run("evaluate", "r", "--features", "pixels", "--n", 6, "--prd-runs", 1, "--intervals", 5)
        assert code == 0 and "features: pixels" in out, err
    (file,) = Path("r").glob("evaluation-*-pixels-*.json")
    report = json.loads(file.read_text())
    overall = report["overall"]
    assert report["features"].startswith("pixels") and overall["label_accuracy"] is None
    assert overall["inception_score"] is None and overall["fid"] > 0
    low, high = report["intervals"]["overall"]["fid"]
    assert low < high
    code, _, err = run("evaluate", "r", "--features", "pixles")
    assert code == 2 and "did you mean 'pixels'" in err


def test_evaluate_at_one_and_several_omegas(run, trained):
    code, out, err = run("evaluate", "r", "--omega", "0,0.5", "--omega", "implied:0.5,1")
    rows = {line.split()[1] for line in out.splitlines() if line.startswith("  r ")}  # a table may stand in two parts
    assert code == 0 and rows == {"0", "0.5", "implied:0.5,1"}, out + err
    assert (trained / "evaluation-omega-0.5-dpm++2m-2-n8.json").exists()
    code, out, _ = run("evaluate", "r", "--n", 8)
    assert code == 0 and "ω = 1" in out and "class 9" in out


def test_priors_table_agrees_with_the_laws(run):
    code, out, _ = run("priors", "--law", "uniform", "--law", "training", "--law", "null")
    assert code == 0 and "2.303" in out and "10.00" in out  # log 10 and 10 effective classes
    assert "0.3610" in out  # 174 of 482


def test_presets_are_listed_and_printed(run):
    code, out, _ = run("presets")
    assert code == 0 and "digits-lt" in out and "mixture-lt" in out
    assert 'source = "digits"' in run("presets", "digits-lt")[1]


def test_class_names_stay_inside_the_folder_and_print_as_they_are(run, refused, tmp_path):
    names = ["../../out", "[/b]"]
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "named.npz", images=x, labels=np.arange(40) % 2, class_names=np.array(names))
    data = ["--set", "data.source=npz", "--set", "data.options.path=named.npz", "--set", "data.imbalance=0.5"]
    code, out, err = run("train", "--steps", 1, *TINY, *data, "--out", "r")
    assert code == 0 and "class [/b]" in out, err
    assert "cannot be the name of a file or folder" in refused("sample", "r", "--format", "folder", "--out", "pngs")


def test_a_warning_of_ours_is_one_line(run, tmp_path):
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4) % 2, "angles": np.zeros(4)}
    (tmp_path / "a\nb").mkdir()
    for name, told in (("d.npz", "d.npz"), ("a\nb/d.npz", "a b/d.npz")):
        np.savez(tmp_path / name, **arrays)
        line = f"cbdm: {told}: not used: angles; used: images, labels\n"
        done = cbdm("data", name, cwd=tmp_path, check=0)
        assert done.stderr == line
        done = cbdm("data", name, cwd=tmp_path, env={"PYTHONWARNINGS": "error::UserWarning"}, check=2)
        assert done.stderr == line
    before = warnings.formatwarning
    assert run("data", "d.npz")[0] == 0
    assert warnings.formatwarning is before, "who calls main in a program of his own keeps Python's warnings"


def test_a_warning_of_others_stays_as_python_writes_it(run, monkeypatch):
    def list_presets(_):
        sys.stderr.write(warnings.formatwarning("theirs", FutureWarning, "their.py", 7, "call()"))

    monkeypatch.setattr(presets, "list_presets", list_presets)
    assert run("presets") == (0, "", "their.py:7: FutureWarning: theirs\n  call()\n")


def test_a_preset_that_fine_tunes_says_what_it_starts_from(run, made):
    fine = ["--set", "training.fine_tunes=true"]
    for options, told in (([], False), (fine, True), ([*fine, "--from", made], False)):
        code, out, err = run("train", "digits-lt", *TINY, "--dry-run", *options)
        assert code == 0 and ("without --from RUN it starts from random weights" in out) == told, err


def test_the_order_of_settings_does_not_matter(run):
    a, b = "network.options.width=64", "network.name=mlp"
    for settings in ((a, b), (b, a)):
        options = [word for text in settings for word in ("--set", text)]
        code, out, err = run("train", "mixture-lt", "--dry-run", *options, "--set", "schedule.name=linear")
        assert code == 0 and "width = 64" in out, err


def test_reweighting_knows_that_the_batches_are_resampled():
    """π/π = 1: weights from the training law would correct a second time."""
    from cbdm_cli.assemble import assemble
    from cbdm_cli.config import validated
    from cbdm_cli.overlay import load_config

    table = load_config("digits-lt", None, ["method.parts='reweight:uniform+resample:uniform'"])
    assert torch.allclose(assemble(validated(table)).objective.adjustment.weights, torch.ones(10))


@pytest.mark.parametrize("file", ["ema.safetensors", "model.safetensors", "optimizer.pt", "state.json"])
def test_a_truncated_checkpoint_is_named(refused, trained, file):
    path = next((trained / "checkpoints").iterdir()) / file
    path.write_bytes(path.read_bytes()[:-100])
    line = refused("train", "--resume", "r", "--steps", 4)
    assert "checkpoint" in line and ("damaged" in line or "no complete" in line)
    if file in ("ema.safetensors", "state.json"):
        assert refused("sample", "r")


def test_an_optimiser_file_that_would_execute_is_not_loaded(refused, trained):
    import hashlib
    import json

    folder = next((trained / "checkpoints").iterdir())
    torch.save({"optimizer": Evil()}, folder / "optimizer.pt")
    facts = json.loads((folder / "state.json").read_text())
    data = (folder / "optimizer.pt").read_bytes()
    facts["files"]["optimizer.pt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "state.json").write_text(json.dumps(facts))
    assert "was not loaded" in refused("train", "--resume", "r", "--steps", 4)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "digit-lt"], "did you mean 'digits-lt'?"),
        (["train", "--prior", "trainig"], "did you mean 'training'?"),
        (["train", "--method", "cbmd"], "did you mean 'cbdm'?"),
        (["train", "--set", "training.step=3"], "did you mean 'steps'?"),
        (["train", "--set", "network.options.widht=8"], "did you mean 'width'?"),
        (["train", "--set", "network.name=unett"], "did you mean 'unet'?"),
        (["train", "--set", "data.source=digit"], "did you mean 'digits'?"),
        (["train", "--set", "sampling.sampler=dimm"], "did you mean 'ddim'?"),
        (["train", "--set", "nonsense"], "must read a.b=v"),
        (["train", "--set", "facts.shape=[1]"], "what the program found"),
        (["train", "--seed", "4294967296"], "should be less than 4294967296"),
        (["train", "--dry-run", "--threads", "0"], "--threads 0"),
        (["train", "--set", "data.source=npz"], "data set 'npz' needs path"),
        (["train", "--tau=-1"], "tau must be a number of 0 or more, got -1.0"),
        (["train", "--set", "training.batch_size=0"], "training.batch_size = 0"),
        (["train", "--prior", "power:x"], "no list of numbers"),
        (["train", "--prior", "power:1,2"], "wrong number of arguments"),
        (["train", "--prior", "fixed:0.5,0.5"], "one number per class, 10"),
        (["train", "--method", "ddpm", "--prior", "uniform"], "no part that takes a law"),
        (["train", "--method", "ddpm", "--tau", "1"], "no part of method 'ddpm' reads it"),
        (["train", "--method", "cbdm+resample", "--prior", "uniform"], "the parts cbdm, resample each take a law"),
        (["train", "--method", "cbdm+cbdm"], "names 'cbdm' twice"),
        (["train", "--method", "reweight:null"], "needs a law with probabilities"),
        (["train", "--method", "ddpm+cbdm"], "stands alone"),
        (["train", "--set", "data.counts=[1,2]"], "2 counts for 10 classes"),
        (["train", "--set", "data.n_max=1000"], "class 0 has 178"),
        (["train", "--set", "network.options.groups=7"], "not divisible"),
        (["train", "--set", "sampling.omega=much"], "allowed are a number"),
        (["train", "mixture-lt", "--set", "evaluation.features=clasifier"], "did you mean 'classifier'?"),
        (["train", "--set", "evaluation.features=torchscript:no.pt"], "no.pt"),
        (["train", "--dry-run", "--set", "evaluation.features=torchscript:no.pt"], "no.pt"),
        (["train", "--set", "evaluation.features=inception:no.pth"], "no.pth"),
        (["train", "mixture-lt", "--set", "evaluation.features=inception:no.pth"], "Inception takes images"),
        (["train", "--set", "evaluation.features=no_such:map"], "No module named 'no_such'"),
        (["train", "--set", "evaluation.features=json:no_such"], "no attribute 'no_such'"),
        (["train", "--set", "sampling.interval=[0.6,0.2]"], "guidance interval"),
        (["train", "--steps", "abc"], "Invalid value for '--steps'"),
        (["train", "--resum", "x"], "No such option"),
        (["trian"], "No such command"),
        (["train", "mixture-lt", "--set", "data.options.seed=-1"], "cannot be made from"),
        (["train", "--set", "network.options.time_steps=50"], "table of 50 steps and the schedule has 1000"),
        (["train", "--device", "tpu"], "unknown device 'tpu'"),
        (["train", "--precision", "fp8"], "training.precision = 'fp8'"),
        (["train", "--config", "nowhere.toml"], "cannot be read"),
        (["train", "--set", f"training.steps={'9' * 5000}"], "training.steps"),
        (["priors", "--law", "unifrom"], "did you mean 'uniform'?"),
        (["presets", "digits"], "did you mean 'digits-lt'?"),
        (["sample", "nowhere"], "no run folder"),
        (["evaluate", "nowhere"], "no run folder"),
    ],
)
def test_a_mistake_is_one_clear_line(refused, tmp_path, arguments, words):
    assert words in refused(*arguments)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels", "3,10"], "label 10 is out of range"),
        (["--labels", "-1"], "label -1 is out of range"),
        (
            ["--labels", "0-9"],
            "'0-9' is no class of this run: did you mean '9'? allowed: cyclic, classes by number or name parted",
        ),
        (["--labels", "3 3 7"], "'3 3 7' is no class of this run:"),
        (["--labels", "²"], "'²' is no class of this run: allowed: cyclic, "),
        (["--labels", "null"], "no label to draw"),
        (["--labels", "unifrm"], "did you mean 'uniform'?"),
        (["--labels", "cylic"], "did you mean 'cyclic'?"),
        (["--labels", "powr:0.5"], "did you mean 'power'?"),
        (["--n", "0"], "--n must be 1 or more"),
        (["--format", "gird"], "did you mean 'grid'?"),
        (["--sampler", "huen"], "did you mean 'heun'?"),
        (["--steps", "0"], "sampling.steps = 0"),
        (["--out", "r/config.toml"], "is there already"),
        (["--out", "no/folder.png"], "is no folder"),
    ],
)
def test_a_mistake_in_sample_is_one_clear_line(refused, trained, arguments, words):
    assert words in refused("sample", "r", *arguments)


def test_an_output_below_a_regular_file_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("here")
    assert "stands in the way" in refused("train", "--out", "file/run", *TINY)
    assert "stands in the way" in refused("train", "--out", "file", *TINY)
    assert (tmp_path / "file").read_text() == "here"


def test_bad_data_are_named(refused, tmp_path):
    x = np.zeros((4, 2), dtype=np.float32)
    x[2, 1] = np.nan
    np.savez(tmp_path / "nan.npz", images=x, labels=np.arange(4))
    np.savez(tmp_path / "objects.npz", images=np.array([Evil()] * 4, dtype=object), labels=np.arange(4))
    np.savez(tmp_path / "labels.npz", images=np.zeros((2, 2), np.float32), labels=np.array([0, -1]))
    for name, words in (("nan", "NaN"), ("objects", "object"), ("labels", "-1")):
        assert words in refused("train", "--set", "data.source=npz", "--set", f"data.options.path={name}.npz")
    pixels = np.zeros((4, 8, 8), dtype=np.float32)
    pixels[1, 2, 3] = np.nan
    np.savez(tmp_path / "pixels.npz", images=pixels, labels=np.arange(4))
    assert "NaN" in refused("train", "--set", "data.source=npz", "--set", "data.options.path=pixels.npz")
    for name, size in (("a/1.png", (8, 8)), ("a/2.png", (9, 8)), ("b/1.png", (8, 8))):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(tmp_path / "photos" / name)
    folder = ["--set", "data.source=folder", "--set", "data.options.path=photos"]
    assert "2.png" in refused("train", *folder)
    (tmp_path / "photos" / "a" / "2.png").unlink()
    (tmp_path / "photos" / "c").mkdir()
    assert "'c'" in refused("train", *folder)
    assert not Path("executed").exists()

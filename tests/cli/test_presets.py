"""Presets: each resolves, those of the papers have their sizes, and one may extend another."""

import tomllib

import pytest
import torch

from cbdm_cli import preset_files
from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config, preset_table
from cbdm_cli.preset_files import preset_names
from cbdm_cli.resolve import resolved
from cbdm_core.conditions import Classes
from cbdm_core.errors import CbdmError
from cbdm_core.run import build_network, build_schedule

PAPERS = ("cifar10lt", "cifar100lt", "celeba5", "imagenetlt64")
SIZES = {"cifar10lt": (32, 10), "cifar100lt": (32, 100), "celeba5": (64, 5), "imagenetlt64": (64, 1000)}
STRATEGIES = ["cbdm", "cbdm-ada", "coral", "ddpm", "finetune", "t2h", "transplant"]
OF_PAPERS = [name for name in preset_names() if name.startswith(PAPERS)]


def test_the_papers_data_have_their_strategies():
    for data in PAPERS:
        there = [name.removeprefix(f"{data}-") for name in OF_PAPERS if name.startswith(f"{data}-")]
        assert there == (STRATEGIES if data.startswith("cifar") else ["cbdm", "ddpm"])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_reads_back(name):
    config = resolved(load_config(name), {})
    table = preset_table(name)
    assert "extends" not in table and table["preset"] == config.preset == name and config.question
    assert validated(tomllib.loads(config.to_toml())) == config
    assert config.training.fine_tunes == name.endswith("-finetune")


@pytest.mark.parametrize("name", OF_PAPERS)
def test_a_network_of_the_papers_has_their_size(name):
    config = resolved(load_config(name), {})
    size, classes = SIZES[name.split("-")[0]]
    with torch.device("meta"):
        schedule = build_schedule(config.schedule.model_dump())
        network = build_network(config.network.model_dump(), (3, size, size), Classes(classes), schedule)
    count = sum(p.numel() for p in network.parameters())
    if size == 32:
        assert count == pytest.approx(35.7e6, rel=0.005)
    else:
        assert network.shape == (3, 64, 64) and count > 70e6


def test_a_preset_is_laid_over_the_one_that_it_extends():
    plain, ada = preset_table("cifar10lt-ddpm"), preset_table("cifar10lt-cbdm-ada")
    assert ada["data"].items() >= {**plain["data"], "flip": False, "augment": 0.12}.items()
    assert (ada["training"]["batch_size"], ada["training"]["steps"]) == (48, plain["training"]["steps"])
    assert validated(ada).method_text == "cbdm:training" and validated(plain).method_text == "ddpm"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a": "extends = 'b'", "b": "extends = 'a'"}, "'a' extends itself by way of a, b"),
        ({"a": "extends = 'a'"}, "break the circle"),
        ({"a": "extends = 'base'", "basis": "seed = 1"}, "did you mean 'basis'"),
    ],
)
def test_presets_that_extend_wrongly_are_refused(tmp_path, monkeypatch, texts, words):
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.setattr(preset_files, "_presets", lambda: {file.stem: file for file in tmp_path.iterdir()})
    monkeypatch.setattr(preset_files, "_read", preset_files._read.__wrapped__)  # the presets' names are kept otherwise
    with pytest.raises(CbdmError) as error:
        preset_table("a")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_extended_preset_is_printed_with_its_base(run):
    _, out, _ = run("presets", "cifar100lt-cbdm")
    assert out.index("# cifar100lt-ddpm") < out.index('law = "training"') and 'name = "published"' in out


def test_a_path_in_place_of_a_preset_is_told_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my photos", "r 1"):
        (tmp_path / name).mkdir()
    (tmp_path / "r 1" / "config.toml").touch()
    told = {
        "my photos": "my photos is a path, no preset: cbdm train --data 'my photos' ",
        "r 1": "cbdm train --resume 'r 1'$",
    }
    for name, words in {**told, "nowhere": "unknown preset 'nowhere'", "": "unknown preset ''"}.items():
        with pytest.raises(CbdmError, match=words):
            preset_files.preset_texts(name)

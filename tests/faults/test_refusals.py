"""Huge values, silent ones, foreign words and forged files: one line before the work, and nothing is written."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from cbdm_cli import limits
from cbdm_cli.__main__ import main
from cbdm_cli.naming import path_name
from cbdm_cli.run_folder import COMPARISON_FILE, new_folder
from cbdm_core.checkpoint import read_torch
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.folders import folder
from cbdm_core.data.npz import npz
from cbdm_core.distributed import pick_device
from cbdm_core.errors import CbdmError
from cbdm_core.memory import available_bytes, check_memory, gigabytes

HUGE = {
    "training.steps=100000000000": "takes 3 years or more",
    "training.batch_size=100000000000": "of memory",
    "network.options.width=1000000": "of memory",
    "network.options.blocks=1000000000": "at most 1,000 are made",
    "evaluation.intervals=1000000000000": "less than or equal to 1000000",
    "evaluation.intervals=1000000": "ask for less|take fewer resamples",
    "evaluation.prd_runs=1000000000000": "less than or equal to 10000",
    "evaluation.per_class=1000000000000": "of memory",
    "sampling.steps=1000000000000": "years or more",
    "schedule.options.steps=1000000000000": "at most 10,000,000",
    "data.n_max=100000000000000000000000": "less than or equal to",
    "training.warmup=100000000000000000000000": "less than or equal to",
}


@pytest.mark.parametrize("setting", HUGE)
def test_what_no_machine_holds_is_refused_before_the_work(refused, tmp_path, monkeypatch, setting):
    monkeypatch.setattr("cbdm_core.memory.available_bytes", lambda device="cpu": 8 << 30)
    line = refused("train", "--set", setting)
    assert any(words in line for words in HUGE[setting].split("|")), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "r", "--n", 10**12], "--n = 1,000,000,000,000 needs at least"),
        (["sample", "r", "--steps", 10**12], "years or more"),
        (["evaluate", "r", "--n", 10**12], "of memory"),
        (["classify", "r", "--fill", 10**12], "of memory"),
        (["classify", "r", "--seeds", 10**12], "at most 1,000"),
        (["compare", "digits-lt", "--seeds", 10**12], "at most 10,000"),
    ],
)
def test_no_command_begins_what_it_cannot_end(refused, trained, arguments, words):
    before = sorted(trained.rglob("*"))
    assert words in refused(*arguments) and sorted(trained.rglob("*")) == before


def test_memory_is_known_and_an_ordinary_run_fits():
    assert available_bytes() > 1 << 28
    check_memory("a list", 1, "ask for less")
    with pytest.raises(CbdmError, match=r"a list needs at least 1,000,000,000 GB of memory, and .* are free: ask"):
        check_memory("a list", 10**18, "ask for less")
    assert gigabytes(1.5e9) == "1.5 GB" and gigabytes(2e12) == "2,000 GB"
    limits.check_steps("training.steps", 10**9)  # twelve days and more


SILENT = {
    ("train", ""): "unknown preset ''",
    ("train", "--device", "cpu:7"): "this machine has one cpu",
    ("train", "--set", "question=5"): "write it in quotes, such as question='abc'",
    ("train", "--set", "training.steps=a"): "whole number, such as training.steps=3",
    ("train", "--set", "data.flip=maybe"): "true or false",
    ("train", "--set", "data.counts=3"): "a list, such as data.counts=[1, 2]",
}


@pytest.mark.parametrize("arguments", SILENT)
def test_nothing_is_passed_over_in_silence(refused, arguments):
    assert SILENT[arguments] in refused(*arguments)


def test_facts_agree_with_one_another(refused, trained):
    file = trained / "config.toml"
    text = file.read_text()
    file.write_text(text.replace("class_names = [", 'class_names = ["one more",', 1))
    assert file.read_text() != text
    for command in (("sample", "r"), ("train", "--resume", "r", "--steps", 9)):
        assert "11 class_names for 10 counts" in refused(*command)


def test_devices_have_no_number_where_there_is_one():
    assert pick_device("cpu:0").type == "cpu"
    with pytest.raises(CbdmError, match="name it 'cpu'"):
        pick_device("cpu:1")


@pytest.mark.parametrize("value", [5, "yes", 1])
def test_allow_empty_is_true_or_false(tmp_path, value):
    with pytest.raises(CbdmError, match=f"allow_empty is {value!r}, it must be true or false"):
        folder(path=tmp_path, allow_empty=value)


def test_a_pipe_among_images_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    with pytest.raises(CbdmError, match="no regular file"):
        folder(path=tmp_path)


def test_a_label_too_large_for_int64_is_named(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((1, 4, 4), np.uint8), labels=np.array([2**64 - 1], np.uint64))
    with pytest.raises(CbdmError, match="label 18446744073709551615 is out of range"):
        npz(path=tmp_path / "d.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04 no zip"])
def test_no_message_advises_to_load_what_runs_code(refused, tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CbdmError) as error:
        npz(path=tmp_path / "x.npz")
    for line in (refused("import", tmp_path / "x.pt", "--out", "o"), str(error.value)):
        assert "weights_only" not in line and "allow_pickle" not in line and "pickle" not in line


def test_class_names_reach_no_terminal_as_they_are():
    data = Dataset(torch.zeros(2, 3), torch.tensor([0, 1]), ("\x1b[31mred", "a\rb"))
    assert data.class_names == (r"\x1b[31mred", r"a\rb")


def test_messages_are_cleaned(refused):
    line = refused("train", "--set", "data.source=\x1b[31m")
    assert "\x1b" not in line


def test_a_small_file_of_large_arrays_is_refused(tmp_path, monkeypatch):
    """4 GB of zeros are 4 MB as a zip file."""
    monkeypatch.setattr("cbdm_core.memory.available_bytes", lambda device="cpu": 1 << 20)
    np.savez_compressed(tmp_path / "z.npz", images=np.zeros((2**15, 8, 8), np.uint8), labels=np.zeros(2**15, int))
    with pytest.raises(CbdmError, match=r"of memory, and .* are free"):
        npz(path=tmp_path / "z.npz")


def test_an_array_that_claims_more_than_it_holds_is_damaged(tmp_path):
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,)}\n"
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        for name in ("images", "labels"):
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(CbdmError, match="damaged"):
        npz(path=tmp_path / "z.npz")


NOT_WHOLE = {
    "repeated": torch.zeros(1).expand(10**12),
    "sparse": torch.ones(3, 3).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "nested": {"a": [torch.zeros(1).expand(9)]},
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_a_tensor_is_stored_whole_or_refused(tmp_path, name):
    torch.save({"w": NOT_WHOLE[name]}, tmp_path / "x.pt")
    with pytest.raises(CbdmError, match="not stored whole"):
        read_torch(tmp_path / "x.pt")


def test_transposed_tensors_are_whole(tmp_path):
    torch.save({"w": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "x.pt")
    assert read_torch(tmp_path / "x.pt")["w"].shape == (3, 2)


@pytest.mark.parametrize("content", [{1: torch.zeros(2)}, {}, [], 3, torch.zeros(3), {"net_model": torch.zeros(2)}])
def test_what_is_no_state_dict_is_not_imported(refused, tmp_path, content):
    packed = io.BytesIO()
    torch.save(content, packed)
    (tmp_path / "x.pt").write_bytes(packed.getvalue())
    refused("import", "x.pt", "--out", "o", "--weights", "net_model")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "\x1b[m", "a\0", "x" * 256, " "])
def test_one_check_of_names_that_become_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CbdmError, match="cannot be the name of a file or folder"):
        path_name(name, "preset")
    with pytest.raises(CbdmError, match="cannot be the name of a file or folder"):
        new_folder(None, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "way"),
    [
        (["config.toml"], ""),
        (["config.toml", "environment.json"], "train --resume"),
        (["config.toml", "environment.json", "checkpoints/step-1/state.json"], ""),
        (["config.toml", "environment.json", "checkpoints/step-1/optimizer.pt"], "train --resume"),
        ([COMPARISON_FILE, "runs/ddpm/seed-0/environment.json"], "compare"),
        (["optimizer.pt"], ""),
    ],
)
def test_what_lies_in_a_folder_is_continued_by_its_own_command(tmp_path, there, way):
    folder = tmp_path / "my runs"
    for name in there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(CbdmError) as caught:
        new_folder(folder, "digits-lt")
    further = f", or continue with cbdm {way} '{folder}'" if way else ""
    assert str(caught.value) == f"{folder} is not empty: choose a new folder{further}"


def test_leftovers_of_a_start_do_not_bar_the_folder(run, tmp_path):
    """Killed after environment.json and before config.toml: neither --resume nor --out would do."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "environment.json").write_text(json.dumps({}))
    (tmp_path / "r" / ".writing-1-config.toml").write_text("half")
    small = ("evaluation.features=pixels", "evaluation.per_class=8", "sampling.steps=2", "data.options.per_class=20")
    settings = [word for setting in small for word in ("--set", setting)]
    code, _, err = run("train", "mixture-lt", "--out", "r", "--steps", 1, *settings)
    assert code == 0, err


def test_a_fault_of_the_program_is_a_line_and_debug_shows_it(run, monkeypatch, capsys):
    monkeypatch.setenv("CBDM_DEBUG", "")

    def broken(*_):
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr("cbdm_cli.commands.presets.list_presets", broken)
    code, _, err = run("presets")
    assert code == 70 and err.count("\n") == 1 and "ZeroDivisionError: a; see where by cbdm --debug" in err
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "presets"])


def test_torchs_own_words_for_no_memory_are_a_refusal(refused, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nC++ frames")

    monkeypatch.setattr("cbdm_cli.commands.presets.list_presets", full)
    assert "this machine's memory does not hold it" in refused("presets")


@pytest.mark.parametrize("words", [("train",), ("train", "--data"), ("compare",), ("compare", "--data"), ("watch",)])
def test_a_name_longer_than_that_of_a_file_is_refused_in_one_line(refused, words):
    assert "is longer than the name of a file can be: give another" in refused(*words, "x" * 300)

"""`cbdm data`: every source has its line, and what is shown are the counts of what is read."""

import json
import os
import resource
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbdm_cli.commands.data import convert_data
from cbdm_cli.locking import LOCK
from cbdm_core.data import writing_npy
from cbdm_core.data.npy import npy
from cbdm_core.data.sources import DATASETS, digits
from cbdm_core.errors import CbdmError
from tests.cli.tiny import UNJUDGED, cbdm, one_line


def test_every_source_is_listed(run):
    code, out, _ = run("data")
    assert code == 0 and all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in DATASETS)


def test_a_source_is_shown_as_it_is_read(run):
    code, out, _ = run("data", "digits")
    there = digits()
    assert code == 0 and "1,797 8-bit images of 1×8×8" in out and there.content_hash() in out
    assert "10 classes of 174 … 183, 0 of them with fewer than 20; imbalance 0.951" in out


def test_a_path_and_its_options(run, tmp_path):
    rows = np.arange(30, dtype=np.float32).reshape(15, 1, 2)
    np.savez(tmp_path / "s.npz", images=rows, labels=np.repeat([0, 1], [12, 3]), class_names=np.array(["up", "down"]))
    code, out, err = run("data", "s.npz", "--set", "data.options.kind=values")
    assert code == 0 and "npz: 15 floats of 1×2" in out, err
    lines = [line.split() for line in out.splitlines()]
    assert ["up", "12"] in lines and ["down", "3"] in lines and "2 of them with fewer than 20; imbalance 0.25" in out


def test_grey_images_among_colours_are_told_in_a_line(tmp_path):
    (tmp_path / "d" / "cat").mkdir(parents=True)
    for i, mode in enumerate(("L", "RGB", "L")):
        Image.new(mode, (4, 4)).save(tmp_path / "d" / "cat" / f"{i}.png")
    done = cbdm("data", "d", cwd=tmp_path, check=0)
    assert "3 8-bit images of 3×4×4" in done.stdout and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("cbdm: 2 of 3 images are grey and taken as RGB: channels=1 makes all grey")
    assert cbdm("data", "d", "--set", "data.options.channels=3", cwd=tmp_path, check=0).stderr == ""


def photos(place, count=5):
    (place / "cat").mkdir(parents=True)
    (place / "owl").mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(place / ("owl" if i % 2 else "cat") / f"{i}.png")
    return place


def test_names_are_shown_as_they_are(run, tmp_path):
    photos(tmp_path / "a:100:b")
    (tmp_path / "a:100:b" / "owl").rename(tmp_path / "a:100:b" / ":cat:[b]")
    out = run("data", "a:100:b")[1] + run("data", "a:100:b", "--to", "c:100:d")[1]
    assert ":cat:[b]" in out and "c:100:d: 5 examples" in out and "--data c:100:d" in out


def hash_of(out):
    return out.split("content: ")[1].split()[0]


def test_a_path_is_written_and_trained_on(run, tmp_path):
    shown = run("data", str(photos(tmp_path / "photos")))[1]
    code, out, err = run("data", "photos", "--to", "my data")
    assert code == 0 and out == "my data: 5 examples, which stay there: cbdm train --data 'my data'\n", err
    assert sorted(file.name for file in (tmp_path / "my data").iterdir()) == [
        "class_names.txt", "images-00000.npy", "labels-00000.npy",
    ]  # fmt: skip
    assert hash_of(run("data", "my data")[1]) == hash_of(shown)
    code, _, err = run("train", "--data", "my data", "--steps", "2", *UNJUDGED, "--out", "r")
    assert code == 0, err


def test_a_source_of_floats_is_written_as_it_is_shown(run):
    """A mixture is shown to a network in its own units, which is said again of the files."""
    code, out, err = run("data", "mixture", "--set", "data.options.per_class=20", "--to", "m")
    assert code == 0 and out.endswith("cbdm train --data m --set data.options.standardise=false\n"), err
    shown = run("data", "mixture", "--set", "data.options.per_class=20")[1]
    assert hash_of(run("data", "m", "--set", "data.options.standardise=false")[1]) == hash_of(shown)
    code, out, _ = run("data", "digits-attributes", "--to", "a")
    assert code == 0 and hash_of(run("data", "a")[1]) == hash_of(run("data", "digits-attributes")[1])


@pytest.mark.parametrize(
    ("arrays", "settings", "option"),
    [
        ({"images": np.arange(192, dtype=np.uint8).reshape(4, 16, 3)}, ["layout=first"], "layout=first"),
        ({"images": np.arange(96, dtype=np.uint8).reshape(4, 3, 8, 1)}, ["layout=first"], "layout=first"),
        ({"images": np.ones((4, 8, 8, 4), np.uint8)}, ["layout=last"], "layout=first"),
        ({"images": np.ones((4, 8, 8, 3), np.uint8)}, [], ""),
        ({"images": np.linspace(0, 9, 40, dtype="f").reshape(4, 2, 5)}, ["kind=values"], ""),
        (
            {"images": np.linspace(0, 9, 40, dtype="f").reshape(4, 2, 5)},
            ["kind=values", "standardise=false"],
            "standardise=false",
        ),
    ],
)
def test_options_that_read_a_set_as_it_was_are_named(run, tmp_path, arrays, settings, option):
    np.savez(tmp_path / "a.npz", labels=np.arange(4) % 2, **arrays)
    given = [word for text in settings for word in ("--set", f"data.options.{text}")]
    shown = run("data", "a.npz", *given)[1]
    code, out, err = run("data", "a.npz", *given, "--to", "d")
    named = ["--set", f"data.options.{option}"] if option else []
    assert code == 0 and out.endswith(" ".join(["cbdm train --data d", *named]) + "\n"), err
    assert hash_of(run("data", "d", *named)[1]) == hash_of(shown)


def test_narrow_photographs_are_read_as_they_were(run, tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (3, 8), (1, 2, 3)).save(tmp_path / "photos" / "cat" / "0.png")
    named = run("data", "photos", "--to", "d")[1].split("--data d ")[1].split()
    assert hash_of(run("data", "d", *named)[1]) == hash_of(run("data", "photos")[1])


@pytest.mark.parametrize("inside", ["photos/npy", "photos/cat/npy", "photos/../photos/npy"])
def test_no_folder_is_made_among_class_folders(refused, tmp_path, inside):
    photos(tmp_path / "photos")
    assert "lies in photos, where every folder is a class: name one outside" in refused(
        "data", "photos", "--to", inside
    )
    assert sorted(tmp_path.glob("photos/**/*.*")) == sorted(tmp_path.glob("photos/*/*.png"))
    assert [place.name for place in sorted((tmp_path / "photos").iterdir())] == ["cat", "owl"]


def test_two_classes_of_one_name_are_not_written(refused, tmp_path):
    """A name with a line break and the same with its escape are shown alike."""
    for name in ("a\nb", "a\\nb"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "0.png")
    assert "two classes are called" in refused("data", "photos", "--to", "d")
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize("moved", range(7))
def test_what_was_moved_in_part_is_not_read(tmp_path, monkeypatch, moved):
    """A process killed then leaves conditions, which could be read without their labels."""
    kept, left = Path.replace, iter(range(moved))

    def replace(file, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return kept(file, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(writing_npy, "_PART", 64_000)
    with pytest.raises(KeyboardInterrupt):
        convert_data("digits-attributes", [], str(tmp_path / "d"))
    assert len(list((tmp_path / "d").iterdir())) == moved
    with pytest.raises(CbdmError):
        npy(path=tmp_path / "d")


def test_a_writing_that_fails_leaves_nothing(run, refused, tmp_path):
    photos(tmp_path / "photos")
    (tmp_path / "photos" / "owl" / "3.png").write_bytes(b"no image")
    assert "3.png is no image, or is damaged" in refused("data", "photos", "--to", "d")
    assert list((tmp_path / "d").iterdir()) == []
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "owl" / "3.png")
    assert run("data", "photos", "--to", "d")[0] == 0
    assert "d holds class_names.txt already: name an empty folder by --to" in refused("data", "photos", "--to", "d")


def test_a_folder_that_another_process_writes_is_left_to_it(run, refused, tmp_path):
    """And what one left that was killed is cleared away."""
    photos(tmp_path / "photos")
    left = tmp_path / "d" / ".writing-x"
    left.mkdir(parents=True)
    lock = left.with_name(LOCK)
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    assert "cbdm data already runs in d, as process" in refused("data", "photos", "--to", "d") and left.exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    assert run("data", "photos", "--to", "d")[0] == 0 and not left.exists() and not lock.exists()


def test_a_full_disk_is_a_line(tmp_path):
    """A limit on the size of a file stands for it."""
    photos(tmp_path / "photos", 40)
    tight = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4000, 4000))
    done = cbdm(
        "data", "photos", "--to", "d", cwd=tmp_path, before=lambda: (signal.signal(25, signal.SIG_IGN), tight())
    )
    assert "cannot write" in one_line(done) and "choose another --to" in one_line(done)
    assert list((tmp_path / "d").iterdir()) == []


def test_a_folder_called_as_a_command_is_read(run, tmp_path):
    (tmp_path / "list").mkdir()
    np.savez(tmp_path / "list" / "v.npz", images=np.eye(6, dtype=np.float32), labels=np.arange(6) % 2)
    code, out, err = run("data", "list")
    assert code == 0 and "npz: 6 floats of 6" in out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digts"], "'digts' is neither a path nor a source: sources are cifar10"),
        ([""], "the path of the data is empty"),
        (["notes"], "cbdm: notes has no ending: files that end in .npz, .parquet, .tar or .csv can be read"),
        (["notes.txt"], "cbdm: notes.txt ends in '.txt': files that end in"),
        (["digits", "--set", "seed=1"], "--set seed: cbdm data reads data alone"),
        (["digits", "--set", "data.options.size=3"], "size"),
        (["digits", "--set", "data.imbalance=0.1"], "--set data.imbalance: cbdm data reads the whole of a source"),
        (["digits", "--to", "d", "--set", "data.profile=none"], "--set data.profile: cbdm data reads the whole"),
        (["digits", "--to", "~nobody-there/d"], "--to ~nobody-there/d is in the home of nobody here"),
        (["cifar10"], "cifar10"),
        (["list"], "cbdm data list is no command: cbdm data alone lists the sources"),
        (["info", "digits"], "cbdm data info digits is no command: cbdm data digits shows what it holds"),
        (["info", "my photos"], "cbdm data 'my photos' shows what it holds"),
        (["verify"], "cbdm data SOURCE reads it whole, verifies what was published"),
        (["fetch", "cifar10"], "cbdm fetch cifar10 downloads it"),
        (["fetch"], "cbdm fetch SOURCE downloads it"),
        (["fetch", "digits"], "cbdm fetch SOURCE downloads one of cifar10, cifar100, fashion, mnist"),
        (["download", "./my photos"], "cbdm fetch SOURCE downloads one of cifar10,"),
        (["--to", "d"], "--to writes one source or path, and none is named: cbdm data PATH --to FOLDER"),
        (["digits", "--to", " "], "the folder of --to is empty: name one"),
        (["digits", "--to", "notes"], "cannot write notes: File exists"),
        (["digits", "fashion"], "cbdm data shows one source or path, and got digits fashion: name one at a time"),
    ],
)
def test_a_mistake_is_a_line(refused, tmp_path, arguments, words):
    for name in ("notes", "notes.txt"):
        (tmp_path / name).touch()
    assert words in refused("data", *arguments)

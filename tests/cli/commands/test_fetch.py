"""`cbdm fetch`, end to end from a server in this process."""

import errno
import hashlib
import json
import socket
import subprocess

import pytest

from cbdm_cli.commands import fetch
from cbdm_cli.locking import LOCK, held, holder
from cbdm_core.data import cifar
from cbdm_core.data.fetching import Published
from cbdm_core.writing import replacing
from tests.core.data.cifar_files import cifar_archive
from tests.core.data.web import serving

NAME = "cifar-10-binary.tar.gz"


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A small archive of CIFAR-10 on a server, whose sum stands in place of the published one; no address but this."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    archive = cifar_archive(tmp_path / "made" / NAME)
    content = archive.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(cifar._CIFAR10.archives, NAME, md5)
    monkeypatch.setitem(
        fetch.FETCHED, "cifar10", Published("cifar10", "http://127.0.0.1:9/", {NAME: md5}, len(content))
    )
    with serving({NAME: content}) as server:
        yield server


def test_what_is_fetched_is_read(run, web, tmp_path, monkeypatch):
    monkeypatch.setenv("CBDM_DATA", str(tmp_path / "sets"))
    code, out, err = run("fetch", "cifar10", "--mirror", web.url("copies"))
    assert code == 0 and "MD5 sum as published" in out and "cbdm data cifar10 shows" in out, err
    assert web.asked == [(f"/copies/{NAME}", None)]
    assert [p.name for p in (tmp_path / "sets" / "cifar10").iterdir()] == [NAME]
    code, out, err = run("data", "cifar10")
    assert code == 0 and "8-bit images of 3×32×32" in out, err
    code, out, _ = run("fetch", "cifar10", "--mirror", web.url())
    assert code == 0 and "is there already, and right" in out and len(web.asked) == 1


def test_to_another_folder(run, web, monkeypatch):
    monkeypatch.delenv("CBDM_DATA", raising=False)
    code, out, err = run("fetch", "cifar10", "--to", "here", "--mirror", web.url())
    assert code == 0 and "cbdm data cifar10 --set data.options.root=here" in out, err
    code, out, err = run("data", "cifar10", "--set", "data.options.root=here")
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cifar1"], "unknown source to fetch 'cifar1': did you mean 'cifar10'?"),
        (["medmnist"], "medmnist is not among what can be fetched, cifar10, cifar100, fashion, mnist"),
        (["cifar10"], "Set CBDM_DATA to the folder of your data sets, or give --to FOLDER"),
        (["cifar10", "--to", ""], "the folder of --to is empty"),
        (["cifar10", "--to", "x", "--mirror", "file:///tmp"], "'file:///tmp/cifar-10-binary.tar.gz' is no address"),
        (["cifar10", "--to", "taken", "--mirror", "http://127.0.0.1:9"], "cannot write taken"),
        (["cifar10", "--to", "own", "--mirror", "http://127.0.0.1:9"], "move it away and fetch again"),
    ],
)
def test_a_mistake_is_a_line(refused, web, tmp_path, monkeypatch, arguments, words):
    monkeypatch.delenv("CBDM_DATA", raising=False)
    (tmp_path / "taken").touch()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / NAME).write_bytes(b"mine")
    assert words in refused("fetch", *arguments)
    assert web.asked == []


def test_one_at_a_time_downloads_into_a_folder(refused, run, web, tmp_path, monkeypatch):
    """The folder is held while bytes come, and one that is held is left alone; what is there needs no lock."""
    download, seen, asked = fetch.download, [], ["fetch", "cifar10", "--to", "x", "--mirror", web.url()]
    folder = tmp_path / "x"
    folder.mkdir()
    with held(folder, "cbdm fetch"):
        assert "cbdm fetch already runs in x, as process" in refused(*asked)
    assert web.asked == [] and not list(folder.iterdir())
    monkeypatch.setattr(fetch, "download", lambda *a, **of: seen.append(holder(folder)) or download(*a, **of))
    assert run(*asked)[0] == 0 and seen[0].startswith("process ") and holder(folder) is None
    with held(folder, "cbdm fetch"):
        assert run(*asked)[0] == 0


def test_the_lock_of_a_dead_fetch_is_taken_over(run, web, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid, "since": "1"}))
    code, _, err = run("fetch", "cifar10", "--to", "x", "--mirror", web.url())
    assert code == 0, err
    assert [p.name for p in (tmp_path / "x").iterdir()] == [NAME]


def test_what_other_programs_write_into_the_folder_is_left(run, web, tmp_path):
    """Samples that are being drawn into a folder of data sets are whole after a fetch into it."""
    folder = tmp_path / "x"
    folder.mkdir()
    with replacing(folder / "samples.npz") as drawn:
        drawn.write_bytes(b"half")
        assert run("fetch", "cifar10", "--to", "x", "--mirror", web.url())[0] == 0
        with drawn.open("ab") as file:
            file.write(b" and half")
    assert (folder / "samples.npz").read_bytes() == b"half and half" and (folder / NAME).exists()


def test_what_another_fetch_brought_in_the_meantime_is_left(run, web, tmp_path, monkeypatch):
    """It came between the look and the lock."""
    alone, whole = fetch._alone, (tmp_path / "made" / NAME).read_bytes()

    def later(folder):
        folder.mkdir()
        (folder / NAME).write_bytes(whole)
        return alone(folder)

    monkeypatch.setattr(fetch, "_alone", later)
    code, out, _ = run("fetch", "cifar10", "--to", "x", "--mirror", web.url())
    assert code == 0 and "is there already, and right" in out and web.asked == []


def test_a_folder_that_cannot_be_held_names_the_option(refused, web, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("cbdm_cli.locking._acquire", full)
    said = refused("fetch", "cifar10", "--to", "x", "--mirror", web.url())
    assert "the disk is full: free some space or choose another --to;" in said


def test_an_error_of_the_network_is_a_line(refused, web):
    web.script = ["404"]
    assert "HTTP Error 404" in refused("fetch", "cifar10", "--to", "x", "--mirror", web.url())

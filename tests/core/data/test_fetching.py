"""Fetching, from a server in this process that stalls, breaks off, lies and redirects."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from cbdm_core.data import cifar, fashion, mnist
from cbdm_core.data.fetching import Loaded, download, is_there
from cbdm_core.errors import CbdmError
from tests.core.data.web import serving

RIGHT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(RIGHT).hexdigest()
WRONG = RIGHT[:-1] + bytes([RIGHT[-1] ^ 1])


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def web():
    with serving({"a.gz": RIGHT}) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "a.gz"


def fetch(web, path, *, url=None, most=400_000, stall=5.0, tries=3):
    return list(download(url or web.url("a.gz"), path, MD5, most=most, stall=stall, tries=tries, pause=0.001))


def part_of(path):
    return path.with_name("a.gz.part")


def half(path, content=RIGHT[:1000]):
    path.parent.mkdir()
    part_of(path).write_bytes(content)


def alone(path):
    """Whether the folder holds the file, right, and nothing else."""
    return path.read_bytes() == RIGHT and list(path.parent.iterdir()) == [path]


def test_right_bytes_get_their_name_and_each_piece_is_told(web, path):
    told = fetch(web, path)
    assert alone(path) and told[0] == Loaded(0, 300_000) and told[-1] == Loaded(300_000, 300_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told) and web.asked == [("/a.gz", None)]
    assert is_there(path, MD5)


def test_a_file_is_whole_or_not_there(web, path):
    for _ in download(web.url("a.gz"), path, MD5, most=400_000):
        assert not path.exists()
    assert alone(path)


def test_what_breaks_off_goes_on_where_it_ended(web, path):
    web.script = ["cut"]
    told = fetch(web, path)
    assert alone(path) and web.asked == [("/a.gz", None), ("/a.gz", "bytes=150000-")]
    assert Loaded(150_000, 300_000) in told


def test_a_later_call_goes_on_with_the_part(web, path):
    web.script = ["cut"]
    with pytest.raises(CbdmError, match=r"ended after 150,000 of 300,000 bytes.*by hand.*--mirror.*a.gz.part"):
        fetch(web, path, tries=1)
    assert part_of(path).read_bytes() == RIGHT[:150_000] and not path.exists()
    fetch(web, path)
    assert alone(path) and web.asked[1:] == [("/a.gz", "bytes=150000-")]


def test_a_stall_is_given_up_and_what_came_is_kept(web, path):
    web.script = ["stall", "stall"]
    begun = time.monotonic()
    with pytest.raises(CbdmError, match=r"no byte for 0.2 s"):
        fetch(web, path, stall=0.2, tries=2)
    assert time.monotonic() - begun < 5
    assert part_of(path).read_bytes() == RIGHT[:225_000]  # a half, and half of the rest


@pytest.mark.parametrize("how", ["no ranges", "another range"])
def test_a_server_without_ranges_is_asked_for_all(web, path, how):
    half(path, b"?" * 1000)
    web.script = [how]
    fetch(web, path)
    assert alone(path)


def test_a_part_longer_than_the_file_is_dropped(web, path):
    half(path, RIGHT + b"more")
    fetch(web, path)
    assert alone(path) and [asked for _, asked in web.asked] == ["bytes=300004-", None]


def test_a_whole_part_needs_no_server(web, path):
    half(path, RIGHT)
    assert fetch(web, path) == [] and alone(path) and web.asked == []


def test_wrong_bytes_are_told_and_removed(web, path):
    web.files["a.gz"] = WRONG
    found = hashlib.md5(WRONG).hexdigest()
    with pytest.raises(CbdmError, match=f"MD5 sum {found}, expected {MD5}; they are removed"):
        fetch(web, path)
    assert list(path.parent.iterdir()) == []


def test_a_part_of_another_file_costs_one_try(web, path):
    half(path, WRONG[:1000] + b"?")
    with pytest.raises(CbdmError, match="they are removed"):
        fetch(web, path)
    fetch(web, path)
    assert alone(path)


@pytest.mark.parametrize("how", ["boastful", "endless"])
def test_more_than_the_bound_is_refused(web, path, how):
    web.script = [how]
    with pytest.raises(CbdmError, match=r"bytes or more, and at most 400,000 are taken"):
        fetch(web, path)
    assert list(path.parent.iterdir()) == [] and len(web.asked) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a.gz", "data://text/plain,x"])
def test_a_redirection_leaves_http_never(web, path, target):
    web.script = [target]
    with pytest.raises(CbdmError, match=r"file:///etc/passwd' is not allowed|is no address|is not allowed"):
        fetch(web, path)
    assert list(path.parent.iterdir()) == [] and len(web.asked) == 1


def test_a_redirection_within_http_is_followed_with_the_range(web, path):
    half(path)
    web.script = [web.url("elsewhere/a.gz")]
    fetch(web, path)
    assert alone(path) and web.asked == [("/a.gz", "bytes=1000-"), ("/elsewhere/a.gz", "bytes=1000-")]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a/b", "/etc/passwd", "", "http://", "http://u:p@a/b", "http://a:x/b", "http://a/ b"],
)
def test_other_addresses_are_refused(web, path, url):
    with pytest.raises(CbdmError, match="is no address to fetch from: it must begin with http:// or https://, without"):
        next(download(url, path, MD5, most=1))
    assert not path.parent.exists()


@pytest.mark.parametrize(("code", "turns"), [("404", 1), ("403", 1), ("503", 3), ("429", 3)])
def test_only_what_may_pass_is_tried_again(web, path, code, turns):
    web.script = [code] * 3
    with pytest.raises(CbdmError, match=f"HTTP Error {code}.*by hand"):
        fetch(web, path)
    assert len(web.asked) == turns


def test_nobody_there(path):
    with serving({}) as gone:
        url = gone.url("a.gz")
    with pytest.raises(
        CbdmError, match=r"cannot be fetched \(.*refused\).*: bring a.gz into .*new by hand, or .*--mirror"
    ):
        fetch(None, path, url=url)


def test_a_link_in_place_of_the_part_leads_nowhere(web, path, tmp_path):
    path.parent.mkdir()
    part_of(path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CbdmError, match="is a link or no file"):
        fetch(web, path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written(web, path):
    path.parent.write_bytes(b"")
    with pytest.raises(CbdmError, match=r"cannot write .*new .*choose another --to"):
        fetch(web, path)


def test_a_full_disk_is_no_fault_of_the_network(web, path, monkeypatch):
    """/dev/full has no room; it stands for the part when that is opened."""
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda p, *a: opened(Path("/dev/full") if p.suffix == ".part" else p, *a))
    with pytest.raises(CbdmError, match=r"cannot write .*a.gz.part \(No space left on device\): make room"):
        fetch(web, path)
    assert len(web.asked) == 1


def test_a_wrong_file_that_is_there_is_not_touched(path):
    assert not is_there(path, MD5)
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(CbdmError, match="move it away and fetch again"):
        is_there(path, MD5)
    assert path.read_bytes() == b"mine"


def test_the_tables_are_whole():
    known = {**cifar.FETCHED, **fashion.FETCHED, **mnist.FETCHED}
    assert sorted(known) == ["cifar10", "cifar100", "fashion", "mnist"]
    assert list(known["cifar10"].md5s) == ["cifar-10-binary.tar.gz"]
    assert list(known["cifar100"].md5s) == ["cifar-100-binary.tar.gz"]
    for published in known.values():
        assert published.address.endswith("/") and published.most < 1 << 28
        assert all(len(bytes.fromhex(md5)) == 16 for md5 in published.md5s.values())
    assert len({md5 for published in known.values() for md5 in published.md5s.values()}) == 10

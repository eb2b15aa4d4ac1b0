"""Files that take their place whole or not at all, and what a failed write says."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cbdm_core.errors import CbdmError
from cbdm_core.writing import flush, plain_write_errors, replacing


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free some space"),
        (OSError(errno.EFBIG, "File too large"), r"the file-size limit is reached: raise it \(ulimit -f\)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up"),
        (OSError(errno.EACCES, "Permission denied", "there"), "cannot write there: Permission denied: choose another"),
        (SafetensorError("I/O error: no\nmore"), "cannot write here: I/O error: no; free some space"),
        (RuntimeError("[enforce fail] file in archive is not in a subdirectory"), "file in archive"),
    ],
)
def test_a_failed_write_is_one_line_with_its_mend(error, words):
    with pytest.raises(CbdmError, match=words) as caught, plain_write_errors(Path("here")):
        raise error
    assert "\n" not in str(caught.value) and str(caught.value).endswith("what was written before is intact")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(("name", "told"), [("x.png", "gone/x.png"), (".writing-1-new.png", "gone")])
def test_no_unfinished_file_is_named(tmp_path, monkeypatch, name, told):
    """Nor one that is made beside another unfinished one, of which the folder is told."""
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(CbdmError, match=f"^cannot write {told}: No such file"),
        replacing(Path("gone", name)) as temporary,
    ):
        temporary.write_text("x")


@pytest.mark.parametrize("error", [RuntimeError("shapes disagree"), SafetensorError("invalid header")])
def test_what_is_no_failed_write_passes(error):
    with pytest.raises(type(error)) as caught, plain_write_errors("here"):
        raise error
    assert caught.value is error


def test_files_and_folders_are_flushed_by_their_descriptor(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    for path in (tmp_path / "a", tmp_path):
        flush(path)
    assert flushed == [tmp_path / "a", tmp_path]

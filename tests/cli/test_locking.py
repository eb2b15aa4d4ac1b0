"""One process at a time: against a live one, a dead one, one on another host, and many at once."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cbdm_cli.locking import LOCK, contents, held
from cbdm_cli.locking import holder as holder_of
from cbdm_core.errors import CbdmError
from cbdm_core.writing import WRITING

HOLD = """
import sys, time
from pathlib import Path
from cbdm_cli.locking import held
from cbdm_core.errors import CbdmError
try:
    with held(Path(sys.argv[1]), "a test"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except CbdmError as error:
    print(error, flush=True)
"""


def holder(folder, seconds):
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_live_process_keeps_others_out_and_its_end_lets_them_in(tmp_path):
    other = holder(tmp_path, 60)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(CbdmError, match=f"as process {other.pid}: wait for it"), held(tmp_path, "a test"):
        pass
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # ended, and not asked after yet: a zombie
    with held(tmp_path, "a test"):  # it could not remove its lock, and is known to be dead
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())
    other.wait()


def test_a_lock_of_this_process_holds_too(tmp_path):
    with held(tmp_path, "a test"), pytest.raises(CbdmError, match="already runs"), held(tmp_path, "a test"):
        pass


def test_a_pipe_in_the_place_of_the_lock_is_damage_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(CbdmError, match="is damaged "), held(tmp_path, "a test"):
        pass


@pytest.mark.parametrize("cleans", [True, False])
def test_what_a_killed_process_left_goes_where_the_folder_is_the_programs_own(tmp_path, cleans):
    half = tmp_path / f"{WRITING}1-step-00000400"
    half.mkdir()
    (half / "model.safetensors").touch()
    with held(tmp_path, "a test", cleans=cleans):
        assert contents(tmp_path) == ([] if cleans else [half])


def test_another_hosts_lock_is_not_taken_and_the_mend_is_named(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere\x1b[31m", "pid": 1, "since": "1"}))
    words = r"on elsewhere\\x1b\[31m \(if that one is dead, remove"
    with pytest.raises(CbdmError, match=words) as error, held(tmp_path, "a test"):
        pass
    assert "\x1b" not in str(error.value)


ELSEWHERE = "from cbdm_cli import locking\nlocking._namespace = lambda: 'pid:[1]'\n" + HOLD


@pytest.mark.skipif(not Path("/proc/self/ns/pid").is_symlink(), reason="no namespaces of processes")
def test_a_process_of_another_container_holds_until_it_ends(tmp_path):
    """Under the same host name its number is another's here, or nobody's."""
    other = subprocess.Popen([sys.executable, "-c", ELSEWHERE, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    lock = tmp_path / LOCK
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"pid": 1 << 30}))
    words = f"process {1 << 30} of another container"
    assert holder_of(tmp_path) == words
    with (
        pytest.raises(CbdmError, match=f"{words} .if that one is dead, remove .*: wait for it"),
        held(tmp_path, "a test"),
    ):
        pass
    other.kill()
    other.wait()
    assert holder_of(tmp_path) is None
    with held(tmp_path, "a test"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").is_symlink(), reason="no namespaces of processes")
def test_a_lock_of_another_container_that_was_made_just_now_holds(tmp_path, monkeypatch):
    """Where folders cannot be locked, one may look between the link and the system's lock."""
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"host": socket.gethostname(), "namespace": "pid:[1]", "pid": 1, "since": "1"}))
    with lock.open("r+b") as file:
        monkeypatch.setattr("cbdm_cli.locking.sleep", lambda _: fcntl.flock(file, fcntl.LOCK_EX))
        assert holder_of(tmp_path) == "process 1 of another container"
    monkeypatch.undo()
    assert holder_of(tmp_path) is None


@pytest.mark.parametrize("there", [False, True])
def test_a_file_system_without_links_has_locks(tmp_path, monkeypatch, there):
    def refused(*_):
        raise PermissionError("no links")

    monkeypatch.setattr(os, "link", refused)
    with held(tmp_path, "cbdm train"):
        assert [file.name for file in tmp_path.iterdir()] == [".lock"]
        if there:
            with pytest.raises(CbdmError, match="already runs"), held(tmp_path, "cbdm train"):
                pass
    assert not list(tmp_path.iterdir())


def test_a_later_process_with_the_number_of_a_dead_one_is_told_from_it(tmp_path):
    """The lock has this very process's number and host, and another start."""
    lock = {"host": socket.gethostname(), "pid": os.getpid(), "since": "1"}
    (tmp_path / LOCK).write_text(json.dumps(lock))
    with held(tmp_path, "a test"):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": "x"}', "[" * 5000])
def test_a_damaged_lock_is_named(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(CbdmError, match="is damaged"), held(tmp_path, "a test"):
        pass


def test_of_many_at_once_one_holds_a_dead_processs_folder(tmp_path):
    for _ in range(3):
        dead = subprocess.Popen(["true"])
        dead.wait()
        lock = {"host": socket.gethostname(), "pid": dead.pid, "since": "1"}
        (tmp_path / LOCK).write_text(json.dumps(lock))
        many = [holder(tmp_path, 3) for _ in range(4)]
        said = [process.stdout.readline() for process in many]
        assert said.count("held\n") == 1, said
        assert sum("already runs" in line for line in said) == 3, said
        for process in many:
            process.kill()
            process.wait()
        time.sleep(0.01)
        (tmp_path / LOCK).unlink(missing_ok=True)
    assert contents(tmp_path) == []

"""Processes killed by the system, at any time and while they write: what remains is whole, and going on ends the same.

`python -m tests.faults.kills --n 50` makes so many drills with each of train, compare, sample and classify, and says
what became of them. Children are forks of this process, so that a drill costs no imports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cbdm_cli.__main__ import main as cbdm
from cbdm_cli.locking import LOCK
from cbdm_cli.run_folder import COMPARISON_FILE
from cbdm_core.metrics.features import classifier
from cbdm_core.writing import WRITING
from tests.cli.tiny import fingerprint

SETTINGS = (
    *("--set", "data.options={num_classes=4, per_class=12}", "--set", "data.imbalance=0.5"),
    *("--set", "network.options={width=16, depth=1}", "--set", "training.batch_size=8", "--set", "training.warmup=2"),
    *("--set", "training.checkpoint_every=4", "--set", "training.log_every=1", "--set", "sampling.steps=2"),
    *("--set", "evaluation.per_class=8", "--set", "evaluation.features=pixels"),
)
TRAIN = ("train", "mixture-lt", "--steps", "40", *SETTINGS)
COMPARED = ("--methods", "ddpm,cbdm", "--seeds", "1", "--steps", "40", "--omega", "0,1")
COMPARE = ("compare", "mixture-lt", *COMPARED, *SETTINGS)
DIGITS = (
    *("train", "digits-lt", "--steps", "2", "--set", "data.n_max=60", "--set", "network.options.width=8"),
    *("--set", "network.options.groups=4", "--set", "network.options.attention=[]", "--set", "training.batch_size=8"),
    *("--set", "sampling.steps=2", "--set", "evaluation.per_class=8", "--set", "evaluation.features=pixels"),
)


def forked(arguments, cwd):
    """The process number of a fork that runs the command, silent, in the folder; it leads a group of its own."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        sink = os.open(os.devnull, os.O_RDWR)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, descriptor in ((0, sink), (1, log), (2, log)):
            os.dup2(descriptor, stream)
        sys.stdout = sys.stderr = os.fdopen(os.dup(log), "w")
        cbdm([str(a) for a in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def ended(child):
    """The exit code of a fork, once it has one."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(arguments, cwd):
    """The command run to its end.

    Raises:
        AssertionError: it failed, with what it printed last.
    """
    code = ended(forked(arguments, cwd))
    assert code == 0, (code, arguments[:3], (Path(cwd) / "log").read_text()[-500:])


def killed(arguments, cwd, seconds, *, while_writing):
    """Start the command and kill it: after so many seconds, or as soon as it writes thereafter.

    Returns:
        Whether it was killed before its end.
    """
    child, began = forked(arguments, cwd), time.monotonic()
    while True:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            assert os.waitstatus_to_exitcode(status) == 0, (Path(cwd) / "log").read_text()[-500:]
            return False
        if time.monotonic() - began >= seconds and (not while_writing or writes(Path(cwd))):
            os.kill(child, signal.SIGKILL)
            ended(child)
            return True
        time.sleep(0.0002 if while_writing else 0.002)


def writes(folder):
    """Whether something half written lies below the folder."""
    try:
        return any(name.startswith(WRITING) for _, folders, files in os.walk(folder) for name in (*folders, *files))
    except OSError:
        return False


def untidy(folder):
    """Leftovers and locks below a folder."""
    return [str(p) for p in folder.rglob("*") if p.name.startswith(WRITING) or p.name == LOCK]


class Drills:
    """What each command does when nothing happens to it, to be held against; made once.

    Args:
        base: an empty folder.
        kinds: which commands are drilled.
    """

    def __init__(self, base: Path, kinds) -> None:
        self.base, self.seconds, self.count = base, {}, 0
        self.reference = base / "reference"
        self.reference.mkdir()
        for kind, arguments in {"train": (*TRAIN, "--out", "r"), "compare": (*COMPARE, "--out", "c")}.items():
            if kind == "train" or kind in kinds:
                self._timed(kind, arguments)
        if "sample" in kinds:
            self._timed("sample", ("sample", "r", "--n", "64", "--format", "npz", "--out", "s.npz"))
        if "classify" in kinds:
            classifier._STEPS = (40, 40)  # of this process and its forks
            whole((*DIGITS, "--out", "d"), self.reference)
            self._timed("classify", ("classify", "d", "--seeds", "1", "--fill", "4"))

    def _timed(self, kind, arguments):
        began = time.monotonic()
        whole(arguments, self.reference)
        self.seconds[kind] = time.monotonic() - began

    def __call__(self, kind: str, seed: int) -> bool:
        """One drill; returns whether the kill came before the end.

        Raises:
            AssertionError: something half written remains, or what goes on ends otherwise.
        """
        self.count += 1
        place = self.base / f"{kind}-{self.count}"
        place.mkdir()
        chance = random.Random(seed)
        when = {"seconds": chance.uniform(0, self.seconds[kind]), "while_writing": chance.random() < 0.5}
        came = getattr(self, f"_{kind}")(place, when)
        shutil.rmtree(place)
        return came

    def _train(self, place, when):
        run, came = place / "r", killed((*TRAIN, "--out", "r"), place, **when)
        if came and (run / "config.toml").exists():
            whole(("train", "--resume", "r"), place)
        elif came:
            whole((*TRAIN, "--out", "r"), place)
        assert fingerprint(run) == fingerprint(self.reference / "r")
        for name in ("evaluation.json", "metrics.jsonl"):
            assert (run / name).read_bytes() == (self.reference / "r" / name).read_bytes(), name
        assert untidy(run) == []
        return came

    def _compare(self, place, when):
        came = killed((*COMPARE, "--out", "c"), place, **when)
        if came and (place / "c" / COMPARISON_FILE).exists():
            deadline = time.monotonic() + 60  # the jobs save and end by themselves
            while time.monotonic() < deadline and jobs_of(place / "c"):
                time.sleep(0.1)
            assert not jobs_of(place / "c"), "a job outlived its comparison"
            whole(("compare", "c"), place)
        elif came:
            whole((*COMPARE, "--out", "c"), place)
        for file in sorted((self.reference / "c" / "runs").rglob("omega-*.json")):
            mine = place / "c" / file.relative_to(self.reference / "c")
            assert json.loads(mine.read_text()) == json.loads(file.read_text()), file.name
        assert untidy(place / "c") == []
        return came

    def _sample(self, place, when):
        shutil.copytree(self.reference / "r", place / "r")
        made = self.count % 2 == 0
        format_, name = ("npz", "s.npz") if made else ("grid", "s.png")
        arguments = ("sample", "r", "--n", "64", "--format", format_, "--out", name)
        came = killed(arguments, place, **when)
        if came and not (place / name).exists():
            whole(arguments, place)
        if made:
            with np.load(place / name) as mine, np.load(self.reference / "s.npz") as theirs:
                assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
        else:
            Image.open(place / name).load()
        return came

    def _classify(self, place, when):
        shutil.copytree(self.reference / "d", place / "d", ignore=shutil.ignore_patterns("recognition*", "classif*"))
        arguments = ("classify", "d", "--seeds", "1", "--fill", "4")
        came = killed(arguments, place, **when)
        results = {p.name for p in (self.reference / "d").glob("*.json")}
        for name in results & {p.name for p in (place / "d").glob("*.json")}:
            json.loads((place / "d" / name).read_text())
        whole(arguments, place)
        for name in results - {"environment.json"}:
            assert (place / "d" / name).read_bytes() == (self.reference / "d" / name).read_bytes(), name
        return came


def jobs_of(folder):
    """The processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            here = line and (entry / "cwd").readlink() == folder.parent
            if here and b"cbdm_cli.study.job" in line:
                found.append(int(entry.name))
    return found


def elastic(place: Path, nodes: int = 1) -> None:
    """A worker of two dies under torchrun, which starts both again: the run ends as if it had not.

    Args:
        place: an empty folder.
        nodes: 1 for two processes under one agent; 2 for an agent each, as on two machines with one file system.

    Raises:
        AssertionError: it failed, or its weights are others.
    """
    for name in ("undisturbed", "disturbed"):
        with (place / f"{name}.log").open("wb") as log:
            agents = [
                subprocess.Popen(command, cwd=place, env=_ELASTIC, stdout=log, stderr=log)
                for command in _launches(name, nodes)
            ]
            if name == "disturbed":
                deadline = time.monotonic() + 120
                while time.monotonic() < deadline and not list((place / name).glob("checkpoints/step-*")):
                    time.sleep(0.005)
                os.kill(children_of(agents[-1].pid)[-1], signal.SIGKILL)
            codes = [agent.wait(timeout=240) for agent in agents]
            assert not any(codes), (place / f"{name}.log").read_text()[-2000:]
    assert "--resume" not in (place / "disturbed.log").read_text()
    assert fingerprint(place / "disturbed") == fingerprint(place / "undisturbed")
    assert untidy(place / "disturbed") == []


_ELASTIC = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def _launches(name, nodes):
    """The command of each node's agent; torchrun takes its own options first."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--max-restarts", "2")
    job = ("-m", "cbdm_cli", *TRAIN, "--out", name)
    if nodes == 1:
        return [(*torchrun, "--standalone", "--nproc-per-node", "2", *job)]
    with socket.create_server(("localhost", 0)) as free:
        meet = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free.getsockname()[1]}", "--rdzv-id", name)
    return [(*torchrun, "--nnodes", str(nodes), "--nproc-per-node", "1", *meet, *job)] * nodes


def children_of(parent):
    """The child processes of a process, oldest first."""
    return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def main() -> None:
    """The command."""
    kinds = ("train", "compare", "sample", "classify")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50, help="drills of each command")
    parser.add_argument("--only", choices=(*kinds, "elastic"), help="one command")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.only in (None, "elastic"):
            (Path(place) / "elastic").mkdir()
            for nodes in (1, 2):
                (Path(place) / "elastic" / str(nodes)).mkdir()
                elastic(Path(place) / "elastic" / str(nodes), nodes)
                on = "one node" if nodes == 1 else f"{nodes} nodes"
                print(f"elastic, {on}: a worker died, both began again, the weights are those of an undisturbed run")
        drilled = [kind for kind in kinds if chosen.only in (None, kind)]
        drills = Drills(Path(place), drilled)
        for kind in drilled:
            came = sum(drills(kind, seed) for seed in range(chosen.n))
            print(f"{kind}: {chosen.n} drills, {came} killed before the end, all ended as if not killed", flush=True)


if __name__ == "__main__":
    main()

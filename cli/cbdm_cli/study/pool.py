"""Child processes, so many at a time: the one pool of comparisons and experiments."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cbdm_cli.signals import asked_to_stop
from cbdm_cli.study.orphans import PARENT

__all__ = ["THREADS", "Child", "run_children"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_POLL = 0.5  # seconds between two looks at the children


@dataclass
class Child:
    """A job in a process of its own.

    Args:
        name: in messages.
        command: its command line.
        log: file of all that it prints.
        state: "waiting", "running", "done" or "failed"; any other is left alone.
        fault: why it could not be started, "" if it could.
    """

    name: str
    command: Sequence[str]
    log: Path
    state: str = "waiting"
    fault: str = ""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    def start(self, threads: int) -> None:
        """Start it; where that fails the next look says so, and the other jobs go on."""
        self.state, self.started = "running", time.monotonic()
        try:
            self.process = self._launch(threads)
        except OSError as error:
            self.fault = f"it could not be started: {error}"

    def _launch(self, threads: int) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), PARENT: str(os.getpid())}
            return subprocess.Popen(self.command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def ended(self) -> bool:
        """Whether it was running and now is not; its state says how it ended."""
        if self.state != "running":
            return False
        code = 1 if self.process is None else self.process.poll()
        if code is None:
            return False
        self.state = "failed" if code else "done"
        return True

    @property
    def minutes(self) -> float:
        """Since it was started."""
        return (time.monotonic() - self.started) / 60

    def last_line(self) -> str:
        """What it printed last."""
        if self.fault:
            return self.fault
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("cbdm: ") if lines else "it printed nothing"


def run_children(
    children: Sequence[Child],
    at_once: int,
    *,
    threads: int = 1,
    ended: Callable[[Child], None],
    look: Callable[[], None] = lambda: None,
) -> int | None:
    """Run those that wait, so many at a time; Ctrl-C and SIGTERM end them, each at a good place.

    Args:
        children: to run, in this order; a state other than "waiting" is left alone.
        at_once: processes, ≥ 1.
        threads: of each.
        ended: called with each as it ends.
        look: called at every look at them.

    Returns:
        The signal that stopped it, None where all ended by themselves.
    """
    with asked_to_stop() as came:
        try:
            while not came and any(child.state in ("waiting", "running") for child in children):
                for child in children:
                    if child.ended():
                        ended(child)
                running = sum(child.state == "running" for child in children)
                for child in [child for child in children if child.state == "waiting"][: at_once - running]:
                    child.start(threads)
                look()
                time.sleep(_POLL)
        finally:
            _stop(children)
    return came[0] if came else None


def _stop(children: Sequence[Child]) -> None:
    """Let each child save where it stands; the terminal has sent it the interrupt too."""
    processes = [child.process for child in children if child.process is not None]
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        process.wait()

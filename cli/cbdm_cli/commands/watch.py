"""`cbdm watch`: how a training in a run folder stands, redrawn as it goes; it only reads the folder."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time
from typing import Any

from cbdm_cli.durations import duration
from cbdm_cli.live import LiveView
from cbdm_cli.locking import holder
from cbdm_cli.run_folder import (
    COMPARISON_FILE,
    SCORES_FILE,
    is_record,
    is_scored,
    is_step,
    parsed_line,
    read_records,
)
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.scores import digits_of, label_of
from cbdm_core.reading import clean_text, regular_file
from cbdm_core.run_config import read_config

__all__ = ["Standing", "Tail", "standing", "watch_run"]

_RECORDS = 100  # the last records, whose means are shown


class Tail:
    """The last records of a `metrics.jsonl`, reading only what is new.

    Args:
        path: the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.records, self._offset = path, deque[dict[str, Any]](maxlen=_RECORDS), 0

    def read(self) -> list[dict[str, Any]]:
        """The records now; a line that is still being written waits."""
        size = regular_file(self.path).stat().st_size if self.path.exists() else 0
        if size < self._offset:  # a run that was gone on with from an earlier step
            self.records.clear()
            self._offset = 0
        if size > self._offset:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read(size - self._offset)
            whole = text[: text.rfind(b"\n") + 1]
            self._offset += len(whole)
            parsed = map(parsed_line, whole.decode("utf-8", errors="replace").splitlines()[-_RECORDS:])
            self.records.extend(record for record in parsed if is_record(record))
        return list(self.records)


@dataclass(frozen=True)
class Standing:
    """How a training stands.

    Args:
        step: steps done, by the last record.
        steps: of the whole training.
        rate: steps a second, None where it is not known yet.
        losses: means over the last records: of the loss, its terms, and the denoising loss of each class group.
        scores: (step, the scores there) of the last judging, None before the first.
        silent: seconds since the last record.
        at_work: whether a process holds the folder.
        finished: whether the last step is done, and judged or left by everybody.
        evaluated: whether the evaluation is there.
        grid: the newest grid of samples, None if there is none.
    """

    step: int
    steps: int
    rate: float | None
    losses: dict[str, float]
    scores: tuple[int, dict[str, float]] | None
    silent: float
    at_work: bool
    finished: bool
    evaluated: bool
    grid: Path | None

    def lines(self) -> list[str]:
        """The facts, a line each."""
        share = self.step / max(self.steps, 1)
        head = f"step {self.step:,} of {self.steps:,} ({share:.0%})"
        if self.finished:
            head += " · finished and evaluated" if self.evaluated else " · finished, not evaluated"
        elif not self.at_work:
            head += " · stopped: no process is at work in the folder; cbdm train --resume goes on with it"
        elif self.step >= self.steps:
            head += " · trained, its end is under way"
        elif self.rate:
            left = duration(max((self.steps - self.step) / self.rate, 1))
            head += f" · {self.rate:.3g} steps a second · about {left} left"
            if self.silent > max(30.0, 100 / self.rate):
                head += f" · no record for {duration(self.silent)}"
        width = max((len(name) for name in self.losses), default=0)
        lines = [head, *(f"{name:<{width}}  {value:.4f}" for name, value in self.losses.items())]
        if self.scores:
            at, scores = self.scores
            told = (f"{clean_text(label_of(name))} {value:.{digits_of(name)}f}" for name, value in scores.items())
            lines.append(f"at step {at:,}: {', '.join(told)}")
        return lines


def standing(path: Path, tail: Tail, seen: deque[tuple[float, int]], now: float) -> Standing:
    """How the run stands now.

    Args:
        path: the run folder.
        tail: of its records.
        seen: (time, step) of earlier looks, to which this one is added.
        now: seconds since the epoch.

    Raises:
        CbdmError: the folder is no run.
    """
    at_work = _held(path)  # first: what a run wrote before it let go is then read
    config, records = read_config(path), tail.read()
    saved = _saved(path)
    step = max(records[-1]["step"] if records else 0, saved[-1][0] if saved else 0)
    written = tail.path.stat().st_mtime if tail.path.exists() else now
    if not seen or seen[-1][1] != step:
        seen.append((written, step))
    losses = {"loss": _mean(records, lambda r: r["loss"])} if records else {}
    for kind in ("terms", "groups"):
        names = dict.fromkeys(name for record in records for name in record.get(kind, {}))
        losses |= {clean_text(name): _mean(records, lambda r, k=kind, n=name: r.get(k, {}).get(n)) for name in names}
    grids = sorted((path / "grids").glob("step-*.png"))
    steps = _steps(config, step)
    evaluated = (path / "evaluation.json").exists()
    finished = step >= steps and (evaluated or not at_work)
    scores, grid = _last_scores(path / SCORES_FILE), grids[-1] if grids else None
    rate, silent = _rate(path, seen, saved), now - written
    return Standing(step, steps, rate, losses, scores, silent, at_work, finished, evaluated, grid)


def _last_scores(file: Path) -> tuple[int, dict[str, float]] | None:
    records = read_records(file) if file.exists() else []
    known = [r for r in records if is_scored(r)]
    return (known[-1]["step"], known[-1]["scores"]) if known else None


def _mean(records: list[dict[str, Any]], value: Any) -> float:
    there = [v for record in records if (v := value(record)) is not None]
    return math.fsum(v / len(there) for v in there)  # whose sum may be more than a float holds


def _held(path: Path) -> bool:
    """Whether a process is at work in the folder; a lock that cannot be read is somebody's."""
    try:
        return holder(path) is not None
    except CbdmError:
        return True


def _steps(config: Mapping[str, Any], step: int) -> int:
    steps = config["training"].get("steps") if isinstance(config.get("training"), dict) else None
    return steps if is_step(steps) else step


def _saved(path: Path) -> list[tuple[int, float]]:
    """(step, when it was written) of the checkpoints, the newest last; one that is being removed is none."""
    found = []
    for folder in (path / "checkpoints").glob("step-*"):
        state = folder / "state.json"
        if folder.name.removeprefix("step-").isdecimal() and state.exists():
            with suppress(FileNotFoundError):
                found.append((int(folder.name.removeprefix("step-")), state.stat().st_mtime))
    return sorted(found)


def _rate(path: Path, seen: deque[tuple[float, int]], saved: list[tuple[int, float]]) -> float | None:
    """Steps a second over the looks so far; at the first look since the newest checkpoint but one, or the start."""
    points = list(seen)
    if len(points) < 2 or points[-1][0] - points[0][0] < 1:
        begin = saved[-2] if len(saved) > 1 else (0, (path / "config.toml").stat().st_mtime)
        points = [(begin[1], begin[0]), points[-1]]
    (first, low), (last, high) = points[0], points[-1]
    return (high - low) / (last - first) if last > first and high > low else None


def watch_run(path: Path, every: float, once: bool) -> None:
    """Show how a run stands, again and again until it is finished; `once`, or without a terminal, one time.

    Raises:
        CbdmError: the folder is no run, or an interval of 0 or less.
    """
    if not every > 0:
        raise CbdmError(f"--every {every}: the seconds between two looks must be above 0")
    if (path / COMPARISON_FILE).exists():
        raise CbdmError(f"{path} is a comparison, not a run: name one of its runs, {path}/runs/METHOD/seed-N")
    tail, seen = Tail(path / "metrics.jsonl"), deque[tuple[float, int]](maxlen=60)
    live = LiveView(str(path))
    now = standing(path, tail, seen, time())
    if once or not live.tty:
        live.print(now.lines(), now.grid)
        return
    with live:
        while not now.finished:
            live.show(now.lines(), now.grid)
            sleep(every)
            now = standing(path, tail, seen, time())
    live.print(now.lines(), now.grid)

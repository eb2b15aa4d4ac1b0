"""The run folder: numbered, never overwritten, and safe to write to until the disk is full."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from cbdm_cli.locking import contents, held
from cbdm_cli.naming import path_name
from cbdm_core.errors import CbdmError
from cbdm_core.reading import regular_file
from cbdm_core.writing import WRITING, plain_write_errors, replacing

if TYPE_CHECKING:  # plans and pages are read without torch
    from cbdm_core.training import TrainRecord

__all__ = [
    "COMPARISON_FILE",
    "SCORES_FILE",
    "Metrics",
    "Records",
    "claimed_folder",
    "environment",
    "is_finite",
    "is_record",
    "is_scored",
    "is_step",
    "launch_id",
    "launch_of",
    "new_folder",
    "occupied",
    "parsed_line",
    "read_records",
    "write_json",
    "write_tensors",
    "write_text",
]

COMPARISON_FILE = "compare.json"  # what a comparison asks for
SCORES_FILE = "scores.jsonl"  # what was scored while training
_MOST_STEPS = (1 << 63) - 1
_BEGUN = ("environment.json", "law_data.safetensors")  # what is written before a configuration


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder of a new run: `out`, or the next free `runs/NAME-NNN`.

    Raises:
        CbdmError: `out` is not empty, is a file, or cannot be made.
    """
    if out is not None:
        return _claim(out)
    root, name = Path("runs"), path_name(name, "preset")
    with plain_write_errors(root):
        root.mkdir(exist_ok=True)
        pattern = re.compile(rf"{re.escape(name)}-(\d+)$")
        taken = [int(found[1]) for p in root.iterdir() if (found := pattern.match(p.name))]
        number = max(taken, default=0) + 1
        while True:  # another process may take the number between the look and the making
            folder = root / f"{name}-{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1


@contextmanager
def claimed_folder(out: Path | None, name: str, what: str) -> Iterator[Path]:
    """A new folder, as `new_folder` makes it, that this process alone holds for the time of the block.

    Args:
        out: the folder, None for the next free one.
        name: of the preset, for `runs/NAME-NNN`.
        what: runs in it, for messages.

    Raises:
        CbdmError: as `new_folder`, or another process was quicker.
    """
    folder = new_folder(out, name)
    with held(folder, what):
        if there := occupied(folder):  # between the look and the lock
            raise CbdmError(f"--out {folder} is not empty, it has {there[0].name}: choose a new folder")
        yield folder


def occupied(folder: Path) -> list[Path]:
    """What lies in a folder and is no leftover of a run that was killed before its configuration was there."""
    there = contents(folder)
    if any(path.name == "config.toml" for path in there):
        return there
    return [path for path in there if path.name not in _BEGUN and not path.name.startswith(WRITING)]


def _claim(out: Path) -> Path:
    with plain_write_errors(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise CbdmError(f"--out {out} cannot be made: a file stands in the way; choose another folder") from None
        if occupied(out):
            raise CbdmError(f"{out} is not empty: choose a new folder{_way_on(out)}")
        if not os.access(out, os.W_OK):
            raise CbdmError(f"--out {out} cannot be written to: choose another folder")
    return out


def _way_on(out: Path) -> str:
    """How to continue what lies in a folder, where that is a run or a comparison."""
    begun = [*out.glob("checkpoints/*")]
    if (out / "environment.json").is_file() and (not begun or [*out.glob("checkpoints/*/optimizer.pt")]):
        return f", or continue with cbdm train --resume {shlex.quote(str(out))}"
    return f", or continue with cbdm compare {shlex.quote(str(out))}" if (out / COMPARISON_FILE).is_file() else ""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CbdmError: the disk is full or the path cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, whole or not at all; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def launch_id() -> str | None:
    """What torchrun calls this launch, the same in all its restarts and on all its nodes; None where it has no name."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name in (None, "none") else name


def launch_of(run: Path) -> str | None:
    """The `launch_id` that a run was begun under; None where its environment does not say."""
    try:
        name = json.loads((run / "environment.json").read_text(encoding="utf-8")).get("launch")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


def environment(command: list[str], device: str) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    import torch

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "command": command,
        **({"launch": launch} if (launch := launch_id()) else {}),
        "device": device,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: installed(name) for name in ("cbdm", "torch", "numpy", "scipy", "einops", "safetensors")},
    }


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


class Records:
    """A file of one record a line, each with its step; on resume the lines after the checkpoint's step go.

    Args:
        path: the file.
        step: keep the records up to this step.
        valid: whether a line is a record of this file.
    """

    def __init__(self, path: Path, step: int, valid: Callable[[Any], bool]) -> None:
        self.path = path
        known = [r for r in read_records(path) if valid(r)] if path.exists() else []
        self.before = [r for r in known if r["step"] <= step]
        write_text(path, "".join(json.dumps(r) + "\n" for r in self.before))
        with plain_write_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def append(self, value: Mapping[str, Any]) -> None:
        """Append one record and hand it to the system."""
        with plain_write_errors(self.path):
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        with plain_write_errors(self.path):
            self._file.close()


class Metrics(Records):
    """`metrics.jsonl`, a training's losses."""

    def __init__(self, path: Path, step: int = 0) -> None:
        super().__init__(path, step, is_record)

    def write(self, record: TrainRecord) -> None:
        """Append the record of one step."""
        value = asdict(record)
        if not math.isfinite(record.grad_norm):  # an overflow that the loss scaler skipped; JSON has no infinity
            value["grad_norm"] = None
        self.append(value)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line cut short by a crash is left out.

    Raises:
        CbdmError: a folder, pipe or device is called so.
    """
    parsed = map(parsed_line, regular_file(path).read_text(encoding="utf-8", errors="replace").splitlines())
    return list(takewhile(lambda record: record is not None, parsed))


def parsed_line(line: str) -> Any:
    """The JSON of a line; None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def is_record(value: Any) -> bool:
    """Whether a line is what `Metrics.write` writes, as far as pictures and pages read it."""
    if not isinstance(value, dict) or not is_step(value.get("step")) or not is_finite(value.get("loss")):
        return False
    tables = [value.get(name, {}) for name in ("terms", "groups")]
    laws = value.get("laws", {})
    return (
        all(isinstance(table, dict) and all(map(is_finite, table.values())) for table in tables)
        and isinstance(laws, dict)
        and all(isinstance(law, list) and all(map(is_finite, law)) for law in laws.values())
    )


def is_scored(value: Any) -> bool:
    """Whether a line of `scores.jsonl` is one."""
    return (
        isinstance(value, dict)
        and is_step(value.get("step"))
        and isinstance(value.get("scores"), dict)
        and all(map(is_finite, value["scores"].values()))
    )


def is_step(value: Any) -> TypeGuard[int]:
    """Whether it is a number of steps that a checkpoint can have."""
    return isinstance(value, int) and 0 <= value <= _MOST_STEPS


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number that a float holds; whole numbers of JSON may be of any length."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max

"""`cbdm sample`: draw from a run, as a grid, a folder of images, or arrays."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_cli import pictures, render
from cbdm_cli.affordable import check_samples, check_steps
from cbdm_cli.config import validated
from cbdm_cli.evaluator import drawn_with_bar, solver
from cbdm_cli.naming import path_name
from cbdm_cli.resolve import with_sampling
from cbdm_cli.run_folder import claimed_folder
from cbdm_core.conditions import Classes
from cbdm_core.data.dataset import to_uint8
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.generation import conditions_for, cyclic_labels, labels_from
from cbdm_core.priors import LabelPrior, make_law
from cbdm_core.run import Run, load_run
from cbdm_core.writing import WRITING, plain_write_errors, replacing

_SUFFIXES = {"grid": ".png", "npz": ".npz", "folder": ""}  # of each format

__all__ = ["Asked", "conditions_of", "labels_of", "sample_run"]


def labels_of(text: str, n: int | None, run: Run, seed: int) -> Tensor:
    """The labels that `--labels` names.

    Args:
        text: cyclic, a law with probabilities, or labels parted by commas.
        n: how many; 16 a class by default, or as many as are listed (a list is repeated up to `n`).
        run: for its classes and counts.
        seed: of labels drawn from a law.

    Raises:
        CbdmError: a label outside [0, K), an unknown law, or the null law.
    """
    classes = len(run.counts)
    if text == "cyclic":
        return cyclic_labels(n or 16 * classes, classes)
    if re.fullmatch(r"\s*-?[0-9]{1,9}\s*(,\s*-?[0-9]{1,9}\s*)*", text):
        listed = torch.tensor([int(part) for part in text.split(",")])
        wrong = [int(y) for y in listed if not 0 <= y < classes]
        if wrong:
            raise CbdmError(f"--labels {text}: label {wrong[0]} is out of range; the run has labels 0 … {classes - 1}")
        return listed[torch.arange(n or len(listed)) % len(listed)]
    law = make_law(text, run.counts)
    if law.learns:  # what this run has learned, not a law at its start
        law = next((known for known in run.laws.values() if known.learns), None)
        if law is None:
            raise CbdmError(f"--labels {text}: this run has learned no law; try uniform, training or power:0.5")
    if not isinstance(law, LabelPrior):
        raise CbdmError(f"--labels {text}: this law has no label to draw; try uniform, training or power:0.5")
    return labels_from(law, n or 16 * classes, seed)


def conditions_of(texts: Sequence[str], n: int | None, run: Run) -> Tensor:
    """The conditions that `--condition` names, each as numbers parted by commas, repeated up to n.

    Raises:
        CbdmError: a run that is told labels, numbers that are none, or of another length than the run's conditions.
    """
    if isinstance(run.space, Classes):
        raise CbdmError(f"--condition {texts[0]}: this run is told labels; use --labels, for example --labels 3,3,7")
    dtype, size = run.law_data["conditions"].dtype, run.law_data["conditions"].shape[1]
    rows = []
    for text in texts:
        try:
            row = [float(part) for part in text.split(",")]
        except ValueError:
            row = []
        allowed = "numbers" if dtype.is_floating_point else "0 or 1"
        if len(row) != size or not (all(map(math.isfinite, row)) if dtype.is_floating_point else {*row} <= {0, 1}):
            raise CbdmError(f"--condition {text!r}: this run is told {size} values ({allowed}), parted by commas")
        rows.append(row)
    return torch.tensor(rows).to(dtype)[torch.arange(n or 16 * len(rows)) % len(rows)]


@dataclass(frozen=True)
class Asked:
    """What `cbdm sample` was asked to draw.

    Args:
        labels: `--labels`.
        conditions: `--condition`, none of them for conditions of the training set by label.
        n: `--n`.
        prior: the law of `--unconditional --prior`; None draws under conditions.
    """

    labels: str = "cyclic"
    conditions: Sequence[str] = ()
    n: int | None = None
    prior: str | None = None


def _conditions_of(asked: Asked, run: Run, seed: int) -> tuple[Tensor, Tensor, tuple[str, ...], Sequence[int | None]]:
    """(label of each sample, what the network is told, class names, counts)."""
    if asked.n is not None and asked.n < 1:
        raise CbdmError(f"--n must be 1 or more, got {asked.n}")
    if asked.prior is not None:
        count = asked.n or 16 * len(run.counts)
        zeros = torch.zeros(count, dtype=torch.long)
        return zeros, zeros, (f"law {asked.prior}",), [None]
    if asked.conditions:
        conditions = conditions_of(asked.conditions, asked.n, run)
        labels = torch.arange(len(conditions)) % len(asked.conditions)
        return labels, conditions, tuple(asked.conditions), [None] * len(asked.conditions)
    labels = labels_of(asked.labels, asked.n, run, seed)
    conditions = labels
    if not isinstance(run.space, Classes):
        conditions = conditions_for(labels, run.law_data["conditions"], run.law_data["labels"])
    return labels, conditions, run.class_names, run.counts.tolist()


def sample_run(path: Path, asked: Asked, options: dict[str, Any], format_: str, out: Path | None, device: str) -> None:
    """Draw, and write in the format asked for."""
    if format_ not in _SUFFIXES:
        raise unknown_name("format", format_, _SUFFIXES)
    run = load_run(path, device=device)
    if asked.prior is not None and options.get("sampler") is None:
        # The tracked weights are those of a path with noise; 25 steps of a solver without would be rough.
        options = {**options, "sampler": "ddim", "options": {"eta": 1.0}, "steps": options.get("steps") or 100}
    config = with_sampling(validated(run.config), options)
    check_steps("sampling.steps", config.sampling.steps)
    if asked.n is not None:
        check_samples("--n", asked.n, run.shape, asked.n)
    labels, conditions, names, counts = _conditions_of(asked, run, config.seed)
    if format_ == "folder" and not _drawable(run.shape):
        raise CbdmError(
            f"--format folder needs images of 1 or 3 channels, the run has shape {run.shape}: try --format npz"
        )
    if format_ == "folder":
        for name in names:  # of classes; they may come from a file of somebody else's
            path_name(name, "class name", "use --format npz")
    solver(config, run.network, run.schedule, asked.prior)  # a mistake should show before a folder is made
    where = next(run.network.parameters()).device
    if format_ != "folder":
        _refuse_place(out)
    folder = claimed_folder(out or _next_free(path, format_), "drawn", "cbdm sample") if format_ == "folder" else None
    with folder or nullcontext(None) as target:
        x = drawn_with_bar(config, run.network, run.schedule, conditions, run.shape, where, unconditional=asked.prior)
        drawn = _Drawn(x, labels, conditions, names, counts)
        if target is None:
            target = _write_file(path, out, format_, drawn)
        else:
            _write_folder(target, drawn)
    under = f"under the law {asked.prior}, without conditions"
    render.note(f"{len(x)} samples {under if asked.prior else f'at ω = {config.sampling.omega}'}: {target}")


def _drawable(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _refuse_place(out: Path | None) -> None:
    """A mistake in --out should show before anything is drawn."""
    if out is not None and out.exists():
        raise CbdmError(f"--out {out} is there already: choose another name")
    if out is not None and not out.parent.is_dir():
        raise CbdmError(f"--out {out}: {out.parent} is no folder; make it first or choose another place")


def _write_file(path: Path, out: Path | None, format_: str, drawn: _Drawn) -> Path:
    """Write the one file, which appears whole and never over another, not even one of a process that runs beside."""
    beside = out or _next_free(path, format_)
    temporary = beside.with_name(f"{WRITING}{os.getpid()}-new{beside.suffix or _SUFFIXES[format_]}")
    try:
        _WRITERS[format_](temporary, drawn)
        with plain_write_errors(beside):
            return _linked(temporary, path, out, format_)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path, out: Path | None, format_: str) -> Path:
    """A link is made where nothing is, or not at all; where the next number went to another, the one after it."""
    while True:
        target = out or _next_free(path, format_)
        try:
            os.link(temporary, target)
            return target
        except FileExistsError:
            _refuse_place(out)
        except OSError:  # a file system without links
            _refuse_place(out)
            return temporary.replace(target)


def _next_free(path: Path, format_: str) -> Path:
    taken = {p.stem for p in path.glob("drawn-*")}
    number = next(i for i in range(1, len(taken) + 2) if f"drawn-{i:03d}" not in taken)
    return path / f"drawn-{number:03d}{_SUFFIXES[format_]}"


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Samples, their labels, what the network was told of each, and the classes' names and training counts."""

    x: Tensor
    labels: Tensor
    conditions: Tensor
    names: Sequence[str]
    counts: Sequence[int | None]


def _write_grid(target: Path, drawn: _Drawn) -> None:
    pictures.samples(target, _drawable(tuple(drawn.x.shape[1:])), drawn.x, drawn.labels, drawn.names, drawn.counts)


def _write_npz(target: Path, drawn: _Drawn) -> None:
    """Arrays that the npz data source reads back; what was told, where that is no label, as `conditions`."""
    images = drawn.x.ndim > 2
    values = to_uint8(drawn.x).movedim(1, -1).numpy() if images else drawn.x.numpy()
    if images and values.shape[-1] == 1:
        values = values[..., 0]
    arrays: dict[str, Any] = {"images": values, "labels": drawn.labels.numpy(), "class_names": np.array(drawn.names)}
    arrays |= {"conditions": drawn.conditions.numpy()} if drawn.conditions.ndim > 1 else {}
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_folder(target: Path, drawn: _Drawn) -> None:
    """A folder per class and a PNG per sample, which the folder data source reads back."""
    for number, (sample, label) in enumerate(zip(drawn.x, drawn.labels.tolist(), strict=True)):
        with replacing(target / str(drawn.names[label]) / f"{number:06d}.png") as temporary:
            temporary.parent.mkdir(exist_ok=True)
            pictures.as_image(sample).save(temporary, format="PNG")


_WRITERS: dict[str, Callable[[Path, _Drawn], None]] = {
    "grid": _write_grid,
    "npz": _write_npz,
}

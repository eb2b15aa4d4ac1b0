"""`cbdm sample`: draw from a run, as a grid, a folder of images, or arrays."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_cli import pictures, render
from cbdm_cli.affordable import check_samples, check_steps
from cbdm_cli.config import Config, flat, validated
from cbdm_cli.durations import duration
from cbdm_cli.evaluator import drawn_in_batches, solver
from cbdm_cli.naming import path_name
from cbdm_cli.resolve import with_sampling
from cbdm_cli.run_folder import new_folder
from cbdm_cli.streams import MANIFEST, stream
from cbdm_core.conditions import Classes, Condition
from cbdm_core.data.dataset import to_uint8
from cbdm_core.distributed import World, join, leave
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.generation import conditions_for, cyclic_labels, labels_from
from cbdm_core.numerics import in_precision
from cbdm_core.priors import LabelPrior, make_law
from cbdm_core.run import Run, load_run
from cbdm_core.writing import WRITING, plain_write_errors, replacing

_SUFFIXES = {"grid": ".png", "npz": ".npz", "folder": "", "shards": ""}  # of each format

__all__ = ["Asked", "asked_for", "conditions_of", "labels_of", "sample_run"]


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


def asked_for(
    labels: str | None,
    conditions: Sequence[str],
    n: int | None,
    prior: str | None,
    guided: Mapping[str, Any],
    tracked: Mapping[str, Any],
    *,
    unconditional: bool,
) -> Asked:
    """What the options ask for, None where not given.

    Raises:
        CbdmError: options that do not go together.
    """
    if unconditional and (labels is not None or conditions or any(value is not None for value in guided.values())):
        raise CbdmError("--unconditional shows the network no condition: leave out --labels, --condition, --omega, …")
    if prior is not None and not unconditional:
        raise CbdmError(f"--prior {prior} goes with --unconditional; labels drawn from a law are --labels {prior}")
    tracks = unconditional or guided["guidance_prior"] is not None
    if not tracks and any(value is not None for value in tracked.values()):
        raise CbdmError("--temperature, --top-k and --track-every need --guidance-prior LAW or --unconditional")
    if conditions and labels is not None:
        raise CbdmError("--labels and --condition both say what to draw: give one of them")
    return Asked(labels or "cyclic", conditions, n, (prior or "uniform") if unconditional else None)


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


def sample_run(
    path: Path,
    asked: Asked,
    options: dict[str, Any],
    format_: str,
    out: Path | None,
    device: str,
    *,
    shard_size: int = 10_000,
    dry_run: bool = False,
) -> None:
    """Draw on all ranks, and write in the format asked for; folders and shards as the samples come."""
    if format_ not in (*_WRITERS, *_STREAMS):
        raise unknown_name("format", format_, [*_WRITERS, *_STREAMS])
    world = join(device)
    try:
        drawing = _drawing(path, asked, options, world)
        _refuse_format(format_, drawing)
        if dry_run:
            render.note(_estimate(drawing))
        elif format_ in _STREAMS:
            _stream(drawing, path, asked, format_, out, shard_size)
        else:
            _at_once(drawing, path, format_, out)
    finally:
        leave()


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What is drawn: from which run, how, under which conditions, and on which processes."""

    run: Run
    config: Config
    labels: Tensor
    conditions: Tensor
    names: tuple[str, ...]
    counts: Sequence[int | None]
    prior: str | None
    world: World

    def batches(self, first: int = 0, end: int | None = None) -> Iterator[Tensor]:
        """The samples of numbers first … end − 1."""
        run, world = self.run, self.world
        asked = self.conditions[:end]
        return drawn_in_batches(
            self.config,
            run.network,
            run.schedule,
            asked,
            run.shape,
            world.device,
            unconditional=self.prior,
            world=world,
            first=first,
        )

    def drawn(self, x: Tensor, first: int = 0) -> _Drawn:
        """Samples from number `first` on, with what belongs to them."""
        here = slice(first, first + len(x))
        own = self.run.own_units(x)
        return _Drawn(own, self.run.is_images, self.labels[here], self.conditions[here], self.names, self.counts, first)

    def under(self) -> str:
        """How, in a phrase."""
        if self.prior:
            return f"under the law {self.prior}, without conditions"
        return f"at ω = {self.config.sampling.omega}"


def _drawing(path: Path, asked: Asked, options: dict[str, Any], world: World) -> _Drawing:
    run = load_run(path, device=str(world.device))
    if asked.prior is not None and options.get("sampler") is None:
        # The tracked weights are those of a path with noise; 25 steps of a solver without would be rough.
        options = {**options, "sampler": "ddim", "options": {"eta": 1.0}, "steps": options.get("steps") or 100}
    config = with_sampling(validated(run.config), options)
    check_steps("sampling.steps", config.sampling.steps)
    if asked.n is not None:
        check_samples("--n", asked.n, run.shape, asked.n)
    conditions = _conditions_of(asked, run, config.seed)
    solver(config, run.network, run.schedule, asked.prior)  # a mistake should show before a folder is made
    return _Drawing(run, config, *conditions, asked.prior, world)


def _refuse_format(format_: str, drawing: _Drawing) -> None:
    if format_ == "folder":
        if not (drawing.run.is_images and _drawable(drawing.run.shape)):
            raise CbdmError(
                f"--format folder needs images of 1 or 3 channels, the run has {_what(drawing.run)}: try --format npz"
            )
        for name in drawing.names:  # of classes; they may come from a file of somebody else's
            path_name(name, "class name", "use --format npz")


def _at_once(drawing: _Drawing, path: Path, format_: str, out: Path | None) -> None:
    if drawing.world.leads:
        _refuse_place(out)
    x = torch.cat(list(drawing.batches()))
    if drawing.world.leads:
        target = _write_file(path, out, format_, drawing.drawn(x))
        render.note(f"{len(x)} samples {drawing.under()}: {target}")


def _stream(drawing: _Drawing, path: Path, asked: Asked, format_: str, out: Path | None, shard_size: int) -> None:
    """Write shard by shard; a folder that holds a part of the same request is gone on with."""
    if shard_size < 1:
        raise CbdmError(f"--shard-size must be 1 or more, got {shard_size}")
    config, total = drawing.config, len(drawing.conditions)
    request = {
        "format": format_,
        "n": total,
        "shard_size": shard_size,
        "run": str(path.resolve()),
        "training_steps": drawing.run.step,
        "seed": config.seed,
        **flat(asdict(asked), "asked"),
        **flat(config.sampling.model_dump(mode="json"), "sampling"),
    }
    request = json.loads(json.dumps(request))  # as it is read back
    target = path
    if drawing.world.leads:
        going_on = out is not None and (out / MANIFEST).is_file()
        target = out if going_on and out is not None else new_folder(out or _next_free(path, format_), "")

    def write(folder: Path, first: int, x: Tensor) -> None:
        _STREAMS[format_](folder, drawing.drawn(x, first))

    before = stream(target, request, total, shard_size, drawing.batches, write, drawing.world)
    if drawing.world.leads:
        earlier = f" ({before} of them from before)" if before else ""
        render.note(f"{total} samples{earlier} {drawing.under()}: {target}")


def _estimate(drawing: _Drawing) -> str:
    """What the drawing would take, from one solver step of its first batch."""
    config, world, count = drawing.config, drawing.world, len(drawing.conditions)
    sampling = config.sampling
    batches = math.ceil(count / sampling.batch_size)
    network, sampler = solver(
        config, in_precision(drawing.run.network, sampling.precision), drawing.run.schedule, drawing.prior
    )
    rows = torch.arange(min(count, sampling.batch_size))
    seconds = []
    for _ in range(2):  # the first warms up
        c, draws = Condition.of(drawing.conditions[rows].to(world.device)), Draws(0, 0, rows.to(world.device))
        start = perf_counter()
        next(sampler.trajectory(network, c, drawing.run.shape, steps=sampling.steps, draws=draws)).sum().item()
        seconds.append(perf_counter() - start)
    each = min(seconds) * sampling.steps
    turns = math.ceil(batches / world.size)
    return (
        f"would draw {count:,} samples {drawing.under()} in {batches:,} batches of {len(rows):,}, {sampling.steps} "
        f"steps of {sampling.sampler} each: about {duration(each * turns)} on {world.size} × {world.device}; nothing "
        "was written"
    )


def _drawable(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _what(run: Run) -> str:
    return f"shape {run.shape}" if run.is_images else f"floats of shape {run.shape}"


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
    """Samples and what belongs to them.

    Args:
        x: (M, …) images in [−1, 1], or floats in their own units.
        images: which of the two.
        labels: (M,) long.
        conditions: what the network was told.
        names: of the classes.
        counts: training examples of each class.
        first: the number of the first sample.
    """

    x: Tensor
    images: bool
    labels: Tensor
    conditions: Tensor
    names: Sequence[str]
    counts: Sequence[int | None]
    first: int = 0


def _write_grid(target: Path, drawn: _Drawn) -> None:
    pictures.samples(target, drawn.images, drawn.x, drawn.labels, drawn.names, drawn.counts)


def _write_npz(target: Path, drawn: _Drawn) -> None:
    """Arrays that the npz data source reads back; what was told, where that is no label, as `conditions`."""
    values = to_uint8(drawn.x).movedim(1, -1).numpy() if drawn.images else drawn.x.numpy()
    if drawn.images and values.shape[-1] == 1:
        values = values[..., 0]
    arrays: dict[str, Any] = {"images": values, "labels": drawn.labels.numpy(), "class_names": np.array(drawn.names)}
    arrays |= {"conditions": drawn.conditions.numpy()} if drawn.conditions.ndim > 1 else {}
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _write_folder(target: Path, drawn: _Drawn) -> None:
    """A folder per class and a PNG per sample, which the folder data source reads back."""
    for number, (sample, label) in enumerate(zip(drawn.x, drawn.labels.tolist(), strict=True), drawn.first):
        with replacing(target / str(drawn.names[label]) / f"{number:06d}.png") as temporary:
            temporary.parent.mkdir(exist_ok=True)
            pictures.as_image(sample).save(temporary, format="PNG")


def _write_shard(target: Path, drawn: _Drawn) -> None:
    """One npz of a shard, named by the number of its first sample."""
    _write_npz(target / f"samples-{drawn.first:09d}.npz", drawn)


_WRITERS: dict[str, Callable[[Path, _Drawn], None]] = {"grid": _write_grid, "npz": _write_npz}
_STREAMS: dict[str, Callable[[Path, _Drawn], None]] = {"folder": _write_folder, "shards": _write_shard}

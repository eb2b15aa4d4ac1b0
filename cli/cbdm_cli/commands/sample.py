"""`cbdm sample`: draw from a run, as a grid, a folder of images, or arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbdm_cli import render
from cbdm_cli.config import Config, validated
from cbdm_cli.durations import duration
from cbdm_cli.limits import check_samples, check_steps
from cbdm_cli.locking import held
from cbdm_cli.naming import path_name
from cbdm_cli.overlay import flat
from cbdm_cli.resolve import with_sampling
from cbdm_cli.run_folder import new_folder
from cbdm_cli.sample_files import STREAMS, WRITERS, Drawn, next_free, refuse_place, write_file
from cbdm_cli.sample_request import SampleRequest, conditions_to_draw
from cbdm_cli.sampling import drawn_in_batches, solver
from cbdm_cli.sampling_cost import sampling_cost
from cbdm_cli.streams import MANIFEST, stream
from cbdm_core.distributed import World, join, leave
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.run import Run, load_run

__all__ = ["sample_run"]


def sample_run(
    path: Path,
    request: SampleRequest,
    options: dict[str, Any],
    format_: str,
    out: Path | None,
    device: str,
    *,
    shard_size: int = 10_000,
    dry_run: bool = False,
) -> None:
    """Draw on all ranks, and write in the format asked for; folders and shards as the samples come."""
    if format_ not in (*WRITERS, *STREAMS):
        raise unknown_name("format", format_, [*WRITERS, *STREAMS])
    world = join(device)
    try:
        drawing = _drawing(path, request, options, world)
        _refuse_format(format_, drawing)
        if dry_run:
            render.note(_estimate(drawing))
        elif format_ in STREAMS:
            _stream(drawing, path, request, format_, out, shard_size)
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
        return drawn_in_batches(
            self.config,
            run.network,
            run.schedule,
            self.conditions[:end],
            run.shape,
            world.device,
            unconditional=self.prior,
            world=world,
            first=first,
        )

    def drawn(self, x: Tensor, first: int = 0) -> Drawn:
        """Samples from number `first` on, with what belongs to them."""
        here = slice(first, first + len(x))
        own = self.run.own_units(x)
        return Drawn(
            own,
            self.run.is_images,
            self.labels[here],
            self.conditions[here],
            self.names,
            self.counts,
            self.run.condition_names,
            first,
        )

    def under(self) -> str:
        """How, in a phrase."""
        if self.prior:
            return f"under the law {self.prior}, without conditions"
        return f"at ω = {self.config.sampling.omega}"


def _drawing(path: Path, request: SampleRequest, options: dict[str, Any], world: World) -> _Drawing:
    run = load_run(path, device=str(world.device))
    if request.prior is not None and options.get("sampler") is None:
        # The tracked weights are those of a path with noise; 25 steps of a solver without would be rough.
        options = {**options, "sampler": "ddim", "options": {"eta": 1.0}, "steps": options.get("steps") or 100}
    config = with_sampling(validated(run.config), options)
    check_steps("sampling.steps", config.sampling.steps)
    if request.n is not None:
        check_samples("--n", request.n, run.shape, request.n)
    conditions = conditions_to_draw(request, run, config.seed)
    solver(config, run.network, run.schedule, request.prior)  # a mistake should show before a folder is made
    return _Drawing(run, config, *conditions, request.prior, world)


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
        refuse_place(out)
    x = torch.cat(list(drawing.batches()))
    if drawing.world.leads:
        target = write_file(path, out, format_, drawing.drawn(x))
        render.note(f"{len(x)} samples {drawing.under()}: {target}")


def _stream(
    drawing: _Drawing, path: Path, request: SampleRequest, format_: str, out: Path | None, shard_size: int
) -> None:
    """Write shard by shard; a folder that holds a part of the same request is gone on with."""
    if shard_size < 1:
        raise CbdmError(f"--shard-size must be 1 or more, got {shard_size}")
    config, total = drawing.config, len(drawing.conditions)
    recorded = {
        "format": format_,
        "n": total,
        "shard_size": shard_size,
        "run": str(path.resolve()),
        "training_steps": drawing.run.step,
        "seed": config.seed,
        **flat(asdict(request), "asked"),
        **flat(config.sampling.model_dump(mode="json"), "sampling"),
    }
    recorded = json.loads(json.dumps(recorded))  # as it is read back
    target = path
    if drawing.world.leads:
        going_on = out is not None and (out / MANIFEST).is_file()
        target = out if going_on and out is not None else new_folder(out or next_free(path, format_), "")

    def write(folder: Path, first: int, x: Tensor) -> None:
        STREAMS[format_](folder, drawing.drawn(x, first))

    with held(target, "cbdm sample") if drawing.world.leads else nullcontext():
        before = stream(target, recorded, total, shard_size, drawing.batches, write, drawing.world)
    if drawing.world.leads:
        earlier = f" ({before} of them from before)" if before else ""
        render.note(f"{total} samples{earlier} {drawing.under()}: {target}")


def _estimate(drawing: _Drawing) -> str:
    """What the drawing would take, from one solver step of its first batch."""
    config, world, count = drawing.config, drawing.world, len(drawing.conditions)
    sampling = config.sampling
    batches = math.ceil(count / sampling.batch_size)
    cost = sampling_cost(
        config,
        drawing.run.network,
        drawing.run.schedule,
        drawing.conditions,
        drawing.run.shape,
        world,
        unconditional=drawing.prior,
    )
    return (
        f"would draw {count:,} samples {drawing.under()} in {batches:,} batches of "
        f"{min(count, sampling.batch_size):,}, {sampling.steps} steps of {sampling.sampler} or "
        f"{cost.evaluations()} each: {'at most' if cost.at_most else 'about'} {duration(cost.seconds)} on "
        f"{world.size} × {world.device}; nothing was written"
    )


def _drawable(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _what(run: Run) -> str:
    return f"shape {run.shape}" if run.is_images else f"floats of shape {run.shape}"

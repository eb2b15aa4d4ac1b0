"""A run is gone on with: from its newest whole checkpoint, with the same settings, data and laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import render
from cbdm_cli.assemble import Experiment, assemble
from cbdm_cli.config import Config, validated
from cbdm_cli.evaluator import check_judging
from cbdm_cli.method import method_over, only_its_parts
from cbdm_cli.overlay import flat, merged, overlaid, preset_table
from cbdm_cli.resolve import resolved
from cbdm_cli.run_data import ReadData
from cbdm_cli.run_folder import write_text
from cbdm_cli.threads import set_threads, threads_of
from cbdm_cli.trackers import check_tracker
from cbdm_cli.trainer import RunOptions, folder_held, run_training
from cbdm_cli.trust import features_option, refuse_code
from cbdm_core.checkpoint import checkpoints, load_checkpoint, read_tensors
from cbdm_core.distributed import World, join, leave
from cbdm_core.errors import CbdmError
from cbdm_core.run import LAW_DATA
from cbdm_core.run_config import read_config
from cbdm_core.training import TrainState
from cbdm_core.writing import clean

__all__ = ["first_difference", "go_on", "refuse_difference", "resume"]


def resume(
    folder: Path,
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    options: dict[str, Any],
    device: str,
    run_options: RunOptions,
) -> None:
    """Continue a run bit-identically from its newest whole checkpoint, or from step 0 before the first.

    Args:
        folder: the run.
        preset: a preset named besides; like `file`, `settings` and `options` it must agree with the run.
        file: a configuration named besides.
        settings: `a.b=v` named besides; features that run code must be.
        options: the named options; only `steps` may differ from the run's, to extend it.
        device: to compute on.
        run_options: those that change none of its numbers.

    Raises:
        CbdmError: another configuration, other data than at the start, fewer steps than are done, or features that are
            not there or that run code and are named by the run alone.
    """
    saved = resolved(read_config(folder), {})
    base = saved.model_dump(exclude={"facts"}) if preset is None else preset_table(preset)
    if preset is None and options["method"] is not None:  # options of parts that it lacks are not what differs
        base = {**base, "method": only_its_parts(method_over(base["method"], options["method"]))}
    asked = resolved(overlaid(base, file, settings), {**options, "steps": None})
    free = ("training.shard", "training.fine_tunes", *(("training.steps",) if preset and options["steps"] else ()))
    refuse_difference(folder, saved, asked, but=free)
    if "features" not in overlaid({}, file, settings).get("evaluation", {}):
        refuse_code(folder / "config.toml", saved, features_option(saved.evaluation.features))
    config = validated(merged(saved.model_dump(), {"training": _changed(saved, file, settings, options)}))
    world = join(device)
    try:
        go_on(folder, saved, config, world, run_options)
    finally:
        leave()


def _changed(saved: Config, file: Path | None, settings: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """What may be asked of a run anew: its length, and whether its network is spread over processes."""
    training = saved.training
    named = overlaid({}, file, settings).get("training", {})
    steps = training.steps if options["steps"] is None else options["steps"]
    return {"steps": steps, "shard": named.get("shard", training.shard)}


def go_on(
    folder: Path, saved: Config, config: Config, world: World, run_options: RunOptions, read: ReadData | None = None
) -> None:
    """Continue a run whose settings are known to be the same.

    Args:
        folder: the run.
        saved: its configuration.
        config: the same, but for more steps.
        world: of processes that were joined.
        run_options: those that change none of its numbers.
        read: its data, where they were read before.

    Raises:
        CbdmError: other data than at the start, fewer steps than are done, or features that are not there.
    """
    origin = None if saved.facts is None else saved.facts.origin
    experiment = assemble(config, read).with_origin(origin)
    refuse_difference(folder, config, experiment.config)
    _refuse_other_laws(folder, experiment)
    if run_options.evaluate or config.training.score_every:
        check_judging(experiment.config, experiment.full, experiment.data)
    check_tracker(run_options.log)
    set_threads(experiment, world, run_options.threads, before=threads_of(folder))
    with folder_held(folder, world, run_options):
        _from_the_newest(folder, config != saved, experiment, world, run_options)


def _from_the_newest(
    folder: Path, changed: bool, experiment: Experiment, world: World, run_options: RunOptions
) -> None:
    if world.leads:
        clean(folder)
        clean(folder / "checkpoints")
    state, steps = _newest(folder / "checkpoints", experiment, world), experiment.config.training.steps
    if steps < state.step:
        raise CbdmError(f"--steps {steps}: {folder} has {state.step} steps done already; ask for more than that")
    if world.leads and changed:
        write_text(folder / "config.toml", experiment.config.to_toml())
    run_training(experiment, state, folder, run_options)


def _newest(folder: Path, experiment: Experiment, world: World) -> TrainState:
    """The state of the newest checkpoint that is whole, or that of step 0 where none was written yet."""
    state, faults = experiment.start(world), list[str]()
    for checkpoint in reversed(checkpoints(folder)):
        try:
            load_checkpoint(checkpoint, state)
        except CbdmError as error:
            faults.append(str(error))
            continue
        if faults and world.leads:
            render.note(f"{faults[0]}: going on from {checkpoint.name} instead")
        return state
    if faults:
        raise CbdmError(f"no checkpoint in {folder} is whole; the newest: {faults[0]}")
    if origin := experiment.facts.origin:
        raise CbdmError(f"{folder} has lost the weights that it started from: start anew with --from {origin.path}")
    return state


def first_difference(saved: Config, asked: Config, but: Sequence[str] = ()) -> tuple[str, Any, Any] | None:
    """(dotted name, saved value, asked value) of a setting that differs; facts count where both have them."""
    mine, theirs = flat(saved.model_dump()), flat(asked.model_dump())
    but = [*but, "facts.condition_names"]  # nothing is computed from them, and older runs have none
    if asked.facts is None:
        but = [*but, *(key for key in {*mine, *theirs} if key.startswith("facts"))]
    differing = (key for key in sorted({*mine, *theirs} - {*but}) if mine.get(key) != theirs.get(key))
    return next(((key, mine.get(key), theirs.get(key)) for key in differing), None)


def refuse_difference(folder: Path, saved: Config, asked: Config, but: Sequence[str] = ()) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        CbdmError: one of them, but for those named in `but`, is not that of the run.
    """
    if (found := first_difference(saved, asked, but)) is not None:
        key, before, now = found
        raise CbdmError(
            f"--resume {folder} was trained with {key} = {before!r}, not {now!r}: leave out what sets it, which a "
            "preset does too, to continue, or start a new run (only --steps, --device and training.shard may change)"
        )


def _refuse_other_laws(folder: Path, experiment: Experiment) -> None:
    """A table of affinities is a file of the user's, which may have changed; the facts do not tell."""
    saved = read_tensors(folder / LAW_DATA) if experiment.law_data else {}
    for name, value in experiment.law_data.items():
        before = saved.get(name, saved.get(name.partition(".")[0]))  # version 0.1 had one similarity for all parts
        if before is None or before.shape != value.shape or not torch.allclose(before, value):
            raise CbdmError(
                f"--resume {folder}: the laws are made from another {name} than at the start, which is in {LAW_DATA}: "
                "restore it, or start a new run"
            )

"""`cbdm train`: from a configuration to a run folder."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import render
from cbdm_cli.assemble import Experiment, assemble
from cbdm_cli.config import Config
from cbdm_cli.durations import duration
from cbdm_cli.evaluator import check_judging
from cbdm_cli.initial_weights import start_from
from cbdm_cli.overlay import load_config
from cbdm_cli.own_data import own_table
from cbdm_cli.resolve import resolved
from cbdm_cli.resuming import first_difference, go_on, refuse_difference, resume
from cbdm_cli.run_data import ReadData
from cbdm_cli.run_folder import (
    environment,
    launch_id,
    launch_of,
    new_folder,
    occupied,
    write_json,
    write_tensors,
    write_text,
)
from cbdm_cli.sampling import balanced_samples, solver
from cbdm_cli.sampling_cost import sampling_cost
from cbdm_cli.threads import set_threads
from cbdm_cli.trackers import check_tracker
from cbdm_cli.trainer import RunOptions, folder_held, run_training
from cbdm_cli.training_cost import seconds_per_step, state_bytes, step_cost
from cbdm_core.checkpoint import save_checkpoint
from cbdm_core.conditions import Condition
from cbdm_core.distributed import World, join, largest_over_ranks, leave, text_of_the_leader
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.memory import gigabytes
from cbdm_core.numerics import numerics
from cbdm_core.run import LAW_DATA
from cbdm_core.run_config import read_config
from cbdm_core.training import TrainState

__all__ = ["begin_or_resume", "start"]


def begin_or_resume(
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    named: dict[str, Any],
    device: str,
    *,
    out: Path | None,
    resumed: Path | None,
    origin: Path | None,
    dry: bool,
    log: str | None,
    threads: int | None,
    evaluate: bool,
    data: Path | None,
) -> None:
    """Begin a run, or go on with the one in `resumed`, by the options of `cbdm train`.

    Raises:
        CbdmError: options that do not go together, or what `start` and `resume` raise.
    """
    run_options = RunOptions(log, threads, evaluate)
    if resumed is None:
        table, read = (
            (load_config("digits-lt" if preset is None else preset, file, settings), None)
            if data is None
            else own_table(data, preset, file, settings, named["steps"])
        )
        start(resolved(table, named), out, device, dry, run_options, origin=origin, read=read)
        return
    if out is not None or dry or origin is not None or data is not None:
        raise CbdmError(
            "--resume goes on in the run with its own weights and data: leave out --out, --dry-run, --from and --data"
        )
    resume(resumed, preset, file, settings, named, device, run_options)


def start(
    config: Config,
    out: Path | None,
    device: str,
    dry_run: bool,
    run_options: RunOptions,
    *,
    origin: Path | None = None,
    read: ReadData | None = None,
) -> None:
    """Train, sample and evaluate a new run.

    Args:
        config: of the run.
        out: its folder, None for the next free one.
        device: to compute on.
        dry_run: only say what would run, and what it takes.
        run_options: those that change none of its numbers.
        origin: a run folder or file whose weights the training starts from.
        read: its data, where they were read before.

    Raises:
        CbdmError: what does not fit, before training; a folder that is not empty or that another process holds.
    """
    check_tracker(run_options.log)
    world = join(device)
    try:
        if not dry_run and (folder := _begun_before(out, config, world)) is not None:
            _resume_the_same(config, folder, world, run_options, read)
            return
        if config.training.fine_tunes and origin is None and world.leads:
            render.note("this preset fine-tunes: without --from RUN it starts from random weights")
        experiment = _from(origin, assemble(config, read))
        # A mistake in the sampling or the judging should show before training, not after.
        solver(experiment.config, experiment.objective.network, experiment.schedule)
        if run_options.evaluate or config.training.score_every:
            check_judging(experiment.config, experiment.full, experiment.data)
        _rehearse(experiment)
        if dry_run:
            _describe(experiment, world, run_options)
            return
        set_threads(experiment, world, run_options.threads)
        state = experiment.start(world)  # settings that do not fit are refused before a folder is made
        folder = Path(text_of_the_leader(str(new_folder(out, config.preset)) if world.leads else None, world))
        with folder_held(folder, world, run_options):
            _begin(experiment, state, folder)
            run_training(experiment, state, folder, run_options)
    finally:
        leave()


def _begun_before(out: Path | None, config: Config, world: World) -> Path | None:
    """The run that this very command has begun, where torchrun starts it once more after a worker died.

    torchrun counts restarts on the node of the dead worker alone; its name for the launch is the same on all. Where
    no node counts one, a name may have been used before: only a run of the same settings without an end is meant.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    again, launch = largest_over_ranks(restarts, world) > 0, launch_id()
    if launch is None and not again:
        return None
    runs = (out,) if out is not None else sorted(Path("runs").glob(f"{glob.escape(config.preset)}-*"))
    begun = (run for run in runs if world.leads and (run / "config.toml").exists())
    named = (run for run in begun if launch is None or launch_of(run) == launch)
    found = [run for run in named if again or _same_without_end(run, config)]
    text = text_of_the_leader((str(found[-1]) if found else "") if world.leads else None, world)
    return Path(text) if text else None


def _same_without_end(run: Path, config: Config) -> bool:
    saved = resolved(read_config(run), {})
    return not (run / "evaluation.json").exists() and first_difference(saved, config) is None


def _resume_the_same(
    config: Config, folder: Path, world: World, run_options: RunOptions, read: ReadData | None
) -> None:
    """Go on with what this very command has begun."""
    saved = resolved(read_config(folder), {})
    refuse_difference(folder, saved, config)
    go_on(folder, saved, saved, world, run_options, read)


def _from(origin: Path | None, experiment: Experiment) -> Experiment:
    """The experiment with its network's weights replaced by those of `origin`, and its facts saying so."""
    if origin is None:
        return experiment
    return experiment.with_origin(start_from(origin, experiment.objective.network, experiment.data.shape))


def _begin(experiment: Experiment, state: TrainState, folder: Path) -> None:
    """What a run can be resumed from before its first checkpoint; the configuration last, for it makes it a run."""
    leads, origin = state.world.leads, experiment.facts.origin
    if leads:
        _begin_folder(experiment, folder, state.world.device)
    if origin:
        save_checkpoint(folder / "checkpoints", state)  # so that going on needs the run itself alone
    if leads and origin:
        render.note(f"starting from the averaged weights of {origin.path}, trained for {origin.step:,} steps")
    if leads:
        write_text(folder / "config.toml", experiment.config.to_toml())


def _begin_folder(experiment: Experiment, folder: Path, device: torch.device) -> None:
    if there := occupied(folder):  # another process was quicker, between the look and the lock
        raise CbdmError(f"--out {folder} is not empty, it has {there[0].name}: choose a new folder")
    write_json(folder / "environment.json", environment(sys.argv, str(device)))
    if experiment.law_data:
        write_tensors(folder / LAW_DATA, experiment.law_data)


@torch.no_grad()
def _rehearse(experiment: Experiment) -> None:
    """One pass over two examples, so that parts that do not fit one another are refused before a folder is made."""
    objective, data = experiment.objective.eval(), experiment.data
    rows = torch.arange(2) % len(data)
    objective(
        data.model_input(rows),
        Condition.of(data.condition_values(rows)),
        Draws(experiment.config.seed, 0, torch.arange(2)),
    )


def _describe(experiment: Experiment, world: World, run_options: RunOptions) -> None:
    """What a run would be and take, with nothing written."""
    parameters = sum(p.numel() for p in experiment.objective.network.parameters())
    training = experiment.config.training
    cost = step_cost(experiment, training.batch_size // world.size)
    if world.leads:
        render.aside("trying a few steps to see what they take")
    with numerics(tf32=training.tf32, determinism=training.determinism):
        state = experiment.start(world)
        seconds = seconds_per_step(state, experiment.batches, training.steps)
        evaluation = _evaluation_cost(experiment, state) if run_options.evaluate else None
    if not world.leads:
        return
    counts = experiment.data.counts().tolist()
    render.note(experiment.config.to_toml())
    render.note(
        f"would train {parameters:,} parameters on {len(experiment.data):,} examples ({counts}) on {world.device} for "
        f"{training.steps:,} steps; nothing was written"
    )
    render.note(
        f"a step: {cost.flops / 1e9:,.3g} GFLOP and about {gigabytes(cost.bytes + state_bytes(state))} of memory on "
        f"each process, {seconds:.3g} s; all steps: {duration(seconds * training.steps)}, before evaluation"
    )
    if evaluation is not None:
        render.note(evaluation)


def _evaluation_cost(experiment: Experiment, state: TrainState) -> str:
    """What the samples of the evaluation would take."""
    config, schedule, shape = experiment.config, experiment.schedule, tuple(experiment.data.shape)
    _, conditions = balanced_samples(config, experiment.full)
    cost = sampling_cost(config, state.averaged().eval(), schedule, conditions, shape, state.world)
    return (
        f"evaluation: {len(conditions):,} samples of {cost.evaluations()} each: "
        f"{duration(cost.seconds)}, without features, scores and what is drawn while it trains"
    )

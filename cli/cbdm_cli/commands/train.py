"""`cbdm train`: from a configuration to a run folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import pictures, render
from cbdm_cli.assemble import Experiment, assemble
from cbdm_cli.config import Config, Facts, Origin, flat, load_config, merged, overlaid, preset_table, validated
from cbdm_cli.durations import duration
from cbdm_cli.evaluator import Evaluator, balanced_samples, check_judging, counted, drawn_with_bar, solver
from cbdm_cli.foreseen import held_bytes, one_step, probed
from cbdm_cli.locking import held
from cbdm_cli.method import method_over, only_its_parts
from cbdm_cli.observing import Observer
from cbdm_cli.own_data import own_table
from cbdm_cli.resolve import resolved
from cbdm_cli.results import evaluation_facts, report_caption, report_title
from cbdm_cli.run_folder import (
    environment,
    new_folder,
    occupied,
    read_records,
    write_json,
    write_tensors,
    write_text,
)
from cbdm_cli.signals import asked_to_stop
from cbdm_cli.starting import start_from
from cbdm_cli.threads import set_threads, threads_of
from cbdm_cli.trackers import check_tracker
from cbdm_cli.trust import features_setting, quoted, refuse_code, runs_code
from cbdm_core.checkpoint import checkpoints, load_checkpoint, read_tensors, save_checkpoint
from cbdm_core.conditions import Condition
from cbdm_core.distributed import World, join, largest_over_ranks, leave, sum_over_ranks, text_of_the_leader
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.memory import gigabytes
from cbdm_core.metrics.report import rank_groups
from cbdm_core.numerics import numerics
from cbdm_core.run import LAW_DATA, read_config
from cbdm_core.training import DivergedError, TrainState, train
from cbdm_core.writing import clean

__all__ = ["Stopped", "begin_or_resume", "resume", "start"]


class Stopped(SystemExit):
    """A signal ended the training after it was saved; the exit code is the shell's 128 + signal."""


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
    data: Path | None,
) -> None:
    """Begin a run, or go on with the one in `resumed`, by the options of `cbdm train`.

    Raises:
        CbdmError: options that do not go together, or what `start` and `resume` raise.
    """
    if resumed is None:
        table = (
            load_config("digits-lt" if preset is None else preset, file, settings)
            if data is None
            else own_table(data, preset, file, settings)
        )
        config = resolved(table, named)
        start(config, out, device, dry, log=log, threads=threads, origin=origin)
        return
    if out is not None or dry or origin is not None or data is not None:
        raise CbdmError(
            "--resume goes on in the run with its own weights and data: leave out --out, --dry-run, --from and --data"
        )
    resume(resumed, preset, file, settings, named, device, log=log, threads=threads)


def start(
    config: Config,
    out: Path | None,
    device: str,
    dry_run: bool,
    *,
    log: str | None = None,
    threads: int | None = None,
    holds: bool = False,
    origin: Path | None = None,
) -> None:
    """Train, sample and evaluate a new run.

    Args:
        config: of the run.
        out: its folder, None for the next free one.
        device: to compute on.
        dry_run: only say what would run, and what it takes.
        log: a tracker that is given the records too.
        threads: of a training on the CPU; None finds them by trial, where the environment does not say.
        holds: whether the caller holds the folder already.
        origin: a run folder or file whose weights the training starts from.

    Raises:
        CbdmError: what does not fit, before training; a folder that is not empty or that another process holds.
    """
    check_tracker(log)
    if out is not None and not dry_run and _started_again() and (out / "config.toml").exists():
        _resume_the_same(config, out, device, threads)
        return
    world = join(device)
    try:
        experiment = _from(origin, assemble(config))
        # A mistake in the sampling or the judging should show before training, not after.
        solver(experiment.config, experiment.objective.network, experiment.schedule)
        check_judging(experiment.config, experiment.full, experiment.data)
        _rehearse(experiment)
        if dry_run:
            _describe(experiment, world)
            return
        set_threads(experiment, world, threads)
        state = experiment.start(world)  # settings that do not fit are refused before a folder is made
        folder = Path(text_of_the_leader(str(new_folder(out, config.preset)) if world.leads else None, world))
        with nullcontext() if holds else _held(folder, world):
            if world.leads:
                _begin(experiment, state, folder)
            _run(experiment, state, folder, log)
    finally:
        leave()


def _started_again() -> bool:
    """Whether torchrun starts the same command once more, after a worker of it died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _resume_the_same(config: Config, out: Path, device: str, threads: int | None) -> None:
    """Go on with what this very command has begun."""
    saved = resolved(read_config(out), {})
    _refuse_difference(out, saved, config)
    features = (features_setting(config.evaluation.features),)
    resume(
        out,
        None,
        None,
        features,
        dict.fromkeys(["method", "prior", "tau", "gamma", "steps", "seed"]),
        device,
        threads=threads,
    )


def _held(folder: Path, world: World) -> AbstractContextManager[None]:
    """The folder held by the process that writes; the other ranks go with it."""
    return held(folder, "cbdm train") if world.leads else nullcontext()


def _from(origin: Path | None, experiment: Experiment) -> Experiment:
    """The experiment with its network's weights replaced by those of `origin`, and its facts saying so."""
    if origin is None:
        return experiment
    return _with_origin(experiment, start_from(origin, experiment.objective.network, experiment.data.shape))


def _facts(experiment: Experiment) -> Facts:
    assert experiment.config.facts is not None  # assemble wrote them
    return experiment.config.facts


def _with_origin(experiment: Experiment, origin: Origin | None) -> Experiment:
    """The experiment with the fact of what it started from."""
    facts = _facts(experiment).model_copy(update={"origin": origin})
    return replace(experiment, config=experiment.config.model_copy(update={"facts": facts}))


def _begin(experiment: Experiment, state: TrainState, folder: Path) -> None:
    """What a run can be resumed from before its first checkpoint; the configuration last, for it makes it a run."""
    if there := occupied(folder):  # another process was quicker, between the look and the lock
        raise CbdmError(f"--out {folder} is not empty, it has {there[0].name}: choose a new folder")
    write_json(folder / "environment.json", environment(sys.argv, str(state.world.device)))
    if experiment.law_data:
        write_tensors(folder / LAW_DATA, experiment.law_data)
    if origin := _facts(experiment).origin:
        save_checkpoint(folder / "checkpoints", state)  # so that going on needs the run itself alone
        render.note(f"starting from the averaged weights of {origin.path}, trained for {origin.step:,} steps")
    write_text(folder / "config.toml", experiment.config.to_toml())


def resume(
    folder: Path,
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    options: dict[str, Any],
    device: str,
    *,
    log: str | None = None,
    threads: int | None = None,
    holds: bool = False,
) -> None:
    """Continue a run bit-identically from its newest whole checkpoint, or from step 0 before the first.

    Args:
        folder: the run.
        preset: a preset named besides; like `file`, `settings` and `options` it must agree with the run.
        file: a configuration named besides.
        settings: `a.b=v` named besides; features that run code must be.
        options: the named options; only `steps` may differ from the run's, to extend it.
        device: to compute on.
        log: a tracker that is given the records too.
        threads: of a training on the CPU; None takes those that the run began with.
        holds: whether the caller holds the folder already.

    Raises:
        CbdmError: another configuration, other data than at the start, fewer steps than are done, or features that are
            not there or that run code and are named by the run alone.
    """
    saved = resolved(read_config(folder), {})
    base = saved.model_dump(exclude={"facts"}) if preset is None else preset_table(preset)
    if preset is None and options["method"] is not None:  # options of parts that it lacks are not what differs
        base = {**base, "method": only_its_parts(method_over(base["method"], options["method"]))}
    asked = resolved(overlaid(base, file, settings), {**options, "steps": None})
    _refuse_difference(folder, saved, asked, but=("training.steps",) if preset and options["steps"] else ())
    if "features" not in overlaid({}, file, settings).get("evaluation", {}):
        refuse_code(folder / "config.toml", saved, _setting_of(saved))
    config = saved
    if options["steps"] is not None:
        config = validated(merged(saved.model_dump(), {"training": {"steps": options["steps"]}}))
    world = join(device)
    try:
        origin = None if saved.facts is None else saved.facts.origin
        experiment = _with_origin(assemble(config), origin)
        _refuse_difference(folder, config, experiment.config)
        _refuse_other_laws(folder, experiment)
        check_judging(experiment.config, experiment.full, experiment.data)
        check_tracker(log)
        set_threads(experiment, world, threads, before=threads_of(folder))
        with nullcontext() if holds else _held(folder, world):
            _go_on(folder, config != saved, experiment, world, log)
    finally:
        leave()


def _go_on(folder: Path, changed: bool, experiment: Experiment, world: World, log: str | None) -> None:
    if world.leads:
        clean(folder)
        clean(folder / "checkpoints")
    state, steps = _newest(folder / "checkpoints", experiment, world), experiment.config.training.steps
    if steps < state.step:
        raise CbdmError(f"--steps {steps}: {folder} has {state.step} steps done already; ask for more than that")
    if world.leads and changed:
        write_text(folder / "config.toml", experiment.config.to_toml())
    _run(experiment, state, folder, log)


def _newest(folder: Path, experiment: Experiment, world: World) -> TrainState:
    """The state of the newest checkpoint that is whole, or that of step 0 where none was written yet."""
    faults: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        try:
            state = load_checkpoint(checkpoint, experiment.start(world))
        except CbdmError as error:
            faults.append(str(error))
            continue
        if faults and world.leads:
            render.note(f"{faults[0]}: going on from {checkpoint.name} instead")
        return state
    if faults:
        raise CbdmError(f"no checkpoint in {folder} is whole; the newest: {faults[0]}")
    if origin := _facts(experiment).origin:
        raise CbdmError(f"{folder} has lost the weights that it started from: start anew with --from {origin.path}")
    return experiment.start(world)


def _setting_of(config: Config) -> str:
    """What names the features on the command line."""
    return f"--set {quoted(features_setting(config.evaluation.features))}"


def _refuse_difference(folder: Path, saved: Config, asked: Config, but: Sequence[str] = ()) -> None:
    mine, theirs = flat(saved.model_dump()), flat(asked.model_dump())
    if asked.facts is None:
        but = [*but, *(key for key in {*mine, *theirs} if key.startswith("facts"))]
    for key in sorted({*mine, *theirs} - {*but}):
        if mine.get(key) != theirs.get(key):
            raise CbdmError(
                f"--resume {folder} was trained with {key} = {mine.get(key)!r}, not {theirs.get(key)!r}: leave it out "
                "to continue, or start a new run (only --steps and --device may change)"
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


def _describe(experiment: Experiment, world: World) -> None:
    """What a run would be and take, with nothing written."""
    parameters = sum(p.numel() for p in experiment.objective.network.parameters())
    training = experiment.config.training
    work = one_step(experiment, training.batch_size // world.size)
    with numerics(tf32=training.tf32, determinism=training.determinism):
        state = experiment.start(world)
        seconds = probed(state, experiment.batches, training.steps)
    if not world.leads:
        return
    counts = experiment.data.counts().tolist()
    render.note(experiment.config.to_toml())
    render.note(
        f"would train {parameters:,} parameters on {len(experiment.data):,} examples ({counts}) on {world.device} for "
        f"{training.steps:,} steps; nothing was written"
    )
    render.note(
        f"a step: {work.flops / 1e9:,.3g} GFLOP and about {gigabytes(work.bytes + held_bytes(state))} of memory on "
        f"each process, {seconds:.3g} s; all steps: {duration(seconds * training.steps)}, before evaluation"
    )


def _run(experiment: Experiment, state: TrainState, folder: Path, log: str | None) -> None:
    training = experiment.config.training
    with numerics(tf32=training.tf32, determinism=training.determinism):
        _train(experiment, state, folder, log)
        _finish(experiment, state, folder)


def _train(experiment: Experiment, state: TrainState, folder: Path, log: str | None) -> None:
    training, leads = experiment.config.training, state.world.leads
    groups = rank_groups(experiment.data.counts())
    names = tuple(groups)
    member = torch.zeros(experiment.data.num_classes, dtype=torch.long)
    for index, classes in enumerate(groups.values()):
        member[list(classes)] = index
    records = train(state, experiment.batches, steps=training.steps, groups=member, group_names=names)
    observer = Observer(experiment, state, folder, log) if leads else None
    try:
        with asked_to_stop() as came, render.progress(shown=leads) as bar:
            task = bar.add_task("training", total=training.steps, completed=state.step, facts="")
            for record in _until_divergence(records, folder):
                if observer:
                    observer.see(record)
                bar.update(task, completed=record.step, facts=f"loss {record.loss:.4f}")
                last = record.step == training.steps
                stopping = largest_over_ranks(came[0] if came else 0, state.world)  # all must stop after the same step
                if (record.step % training.checkpoint_every == 0 or last or stopping) and leads:
                    save_checkpoint(folder / "checkpoints", state, keep=training.keep)
                if stopping:
                    raise _stopped(folder, experiment.config, record.step, stopping, state.world)
    finally:
        if observer:
            observer.close()


def _stopped(folder: Path, config: Config, step: int, number: int, world: World) -> Stopped:
    if world.leads:
        trusted = f" {_setting_of(config)}" if runs_code(config.evaluation.features) else ""
        name, mend = signal.Signals(number).name, f"cbdm train --resume {quoted(str(folder))}{trusted}"
        print(f"cbdm: stopped by {name}, saved at step {step}; continue with: {mend}", file=sys.stderr)
    return Stopped(128 + number)


def _until_divergence(records: Iterator[Any], folder: Path) -> Iterator[Any]:
    """The records; a loss that is not finite also names the last good checkpoint."""
    try:
        yield from records
    except DivergedError as error:
        saved = checkpoints(folder / "checkpoints")
        good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written yet"
        raise DivergedError(f"{error}; {good}", error.step, error.labels) from None


def _finish(experiment: Experiment, state: TrainState, folder: Path) -> None:
    """Draw balanced samples on all ranks, judge them, and leave pictures, numbers and the table."""
    config, data, world = experiment.config, experiment.data, state.world
    labels, conditions = balanced_samples(config, experiment.full)
    network = state.ema.eval()
    with counted(network) as rows:
        shape = tuple(data.shape)
        x = drawn_with_bar(config, network, experiment.schedule, conditions, shape, world.device, world=world)
    rows.total = int(sum_over_ranks(torch.tensor(rows.total, device=world.device)))
    if not world.leads:
        return
    records = read_records(folder / "metrics.jsonl")
    pictures.loss_curve(folder / "loss.svg", records)
    pictures.law_curves(folder, records, data.class_names)
    counts = data.counts()
    shown = data.own_units(x)
    pictures.samples(folder / "samples.png", data.is_images, shown, labels, data.class_names, counts.tolist())
    evaluator = Evaluator.of(config, experiment.full, data)
    report = evaluator(config, x, labels)
    measured = {"nfe": rows.per(len(x)), **evaluator.facts(report)}
    write_json(folder / "evaluation.json", evaluation_facts(config, state.step, report, measured))
    render.report_table(report, report_title(config), report_caption(report, evaluator.caption(report)))
    render.note(f"run folder: {folder}")

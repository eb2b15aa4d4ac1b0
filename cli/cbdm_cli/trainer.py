"""From a state to the end of its run: steps with checkpoints, then samples, scores and pictures."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cbdm_cli import pictures, render
from cbdm_cli.assemble import Experiment
from cbdm_cli.config import Config
from cbdm_cli.durations import duration
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.locking import held
from cbdm_cli.observing import Observer
from cbdm_cli.result_facts import evaluation_facts, report_caption, report_title
from cbdm_cli.run_folder import read_records, write_json
from cbdm_cli.sampling import balanced_samples, counted, drawn_with_bar
from cbdm_cli.signals import asked_to_stop
from cbdm_cli.trust import features_option, quoted, runs_code
from cbdm_core.checkpoint import checkpoints, save_checkpoint
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World, largest_over_ranks, sum_over_ranks
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.report import rank_groups
from cbdm_core.numerics import numerics
from cbdm_core.training import DivergedError, TrainRecord, TrainState, train

__all__ = ["RunOptions", "Stopped", "folder_held", "run_training"]


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that change none of its numbers.

    Args:
        log: a tracker that is given the records too.
        threads: of a training on the CPU; None takes those that the run began with, or finds them by trial where it
            begins and the environment does not say.
        evaluate: whether samples are drawn and judged at the end.
        holds: whether the caller holds the folder already.

    Raises:
        CbdmError: fewer than one thread asked for.
    """

    log: str | None = None
    threads: int | None = None
    evaluate: bool = True
    holds: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise CbdmError(f"--threads {self.threads}: a training takes 1 thread or more")


class Stopped(SystemExit):
    """A signal ended the training after it was saved; the exit code is the shell's 128 + signal."""


def folder_held(folder: Path, world: World, run_options: RunOptions) -> AbstractContextManager[None]:
    """The folder held by the process that writes; the other ranks go with it."""
    return held(folder, "cbdm train") if world.leads and not run_options.holds else nullcontext()


def run_training(experiment: Experiment, state: TrainState, folder: Path, run_options: RunOptions) -> None:
    """Train to the last step, with checkpoints, and leave curves, samples and scores.

    Raises:
        Stopped: by a signal, after it was saved.
        DivergedError: a loss that is not finite.
    """
    training = experiment.config.training
    with numerics(tf32=training.tf32, determinism=training.determinism):
        _train(experiment, state, folder, run_options.log)
        if state.world.leads:
            _draw_curves(experiment, folder)
        if run_options.evaluate:
            _evaluate(experiment, state, folder)
    if state.world.leads:
        later = "" if run_options.evaluate else f"; to sample and judge it: {_again(folder, experiment.config)}"
        render.note(f"run folder: {folder}{later}")


def _again(folder: Path, config: Config) -> str:
    """The command that goes on with the run; features that run code have to be named once more."""
    features = config.evaluation.features
    return f"cbdm train --resume {quoted(str(folder))}" + (
        f" {features_option(features)}" if runs_code(features) else ""
    )


def _train(experiment: Experiment, state: TrainState, folder: Path, log: str | None) -> None:
    """Train to the last step or a signal, saving on the way; each record goes to the observer."""
    training, leads = experiment.config.training, state.world.leads
    groups, names = _class_groups(experiment.data)
    records = train(state, experiment.batches, steps=training.steps, groups=groups, group_names=names)
    observer, saved = Observer(experiment, state, folder, log), _Saved(state.step, training.steps)
    if leads:
        saved.begin(folder)
    try:
        with asked_to_stop() as came, render.progress(shown=leads) as bar:
            task = bar.add_task("training", total=training.steps, completed=state.step, facts="")
            for record in _until_divergence(records, folder):
                observer.see(record)
                bar.update(task, completed=record.step, facts=f"loss {record.loss:.4f}")
                last = record.step == training.steps
                stopping = largest_over_ranks(came[0] if came else 0, state.world)  # all must stop after the same step
                if record.step % training.checkpoint_every == 0 or last or stopping:
                    save_checkpoint(folder / "checkpoints", state, keep=training.keep)
                    if leads:
                        saved.tell(record)
                if stopping:
                    raise _stopped(folder, experiment.config, record.step, stopping, state.world)
    finally:
        observer.close()


class _Saved:
    """A line for each checkpoint where no bar is seen, so that the log of a job says how far it is.

    Args:
        first: the step that this process begins at.
        steps: of the training.
    """

    def __init__(self, first: int, steps: int) -> None:
        self.first, self.steps, self.began = first, steps, perf_counter()

    def begin(self, folder: Path) -> None:
        """How to see more, where steps are left."""
        if self.first < self.steps and not render.has_bars():
            watch = f"cbdm watch {quoted(str(folder))}"
            render.note(f"training from step {self.first:,} to {self.steps:,}; to look on: {watch}")

    def tell(self, record: TrainRecord) -> None:
        """That this step is saved, and the time left at the rate since the beginning."""
        if render.has_bars():
            return
        rate = (perf_counter() - self.began) / (record.step - self.first)
        left = f"; {duration(rate * (self.steps - record.step))} left" if record.step < self.steps else ""
        render.note(f"step {record.step:,} of {self.steps:,} saved, loss {record.loss:.4f}{left}")


def _class_groups(data: Dataset) -> tuple[Tensor, tuple[str, ...]]:
    """((K,) long, the rank group of each class; the groups' names)."""
    groups = rank_groups(data.counts())
    member = torch.zeros(data.num_classes, dtype=torch.long)
    for index, classes in enumerate(groups.values()):
        member[list(classes)] = index
    return member, tuple(groups)


def _stopped(folder: Path, config: Config, step: int, number: int, world: World) -> Stopped:
    if world.leads:
        name = signal.Signals(number).name
        print(
            f"cbdm: stopped by {name}, saved at step {step}; continue with: {_again(folder, config)}", file=sys.stderr
        )
    return Stopped(128 + number)


def _until_divergence(records: Iterator[Any], folder: Path) -> Iterator[Any]:
    """The records; a loss that is not finite also names the last good checkpoint."""
    try:
        yield from records
    except DivergedError as error:
        saved = checkpoints(folder / "checkpoints")
        good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint had been written yet"
        raise DivergedError(f"{error}; {good}", error.step, error.labels) from None


def _draw_curves(experiment: Experiment, folder: Path) -> None:
    records = read_records(folder / "metrics.jsonl")
    pictures.loss_curve(folder / "loss.svg", records)
    pictures.law_curves(folder, records, experiment.data.class_names)


def _evaluate(experiment: Experiment, state: TrainState, folder: Path) -> None:
    """Draw balanced samples on all ranks, judge them, and leave a picture, numbers and the table."""
    config, data, world = experiment.config, experiment.data, state.world
    labels, conditions = balanced_samples(config, experiment.full)
    network = state.averaged().eval()
    with counted(network) as rows:
        shape = tuple(data.shape)
        x = drawn_with_bar(config, network, experiment.schedule, conditions, shape, world.device, world=world)
    rows.total = int(sum_over_ranks(torch.tensor(rows.total, device=world.device)))
    if not world.leads:
        return
    counts = data.counts()
    shown = data.own_units(x)
    pictures.samples(folder / "samples.png", data.is_images, shown, labels, data.class_names, counts.tolist())
    evaluator = Evaluator.of(config, experiment.full, data)
    report = evaluator(config, x, labels)
    measured = {"nfe": rows.per(len(x)), **evaluator.facts(report)}
    write_json(folder / "evaluation.json", evaluation_facts(config, state.step, report, measured))
    render.report_table(report, report_title(config), report_caption(report, evaluator.caption(report)))

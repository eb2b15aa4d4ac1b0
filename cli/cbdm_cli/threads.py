"""The threads of a training on the CPU: those asked for, those of the run before, or those that it is quickest with."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import render
from cbdm_cli.assemble import Experiment
from cbdm_core.conditions import Condition
from cbdm_core.distributed import World
from cbdm_core.draws import Draws
from cbdm_core.dropout import dropout_rng_state, replayed
from cbdm_core.numerics import PRECISIONS
from cbdm_core.threads import quickest_threads

__all__ = ["set_threads", "threads_of"]

_REPAID = 200  # steps from which a trial of a few is worth its time


def set_threads(experiment: Experiment, world: World, asked: int | None, before: int | None = None) -> None:
    """Set torch's number of threads for a training, and say so where it was found by trial.

    Args:
        experiment: what is trained; it is left as it is.
        world: the processes; only a single one on the CPU is tried.
        asked: by the user, who is obeyed.
        before: of the run that is gone on with, so that its bits go on too.
    """
    most = torch.get_num_threads()
    threads = asked or (None if _environment_says() else before)
    if threads is None and _worth_a_trial(experiment, world, most):
        threads = quickest_threads(_work(experiment), (1, most))
        render.note(f"threads: {threads} of {most}, by a trial of a few steps; --threads N sets them")
    if threads is not None:
        torch.set_num_threads(threads)


def threads_of(folder: Path) -> int | None:
    """The threads that a run began with, or None where they are not known or it was not on the CPU."""
    try:
        known = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a note of what was; a run goes on without it
        return None
    threads = known.get("threads") if isinstance(known, dict) and known.get("device") == "cpu" else None
    return threads if isinstance(threads, int) and threads >= 1 else None


def _worth_a_trial(experiment: Experiment, world: World, most: int) -> bool:
    """Not where a step would need more memory or time in the trial than it does in training."""
    training = experiment.config.training
    plain = not training.compile and not training.checkpointing and training.accumulate == 1
    alone = world.size == 1 and world.device.type == "cpu"
    return plain and alone and not _environment_says() and most > 1 and training.steps >= _REPAID


def _environment_says() -> bool:
    return any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def _work(experiment: Experiment) -> Any:
    """A step of the training without its update, on a copy, with the masks' generator left where it stood."""
    objective = copy.deepcopy(experiment.objective).train()
    batch = experiment.batches.at(0)
    dtype, cpu = PRECISIONS[experiment.config.training.precision], torch.device("cpu")
    arguments = batch.x_0, Condition.of(batch.conditions), Draws(experiment.config.seed, 0, batch.rows), batch.t

    def work() -> None:
        with replayed(dropout_rng_state(cpu), cpu):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                terms = objective(*arguments)
            torch.stack([term.mean() for term in terms.values()]).sum().backward()

    return work

"""What a training leaves to look at while it runs: metrics, grids of samples, a tracker's log, stored averages."""

from __future__ import annotations

from pathlib import Path

import torch

from cbdm_cli import pictures
from cbdm_cli.assemble import Experiment
from cbdm_cli.run_folder import Metrics
from cbdm_cli.sampling import drawn_with_bar
from cbdm_cli.scoring import Scoring
from cbdm_cli.trackers import Tracker, open_tracker, scalars
from cbdm_core.ema import save_snapshot
from cbdm_core.generation import conditions_for
from cbdm_core.training import TrainRecord, TrainState
from cbdm_core.writing import plain_write_errors

__all__ = ["AVERAGES", "GRIDS", "Observer"]

GRIDS, AVERAGES = "grids", "averages"
_A_CLASS, _CLASSES = 8, 20  # samples of a class in a grid, and the most classes in it


class Observer:
    """The files that grow beside the checkpoints, which of several processes only the leader writes.

    Args:
        experiment: what is trained.
        state: where the training stands.
        folder: the run.
        log: a tracker by name, or None.

    Raises:
        CbdmError: the tracker is not there, or the folder cannot be written to.
    """

    def __init__(self, experiment: Experiment, state: TrainState, folder: Path, log: str | None) -> None:
        self.experiment, self.state, self.folder = experiment, state, folder
        leads = state.world.leads
        self.metrics = Metrics(folder / "metrics.jsonl", state.step) if leads else None
        self.scoring = Scoring(experiment, state, folder) if experiment.config.training.score_every else None
        tracked = log if leads else None
        self.tracker: Tracker | None = open_tracker(tracked, folder, experiment.config, state.step) if tracked else None

    def see(self, record: TrainRecord) -> None:
        """Take one record in; every process must, since each may have a part of what is looked at."""
        training = self.experiment.config.training
        if self.metrics and record.step % training.log_every == 0:
            self.metrics.write(record)
            if self.tracker:
                self.tracker.write(scalars(record), record.step)
        if training.sample_every and record.step % training.sample_every == 0:
            self._grid(record.step)
        if self.scoring and record.step % (training.score_every or 1) == 0:
            scores = self.scoring.score(record.step)
            if self.tracker:
                self.tracker.write({f"scores/{name}": value for name, value in scores.items()}, record.step)
        powers = any(name.startswith("power:") for name in training.averages)
        if powers and (record.step % training.snapshot_every == 0 or record.step == training.steps):
            writes = self.state.world.leads
            save_snapshot(self.folder / AVERAGES, self.state.averages, record.step, writes=writes)

    def _grid(self, step: int) -> None:
        """A few samples of each class by the averaged network, from the same noise at every step."""
        network, world = self.state.averaged().eval(), self.state.world
        config, data = self.experiment.config, self.experiment.data
        counts = data.counts()
        shown = counts.argsort(descending=True, stable=True)
        if len(shown) > _CLASSES:  # from the commonest to the rarest, evenly
            shown = shown[torch.linspace(0, len(shown) - 1, _CLASSES).round().long()]
        labels = shown.sort().values.repeat(_A_CLASS)
        full = self.experiment.full
        conditions = labels if full.condition is None else conditions_for(labels, full.condition, full.y)
        shape, schedule = tuple(data.shape), self.experiment.schedule
        x = drawn_with_bar(config, network, schedule, conditions, shape, world.device, "grid", world=world)
        if not world.leads:
            return
        path = self.folder / GRIDS / f"step-{step:08d}.png"
        with plain_write_errors(path):
            path.parent.mkdir(exist_ok=True)
        shown = data.own_units(x)
        pictures.samples(path, data.is_images, shown, labels, data.class_names, counts.tolist())
        if self.tracker:
            self.tracker.picture(path, step)

    def close(self) -> None:
        """Write out what is pending."""
        if self.metrics:
            self.metrics.close()
        if self.scoring:
            self.scoring.close()
        if self.tracker:
            self.tracker.close()

"""Scores while a training goes: a few samples of each class, judged every so many steps, and the best weights kept."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

from torch import Tensor

from cbdm_cli.assemble import Experiment
from cbdm_cli.config import validated
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.overlay import merged
from cbdm_cli.run_folder import SCORES_FILE, Records, is_scored
from cbdm_cli.sampling import balanced_samples, drawn_with_bar
from cbdm_cli.study.results import scores_of, sign_of
from cbdm_core.checkpoint import latest_checkpoint, save_checkpoint
from cbdm_core.distributed import largest_over_ranks
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.training import TrainState

__all__ = ["BEST", "Scoring", "best_checkpoint"]

BEST = "best"


def best_checkpoint(path: Path) -> Path:
    """The checkpoint with the best score so far of a run.

    Raises:
        CbdmError: the run has kept none.
    """
    try:
        return latest_checkpoint(path / BEST)
    except CbdmError:
        raise CbdmError(
            f"{path} has kept no best checkpoint: train with training.score_every and training.keep_best"
        ) from None


class Scoring:
    """Judges the averaged network every `training.score_every` steps, from the same noise each time.

    Args:
        experiment: what is trained.
        state: where the training stands.
        folder: the run.
    """

    def __init__(self, experiment: Experiment, state: TrainState, folder: Path) -> None:
        self.experiment, self.state, self.folder = experiment, state, folder
        few = {"per_class": experiment.config.training.score_per_class, "intervals": 0, "prd_runs": 0}
        self.config = validated(merged(experiment.config.model_dump(), {"evaluation": few}))
        self.records = Records(folder / SCORES_FILE, state.step, is_scored) if state.world.leads else None
        before = self.records.before if self.records else []
        self._best = min((self._loss(r["scores"]) for r in before), default=math.inf)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator.of(self.config, self.experiment.full, self.experiment.data)

    def score(self, step: int) -> dict[str, float]:
        """Draw, judge and write down; keep the state if it is the best so far.

        Every process must call this, since each may have a part of the state, and draws its share; the leader judges.
        """
        x, labels = self._drawn(self.state.averaged().eval())
        scores = scores_of(self._evaluator(self.config, x, labels).to_dict()) if self.records else {}
        better = self._loss(scores) < self._best
        if largest_over_ranks(int(better), self.state.world):
            save_checkpoint(self.folder / BEST, self.state, keep=1)
        self._best = min(self._best, self._loss(scores))
        if self.records:
            self.records.append({"step": step, "scores": scores})
        return scores

    def close(self) -> None:
        """No score comes any more."""
        if self.records:
            self.records.close()

    def _drawn(self, network: ScoreNetwork) -> tuple[Tensor, Tensor]:
        """(samples, their labels)."""
        full, schedule, world = self.experiment.full, self.experiment.schedule, self.state.world
        labels, conditions = balanced_samples(self.config, full)
        shape = tuple(full.shape)
        x = drawn_with_bar(self.config, network, schedule, conditions, shape, world.device, "scores", world=world)
        return x, labels

    def _loss(self, scores: dict[str, float]) -> float:
        """The score that decides, turned so that less is better; infinite where it is not to be had."""
        name = self.config.training.keep_best
        if name is None or name not in scores:
            return math.inf
        return sign_of(name) * scores[name]

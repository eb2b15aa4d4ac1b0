"""`cbdm classify`: do a run's samples help a classifier of its long-tailed data?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbdm_cli import render
from cbdm_cli.commands.sample import with_sampling
from cbdm_cli.commands.train import evaluation_facts, report_title
from cbdm_cli.config import Config, validated
from cbdm_cli.data import load_own_data
from cbdm_cli.evaluator import counted, drawn_with_bar
from cbdm_cli.naming import file_words
from cbdm_cli.run_folder import write_json
from cbdm_cli.study.summary import Estimate, estimate
from cbdm_core.data.dataset import Dataset, to_uint8
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.recognition import (
    ARMS,
    Recognition,
    filling_labels,
    held_out_rows,
    predict_held_out,
    recognition_groups,
    training_sets,
)
from cbdm_core.run import Run, load_run

__all__ = ["DIFFERENCES", "Classified", "classify_run"]

# (what, less what): the second keeps the effect of balance out of the first.
DIFFERENCES = (("filled", "alone"), ("filled", "oversampled"), ("oversampled", "alone"))
_OUT_OF_REACH = 2**32  # seeds of splits, and so of runs and their evaluations, are below it


@dataclass(frozen=True)
class Classified:
    """The accuracies of every arm at every seed, and what they amount to.

    Args:
        class_names: K names.
        training_counts: (K,) of each class.
        test_counts: (K,) images of the balanced set that are not in the training set.
        fill: up to how many images a class was filled.
        generated: how many images that took, for each seed.
        values: arm → its recognition at seed 0, 1, …
    """

    class_names: tuple[str, ...]
    training_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    fill: int
    generated: int
    values: dict[str, list[Recognition]]

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Those that have a test image, with their labels."""
        known = self.values[ARMS[0]][0].groups
        groups = recognition_groups(torch.tensor(self.training_counts))
        return {name: labels for name, labels in groups.items() if known[name] is not None}

    def of(self, arm: str, group: str) -> list[float]:
        """The accuracy at each seed."""
        return [value for found in self.values[arm] if (value := found.groups[group]) is not None]

    def mean(self, arm: str, group: str) -> Estimate:
        """Over seeds."""
        return estimate(self.of(arm, group))

    def difference(self, arm: str, other: str, group: str) -> Estimate:
        """Of accuracies, paired by seed."""
        return estimate([a - b for a, b in zip(self.of(arm, group), self.of(other, group), strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "labels": "long-tailed, each class that has images filled up to `fill`",
            "reference": "images of the balanced set that are not in the training set; each class weighs the same",
            "class_names": list(self.class_names),
            "training_counts": list(self.training_counts),
            "test_counts": list(self.test_counts),
            "fill": self.fill,
            "generated": self.generated,
            "seeds": len(self.values[ARMS[0]]),
            "groups": {name: list(labels) for name, labels in self.groups.items()},
            "accuracy": {arm: {name: _plain(self.mean(arm, name)) for name in self.groups} for arm in ARMS},
            "differences": {
                f"{arm} - {other}": {name: _plain(self.difference(arm, other, name)) for name in self.groups}
                for arm, other in DIFFERENCES
            },
            "values": {arm: {name: self.of(arm, name) for name in self.groups} for arm in ARMS},
            "classes": {arm: [list(found.classes) for found in self.values[arm]] for arm in ARMS},
            "verdict": self.verdict(),
        }

    def verdict(self) -> str:
        """What the intervals say of filling, and no more."""
        seeds = len(self.values[ARMS[0]])
        if seeds < 2:
            return "No verdict: one seed has no interval; at least 2 are needed, and 3 or more are better."
        against = {"alone": "training alone", "oversampled": "oversampling"}
        parts = [f"Filled against {told}: {self._compared(other)}." for other, told in against.items()]
        return " ".join(parts)

    def _compared(self, other: str) -> str:
        shown = {name: self.difference("filled", other, name) for name in self.groups}
        told = [f"{name} by {_points(d)}" for name, d in shown.items() if d.excludes_zero]
        open_ = [name for name, d in shown.items() if not d.excludes_zero]
        parts = [f"accuracy differs in {', '.join(told)}"] if told else []
        if open_:
            parts.append(f"nothing is shown for {', '.join(open_)}, where the 95 % interval holds 0")
        return "; ".join(parts)


def _plain(e: Estimate) -> dict[str, float | None]:
    return {"mean": e.mean, "half_width": e.half_width if math.isfinite(e.half_width) else None}


def _points(e: Estimate) -> str:
    return f"{100 * e.mean:+.1f} ± {100 * e.half_width:.1f} points"


def classify_run(path: Path, options: dict[str, Any], fill: int | None, seeds: int, device: str) -> None:
    """Train the classifiers, test them, print the table and write the result into the run folder.

    Args:
        path: of the run.
        options: of sampling, laid over the run's.
        fill: images a class is filled up to; the commonest class's count by default.
        seeds: pairings, ≥ 1; each has its own initial weights and its own generated images.
        device: to compute on.

    Raises:
        CbdmError: numbers out of range, a run that is told no classes, other data than the run's, nothing to test on.
    """
    if seeds < 1:
        raise CbdmError(f"--seeds {seeds}: it must be 1 or more; 2 at least for an interval")
    if fill is not None and fill < 1:
        raise CbdmError(f"--fill {fill}: it is the number of images a class is filled up to, 1 or more")
    run, config, full, data = _read(path, options, device)
    test = full[held_out_rows(full.x, data.x)]
    labels = filling_labels(data.counts(), fill)
    values: dict[str, list[Recognition]] = {arm: [] for arm in ARMS}
    with counted(run.network) as rows:
        for seed in range(seeds):
            generated = _generated(run, config, full, labels, seed)
            for arm, found in _recognised(data, test, generated, labels, seed, run).items():
                values[arm].append(found)
    counts = data.counts()
    result = Classified(
        class_names=full.class_names,
        training_counts=tuple(counts.tolist()),
        test_counts=tuple(test.counts().tolist()),
        fill=int(counts.max()) if fill is None else fill,
        generated=len(labels),
        values=values,
    )
    file = path / _file_name(config, result.fill, seeds)
    write_json(file, evaluation_facts(config, run.step, result, {"nfe": rows.per(seeds * len(labels))}))
    render.recognition_table(result, f"{report_title(config)} · filled up to {result.fill}")
    for line in (*_left_out(result), result.verdict(), f"result: {file}"):
        render.note(line)


def _read(path: Path, options: dict[str, Any], device: str) -> tuple[Run, Config, Dataset, Dataset]:
    """(run, configuration with the options, balanced set, training set)."""
    run = load_run(path, device=device)
    saved = validated(run.config)
    config = with_sampling(saved, options)
    full, data = load_own_data(path, saved)
    if saved.facts is not None and saved.facts.condition is not None:
        kind = saved.facts.condition["kind"]
        raise CbdmError(f"{path}: this run is told {kind}, and a classifier needs classes; take a run told labels")
    return run, config, full, data


def _generated(run: Run, config: Config, full: Dataset, labels: Tensor, seed: int) -> Tensor:
    """Samples in the model's range, images with 8 bits as the training set has them."""
    own = config.model_copy(update={"seed": config.seed + _OUT_OF_REACH * (1 + seed)})
    where = next(run.network.parameters()).device
    x = drawn_with_bar(own, run.network, run.schedule, labels, run.shape, where, f"sampling, seed {seed}")
    return to_uint8(x).float() / 127.5 - 1 if full.is_images else x


def _recognised(
    data: Dataset, test: Dataset, generated: Tensor, labels: Tensor, seed: int, run: Run
) -> dict[str, Recognition]:
    """Each arm, trained and tested, with a progress bar."""
    arms, found = training_sets(data.model_input(), data.y, generated, labels, seed), {}
    where = next(run.network.parameters()).device
    with render.progress() as bar:
        task = bar.add_task(f"classifiers, seed {seed}", total=len(arms), facts="")
        for arm, (x, y) in arms.items():
            predicted = predict_held_out(x, y, test.model_input(), data.num_classes, seed=seed, device=where)
            found[arm] = Recognition.of(predicted, test.y, data.counts())
            bar.update(task, advance=1)
    return found


def _left_out(result: Classified) -> list[str]:
    """What the table cannot show: classes without a test image, or without a training image."""
    names = result.class_names
    untested = [name for name, count in zip(names, result.test_counts, strict=True) if count == 0]
    unseen = [name for name, count in zip(names, result.training_counts, strict=True) if count == 0]
    lines = []
    if untested:
        lines.append(f"no test image is left of {_classes(untested)}: left out of every mean")
    if unseen:
        lines.append(f"no training image of {_classes(unseen)}: not filled, and counted as it is told")
    return lines


def _classes(names: list[str]) -> str:
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names)}"


def _file_name(config: Config, fill: int, seeds: int) -> str:
    """A name that tells every option, so that another result does not take its place."""
    sampling = config.sampling
    return (
        f"classify-omega-{file_words(sampling.omega)}-{sampling.sampler}-{sampling.steps}-fill{fill}-seeds{seeds}.json"
    )

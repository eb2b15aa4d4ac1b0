"""`cbdm classify`: do a run's samples help a classifier of its long-tailed data?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from cbdm_cli import render
from cbdm_cli.classification import Classified
from cbdm_cli.config import Config, validated
from cbdm_cli.limits import check_samples
from cbdm_cli.naming import file_words
from cbdm_cli.resolve import with_sampling
from cbdm_cli.result_facts import evaluation_facts, report_title
from cbdm_cli.run_data import load_own_data
from cbdm_cli.run_folder import write_json
from cbdm_cli.sampling import counted, drawn_with_bar
from cbdm_core.data.dataset import Dataset, as_seen
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.recognition import (
    ARMS,
    Recognition,
    filling_labels,
    held_out_rows,
    predict_held_out,
    training_sets,
)
from cbdm_core.run import Run, load_run

__all__ = ["classify_run"]

_MOST_SEEDS = 1_000
_OUT_OF_REACH = 2**32  # seeds of splits, and so of runs and their evaluations, are below it


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
    _check(seeds, fill)
    run, config, full, data = _read(path, options, device)
    test = full[held_out_rows(full.x, data.x)]
    if fill is not None:
        check_samples("--fill", fill, run.shape, fill * data.num_classes)
    counts = data.counts()
    labels = filling_labels(counts, fill)
    with counted(run.network) as rows:
        by_seed = [
            _recognised(data, test, _generated(run, config, full, labels, seed), labels, seed, run)
            for seed in range(seeds)
        ]
    result = Classified(
        class_names=full.class_names,
        training_counts=tuple(counts.tolist()),
        test_counts=tuple(test.counts().tolist()),
        fill=int(counts.max()) if fill is None else fill,
        generated=len(labels),
        values={arm: [found[arm] for found in by_seed] for arm in ARMS},
    )
    file = path / _file_name(config, result.fill, seeds)
    write_json(file, evaluation_facts(config, run.step, result, {"nfe": rows.per(seeds * len(labels))}))
    render.recognition_table(result, f"{report_title(config)} · filled up to {result.fill}")
    for line in (*_left_out(result), result.verdict(), f"result: {file}"):
        render.note(line)


def _check(seeds: int, fill: int | None) -> None:
    if seeds < 1:
        raise CbdmError(f"--seeds {seeds}: it must be 1 or more; 2 at least for an interval")
    if seeds > _MOST_SEEDS:
        raise CbdmError(f"--seeds {seeds}: at most {_MOST_SEEDS:,} are trained")
    if fill is not None and fill < 1:
        raise CbdmError(f"--fill {fill}: it is the number of images a class is filled up to, 1 or more")


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
    return as_seen(x) if full.is_images else x


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

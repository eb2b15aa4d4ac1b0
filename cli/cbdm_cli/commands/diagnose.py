"""`cbdm diagnose`: where in the noise does a run lose its rare classes?"""

from __future__ import annotations

from pathlib import Path

from cbdm_cli import render
from cbdm_cli.config import Config, validated
from cbdm_cli.diagnosis_map import draw_diagnosis
from cbdm_cli.diagnosis_words import heat_maps, verdict
from cbdm_cli.overlay import merged
from cbdm_cli.run_data import load_own_data, load_reference
from cbdm_cli.run_folder import write_json
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.diagnosis import diagnose, noise_levels
from cbdm_core.run import Run, load_run

__all__ = ["diagnose_run"]

LEVELS, QUERIES = 10, 64  # the defaults of the command, which its file names leave out


def diagnose_run(path: Path, levels: int, queries: int, folds: int, seed: int, device: str) -> None:
    """Measure, print the maps and the sentences, and write `diagnosis.json` and `diagnosis.svg` into the run folder.

    The names of the files hold what was asked otherwise than by default, `diagnosis-folds5-seed1.json`.

    Args:
        path: of the run.
        levels: noise levels, evenly spaced in t.
        queries: noised images for each class, set and noise level.
        folds: 0 for held-out images, else the folds of training images by which the Gaussian is fitted anew.
        seed: of the images chosen, the noise and the folds.
        device: to compute on.

    Raises:
        CbdmError: numbers out of range, other data than the run's, or no held-out image and no folds.
    """
    if queries < 1 or folds == 1 or folds < 0:
        raise CbdmError(f"--n {queries} --folds {folds}: --n is 1 or more, --folds 2 or more")
    run = load_run(path, device=device)
    saved = validated(run.config)
    full, training = load_own_data(path, saved)
    times = noise_levels(run.schedule, levels)
    held_out, name = _held_out(saved, full, training, folds)
    found = diagnose(run.network, run.schedule, training, held_out, times, queries=queries, folds=folds, seed=seed)
    asked = {"folds": (folds, 0), "levels": (levels, LEVELS), "n": (queries, QUERIES), "seed": (seed, 0)}
    words = "".join(f"-{name}{value}" for name, (value, usual) in asked.items() if value != usual)
    stem = path / f"diagnosis{words}"
    facts = {"step": run.step, "seed": seed, "queries": queries, "held_out": name, "class_names": training.class_names}
    lines = verdict(found)
    write_json(stem.with_suffix(".json"), {**facts, **found.to_dict(), "verdict": lines})
    draw_diagnosis(stem.with_suffix(".svg"), found, training.class_names, _title(path, run, saved))
    for title, columns, rows in heat_maps(found, training.class_names):
        render.heat_table(title, columns, rows)
    for line in (*lines, f"held-out images: {name}", f"maps: {stem}.svg · figures: {stem}.json"):
        render.note(line)


def _held_out(config: Config, full: Dataset, training: Dataset, folds: int) -> tuple[Dataset | None, str]:
    """(the images that training has not seen, what they are); none with folds."""
    if folds:
        return None, f"none; the Gaussian by {folds} folds of the training set"
    asked = validated(merged(config.model_dump(), {"evaluation": {"reference": "held-out"}}))
    try:
        return load_reference(asked, full, training)
    except CbdmError as error:
        raise CbdmError(
            f"nothing is held out to diagnose by ({error}); --folds 5 compares with a Gaussian fitted by folds instead"
        ) from None


def _title(path: Path, run: Run, config: Config) -> str:
    return f"{path.name} · {config.method_text} · {run.step:,} steps"

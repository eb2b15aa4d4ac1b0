"""`cbdm evaluate`: judge runs again, at one ω or several, or samples that any program drew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli import render
from cbdm_cli.config import Config, validated
from cbdm_cli.evaluated_run import EvaluatedRun, evaluated_by, measure_words
from cbdm_cli.evaluator import Evaluator, check_judging
from cbdm_cli.foreign_samples import Samples, read_samples
from cbdm_cli.naming import file_tag
from cbdm_cli.omegas import omegas_of
from cbdm_cli.overlay import load_config, setting
from cbdm_cli.preset_files import preset_names
from cbdm_cli.result_facts import report_caption, report_title
from cbdm_cli.run_data import load_data, load_own_data
from cbdm_cli.run_folder import write_json
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World, join, leave, pick_device
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.report import Report
from cbdm_core.run_config import read_config

__all__ = ["OfSamples", "evaluate", "evaluate_runs", "evaluate_samples"]


@dataclass(frozen=True)
class OfSamples:
    """What is said of samples that another program drew.

    Args:
        data: `--data`, the preset or run to judge them by.
        seed: `--seed`, of the split.
        settings: `--set`, laid over the preset.
    """

    data: str | None
    seed: int | None
    settings: Sequence[str]


def evaluate(
    paths: Sequence[Path],
    omegas: Sequence[str],
    sampling: dict[str, Any],
    judging: dict[str, Any],
    of_samples: OfSamples,
    device: str,
) -> None:
    """Evaluate runs, or samples, by what the paths are.

    Args:
        paths: run folders, or samples.
        omegas: `--omega`, for runs.
        sampling: options of drawing, for runs; None where not given.
        judging: options of judging.
        of_samples: for samples.
        device: to compute on.

    Raises:
        CbdmError: runs beside samples, options of the other kind, or what `evaluate_runs` and `evaluate_samples` raise.
    """
    data = of_samples.data
    is_run = [(path / "config.toml").is_file() or not (data or path.exists()) for path in paths]
    samples = [path for path, run in zip(paths, is_run, strict=True) if not run]
    if not samples:
        _refuse_stray(
            {"--data": data, "--seed": of_samples.seed, "--set": of_samples.settings or None},
            f"is for samples of another program, and {paths[0]} is none",
        )
        evaluate_runs(paths, omegas, {**sampling, **judging}, device)
        return
    if data is None:
        raise CbdmError(
            f"{samples[0]} is no run folder (it has no config.toml): of samples say with --data which preset or run "
            "they are to be judged by"
        )
    if len(samples) < len(paths):
        raise CbdmError(f"{samples[0]} holds samples, and others do not: judge runs and samples in two commands")
    named = {"n" if name == "per_class" else name.replace("_", "-"): value for name, value in sampling.items()}
    _refuse_stray(
        {"--omega": omegas or None, **{f"--{name}": value for name, value in named.items()}},
        f"says how to draw from a run, and {samples[0]} is drawn already",
    )
    evaluate_samples(paths, data, of_samples.seed, of_samples.settings, judging, device)


def _refuse_stray(options: Mapping[str, Any], why: str) -> None:
    stray = [name for name, value in options.items() if value is not None]
    if stray:
        raise CbdmError(f"{stray[0]} {why}: leave it out")


def evaluate_runs(paths: Sequence[Path], omegas: Sequence[str], options: dict[str, Any], device: str) -> None:
    """Evaluate each run at each ω; each result is a file in the run folder, named by its options.

    Args:
        paths: run folders.
        omegas: `--omega`; none for each run's own.
        options: of sampling and judging, laid over the run's; None where not given.
        device: to compute on.

    Raises:
        CbdmError: no run, or an option that it cannot be judged by.
    """
    asked = omegas_of(omegas)
    world = join(device)
    try:
        _evaluate(paths, asked, options, world)
    finally:
        leave()


def _evaluate(paths: Sequence[Path], asked: Sequence[str], options: dict[str, Any], world: World) -> None:
    """Draw on all ranks; the leader judges, writes and shows."""
    measure = {name: options.pop(name, None) for name in ("features", "reference")}
    for path in paths[1:]:  # the first is read before any work in any case
        _check_run(path, measure)
    rows, captions = [], []
    for path in paths:
        evaluated = EvaluatedRun.of(path, str(world.device), **measure, world=world)
        for omega in asked or [evaluated.config.sampling.omega]:
            if not world.leads:
                evaluated.drawn({**options, "omega": omega}, "")
                continue
            config, report = evaluated.write(None, {**options, "omega": omega})
            rows.append((path.name, config, report))
            captions.append(report_caption(report, evaluated.evaluator.caption(report)))
    if not rows:
        return
    _, config, report = rows[-1]
    if len(rows) == 1:
        render.report_table(report, report_title(config), captions[0])
        return
    shown = [(name, at.sampling.omega, found) for name, at, found in rows]
    _show_many(shown, captions)


def _check_run(path: Path, measure: Mapping[str, Any]) -> None:
    """Refuse a run for what is known before it is judged: its configuration, data, reference and features."""
    saved = validated(read_config(path))
    config = evaluated_by(saved, measure, path)
    check_judging(config, *load_own_data(path, saved))


def _show_many(rows: Sequence[tuple[str, str, Report]], captions: Sequence[str]) -> None:
    """One table, and each different caption once."""
    render.sweep_table(rows, "evaluated, one row a result")
    for caption in dict.fromkeys(captions):
        render.note(caption)


@dataclass(frozen=True, eq=False)
class _Yardstick:
    """The data that samples are judged by.

    Args:
        name: `--data`.
        config: with `data`, `seed` of the split, and `evaluation`.
        full: the balanced set.
        training: its long-tailed part.
        words: settings and seed that differ from the preset's, as they stand in the name of a result.
    """

    name: str
    config: Config
    full: Dataset
    training: Dataset
    words: str = ""

    def facts(self) -> dict[str, Any]:
        """What tells the data and their split from others."""
        counts = self.training.counts().tolist()
        return {"split_seed": self.config.seed, "data_hash": self.full.content_hash(), "training_counts": counts}


def _yardstick(name: str, seed: int | None, settings: Sequence[str], judging: Mapping[str, Any]) -> _Yardstick:
    """The data of a preset with the split of `seed`, or of a run with its own split."""
    if name in preset_names():
        for text in settings:
            (section,) = setting(text)
            if section not in ("data", "evaluation"):
                raise CbdmError(f"--set {text}: of samples only the tables data and evaluation can be set")
        preset = validated(load_config(name, None, settings))
        config = evaluated_by(preset if seed is None else validated({**preset.model_dump(), "seed": seed}), judging)
        full, training, _ = load_data(config)
        changed = ",".join(sorted(text for text in settings if "data" in setting(text)))
        words = f"-{file_tag(changed)}" if changed else ""
        words += "" if config.seed == preset.seed else f"-seed-{seed}"
        return _Yardstick(name, config, full, training, words)
    if not (Path(name) / "config.toml").is_file():
        raise CbdmError(f"--data {name} is neither a run folder nor a preset: presets are {', '.join(preset_names())}")
    if seed is not None or settings:
        given = f"--seed {seed}" if seed is not None else f"--set {settings[0]}"
        raise CbdmError(f"{given}: the run {name} has its own data and split; leave it out, or name a preset")
    saved = validated(read_config(Path(name)))
    config = evaluated_by(saved, judging, Path(name))
    return _Yardstick(name, config, *load_own_data(Path(name), saved))


def evaluate_samples(
    paths: Sequence[Path],
    data: str,
    seed: int | None,
    settings: Sequence[str],
    judging: dict[str, Any],
    device: str,
) -> None:
    """Judge samples of any program; the result of `s.npz` or of the folder `s` is `s.evaluation.json` beside it.

    Its name also tells what is not the usual: a preset's other split, features, reference, and the data where that
    file is one by other data.

    Args:
        paths: npz files and folders of class folders.
        data: a preset, or a run folder with its split.
        seed: of a preset's split; the preset's by default.
        settings: `a.b=v`, laid over a preset's tables data and evaluation.
        judging: features, reference, intervals, prd_runs; None where not given.
        device: to compute features on.

    Raises:
        CbdmError: data that are not there, samples that cannot be read, or two samples with one result file.
    """
    by = _yardstick(data, seed, settings, judging)
    files = [_result_file(path, by) for path in paths]
    twice = [file for i, file in enumerate(files) if file in files[:i]]
    if twice:
        raise CbdmError(f"two of the samples would have the result {twice[0]}: name one, or rename it")
    found = [read_samples(path, by.full) for path in paths]  # all, so that a mistake shows before any work
    evaluator = Evaluator.of(by.config, by.full, by.training, str(pick_device(device)))
    rows, captions = [], []
    for path, file, samples in zip(paths, files, found, strict=True):
        report = evaluator(by.config, samples.x, samples.labels)
        write_json(file, _sample_facts(path, by, samples, report, evaluator))
        rows.append((path.name, "–", report))
        unbalanced = "" if samples.balanced else f"; {path.name}: labels {samples.labels_text}"
        captions.append(report_caption(report, evaluator.caption(report)) + unbalanced)
    if len(rows) == 1:
        title = f"{paths[0].name} · data {by.name} · split of seed {by.config.seed}"
        render.report_table(rows[0][2], title, captions[0])
    else:
        _show_many(rows, captions)
    for file in files:
        render.note(f"result: {file}")


def _result_file(path: Path, by: _Yardstick) -> Path:
    name = by.name if by.name in preset_names() else file_tag(by.name)
    place, words = path.resolve(), by.words + measure_words(by.config)  # "." and ".." have a name then
    start = f"{place.name if place.is_dir() else place.stem}.evaluation"
    plain = place.parent / f"{start}{words}.json"
    return place.parent / f"{start}-{name}{words}.json" if _of_other_data(plain, by) else plain


def _of_other_data(file: Path, by: _Yardstick) -> bool:
    """Whether a result is there already that was judged by other data, or by another split of them."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not isinstance(found, dict) or any(found.get(name) != value for name, value in by.facts().items())


def _sample_facts(path: Path, by: _Yardstick, samples: Samples, report: Report, evaluator: Evaluator) -> dict[str, Any]:
    """A result with everything that is known of samples of another program."""
    data = by.config.data
    return {
        "samples": str(path),
        "drawn_by": "not known here: sampler, NFE, ω, EMA and seed are those of the program that drew the samples",
        "labels": samples.labels_text,
        "data": by.name,
        "source": {"name": data.source, "options": data.options},
        **by.facts(),
        **evaluator.facts(report),
        **report.to_dict(),
    }

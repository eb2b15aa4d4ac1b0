"""What a page tells, gathered from the files of a comparison or of runs, and checked while it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.method import completed_entries
from cbdm_cli.overlay import flat
from cbdm_cli.run_folder import COMPARISON_FILE, read_records
from cbdm_cli.study.plan import READINGS, Plan, Variant, load_plan, run_folder
from cbdm_cli.study.report.diagnosis import Diagnosed, read_diagnosis
from cbdm_cli.study.results import Result, estimate, finite_or_none, read_results
from cbdm_cli.study.summary import Row, by_score, summary_of
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.report import Report
from cbdm_core.run_config import read_config

__all__ = ["Method", "MethodScores", "SeedRun", "Story", "collect", "differing"]

_RECORD = ("step", "loss", "terms", "groups")
# Two results of a run stand in one curve where they differ in ω alone.
_SAME = (
    *("sampler", "sampler_steps", "guidance_interval", "guidance_prior", "training_step"),
    *("features", "reference"),
)


@dataclass(frozen=True, eq=False)
class SeedRun:
    """One run folder.

    Args:
        path: the folder.
        config: its `config.toml` as plain values, with facts.
        records: the lines of its `metrics.jsonl`, none where it has none.
        environment: its `environment.json`, empty where it has none.
        diagnosis: what `cbdm diagnose` left in it, None where it left nothing.
    """

    path: Path
    config: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    diagnosis: Diagnosed | None = None

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))


@dataclass(frozen=True, eq=False)
class Method:
    """What was trained with one or more seeds.

    Args:
        name: how the page calls it.
        parts: of the method.
        tau: τ where the comparison, or the runs, set it.
        runs: by seed.
    """

    name: str
    parts: str
    tau: float | None
    runs: tuple[SeedRun, ...]


@dataclass(frozen=True, eq=False)
class MethodScores:
    """A row of the result table with all that was measured for it.

    Args:
        row: at its best ω, or, of runs, at their own ω.
        method: its place in `Story.methods`.
        results: ω → seed → result.
    """

    row: Row
    method: int
    results: Mapping[str, Mapping[int, Result]]

    def best(self) -> dict[int, Result]:
        """Seed → result at the row's ω."""
        return {seed: self.results[self.row.omega][seed] for seed in self.row.seeds}

    def by_seed(self, score: str) -> dict[str, dict[int, float]]:
        """ω → seed → score, where it is defined."""
        return {omega: by_score(found, self.row.seeds).get(score, {}) for omega, found in self.results.items()}


@dataclass(frozen=True, eq=False)
class Story:
    """Everything the page tells.

    Args:
        title: the preset, or what the runs are.
        question: the preset's.
        verdict: in a sentence.
        methods: the baseline first.
        method_scores: in the order of the table; empty before anything was judged.
        plan: of a comparison, None for runs.
    """

    title: str
    question: str
    verdict: str
    methods: tuple[Method, ...]
    method_scores: tuple[MethodScores, ...]
    plan: Plan | None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Counts and names of the classes, of the first run."""
        return self.methods[0].runs[0].config["facts"]

    def runs(self) -> list[SeedRun]:
        return [run for method in self.methods for run in method.runs]


def collect(paths: Sequence[Path]) -> Story:
    """Read one comparison, or some runs.

    Raises:
        CbdmError: no such folder, a comparison beside others, runs of different classes, or a damaged file.
    """
    if not paths:
        raise CbdmError("nothing to report: name the folder of a comparison, or run folders")
    for path in paths:
        if not path.is_dir():
            raise CbdmError(f"{path} is no folder: name one that cbdm compare or cbdm train made")
        if not any((path / name).exists() for name in (COMPARISON_FILE, "config.toml")):
            raise CbdmError(
                f"{path} is no comparison and no run folder: it has neither {COMPARISON_FILE} nor config.toml; name a "
                "folder that cbdm compare or cbdm train made"
            )
    comparisons = [path for path in paths if (path / COMPARISON_FILE).exists()]
    if comparisons and len(paths) > 1:
        raise CbdmError(f"{comparisons[0]} is a comparison: report it alone, or name run folders only")
    story = _comparison(paths[0]) if comparisons else _some_runs(paths)
    _same_classes(story.runs())
    return story


def _same_classes(runs: Sequence[SeedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.config["facts"]["class_names"] != first.config["facts"]["class_names"]:
            raise CbdmError(f"{run.path} has other classes than {first.path}: report them apart")


def _comparison(folder: Path) -> Story:
    plan = load_plan(folder)
    methods = tuple(_method(folder, plan, variant) for variant in plan.variants)
    begun = tuple(method for method in methods if method.runs)
    if not begun:
        raise CbdmError(f"{folder} has no run yet: run cbdm compare {folder} first")
    results = read_results(folder, plan, _result)
    summary = summary_of(results)
    place = {method.name: i for i, method in enumerate(begun)}
    rows = summary.rows if summary else ()
    return Story(
        title=plan.preset,
        question=str(begun[0].runs[0].config.get("question", "")),
        verdict=summary.verdict if summary else "No verdict: the baseline has not been judged yet.",
        methods=begun,
        method_scores=tuple(MethodScores(row, place[row.variant], results[row.variant, row.kind]) for row in rows),
        plan=plan,
    )


def _method(folder: Path, plan: Plan, variant: Variant) -> Method:
    places = [run_folder(folder, variant, seed) for seed in range(plan.seeds)]
    runs = tuple(_run(path) for path in places if (path / "config.toml").exists())
    return Method(variant.name, variant.parts, variant.tau, runs)


def _some_runs(paths: Sequence[Path]) -> Story:
    runs = [_run(path) for path in paths]
    methods = _grouped(runs)
    method_scores = [s for i, method in enumerate(methods) if (s := _as_sampled(method, i)) is not None]
    presets = list(dict.fromkeys(str(run.config.get("preset", run.path.name)) for run in runs))
    several = "The runs are shown as they were sampled; intervals and paired differences come from cbdm compare."
    return Story(
        title=", ".join(presets),
        question=str(runs[0].config.get("question", "")) if len(presets) == 1 else "",
        verdict="No verdict: one run is no comparison." if len(runs) == 1 else f"No verdict. {several}",
        methods=methods,
        method_scores=tuple(method_scores),
        plan=None,
    )


def _grouped(runs: Sequence[SeedRun]) -> tuple[Method, ...]:
    """Runs that differ in their seed alone are one method, named by its parts and what else sets it apart."""
    groups: dict[str, list[SeedRun]] = {}
    for run in runs:
        key = json.dumps({k: v for k, v in run.config.items() if k not in ("seed", "facts")}, sort_keys=True)
        group = groups.setdefault(key, [])
        if run.seed in [other.seed for other in group]:
            raise CbdmError(f"{run.path} has the configuration and seed of another run named: name each run once")
        group.append(run)
    firsts = [group[0].config for group in groups.values()]
    keys = [key for key in differing(firsts) if key != "method"]
    names = [_parts(config) for config in firsts]
    methods = []
    for group, config, name in zip(groups.values(), firsts, names, strict=True):
        apart = ", ".join(f"{key} = {flat(config).get(key)}" for key in keys) if names.count(name) > 1 else ""
        tau = flat(config).get("method.cbdm.tau") if "method.cbdm.tau" in keys else None
        ordered = tuple(sorted(group, key=lambda run: run.seed))
        methods.append(Method(f"{name}, {apart}" if apart else name, name, tau, ordered))
    return tuple(methods)


def _parts(config: Mapping[str, Any]) -> str:
    return str(flat(config).get("method", "unknown method"))


def _as_sampled(method: Method, place: int) -> MethodScores | None:
    """The runs of a method at their own ω, and at the other ω they were evaluated at alike."""
    results: dict[str, dict[int, Result]] = {}
    seeds, own = [], ""
    for run in method.runs:
        file = run.path / "evaluation.json"
        if not file.exists():
            continue
        first = _result(file)
        if seeds and str(first.get("omega", "–")) != own:
            raise CbdmError(f"{file} is at ω {first.get('omega')}, the runs beside it at {own}: evaluate them alike")
        seeds, own = [*seeds, run.seed], str(first.get("omega", "–"))
        others = [
            _result(f) for f in sorted([*run.path.glob("evaluation-*.json"), *run.path.glob(f"{READINGS}/*.json")])
        ]
        for result in (*[r for r in others if _alike(r, first)], first):
            results.setdefault(str(result.get("omega", "–")), {})[run.seed] = result
    if not seeds:
        return None
    complete = {omega: found for omega, found in results.items() if len(found) == len(seeds)}
    found = by_score(results[own], seeds)
    row = Row(
        name=method.name,
        variant=method.name,
        kind="",
        omega=own,
        at_edge=False,
        seeds=tuple(seeds),
        scores={score: estimate(list(by_seed.values())) for score, by_seed in found.items()},
        differences=None,
        curve=(),
        values=found,
    )
    return MethodScores(row, place, complete)


def _alike(one: Result, other: Result) -> bool:
    same = all(one.get(key) == other.get(key) for key in _SAME)
    return same and one["overall"]["n_samples"] == other["overall"]["n_samples"]


def _run(path: Path) -> SeedRun:
    config = read_config(path)
    facts = config["facts"]
    if not (isinstance(facts, dict) and {"counts", "class_names"} <= facts.keys() and facts["counts"]):
        raise CbdmError(f"{path / 'config.toml'} is no run's configuration: it lacks the counts and names of classes")
    if "method" in config:  # as a list of whole parts, so that runs of any version can be compared
        config = {**config, "method": completed_entries(config["method"])}
    environment = path / "environment.json"
    return SeedRun(
        path,
        config,
        _records(path / "metrics.jsonl"),
        _json(environment) if environment.exists() else {},
        read_diagnosis(path, facts["class_names"]),
    )


def _records(file: Path) -> tuple[dict[str, Any], ...]:
    if not file.exists():
        return ()
    try:
        records = read_records(file)
    except (OSError, UnicodeDecodeError) as error:
        raise CbdmError(f"{file} cannot be read: {error}; restore it") from error
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or any(key not in record for key in _RECORD):
            raise CbdmError(f"{file}, line {number}, is no record of training: restore the file")
    return tuple(records)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CbdmError(f"{file} cannot be read: {str(error).splitlines()[0]}; restore it") from error
    if not isinstance(value, dict):
        raise CbdmError(f"{file} holds a {type(value).__name__} where an object should be: restore it")
    return value


def _result(file: Path) -> Result:
    """A result that has the form of a report."""
    value = _json(file)
    try:
        report = Report.from_dict(value)
    except CbdmError as error:
        raise CbdmError(f"{file}: {error}") from error
    if not all(finite_or_none(scores.fid) for scores in (report.overall, *report.groups.values())):
        raise CbdmError(f"{file}: a score is no number; evaluate the run again")
    return value


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted names whose values are not the same in all configurations, but for the seed and the facts."""
    tables = [flat({k: v for k, v in config.items() if k not in ("seed", "facts")}) for config in configs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    return [name for name in names if any(table.get(name) != tables[0].get(name) for table in tables)]

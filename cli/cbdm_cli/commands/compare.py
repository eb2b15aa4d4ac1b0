"""`cbdm compare`: many runs with paired seeds, one process each, and what their differences amount to."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cbdm_cli import render
from cbdm_cli.config import Config, validated
from cbdm_cli.durations import duration
from cbdm_cli.live import LiveJobs
from cbdm_cli.locking import held, holder
from cbdm_cli.overlay import setting
from cbdm_cli.preset_files import preset_names
from cbdm_cli.run_folder import COMPARISON_FILE, claimed_folder, is_record, parsed_line, write_json
from cbdm_cli.study.compare_options import CompareOptions
from cbdm_cli.study.job import config_of, job_command
from cbdm_cli.study.launching import Launch, is_done, open_jobs, shell_lines, write_script
from cbdm_cli.study.plan import (
    Plan,
    Variant,
    extended,
    load_plan,
    missing_readings,
    readings_of,
    run_folder,
    save_plan,
)
from cbdm_cli.study.pool import Child, run_children
from cbdm_cli.study.summary import summarise
from cbdm_cli.trust import features_option, quoted, refuse_code, runs_code
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import clean_text, regular_file

__all__ = ["compare"]

_END = 1 << 16  # bytes of metrics that hold a whole record, also with the laws of many classes


@dataclass
class _Job:
    """A variant and a seed, and the process that works on it."""

    variant: Variant
    seed: int
    path: Path
    plan: Plan
    steps: int
    child: Child

    @classmethod
    def of(cls, folder: Path, plan: Plan, variant: Variant, seed: int, device: str) -> _Job:
        path, command = run_folder(folder, variant, seed), job_command(folder, variant, seed, device)
        child = Child(f"{variant.name}, seed {seed}", command, path.parent / f"seed-{seed}.log")
        job = cls(variant, seed, path, plan, config_of(plan, variant, seed).training.steps, child)
        if job.done():
            child.state = "done"
        elif (there := holder(path)) is not None:  # another machine's task, which hands its results to the folder
            child.state = f"runs elsewhere, as {there}"
        return job

    def elsewhere(self) -> bool:
        """Whether another process, of a scheduler, is at work on it."""
        return self.child.state.startswith("runs elsewhere")

    def evaluated(self) -> tuple[int, int]:
        """Readings that are written, and those of the plan."""
        there = len(readings_of(self.plan, self.variant))
        return there - len(missing_readings(self.path, self.plan, self.variant)), there

    def done(self) -> bool:
        """Whether nothing is left to do."""
        return is_done(self.path, self.plan, self.variant)

    def progress(self) -> float:
        """In [0, 1]: training counts as much as its share of the time usually is, a half."""
        written, there = self.evaluated()
        return 0.5 * min(self._step() / self.steps, 1) + 0.5 * written / there

    def _step(self) -> int:
        """The step of the last whole record; a job says itself what is wrong with its files."""
        file = self.path / "metrics.jsonl"
        try:
            with regular_file(file).open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - _END))
                lines = opened.read().decode("utf-8", errors="replace").splitlines()
        except (OSError, CbdmError):
            return 0
        return next((record["step"] for record in map(parsed_line, reversed(lines)) if is_record(record)), 0)

    def words(self) -> str:
        """The state in a phrase."""
        if self.child.state != "running":
            return self.child.state
        step = self._step()
        return f"training {step}/{self.steps}" if step < self.steps else "judged {}/{}".format(*self.evaluated())


def compare(target: str | None, options: CompareOptions, out: Path | None, launch: Launch) -> None:
    """Begin a comparison, or go on with one.

    Args:
        target: a preset, or the folder of a comparison; None is digits-lt, or with data of the user's what suits them.
        options: of the command, which say what it shall hold.
        out: the folder of a new one, None for the next free.
        launch: how its jobs are started.

    Raises:
        CbdmError: whatever a run would refuse, before anything is trained; jobs that failed, after the others ended.
    """
    if target is not None and _is_comparison(target):
        _extend(Path(target), options.more(target, out=out), options.seeds, options.settings, launch=launch)
        return
    if target is not None:
        _refuse_others(target)
    _begin(options.plan(target), out, launch)


def _refuse_others(text: str) -> None:
    """Refuse what is no preset; a file or folder that is there, data or a run, is told so."""
    from cbdm_cli.own_data import source_of

    path = Path(text)
    if text in preset_names():
        return
    if not text.strip() or not path.exists():
        raise CbdmError(
            f"{unknown_name('preset', text, preset_names())}; or the folder of a comparison, to go on with it"
        )
    start = f"{clean_text(text)} is neither a preset nor the folder of a comparison: "
    if (path / "config.toml").exists():
        raise CbdmError(f"{start}it is a run; a comparison trains its own, and cbdm report shows runs side by side")
    source_of(path)  # where it is no data, that is told
    raise CbdmError(f"{start}methods are compared on data of your own by cbdm compare --data {quoted(text)}")


def _is_comparison(text: str) -> bool:
    """Whether the argument names the folder of a comparison; the name of a preset is the preset's."""
    return text not in preset_names() and (Path(text) / COMPARISON_FILE).exists()


def _begin(plan: Plan, out: Path | None, launch: Launch) -> None:
    """Make the folder of a new comparison and run it."""
    if _common(plan).training.fine_tunes:
        raise CbdmError(
            f"training.fine_tunes is true for {plan.preset}, and the runs of a comparison begin at random weights: "
            "take that with --set training.fine_tunes=false, or choose another preset"
        )
    _check(plan, launch)
    with claimed_folder(out, f"compare-{plan.preset}", "cbdm compare") as folder:
        save_plan(folder, plan)
        _work(folder, plan, launch)


def _extend(
    folder: Path,
    add: Sequence[Variant],
    seeds: int | None,
    settings: Sequence[str] = (),
    *,
    launch: Launch,
) -> None:
    """Go on with a comparison, with more variants or seeds if asked.

    Args:
        folder: of the comparison.
        add: variants that it does not have yet.
        seeds: how many it shall have; as many as now by default.
        settings: the plan's own features, `evaluation.features=…`; needed where they run code.
        launch: how its jobs are started.

    Raises:
        CbdmError: another setting, features that run code and that only the plan names, or what `compare` raises.
    """
    with held(folder, "cbdm compare"):
        plan = load_plan(folder)
        _refuse_settings(folder, _common(plan), settings)
        plan = extended(plan, add, seeds)
        _check(plan, launch)
        save_plan(folder, plan)
        _work(folder, plan, launch)


def _common(plan: Plan) -> Config:
    """What all runs of a comparison are made from."""
    return validated(plan.table())


def _refuse_settings(folder: Path, config: Config, settings: Sequence[str]) -> None:
    """The plan has its own; its features may be named again, and must be where they run code."""
    if not settings:
        refuse_code(folder / COMPARISON_FILE, config, features_option(config.evaluation.features))
    if any(setting(text) != {"evaluation": {"features": config.evaluation.features}} for text in settings):
        raise CbdmError(
            f"--set: the comparison {folder} has its own; only --add and --seeds may extend it, and --set only name "
            "its own evaluation.features again"
        )


def _again(folder: Path, plan: Plan) -> str:
    """The command that goes on with the comparison."""
    place, features = str(folder), _common(plan).evaluation.features
    named = quoted(f"./{place}" if place in preset_names() else place)
    return f"cbdm compare {named}" + (f" {features_option(features)}" if runs_code(features) else "")


def _check(plan: Plan, launch: Launch) -> None:
    """Assemble each variant and its sampler once, and find what judges them: a mistake should show before training."""
    from cbdm_cli.assemble import assemble
    from cbdm_cli.evaluator import check_judging
    from cbdm_cli.sampling import solver
    from cbdm_core.distributed import check_device, pick_device
    from cbdm_core.guidance import parse_omega

    check_device(launch.device)
    if launch.here:  # another machine may have what this has not
        pick_device(launch.device)
    for omega in plan.omegas:
        parse_omega(omega)
    for variant in plan.variants:
        made = assemble(config_of(plan, variant, 0))
        solver(made.config, made.objective.network, made.schedule)
        check_judging(made.config, made.full, made.data)


def _work(folder: Path, plan: Plan, launch: Launch) -> None:
    if not launch.here and (waiting := open_jobs(folder, plan, launch.device)):
        _hand_over(folder, plan, waiting, launch)
        return
    # Seed by seed, so that what is there at any time is paired.
    places = [(variant, seed) for seed in range(plan.seeds) for variant in plan.variants]
    todo = [_Job.of(folder, plan, variant, seed, launch.device) for variant, seed in places]
    failed = _run_all(folder, plan, todo, launch)
    summary = summarise(folder, plan)
    if summary is not None:
        write_json(folder / "results.json", summary.to_dict())
        render.comparison_table(summary, _title(plan))
    render.note(f"comparison: {folder}")
    if others := [job for job in todo if job.elsewhere() and not job.done()]:
        first = f"{others[0].child.name} {others[0].child.state}"
        render.note(f"{len(others)} of {len(todo)} jobs are not done yet, {first}; after them: {_again(folder, plan)}")
    if failed:
        first = failed[0]
        raise CbdmError(
            f"{len(failed)} of {len(todo)} jobs failed, first {first.variant.name} seed {first.seed}: "
            f"{first.child.last_line()} (whole log: {first.child.log}); mend it and go on with: {_again(folder, plan)}"
        )


def _hand_over(folder: Path, plan: Plan, waiting: list[list[str]], launch: Launch) -> None:
    """Tell the jobs to whoever runs them: lines on standard output, or a script; what to do after them is a comment."""
    jobs = f"{len(waiting)} of {len(plan.variants) * plan.seeds} jobs are open"
    if launch.launcher == "slurm":
        render.note(f"{jobs}: sbatch {quoted(str(write_script(folder, waiting, launch)))}")
        render.note(f"when they have ended: {_again(folder, plan)}")
        return
    print(f"# {jobs}; when they have ended: {_again(folder, plan)}", *shell_lines(waiting, launch.threads), sep="\n")


def _title(plan: Plan) -> str:
    seeds = "1 seed" if plan.seeds == 1 else f"{plan.seeds} paired seeds"
    return f"{plan.preset}: {len(plan.variants)} methods × {seeds}, each at its best ω"


def _run_all(folder: Path, plan: Plan, todo: list[_Job], launch: Launch) -> list[_Job]:
    """Run what is not done, so many at a time; returns those that failed."""
    begun, before = time.monotonic(), {id(job): job.progress() for job in todo}
    with LiveJobs(_title(plan)) as live:
        came = run_children(
            [job.child for job in todo],
            launch.jobs,
            threads=launch.threads,
            ended=lambda child: live.line(f"{child.name}: {_outcome(child)}"),
            look=lambda: live.show(_rows(todo), _time_left(todo, begun, before)),
        )
    if came is not None:
        render.note(f"stopped; what is done is kept, go on with: {_again(folder, plan)}")
        raise SystemExit(128 + came)
    return [job for job in todo if job.child.state == "failed"]


def _outcome(child: Child) -> str:
    return f"failed: {child.last_line()}" if child.state == "failed" else f"done in {child.minutes:.1f} min"


def _rows(todo: Sequence[_Job]) -> list[tuple[str, str, str]]:
    """What runs, what failed, and the next few."""
    busy = [job for job in todo if job.child.state in ("running", "failed") or job.elsewhere()]
    waiting = [job for job in todo if job.child.state == "waiting"]
    return [(job.variant.name, str(job.seed), job.words()) for job in [*busy, *waiting[:3]]]


def _time_left(todo: Sequence[_Job], begun: float, before: Mapping[int, float]) -> str:
    ours = [job for job in todo if job.child.state != "failed" and not job.elsewhere()]
    done, wanted = sum(job.progress() for job in ours), len(ours)
    finished = sum(job.child.state == "done" for job in todo)
    gained, seconds = done - sum(before[id(job)] for job in ours), time.monotonic() - begun
    text = f"{finished} of {len(todo)} jobs done"
    if all(job.child.state == "done" for job in ours):
        return text
    if gained > 0.02:
        return f"{text}, about {duration(max(seconds * (wanted - done) / gained, 1))} left"
    return f"{text}, time left not known yet"

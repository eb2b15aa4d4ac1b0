"""`cbdm evaluate`: judge runs again, at one ω or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbdm_cli import render
from cbdm_cli.assemble import load_data
from cbdm_cli.config import Config, validated
from cbdm_cli.judging import balanced_samples, drawn_with_bar, judge
from cbdm_cli.runs import write_json
from cbdm_cli.sample import with_sampling
from cbdm_cli.train import evaluation_facts, report_caption, report_title
from cbdm_core.errors import CbdmError
from cbdm_core.guidance import parse_omega
from cbdm_core.metrics.features import cached_classifier
from cbdm_core.run import load_run

__all__ = ["evaluate_runs", "omegas_of"]


def omegas_of(texts: Sequence[str]) -> list[str]:
    """The values of `--omega`: each a schedule of ω, or numbers parted by commas.

    Raises:
        CbdmError: a text that is neither.
    """
    values = []
    for text in texts:
        pieces = text.split(",")
        values += pieces if ":" not in text else [text]
    for value in values:
        parse_omega(value)
    return [value.strip() for value in values]


def _file_name(config: Config) -> str:
    """A name that tells every option, so that another evaluation does not take its place."""
    sampling = config.sampling
    omega = sampling.omega.replace(":", "-").replace(",", "-")
    null = (
        ""
        if sampling.guidance_prior is None
        else "-null-" + sampling.guidance_prior.replace(":", "-").replace(",", "-")
    )
    return f"evaluation-omega-{omega}{null}-{sampling.sampler}-{sampling.steps}-n{config.evaluation.per_class}.json"


def evaluate_runs(paths: Sequence[Path], omegas: Sequence[str], options: dict[str, Any], device: str) -> None:
    """Evaluate each run at each ω; each result is a file in the run folder, named by its options."""
    asked = omegas_of(omegas)
    rows = []
    for path in paths:
        run = load_run(path, device=device)
        saved = validated(run.config)
        full, data, split = load_data(saved)
        if saved.facts is None or split != saved.facts.split_hash or full.content_hash() != saved.facts.data_hash:
            raise CbdmError(f"{path}: the data are not those the run was trained on; restore them or train anew")
        classifier = cached_classifier(full)
        for omega in asked or [saved.sampling.omega]:
            config = with_sampling(saved, {**options, "omega": omega})
            labels, told = balanced_samples(config, full)
            where = next(run.network.parameters()).device
            x = drawn_with_bar(config, run.network, run.schedule, told, run.shape, where, f"{path.name} ω {omega}")
            report = judge(config, x, labels, full, data.counts(), classifier)
            write_json(path / _file_name(config), evaluation_facts(config, run.step, report))
            rows.append((path.name, config, report))
    _, config, report = rows[-1]
    if len(rows) == 1:
        render.report_table(report, report_title(config), report_caption(report))
        return
    shown = [(name, at.sampling.omega, found) for name, at, found in rows]
    render.sweep_table(shown, "evaluated against the balanced sets")
    render.note(report_caption(report))

"""`cbdm evaluate`: judge runs again, at one ω or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli import render
from cbdm_cli.assemble import load_data
from cbdm_cli.config import Config, merged, validated
from cbdm_cli.judging import balanced_samples, drawn_with_bar, judge
from cbdm_cli.runs import write_json
from cbdm_cli.sample import with_sampling
from cbdm_cli.train import evaluation_facts, report_caption, report_title
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.evaluation import Report
from cbdm_core.guidance import parse_omega
from cbdm_core.metrics.features import FeatureExtractor
from cbdm_core.metrics.sources import feature_extractor
from cbdm_core.run import Run, load_run

__all__ = ["Judged", "evaluate_runs", "omegas_of"]


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
    kind = config.evaluation.features.partition(":")[0]
    by = "" if kind == "classifier" else f"-{kind}"
    return f"evaluation-omega-{omega}{null}{by}-{sampling.sampler}-{sampling.steps}-n{config.evaluation.per_class}.json"


@dataclass(frozen=True, eq=False)
class Judged:
    """A run and what is needed to judge it, read once.

    Args:
        path: the run folder.
        run: the trained network.
        config: as the run was trained.
        full: the balanced set.
        data: its long-tailed part.
        classifier: gives the features.
    """

    path: Path
    run: Run
    config: Config
    full: Dataset
    data: Dataset
    classifier: FeatureExtractor

    @classmethod
    def of(cls, path: Path, device: str, features: str | None = None) -> Judged:
        """The run in `path`, judged by these features, or the run's own.

        Raises:
            CbdmError: no run, or data that are not those of the run.
        """
        run = load_run(path, device=device)
        saved = validated(run.config)
        full, data, split = load_data(saved)
        if saved.facts is None or split != saved.facts.split_hash or full.content_hash() != saved.facts.data_hash:
            raise CbdmError(f"{path}: the data are not those the run was trained on; restore them or train anew")
        if features is not None:
            saved = validated(merged(saved.model_dump(), {"evaluation": {"features": features}}))
        where = str(next(run.network.parameters()).device)
        extractor = feature_extractor(saved.evaluation.features, full, device=where)
        return cls(path, run, saved, full, data, extractor)

    def report(self, options: dict[str, Any], name: str) -> tuple[Config, Report]:
        """Balanced samples drawn with these sampling options, judged; `name` is what the bar is called."""
        config = with_sampling(self.config, options)
        labels, told = balanced_samples(config, self.full)
        where = next(self.run.network.parameters()).device
        x = drawn_with_bar(config, self.run.network, self.run.schedule, told, self.run.shape, where, name)
        return config, judge(config, x, labels, self.full, self.data, self.classifier)

    def write(self, file: Path | None, options: dict[str, Any]) -> tuple[Config, Report]:
        """Judge and write the result; the file is named by the options where none is given."""
        config, report = self.report(options, f"{self.path.name} ω {options['omega']}")
        write_json(file or self.path / _file_name(config), evaluation_facts(config, self.run.step, report))
        return config, report


def evaluate_runs(paths: Sequence[Path], omegas: Sequence[str], options: dict[str, Any], device: str) -> None:
    """Evaluate each run at each ω; each result is a file in the run folder, named by its options."""
    asked, features = omegas_of(omegas), options.pop("features", None)
    rows = []
    for path in paths:
        judged = Judged.of(path, device, features)
        for omega in asked or [judged.config.sampling.omega]:
            rows.append((path.name, *judged.write(None, {**options, "omega": omega})))
    _, config, report = rows[-1]
    if len(rows) == 1:
        render.report_table(report, report_title(config), report_caption(report))
        return
    shown = [(name, at.sampling.omega, found) for name, at, found in rows]
    render.sweep_table(shown, "evaluated against the balanced sets")
    render.note(report_caption(report))

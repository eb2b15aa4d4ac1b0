"""The card of an exported model: what it is, what it was trained on, its law and its measured quality."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbdm_cli.config import Config, Data
from cbdm_cli.numerals import number
from cbdm_cli.run_data import IMPORTED, known_counts
from cbdm_core.metrics.scores import known_scores
from cbdm_core.reading import clean_text, regular_file
from cbdm_core.run import Run

__all__ = ["model_card"]

_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def model_card(run: Run, config: Config, how: str) -> str:
    """Markdown with the front matter of a model hub.

    Args:
        run: what is exported.
        config: its configuration.
        how: a line of Python that reads the export.
    """
    laws = ", ".join(f"{part}: {text}" for part, text in run.config["facts"]["laws"].items()) or "none"
    counts = known_counts(run)
    size = sum(p.numel() for p in run.network.parameters())
    facts = {
        "method": f"`{config.method_text}`",
        "law of each part": laws,
        "network": f"{config.network.name}, {size:,} parameters, predicts {config.network.predicts}",
        "noise schedule": config.schedule.name,
        "shape of an example": " × ".join(map(str, run.shape)),
        "training": f"{run.step:,} steps of {config.training.batch_size}, seed {config.seed}",
        "data": _data(config.data, counts),
    }
    if run.condition_names is not None:
        facts["told"] = ", ".join(run.condition_names)
    if run.units is not None:
        facts["units"] = f"floats; x = mean + scale · z of {len(run.units.mean)} channels, in the configuration"
    lines = ["---", "library_name: cbdm", "tags: [diffusion, class-imbalance, long-tail]", "---", ""]
    lines += [f"# {config.preset}, {config.method_text}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Training images of each class", "", "| class | images |", "|---|---|"]
    lines += [f"| {name} | {_images(count)} |" for name, count in zip(run.class_names, counts, strict=True)]
    lines += ["", "## Quality", "", *_quality(run.path), "", "## Use", "", "```python", how, "```", ""]
    return "\n".join(lines)


def _data(data: Data, counts: Sequence[int | None]) -> str:
    """Source, number of examples and how they were cut; an imported run knows the number at most."""
    examples = "an unknown number of" if None in counts else f"{sum(n or 0 for n in counts):,}"
    if data.source == IMPORTED:
        return f"of the imported checkpoint, {examples} examples"
    cut = {"none": "as the data are", "held-out": f"{data.held_out:.0%} of each class held out"}
    tail = cut.get(data.profile, f"{data.profile}, imbalance {data.imbalance}")
    return f"{data.source}, {examples} examples, {tail}"


def _images(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def _quality(path: Path) -> list[str]:
    """The scores of the run's own evaluation, overall and by class group, and the verdict of its study, if any."""
    file = path / "evaluation.json"
    if not file.exists():
        return ["Not evaluated."]
    try:
        table = _table(json.loads(regular_file(file).read_text(encoding="utf-8")))
    except _DAMAGE:
        return ["Its evaluation cannot be read."]
    return [*table, *_verdict(path)]


def _table(evaluation: dict[str, Any]) -> list[str]:
    report = evaluation.get("report", evaluation)
    rows = {"overall": report.get("overall", {}), **report.get("groups", {})}
    shown = [score for score in known_scores() if score.shown and rows["overall"].get(score.key) is not None]
    lines = [f"| | {' | '.join(score.label for score in shown)} |", f"|---|{'---|' * len(shown)}"]
    for name, scores in rows.items():
        values = [(scores.get(score.key), score.digits) for score in shown]
        cells = (number(value, digits) for value, digits in values)
        lines.append(f"| {clean_text(name)} | {' | '.join(cells)} |")
    features = report.get("features") or evaluation.get("features")
    return [*lines, *(["", f"Features: {clean_text(str(features))}."] if features else [])]


def _verdict(path: Path) -> list[str]:
    """What the study that the run belongs to says of its methods."""
    for folder in (path.parent, path.parent.parent):
        try:
            summary = json.loads(regular_file(folder / "results.json").read_text(encoding="utf-8"))
            return ["", f"Verdict of the comparison that it was trained in: {clean_text(str(summary['verdict']))}"]
        except _DAMAGE:
            continue
    return ["", "Verdict: one run; a difference to another method needs paired seeds (`cbdm compare`)."]

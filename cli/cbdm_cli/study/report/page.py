"""From what was gathered to one HTML text."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cbdm_cli.config import validated
from cbdm_cli.numerals import number
from cbdm_cli.overlay import flat
from cbdm_cli.study.report import figures, training_curves
from cbdm_cli.study.report.card import card
from cbdm_cli.study.report.collect import MethodScores, Story, differing
from cbdm_cli.study.report.drawing import COLOURS, Drawing
from cbdm_cli.study.report.heat_maps import diagnoses
from cbdm_cli.study.report.neighbours import Neighbours
from cbdm_cli.study.report.wording import width_text
from cbdm_cli.study.results import Estimate
from cbdm_cli.study.summary import Row, against, implied_row
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.scores import compared_scores, digits_of, label_of, meanings

__all__ = ["page"]

_ROWS = "A row per class, the rarest last, with its number of training images"
_GRIDS = 2_500_000  # bytes for all sample grids together: the page must stay below 5 MB


@dataclass(frozen=True)
class _Cell:
    text: str
    value: str  # what the column is sorted by, "" for nothing
    width: str = ""


@dataclass(frozen=True)
class _Picture:
    name: str
    colour: str
    source: str
    alt: str
    facts: str


def page(story: Story, neighbours: Sequence[Neighbours] = ()) -> str:
    """The whole page; the same story gives the same text.

    Args:
        story: what it tells.
        neighbours: samples beside their nearest training images, none to leave the section out.

    Raises:
        CbdmError: a picture that cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("cbdm_cli.study.report", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _asset("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return jinja.get_template("template.html").render(
        story=story,
        style=_asset("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        columns=_columns(story),
        meanings=meanings(_scores(story)),
        card=card(story),
        rows=[_row(story, j) for j in story.method_scores],
        cautions=_cautions(story),
        histogram=figures.class_histogram(story),
        scores=_score_sections(story),
        losses=training_curves.loss_curves(story),
        laws=training_curves.law_trajectories(story),
        diagnoses=[(story.methods[d.method].name, _colour(d.method), d) for d in diagnoses(story)],
        grids=_grids(story),
        grid_note=_grid_note(story),
        neighbours=[_neighbours(story, found) for found in neighbours],
        differences=_differences(story),
        toml=validated(story.methods[0].runs[0].config).to_toml(),
        provenance=_provenance(story),
        seed_count=_seed_text(story),
    )


def _asset(name: str) -> str:
    return (files("cbdm_cli.study.report") / name).read_text(encoding="utf-8")


def _score_sections(story: Story) -> list[tuple[str, str, list[Drawing]]]:
    """(id, heading, figures) of what was measured; a section without a figure is left out."""
    found = [
        ("classes", "Scores by class", [figures.class_bars(story, "fid"), figures.class_bars(story, "recall")]),
        ("plane", "Precision and recall", [figures.plane(story)]),
        ("omega", "Guidance strength", [figures.omega_curves(story)]),
        ("strength", "Strength of the method", [figures.strength_curves(story)]),
    ]
    return [(key, head, kept) for key, head, drawn in found if (kept := [d for d in drawn if d is not None])]


def _compared(story: Story) -> bool:
    return any(j.row.differences for j in story.method_scores)


def _columns(story: Story) -> list[tuple[str, bool]]:
    """(heading, whether it holds numbers)."""
    head = [("method", False), ("best ω" if story.plan else "ω", True)]
    scores = [(label_of(score), True) for score in _scores(story)]
    differences = [("FID − baseline", True)] * _compared(story) + [("FID − ω_eff(t)", True)] * bool(_implied(story))
    return [*head, scores[0], *differences, *scores[1:]]


def _implied(story: Story) -> Row | None:
    """The row that decides: the plain model under the guidance that CBDM implies, where it was judged."""
    return implied_row([j.row for j in story.method_scores]) if _compared(story) else None


def _scores(story: Story) -> list[str]:
    return [
        score
        for score in compared_scores()
        if score == "fid" or any(score in j.row.scores for j in story.method_scores)
    ]


def _row(story: Story, scores_of: MethodScores) -> dict[str, Any]:
    row = scores_of.row
    omega = figures.omega_value(row.omega)
    text = row.omega_text() if story.plan else row.omega
    cells, implied = [_Cell(text, "" if omega is None else repr(omega), "(edge)" * row.at_edge)], _implied(story)
    for score in _scores(story):
        cells.append(_estimated(row.scores.get(score), digits_of(score)))
        if score == "fid" and _compared(story):
            difference = (row.differences or {}).get("fid")
            cells.append(_Cell("baseline", "0") if row.differences is None else _estimated(difference, 2, sign=True))
        if score == "fid" and implied is not None:
            cells.append(
                _Cell("itself", "0") if row is implied else _estimated(against(row, implied, "fid"), 2, sign=True)
            )
    return {"name": row.name, "colour": _colour(scores_of.method), "cells": cells}


def _estimated(found: Estimate | None, digits: int, sign: bool = False) -> _Cell:
    if found is None:
        return _Cell("–", "")
    return _Cell(number(found.mean, digits, sign), repr(found.mean), width_text(found, digits))


def _colour(method: int) -> str:
    return COLOURS[method % len(COLOURS)]


def _cautions(story: Story) -> list[str]:
    """What has to be known to read the figures."""
    results = [result for j in story.method_scores for result in j.best().values()]
    if not results:
        return []
    features = _distinct(result["features"] for result in results)
    parts = [f"Features: {features}; {_distinct(result['note'] for result in results)}."]
    if len({result["features"] for result in results}) > 1:
        parts.append("The features differ between rows, so that their figures must not be compared.")
    accuracy = results[0].get("held_out_accuracy")
    if accuracy is not None:
        parts.append(f"The classifier behind them is right on {accuracy:.1%} of the data it never saw.")
    return parts


def _distinct(values: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys("none" if v is None else str(v) for v in values))


def _seed_text(story: Story) -> str:
    seeds = sorted({run.seed for run in story.runs()})
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def _grids(story: Story) -> list[_Picture]:
    """The grids of each method's first run."""
    chosen = [(i, m, m.runs[0]) for i, m in enumerate(story.methods) if (m.runs[0].path / "samples.png").exists()]
    counts, names = story.facts["counts"], story.facts["class_names"]
    order = sorted(range(len(counts)), key=lambda y: -counts[y])
    ends = [f"{names[y]} with {counts[y]} training images" for y in (order[0], order[-1])]
    budget = _GRIDS // max(len(chosen), 1)
    found = []
    for i, method, run in chosen:
        omega = run.config.get("sampling", {}).get("omega", "–")
        alt = f"Samples of {method.name}, seed {run.seed}, at ω {omega}, from class {ends[0]} to class {ends[1]}."
        source = _embedded(_within(run.path / "samples.png", budget))
        found.append(_Picture(method.name, _colour(i), source, alt, f"seed {run.seed}, ω = {omega}"))
    return found


def _grid_note(story: Story) -> str:
    """Whether the grids can be held against one another sample by sample."""
    parts = []
    for method in story.methods:
        config = method.runs[0].config
        parts.append((config.get("seed"), config.get("sampling"), config.get("evaluation"), config.get("schedule")))
    vectors = len(story.facts["shape"]) == 1  # drawn as points
    rows = "A colour per class, with its number of training examples" if vectors else _ROWS
    alike, place = (
        f"{rows}; drawn at the run's own ω.",
        "" if vectors else ", so that the same place holds the same draw",
    )
    if len(parts) > 1 and all(other == parts[0] for other in parts):
        return f"{alike} All grids have the same noise and labels{place}."
    if len(parts) > 1:
        return f"{alike} The runs differ in seed or sampling{place.replace('holds', 'does not hold')}."
    return alike


def _within(path: Any, budget: int) -> bytes:
    """The PNG, made smaller by halves until it has at most `budget` bytes."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise CbdmError(f"{path} cannot be read as a picture: draw it again or remove it") from error
    while len(data) > budget and min(image.size) > 64:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        data = _png(image)
    return data


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _neighbours(story: Story, found: Neighbours) -> dict[str, Any]:
    pairs = [
        {
            "sample": _embedded(_png(pair.sample)),
            "neighbour": _embedded(_png(pair.neighbour)),
            "asked": pair.asked,
            "found": pair.found,
            "distance": number(pair.distance, 2),
        }
        for pair in found.pairs
    ]
    distances = sorted(pair.distance for pair in found.pairs)
    middle = math.fsum(distances[(len(distances) - 1) // 2 : len(distances) // 2 + 1]) / (2 - len(distances) % 2)
    facts = f"seed {found.seed}, ω = {found.omega}; median distance {number(middle, 2)}"
    if found.usual is not None:
        facts += f", between a training image of these classes and the nearest other {number(found.usual, 2)}"
    return {"name": story.methods[found.method].name, "colour": _colour(found.method), "facts": facts, "pairs": pairs}


def _differences(story: Story) -> list[tuple[str, list[str]]]:
    """(dotted name, its value for each method) of what the configurations do not share; a part's options in one row."""
    configs = [method.runs[0].config for method in story.methods]
    tables, rows = [flat(config) for config in configs], dict[str, list[str]]()
    for key in differing(configs):
        place, _, option = key.rpartition(".")
        whole = place if place.startswith("method.") else key
        cells = rows.setdefault(whole, [""] * len(tables))
        for index, table in enumerate(tables):
            if key in table:
                cells[index] += f"{', ' * bool(cells[index])}{option} {table[key]}" if whole != key else str(table[key])
    return [(name, [cell or "–" for cell in cells]) for name, cells in rows.items()]


def _provenance(story: Story) -> list[tuple[str, str]]:
    """What a result depends on beside its configuration; values that differ between runs are all named."""
    runs = story.runs()
    results = [result for j in story.method_scores for result in j.best().values()]
    found = [("seeds", _seed_text(story).split(" ", 1)[1])]
    if story.plan is not None:
        plan = story.plan
        found.append(("settings over the preset", ", ".join(plan.settings) or "none"))
        found.append(("ω judged at", ", ".join(plan.omegas)))
    keys = (
        ("features", "features"),
        ("sampler", "sampler"),
        ("sampler steps", "sampler_steps"),
        ("training step", "training_step"),
        ("weights", "weights"),
        ("labels of samples", "labels"),
        ("reference", "reference"),
    )
    found += [(label, _distinct(result.get(key) for result in results)) for label, key in keys if results]
    if results:
        found.append(("samples in a result", _distinct(result["overall"]["n_samples"] for result in results)))
        found.append(("reference examples", _distinct(result["overall"]["n_reference"] for result in results)))
        found.append(("k of precision and recall", _distinct(result["k"] for result in results)))
    facts = [run.config["facts"] for run in runs]
    hashes = (("data hash", "data_hash"), ("split hash", "split_hash"))
    found += [(name, _distinct(f.get(key) for f in facts)) for name, key in hashes]
    return [*found, *_machines([run.environment for run in runs if run.environment])]


def _machines(environments: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    tables = [flat({k: v for k, v in e.items() if k != "command"}) for e in environments]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    found = [(key.removeprefix("packages."), _distinct(table.get(key) for table in tables)) for key in keys]
    return [*found, *[("command of the first run", " ".join(map(str, e.get("command", [])))) for e in environments[:1]]]

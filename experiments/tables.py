"""From the readings of an experiment to its small result file, and from that to the tables of the docs. No torch."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.study.plan import READINGS, Plan, readings_of, run_folder
from cbdm_cli.study.summary import SCORES, Estimate, at_edge, estimate, swept, value_at

# What a result file keeps of a reading: name → where it stands there.
KEPT: Mapping[str, tuple[str, ...]] = {
    **{score: path for score, (path, _) in SCORES.items()},
    "label accuracy": ("overall", "label_accuracy"),
}
# How a setting begins that says where the data lie.
ROOT = "data.options.root="
# ω → score → its values by seed.
ByOmega = Mapping[str, Mapping[str, Sequence[float]]]


def gathered(plans: Mapping[str, Plan], work: Path) -> dict[str, Any]:
    """The kept scores of every cell, row and ω, by seed, and its data; a row is a variant and a way to sample it.

    Raises:
        FileNotFoundError: a reading that is not there yet.
    """
    cells = {}
    for name, plan in plans.items():
        rows: dict[str, dict[str, Any]] = {}
        for variant in plan.variants:
            for reading in readings_of(plan, variant):
                row = f"{variant.name}, {reading.kind}" if reading.kind else variant.name
                files = [run_folder(work / name, variant, s) / READINGS / reading.file for s in range(plan.seeds)]
                found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
                scores = {score: [_value(result, path) for result in found] for score, path in KEPT.items()}
                rows.setdefault(row, {})[reading.omega] = {
                    score: values for score, values in scores.items() if None not in values
                }
        # Where the data lie on this machine is no part of what was done.
        settings = [text for text in plan.settings if not text.startswith(ROOT)]
        text = {"settings": settings, "steps": plan.steps, "seeds": plan.seeds}
        cells[name] = {**text, **_data(run_folder(work / name, plan.variants[0], 0)), "rows": rows}
    return cells


def _data(run: Path) -> dict[str, Any]:
    """Training images of each class, how often a run of the cell saw each, and how many samples a reading has."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    counts, training = config["facts"]["counts"], config["training"]
    epochs = round(training["steps"] * training["batch_size"] / sum(counts))
    return {"counts": counts, "epochs": epochs, "samples": config["evaluation"]["per_class"] * len(counts)}


def _value(result: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """To five digits: the file stays small, and no interval feels it."""
    found = value_at(result, path)
    return None if found is None else float(f"{found:.5g}")


@dataclass(frozen=True)
class Best:
    """A row at the ω with the least mean FID over seeds.

    Args:
        omega: that ω.
        at_edge: it ends its grid, so that a better one may lie beyond.
        scores: score → values by seed.
    """

    omega: str
    at_edge: bool
    scores: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, by_omega: ByOmega) -> Best:
        omega = min(by_omega, key=lambda o: math.fsum(by_omega[o]["fid"]))
        return cls(omega, at_edge(omega, list(by_omega)), by_omega[omega])

    def mean(self, score: str) -> float:
        values = self.scores[score]
        return math.fsum(values) / len(values)

    def minus(self, other: Best, score: str) -> Estimate:
        """The paired difference, over the seeds that both have."""
        return estimate([a - b for a, b in zip(self.scores[score], other.scores[score])])

    def text(self) -> str:
        """ω for a table."""
        (kind, _), numbers = swept(self.omega)
        omega = {"implied": "ω_eff {:g}", "linear": "{:g}τt + {:g}"}.get(kind, "{:g}").format(*numbers)
        return f"{omega} (edge)" if self.at_edge else omega


def text(e: Estimate, digits: int = 2) -> str:
    """A difference and its interval; bold where the interval excludes 0."""
    text = f"{e.mean:+.{digits}f}{_width(e, digits)}"
    return f"**{text}**" if e.excludes_zero else text


def _width(e: Estimate, digits: int) -> str:
    """Nothing where one seed gives none."""
    return f" ± {e.half_width:.{digits}f}" if math.isfinite(e.half_width) else ""


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])


def methods_table(rows: Mapping[str, ByOmega]) -> str:
    """Every row at its best ω, and its paired differences to DDPM at its own."""
    plain = Best.of(rows["ddpm"])
    head = ("method", "best ω", "FID", "− ddpm", "tail FID", "− ddpm", "precision", "recall", "tail recall", "copies")
    lines = []
    for name, by_omega in rows.items():
        best = Best.of(by_omega)
        same = name == "ddpm"
        differences = ["baseline" if same else text(best.minus(plain, score)) for score in ("fid", "tail fid")]
        shares = [f"{best.mean(score):.3f}" for score in ("precision", "recall", "tail recall")]
        copies = "—"
        if found := best.scores.get("tail copies"):
            e = estimate([100 * share for share in found])
            copies = f"{e.mean:.1f}{_width(e, 1)} %"
        fid, tail = (f"{best.mean(score):.2f}" for score in ("fid", "tail fid"))
        lines.append([name, best.text(), fid, differences[0], tail, differences[1], *shares, copies])
    return table(head, lines)


# Score → digits after the point, of the tables of differences.
DIGITS: Mapping[str, int] = {"fid": 2, "tail fid": 2, "precision": 3, "recall": 3, "tail recall": 3}
_SCORES = ("FID", "tail FID", "precision", "recall", "tail recall")


def differences_table(pairs: Sequence[tuple[str, Best, Best]], what: str) -> str:
    """Named pairs, each at its best ω: first, second and the paired difference in five scores."""
    lines = []
    for name, one, two in pairs:
        both = f"{one.mean('fid'):.2f} / {two.mean('fid'):.2f}"
        found = [text(one.minus(two, score), digits) for score, digits in DIGITS.items()]
        lines.append([name, f"{one.text()} / {two.text()}", both, *found])
    return table((what, "ω of both", "FID of both", *_SCORES), lines)


def changes_table(changes: Sequence[tuple[str, tuple[Best, Best], tuple[Best, Best]]], what: str) -> str:
    """By how much the difference of one pair is above that of another, paired over the seeds of all four."""
    lines = []
    for name, (a, b), (c, d) in changes:
        found = []
        for score, digits in DIGITS.items():
            values = zip(*(best.scores[score] for best in (a, b, c, d)))
            found.append(text(estimate([(w - x) - (y - z) for w, x, y, z in values]), digits))
        lines.append([name, *found])
    return table((what, *_SCORES), lines)


def pairs_table(rows: Mapping[str, ByOmega], pairs: Sequence[tuple[str, str]]) -> str:
    """Differences of named rows."""
    return differences_table([(f"{a} − {b}", Best.of(rows[a]), Best.of(rows[b])) for a, b in pairs], "difference")

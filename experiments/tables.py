"""From the readings of an experiment to its small result file, and from that to the tables of the docs. No torch."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.study.plan import Plan, run_folder
from cbdm_cli.study.results import Estimate, Result, at_edge, best_omega, estimate, read_results, scores_of, swept
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.scores import digits_of, label_of

# How a setting begins that says where the data lie.
ROOT = "data.options.root="
# ω → score → its values by seed.
ByOmega = Mapping[str, Mapping[str, Sequence[float]]]


def gathered(plans: Mapping[str, Plan], work: Path) -> dict[str, Any]:
    """The kept scores of every cell, row and ω, by seed, and its data; a row is a variant and a way to sample it.

    Raises:
        CbdmError: a reading that is not there yet.
    """
    cells = {}
    for name, plan in plans.items():
        rows = {
            f"{variant}, {kind}" if kind else variant: {
                omega: _by_score(_whole(by_seed, plan.seeds, f"{name}, {variant} at ω {omega}"))
                for omega, by_seed in by_omega.items()
            }
            for (variant, kind), by_omega in read_results(work / name, plan).items()
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


def _whole(by_seed: Mapping[int, Result], seeds: int, where: str) -> list[Result]:
    missing = [seed for seed in range(seeds) if seed not in by_seed]
    if missing:
        raise CbdmError(f"{where}: seed {missing[0]} has no reading yet; run the experiment again")
    return [by_seed[seed] for seed in range(seeds)]


def _by_score(results: Sequence[Result]) -> dict[str, list[float]]:
    """Score → its values by seed, where every seed has one: to five digits, which no interval feels."""
    found = [{**scores_of(r), "label accuracy": r["overall"]["label_accuracy"]} for r in results]
    return {
        score: [float(f"{scores[score]:.5g}") for scores in found]
        for score in found[0]
        if all(scores.get(score) is not None for scores in found)
    }


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
        omega = best_omega({omega: math.fsum(scores["fid"]) for omega, scores in by_omega.items()})
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
    """A table in Markdown; numbers below 0 have a true minus, except in code."""
    rows = ["| " + " | ".join(map(_true_minus, cells)) + " |" for cells in (head, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])


def _true_minus(cell: str) -> str:
    return cell if "`" in cell else re.sub(r"(?<![\w-])-(?=\d)", "−", cell)


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


# Of the tables of differences.
DIFFERENCES = ("fid", "tail fid", "precision", "recall", "tail recall")
_LABELS = [label_of(score) for score in DIFFERENCES]


def differences_table(pairs: Sequence[tuple[str, Best, Best]], what: str) -> str:
    """Named pairs, each at its best ω: first, second and the paired difference in five scores."""
    lines = []
    for name, one, two in pairs:
        both = f"{one.mean('fid'):.2f} / {two.mean('fid'):.2f}"
        found = [text(one.minus(two, score), digits_of(score)) for score in DIFFERENCES]
        lines.append([name, f"{one.text()} / {two.text()}", both, *found])
    return table((what, "ω of both", "FID of both", *_LABELS), lines)


def changes_table(changes: Sequence[tuple[str, tuple[Best, Best], tuple[Best, Best]]], what: str) -> str:
    """By how much the difference of one pair is above that of another, paired over the seeds of all four."""
    lines = []
    for name, (a, b), (c, d) in changes:
        found = []
        for score in DIFFERENCES:
            values = zip(*(best.scores[score] for best in (a, b, c, d)))
            found.append(text(estimate([(w - x) - (y - z) for w, x, y, z in values]), digits_of(score)))
        lines.append([name, *found])
    return table((what, *_LABELS), lines)


def pairs_table(rows: Mapping[str, ByOmega], pairs: Sequence[tuple[str, str]]) -> str:
    """Differences of named rows."""
    return differences_table([(f"{a} − {b}", Best.of(rows[a]), Best.of(rows[b])) for a, b in pairs], "difference")

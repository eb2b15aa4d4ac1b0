"""The table of docs/guides/choose.md, from the committed results: `python -m docs.evidence` writes it anew.

Each row says what was seen; where new results no longer show it, it is refused, and its advice has to be thought over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "choose.md"
MARKS = ("<!-- evidence: written by python -m docs.evidence -->\n", "<!-- end of evidence -->")
SCORES = {"fid": 2, "tail fid": 2, "tail recall": 3}


@dataclass(frozen=True)
class Row:
    """A strategy held against another, each at the ω with its least mean FID.

    Args:
        wish: what somebody wants.
        method: row of the results.
        against: row of the results.
        file: of experiments/results.
        cell: of that file.
        seen: score → −1 below, 1 above, 0 not shown to differ.
    """

    wish: str
    method: str
    against: str
    file: str
    cell: str
    seen: Mapping[str, int]


ROWS = (
    Row(
        "a schedule of ω for nothing",
        "ddpm, ω_eff(t)",
        "ddpm",
        "digits",
        "digits",
        {"fid": -1, "tail fid": 0, "tail recall": 1},
    ),
    Row(
        "variety in the tail for nothing",
        "ddpm, interval",
        "ddpm",
        "digits",
        "digits",
        {"fid": 0, "tail fid": 0, "tail recall": 1},
    ),
    Row(
        "the least FID, copies allowed",
        "resample:uniform",
        "ddpm",
        "digits",
        "digits",
        {"fid": -1, "tail fid": -1, "tail recall": -1},
    ),
    Row(
        "variety, after long training",
        "cbdm:null",
        "ddpm, ω_eff(t)",
        "regimes",
        "steps-3000",
        {"fid": 0, "tail fid": 0, "tail recall": 1},
    ),
    Row(
        "CBDM, after short training",
        "cbdm:null",
        "ddpm, ω_eff(t)",
        "digits",
        "digits",
        {"fid": 1, "tail fid": 1, "tail recall": 0},
    ),
    Row(
        "CBDM, other images",
        "cbdm:null",
        "ddpm, ω_eff(t)",
        "fashion",
        "fashion-14",
        {"fid": 1, "tail fid": 0, "tail recall": 0},
    ),
)


@cache
def cell(file: str, name: str) -> dict[str, Any]:
    text = (ROOT / "experiments" / "results" / f"{file}.json").read_text(encoding="utf-8")
    return json.loads(text)["cells"][name]


def best(by_omega: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[str, Mapping[str, Sequence[float]]]:
    """(ω, scores) at the least mean FID over seeds."""
    omega = min(by_omega, key=lambda o: math.fsum(by_omega[o]["fid"]))
    return omega, by_omega[omega]


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean paired difference, and half of its 95 % interval (Student's t)."""
    differences = [a - b for a, b in zip(one, other, strict=False)]
    n, mean = len(differences), math.fsum(differences) / len(differences)
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    return mean, float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)


def line(row: Row) -> str:
    """The row as Markdown.

    Raises:
        ValueError: the results no longer show what the row says.
    """
    rows = cell(row.file, row.cell)["rows"]
    (omega, ours), (other_omega, theirs) = best(rows[row.method]), best(rows[row.against])
    sides = [f"{name}, {at.replace('implied:', '')}" for name, at in ((row.method, omega), (row.against, other_omega))]
    cells = [row.wish, *sides, row.cell]
    for score, digits in SCORES.items():
        mean, half = difference(ours[score], theirs[score])
        sign = 0 if abs(mean) <= half else round(math.copysign(1, mean))
        if sign != row.seen[score]:
            raise ValueError(f"{row.wish}: {score} is {mean:+.3f} ± {half:.3f}, no longer {row.seen[score]}")
        text = f"{mean:+.{digits}f} ± {half:.{digits}f}".replace("-", "−")
        cells.append(f"**{text}**" if sign else text)
    copies = (math.fsum(of["tail copies"]) / len(of["tail copies"]) for of in (ours, theirs))
    cells.append(" / ".join(f"{100 * share:.0f}".replace("-", "−") for share in copies))
    return f"| {' | '.join(cells)} |"


def table() -> str:
    head = (
        "you want",
        "strategy, its ω",
        "against, its ω",
        "data",
        "FID",
        "tail FID",
        "tail recall",
        "copies, % of the tail",
    )
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(line, ROWS)]) + "\n"


def written(page: str) -> str:
    """The page with the table of now."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""How the statements rest on one another: an arc from each to those whose text names it, page by page."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from docs.figures.drawing import BLUE, GREY, ORANGE, Figure

PAGES = Path(__file__).parent.parent / "theory"
SPINE, STRAND = (1, 2, 8, 9, 11, 19), (25, 48, 55)


def numbers() -> dict[str, Any]:
    """The page of each statement, and the pairs (named, naming) in the statements' own text, proofs included."""
    pages, pairs = {}, []
    for file in sorted(PAGES.glob("[0-9][0-9]-*.md")):
        text = file.read_text(encoding="utf-8").partition("\n## What could be wrong")[0]
        for part in re.split(r"\n\(statement-(?=\d+\)=)", text)[1:]:
            number = int(part.partition(")")[0])
            pages[str(number)] = int(file.name[:2])
            named = {int(n) for n in re.findall(r"Statements? (\d+)", part)} - {number}
            pairs += [[n, number] for n in sorted(named)]
    there = {int(n) for n in pages}
    return {"pages": pages, "pairs": sorted(pair for pair in pairs if pair[0] in there)}


def alt(numbers: dict[str, Any]) -> str:
    pages, pairs = numbers["pages"], numbers["pairs"]
    often = sorted({named for named, _ in pairs}, key=lambda n: (-sum(pair[0] == n for pair in pairs), n))[:4]
    said = ", ".join(f"{n} by {sum(pair[0] == n for pair in pairs)}" for n in often)
    return (
        f"{len(pages)} numbered statements in twelve columns, one a page, and {len(pairs)} arcs from a statement to "
        f"one that names it. Most named are {said}. The spine, {', '.join(map(str, SPINE))}, and the strand on few "
        f"images, {', '.join(map(str, STRAND))}, stand out in colour."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    by_page: dict[int, list[int]] = {}
    for number, page in numbers["pages"].items():
        by_page.setdefault(page, []).append(int(number))
    tallest = max(map(len, by_page.values()))
    place = {n: (page, tallest / 2 - i + (len(of) - 1) / 2) for page, of in by_page.items() for i, n in enumerate(of)}
    for named, naming in numbers["pairs"]:
        _arc(axes[0], place[named], place[naming], GREY, 0.6)
    for path, colour in ((SPINE, BLUE), (STRAND, ORANGE)):
        for named, naming in pairwise(path):
            _arc(axes[0], place[named], place[naming], colour, 2.0)
    for number, (x, y) in place.items():
        colour = BLUE if number in SPINE else ORANGE if number in STRAND else GREY
        axes[0].plot(x, y, "o", ms=14, color=colour, alpha=0.35, mew=0)
        axes[0].text(x, y, str(number), ha="center", va="center_baseline", fontsize=7.5)
    pages = sorted(by_page)
    axes[0].set(xlabel="page", ylim=(-0.3, tallest + 0.8), yticks=())
    axes[0].set_xticks(pages, [str(page) for page in pages])
    axes[0].grid(visible=False)
    axes[0].spines["left"].set_visible(False)


def _arc(panel: Any, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    bend = 0.35 if start[0] == end[0] else 0.15
    line = {"arrowstyle": "-", "color": colour, "lw": width, "connectionstyle": f"arc3,rad={bend}"}
    panel.annotate("", end, start, arrowprops=line, zorder=0)


FIGURE = Figure(
    "statement_map",
    "The statements by page, and which names which. In blue the spine, in orange the strand on few images.",
    numbers,
    alt,
    draw,
    height=4.4,
    legend=False,
)

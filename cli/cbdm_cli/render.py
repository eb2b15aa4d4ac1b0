"""Facts as text: tables, progress bars, lines. With `live` the only place that imports rich."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cbdm_cli.numerals import difference, number
from cbdm_core.metrics.scores import Score, compared_scores, digits_of, known_scores, label_of, meanings

if TYPE_CHECKING:  # the help page must not pay for torch
    from rich.progress import Progress

    from cbdm_cli.classification import Classified
    from cbdm_cli.study.results import Estimate
    from cbdm_cli.study.summary import Summary
    from cbdm_core.metrics.report import Report, Scores

__all__ = [
    "CONSOLE",
    "comparison_table",
    "heat_table",
    "law_table",
    "made_table",
    "note",
    "plain_console",
    "plain_table",
    "progress",
    "recognition_table",
    "report_table",
    "sweep_table",
]

# Names are text: neither [b] nor :cat: in them is anything else.
plain_console = partial(Console, highlight=False, markup=False, emoji=False)
# A pipe has no width of its own, and 80 columns would cut the tables short.
CONSOLE = plain_console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


Cell = tuple[str, float | None, bool]


def note(text: str) -> None:
    """One line for the reader."""
    CONSOLE.print(text, markup=False, soft_wrap=True)


def aside(text: str) -> None:
    """One line on standard error, of what goes on: standard output is for what comes out."""
    print(text, file=sys.stderr, flush=True)


def has_bars() -> bool:
    """Whether bars are seen: standard error is a terminal, and no log of a job."""
    return sys.stderr.isatty()


def progress(shown: bool = True) -> Progress:
    """A bar with the time left on standard error; silent where that is no terminal, or not `shown`."""
    # A command without a bar, such as `cbdm presets`, must not pay for it.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=plain_console(stderr=True),
        disable=not (shown and has_bars()),
    )


def _shown() -> list[Score]:
    return [score for score in known_scores() if score.shown]


def _heads() -> list[str]:
    return [score.label for score in _shown()]


def _cells(scores: Scores) -> list[str]:
    return [number(scores.value(score.key), score.digits) for score in _shown()]


def made_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table without rows, its first columns at the left."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        # A name is found again, and copied, as it is: numbers give way in a narrow terminal.
        table.add_column(column, justify="left" if i < left else "right", overflow="fold", no_wrap=i == 0)
    return table


def _print_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """One table; in a narrow terminal several below each other, each beginning with the first `left` columns."""

    def made(chosen: Sequence[int]) -> Table:
        table = made_table(title, [columns[i] for i in chosen], left)
        for row in rows:
            table.add_row(*[row[i] for i in chosen])
        return table

    def fits(chosen: Sequence[int]) -> bool:
        options = CONSOLE.options.update(max_width=10_000)
        return Measurement.get(CONSOLE, options, made(chosen)).maximum <= CONSOLE.width

    first, rest = list(range(left)), list(range(left, len(columns)))
    while rest:
        count = next((n for n in range(len(rest), 1, -1) if fits([*first, *rest[:n]])), 1)
        CONSOLE.print(made([*first, *rest[:count]]))
        rest = rest[count:]


def report_table(report: Report, title: str, caption: str) -> None:
    """A report: overall, by thirds of the classes and by training count, and each class with its training count."""
    table = made_table(title, ["", "train n", *_heads()])
    total = sum(c.training_count for c in report.classes)
    table.add_row("overall", str(total), *_cells(report.overall))
    table.add_section()
    for name, scores in report.groups.items():
        table.add_row(name, "", *_cells(scores))
    table.add_section()
    counts = {"many": "> 100", "medium-shot": "20–100", "few": "< 20"}
    for name, scores in report.by_count.items():
        table.add_row(name, counts.get(name, ""), *_cells(scores))
    table.add_section()
    for entry in sorted(report.classes, key=lambda c: -c.training_count):
        table.add_row(f"class {entry.name}", str(entry.training_count), *_cells(entry.scores))
    CONSOLE.print(table)
    note(_beside(report))
    note(caption)


def _beside(report: Report) -> str:
    """What does not fit the table: memorisation, variety, and where they were asked for F8, F1/8 and intervals."""
    parts = []
    for what, scores in (("", report.overall), ("tail ", report.groups.get("tail"))):
        if scores is None:
            continue
        if scores.memorised is not None:
            parts.append(f"{what}copies of training images {_beyond_chance(scores.memorised)}")
        if scores.memorised_pixels is not None:
            parts.append(f"{what}in pixels {_beyond_chance(scores.memorised_pixels)}")
        if scores.authenticity is not None:
            parts.append(f"{what}authenticity {scores.authenticity:.2f}")
        if scores.diversity is not None:
            parts.append(f"{what}variety within a class {scores.diversity:.2f} of the reference's")
    overall = report.overall
    if overall.f8 is not None and overall.f1_8 is not None:
        parts.append(f"PRD F8 {overall.f8:.3f}, F1/8 {overall.f1_8:.3f}")
    for name, (low, high) in report.intervals.get("overall", {}).items():
        parts.append(f"{name} 95 % [{low:.3f}, {high:.3f}]")
    return " · ".join(parts) or "nothing further could be measured"


def _beyond_chance(share: float) -> str:
    """The excess over what held-out images give, which by chance may be below 0 and is no share then."""
    return f"{share:.1%} beyond chance" if share >= 0.0005 else "none beyond what held-out images give"


def sweep_table(rows: Iterable[tuple[str, str, Report]], title: str) -> None:
    """One row for each (run, ω): overall scores, then the tail's FID, recall and copies."""
    of_tail = [score for score in known_scores() if "tail" in score.compared]
    columns = ["run", "ω", *_heads(), *[f"tail {score.label}" for score in of_tail]]
    lines = []
    for run, omega, report in rows:
        tail = report.groups.get("tail", report.overall)
        extra = [number(tail.value(score.key), score.digits) for score in of_tail]
        lines.append([run, omega, *_cells(report.overall), *extra])
    _print_columns(title, columns, lines, left=2)


def law_table(rows: Iterable[tuple[str, Sequence[float | None]]], title: str, size: int) -> None:
    """One row a law: probability of the commonest and rarest class, entropy, KL from training, effective number.

    Args:
        rows: the law's name and the five numbers.
        title: of the table.
        size: how many different conditions there are.
    """
    table = made_table(title, ["law", "p common", "p rare", "entropy", "KL", "eff. number"])
    for name, values in rows:
        table.add_row(name, *[number(v, d) for v, d in zip(values, (4, 4, 3, 3, 2), strict=True)])
    CONSOLE.print(table)
    note(
        "p common, p rare: probability of the commonest and rarest class or region · entropy and KL(law ‖ training) in "
        f"nats · eff. number: exp(entropy), of {size} different conditions"
    )


def heat_table(title: str, columns: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[Cell]]]) -> None:
    """Numbers on a ground of blue for −1 over white to red for 1, or none; those that are sure are bold.

    Args:
        title: of the table.
        columns: the heads of all columns.
        rows: the texts at the left, and for each further column (text, shade in [−1, 1] or None, whether it is sure).
    """
    lines = list(rows)
    left = len(lines[0][0])
    widths = [max(len(columns[i]), *(len(texts[i]) + 1 for texts, _ in lines)) for i in range(left)]
    CONSOLE.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
    fit = max(1, (CONSOLE.width - sum(widths)) // 5)  # in a narrow terminal several below each other
    for start in range(left, len(columns), fit):
        table = Table(header_style="", box=None, padding=(0, 0))
        for column in (*columns[:left], *columns[start : start + fit]):
            table.add_column(column, justify="right", no_wrap=True)
        for texts, cells in lines:
            shown = cells[start - left : start - left + fit]
            table.add_row(*[f"{text} " for text in texts], *[_shaded(*cell) for cell in shown])
        CONSOLE.print(table)


def _shaded(text: str, shade: float | None, sure: bool) -> Text:
    if shade is None:
        return Text(f"{text:>4} ")
    far, (r, g, b) = min(1.0, abs(shade)), (214, 69, 76) if shade > 0 else (47, 126, 216)
    ground = ",".join(str(round(255 + far * (part - 255))) for part in (r, g, b))
    return Text(f"{text:>4} ", style=f"{'bold' if sure else 'not bold'} black on rgb({ground})")


def plain_table(rows: Iterable[tuple[str, str]], title: str, columns: tuple[str, str]) -> None:
    """Two columns of text, the second wrapped."""
    table = made_table(title, columns)
    table.columns[1].justify = "left"
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def _estimate(e: Estimate | None, digits: int, sign: bool = False) -> str:
    if e is None:
        return "–"
    return difference(e, digits).removeprefix("" if sign else "+")


def comparison_table(summary: Summary, title: str) -> None:
    """Each method at its best ω: mean over seeds with 95 % intervals, and the paired difference to the baseline."""
    first, *others = compared_scores()
    columns = ["method", "best ω", label_of(first), "− baseline", *map(label_of, others)]
    lines = []
    for row in summary.rows:
        means = {score: e.mean for score, e in row.scores.items()}
        against = "baseline"
        if row.differences:
            against = _estimate(row.differences.get(first), digits_of(first), sign=True)
        mean = _estimate(row.scores.get(first), digits_of(first))
        rest = [number(means.get(score), digits_of(score)) for score in others]
        lines.append([row.name, row.omega_text() + " (edge)" * row.at_edge, mean, against, *rest])
    _print_columns(title, columns, lines, left=1)
    note(
        "± half width of the 95 % interval over seeds (Student's t); differences are paired by seed; ω is picked for "
        "each method on the mean over these seeds; edge: the best ω ends the grid, a better one may lie outside"
        + "".join(f"; {text}" for text in meanings([first, *others]))
    )
    note(f"features: {summary.features}")
    note(summary.verdict)


def recognition_table(result: Classified, title: str) -> None:
    """Accuracy of the three classifiers in per cent, and the paired differences of the filled one, group by group."""
    columns = ["", "train n", "test n", "alone", "oversampled", "filled", "filled − alone", "filled − oversampled"]
    table = made_table(title, columns)
    for name, labels in result.groups.items():
        if name in ("head", "many"):
            table.add_section()
        counts = [sum(of[y] for y in labels) for of in (result.training_counts, result.test_counts)]
        means = [_percent(result.mean(arm, name)) for arm in ("alone", "oversampled", "filled")]
        differences = [_percent(result.difference("filled", arm, name), sign=True) for arm in ("alone", "oversampled")]
        table.add_row(name, *map(str, counts), *[mean.partition(" ±")[0] for mean in means], *differences)
    CONSOLE.print(table)
    note(
        "accuracy in %, each class weighing the same, on images of the balanced set that are not in the training set · "
        "alone: trained on the training set · oversampled: rare classes filled with copies · filled: with samples · ± "
        "half width of the 95 % interval over paired seeds (Student's t); many > 100, medium-shot 20–100, few < 20"
    )


def _percent(e: Estimate, sign: bool = False) -> str:
    return _estimate(replace(e, mean=100 * e.mean, half_width=100 * e.half_width), 1, sign)

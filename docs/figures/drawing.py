"""A figure: its numbers, what they say in words, and how they are drawn; the SVG file carries all three."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbdm_cli.study.report.drawing import COLOURS, canvas, finished, ramp

__all__ = ["BLUE", "COLOURS", "GREY", "HERE", "ORANGE", "Figure", "plain_log", "ramp", "read", "rounded", "write"]

HERE = Path(__file__).parent
GREY, BLUE, ORANGE = COLOURS[:3]
Numbers = dict[str, Any]
# For the file on its own: within a page the colour is the page's text, and the directive leaves this out.
ALONE = (
    "<style>:root{color:#1b1f23;font-family:sans-serif}@media(prefers-color-scheme:dark){:root{color:#e6e6e6}}</style>"
)


@dataclass(frozen=True)
class Figure:
    """What a module of this folder says.

    Args:
        name: of the module and the file.
        caption: below the figure.
        numbers: computes what is drawn, plain values of JSON.
        alt: what the figure shows, in words and numbers.
        draw: puts the numbers into the panels (figure, axes).
        panels: side by side.
        height: in inches.
        legend: whether to name the labelled curves below the panels.
    """

    name: str
    caption: str
    numbers: Callable[[], Numbers]
    alt: Callable[[Numbers], str]
    draw: Callable[[Numbers, Any, list[Any]], None]
    panels: int = 1
    height: float = 3.0
    legend: bool = True

    @property
    def file(self) -> Path:
        return HERE / f"{self.name}.svg"

    def source(self) -> str:
        """A hash of the code that draws it, so that a file drawn by other code is seen."""
        code = (HERE / f"{self.name}.py").read_bytes() + (HERE / "drawing.py").read_bytes()
        return hashlib.sha256(code).hexdigest()[:16]


def rounded(value: Any, digits: int = 6) -> Any:
    """Plain values of so many significant digits, of tensors and arrays too."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write(figure: Figure) -> Path:
    """Compute, draw, and write the SVG file."""
    numbers = figure.numbers()
    facts = {"caption": figure.caption, "source": figure.source(), "numbers": numbers}
    with canvas(figure.panels, figure.height) as (drawing, axes):
        figure.draw(numbers, drawing, axes)
        name = figure.name.replace("_", "-")
        svg = finished(drawing, name, figure.alt(numbers), figure.caption, legend=figure.legend).svg
    spaces = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    head, _, body = svg.replace("<svg ", spaces, 1).partition(">")
    text = html.escape(json.dumps(facts, ensure_ascii=False, separators=(",", ":")), quote=False)
    figure.file.write_text(f"{head}>\n<metadata>{text}</metadata>\n{ALONE}\n{_short(body)}\n", encoding="utf-8")
    return figure.file


def _short(svg: str) -> str:
    """Coordinates to a hundredth of a point, which nobody sees the rest of."""
    number = re.compile(r"(?<![\w#])-?\d+\.\d{3,}")
    return re.sub(r"<[^>]*>", lambda tag: number.sub(lambda m: f"{float(m[0]):.2f}", tag[0]), svg)


def plain_log(axis: Any) -> None:
    """Labels 0.1, 1, 10 on a logarithmic axis instead of powers in TeX."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def read(file: Path) -> tuple[Numbers, str, str]:
    """(what the metadata says, the text alternative, the element for a page) of a figure's file."""
    svg = file.read_text(encoding="utf-8")
    text = re.search(r"<metadata>(.*?)</metadata>\n", svg, re.S)
    label = re.search(r'aria-label="(.*?)"', svg, re.S)
    if text is None or label is None:
        raise ValueError(f"{file} was not written by docs.figures")
    element = svg.replace(text[0], "").replace(ALONE + "\n", "")
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    return json.loads(html.unescape(text[1])), html.unescape(label[1]), element.strip()

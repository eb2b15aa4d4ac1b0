"""Figures as SVG inside the page: readable in light and dark, told in words, and the same bytes every time."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from zlib import crc32

__all__ = ["COLOURS", "Drawing", "Style", "canvas", "diverging", "finished", "ramp", "style_of"]

# Each has a contrast of 3 or more against both backgrounds of style.css, so that one drawing serves both.
COLOURS = (
    "#7a8088",
    "#2f7ed8",
    "#cf641c",
    "#2a9650",
    "#9a5fd0",
    "#d6454c",
    "#17909c",
    "#c94b96",
    "#8a7f14",
    "#a5693b",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_HATCHES = ("", "///", "\\\\\\", "xxx", "---", "|||", "+++", "//", "\\\\", "--")  # lines: dots are long paths
_SHADES = 49  # of a diverging scale; odd, so that the middle is none
_STRONGEST = 0.65  # opacity of a shade behind text: a contrast of 4.5 on both backgrounds
_INK = "#0b0c0d"  # stands for the colour of the page's text until `finished` puts that in

_SETTINGS = {
    "svg.hashsalt": "cbdm",
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are the user's text, and a dollar in one is a dollar
    "font.size": 10,
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "hatch.color"), _INK
    ),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
}


@dataclass(frozen=True)
class Drawing:
    """A figure for the page.

    Args:
        svg: an <svg> element with its text alternative.
        caption: below it.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Style:
    """How a method is drawn: the same colour everywhere, and never told by colour alone."""

    colour: str
    marker: str
    line: Any
    hatch: str
    filled: bool

    def points(self) -> dict[str, Any]:
        """Options of markers; those of a sampling-time way of a method are hollow."""
        return {
            "marker": self.marker,
            "color": self.colour,
            "markerfacecolor": self.colour if self.filled else "none",
            "markersize": 6,
        }


def style_of(method: int, kind: str = "") -> Style:
    """Of the n-th method; the ways to sample one method share its colour and have markers, hollow, and lines apart."""
    way = _way(kind)
    return Style(
        colour=COLOURS[method % len(COLOURS)],
        marker=_MARKERS[(method + way) % len(_MARKERS)],
        line=(0, (6, 2, *(1, 2) * way)) if kind else _LINES[method % len(_LINES)],
        hatch=_HATCHES[method % len(_HATCHES)],
        filled=not kind,
    )


def _way(kind: str) -> int:
    """A number for each kind, 0 for none; those of several τ have the rest of the markers among them."""
    known = ("", "ω_eff(t)", "interval", "aτt + b")
    return known.index(kind) if kind in known else len(known) + crc32(kind.encode()) % (len(_MARKERS) - len(known))


def ramp(count: int) -> list[str]:
    """Colours from blue to orange of about one brightness, for classes from the commonest to the rarest."""
    ends = ((0x2F, 0x7E, 0xD8), (0xA8, 0x66, 0xA8), (0xCF, 0x64, 0x1C))
    found = []
    for i in range(count):
        at = 2 * i / max(count - 1, 1)
        low = min(int(at), 1)
        mixed = [round(a + (at - low) * (b - a)) for a, b in zip(ends[low], ends[low + 1], strict=True)]
        found.append("#" + "".join(f"{part:02x}" for part in mixed))
    return found


def diverging() -> list[tuple[float, float, float, float]]:
    """RGBA from blue over nothing to orange: the page shows through, so that its text can be read on all of them."""
    found = []
    for i in range(_SHADES):
        at = 2 * i / (_SHADES - 1) - 1
        red, green, blue = (int(("#cf641c" if at > 0 else "#2f7ed8")[k : k + 2], 16) / 255 for k in (1, 3, 5))
        found.append((red, green, blue, _STRONGEST * abs(at)))
    return found


@contextmanager
def canvas(panels: int, height: float = 3.0, width: float = 7.4) -> Iterator[tuple[Any, list[Any]]]:
    """A figure with panels side by side; what is drawn inside has the page's settings and leaves no global trace."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(cast("Any", _SETTINGS)):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
            each.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
            each.set_axisbelow(True)
        yield figure, axes


def finished(figure: Any, name: str, alt: str, caption: str, legend: bool = True) -> Drawing:
    """The drawing of a figure; call it inside `canvas`.

    Args:
        figure: of `canvas`.
        name: of the figure in the page: ids in the page must differ.
        alt: what it shows, in words and numbers.
        caption: below it.
        legend: whether to name the labelled curves below the panels.
    """
    if legend:
        _legend(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    return Drawing(_for_page(buffer.getvalue(), name, alt), caption)


def _legend(figure: Any) -> None:
    named: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        wide = 0.075 * max(map(len, named)) + 0.75  # inches for a name with its sign
        columns = max(1, min(len(named), int(figure.get_figwidth() / wide)))
        figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(named) / columns))
        figure.legend(named.values(), named.keys(), loc="outside lower left", ncols=columns, handlelength=3.2)


def _for_page(svg: str, name: str, alt: str) -> str:
    """From matplotlib's document to an element of an HTML page."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", name)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows them
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?\s*", "", svg)  # style.css names the page's
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = svg.replace(_INK, "currentColor")
    wide = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0])
    label = html.escape(alt, quote=True)
    # One scale for all figures of the page, so that their letters have one size.
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="max-width:{wide / 10:.1f}rem"', 1).strip()

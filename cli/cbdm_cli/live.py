"""What is redrawn in place as it goes: how a run stands, and the jobs of a comparison."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from cbdm_cli.render import CONSOLE, made_table, note, plain_console
from cbdm_core.reading import clean_text, regular_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LiveJobs", "LiveView", "half_blocks"]

_MOST_ROWS = 400
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, zlib.error, struct.error)


class LiveView:
    """Lines of facts above a picture, redrawn in place.

    Args:
        title: the first line.
    """

    def __init__(self, title: str) -> None:
        self.title, self.tty = title, sys.stdout.isatty()
        self._live = Live(console=CONSOLE, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, lines: Sequence[str], picture: Path | None) -> None:
        """Redraw."""
        self._live.update(self._drawn(lines, picture), refresh=True)

    def print(self, lines: Sequence[str], picture: Path | None) -> None:
        """Lines and picture that stay; where there is no terminal, the picture's path in its place."""
        CONSOLE.print(self._drawn(lines, picture if self.tty else None))
        if picture and not self.tty:
            note(f"grid: {picture}")

    def _drawn(self, lines: Sequence[str], picture: Path | None) -> Group:
        return Group(self.title, *lines, *([half_blocks(picture, CONSOLE.width)] if picture else []))


def half_blocks(picture: Path, width: int) -> Text:
    """A picture in characters that are two pixels each, the upper in the colour of the letter; at most `width` wide.

    One of more than 400 rows is squashed to them.

    In place of one that cannot be read its name says so.
    """
    from PIL import Image

    try:
        with Image.open(regular_file(picture), formats=("PNG",)) as image:
            columns = min(width, image.width)
            rows = min(max(1, round(image.height * columns / image.width / 2)), _MOST_ROWS)
            data = image.convert("RGB").resize((columns, 2 * rows)).tobytes()
    except (*_DAMAGE, Image.DecompressionBombError):
        return Text(f"{clean_text(str(picture))} cannot be read as a picture")
    colours = [f"rgb({data[i]},{data[i + 1]},{data[i + 2]})" for i in range(0, len(data), 3)]
    text = Text()
    for row in range(0, 2 * rows, 2):
        for place in range(row * columns, (row + 1) * columns):
            text.append("▀", f"{colours[place]} on {colours[place + columns]}")
        text.append("\n")
    return text


class LiveJobs:
    """A table of jobs that is redrawn on standard error; without a terminal each finished job is one line.

    Args:
        title: of the table.
    """

    def __init__(self, title: str) -> None:
        self.title, self.tty = title, sys.stderr.isatty()
        console = plain_console(stderr=True)
        self._live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> LiveJobs:
        if self.tty:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.tty:
            self._live.stop()

    def show(self, rows: Iterable[tuple[str, str, str]], facts: str) -> None:
        """Redraw: (method, seed, state) of the jobs to show, and a line below."""
        if not self.tty:
            return
        table = made_table("", ["method", "seed", "state"], left=3)
        for row in rows:
            table.add_row(*row)
        # A table breaks its own title and caption at the width of its columns.
        self._live.update(Group(Text(self.title, "bold"), table, Text(facts, "dim italic")))

    def line(self, text: str) -> None:
        """One line that stays."""
        if self.tty:
            self._live.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

"""`cbdm report`: a comparison or some runs as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cbdm_core.errors import CbdmError

__all__ = ["write_report"]


def write_report(paths: Sequence[Path], out: Path, *, samples: bool, device: str) -> None:
    """Write the page of a comparison's folder or of run folders, whole or not at all.

    Args:
        paths: one folder of `cbdm compare`, or run folders.
        out: the HTML file to make.
        samples: whether to draw a few samples of rare classes with each method and show their nearest training images.
        device: to draw them on.

    Raises:
        CbdmError: `out` is there already, no such folder, or a damaged file in one.
    """
    from cbdm_cli import render
    from cbdm_cli.run_folder import write_text
    from cbdm_cli.study.report.collect import collect
    from cbdm_cli.study.report.neighbours import nearest_training
    from cbdm_cli.study.report.page import page

    if out.exists():
        raise CbdmError(f"-o {out} is there already: remove it or name another file")
    if not out.parent.is_dir():
        raise CbdmError(f"-o {out}: there is no folder {out.parent}; make it or name another file")
    story = collect(paths)
    write_text(out, page(story, nearest_training(story, device) if samples else ()))
    render.note(f"report: {out}")

"""`cbdm presets`: what there is."""

from __future__ import annotations

from cbdm_cli import render
from cbdm_cli.preset_files import preset_names, preset_question, preset_texts

__all__ = ["list_presets"]


def list_presets(name: str | None) -> None:
    """A table of presets, or one preset's TOML, after those that it extends."""
    if name is not None:
        render.note("\n\n".join(f"# {preset}\n{text.rstrip()}" for preset, text in preset_texts(name).items()))
        return
    rows = [(preset, preset_question(preset)) for preset in preset_names()]
    render.plain_table(rows, "presets: cbdm train PRESET", ("preset", "question"))

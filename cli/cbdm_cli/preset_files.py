"""The presets that the package carries, as texts; read without what a configuration needs to be checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from shlex import quote
from typing import Any

from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import clean_text

__all__ = ["EXTENDS", "preset_names", "preset_question", "preset_texts"]

EXTENDS = "extends"  # in a preset, the name of the one that it is laid over


def preset_names() -> list[str]:
    """The presets that the package carries."""
    return sorted(_presets())


@cache
def _presets() -> Mapping[str, Traversable]:
    """Name → file."""
    folder = files("cbdm_cli") / "presets"
    return {f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")}


@cache
def _read(name: str) -> tuple[str, Mapping[str, Any]]:
    """A preset's TOML and its table; dozens of presets extend the same few."""
    text = _presets()[name].read_text(encoding="utf-8")
    return text, tomllib.loads(text)


def preset_texts(name: str) -> dict[str, str]:
    """The TOML of a preset and, before it, of those that it extends, by name.

    Raises:
        CbdmError: an unknown name, the closest match is named; or presets that extend one another in a circle.
    """
    texts: dict[str, str] = {}
    wanted: str | None = name
    while wanted is not None:
        if wanted in texts:
            raise CbdmError(f"preset {wanted!r} extends itself by way of {', '.join(texts)}: break the circle")
        if wanted not in _presets():
            raise _unknown(wanted)
        texts[wanted], table = _read(wanted)
        wanted = table.get(EXTENDS)
    return dict(reversed(texts.items()))


def _unknown(name: str) -> CbdmError:
    """The error for a name that no preset has; a path that is there was meant as one."""
    path, shown, argument = Path(name), clean_text(name), quote(clean_text(name))
    if not name.strip() or not path.exists():
        return unknown_name("preset", name, preset_names())
    if (path / "config.toml").exists():
        return CbdmError(f"{shown} is a run, no preset: go on with it by cbdm train --resume {argument}")
    return CbdmError(
        f"{shown} is a path, no preset: cbdm train --data {argument} trains on data of your own, as cbdm compare "
        "--data does; other commands take them over a preset, by --set data.source=NAME and the source's data.options"
    )


def preset_question(name: str) -> str:
    """What a preset is for, in its own words or in those of the one that it extends."""
    asked = [_read(preset)[1].get("question") for preset in preset_texts(name)]
    return str(next((question for question in reversed(asked) if question is not None), ""))

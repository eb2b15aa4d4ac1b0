"""The presets that the package carries, as plain values; read without what a configuration needs to be checked."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from cbdm_core.errors import unknown_name

__all__ = ["preset_names", "preset_table"]


def preset_names() -> list[str]:
    """The presets that the package carries."""
    folder = files("cbdm_cli") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def preset_table(name: str) -> dict[str, Any]:
    """A preset as plain values.

    Raises:
        CbdmError: an unknown name; the closest match is named.
    """
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    text = (files("cbdm_cli") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return {"preset": name, **tomllib.loads(text)}

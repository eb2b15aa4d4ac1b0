"""From plain values and named options to one configuration."""

from __future__ import annotations

from typing import Any

from cbdm_cli.config import Config, merged, preset_names, preset_table, validated
from cbdm_cli.laws import law_takers
from cbdm_cli.method import format_parts, parse_parts, with_law
from cbdm_core.errors import CbdmError

__all__ = ["resolved"]


def resolved(table: dict[str, Any], options: dict[str, Any]) -> Config:
    """The configuration of plain values with the named options laid over them.

    Args:
        table: of `load_config`.
        options: method, prior, tau, gamma, steps, seed; None where not given.

    Raises:
        CbdmError: a value out of range, or an option that no part of the method would read.
    """
    over: dict[str, Any] = {}
    if options["method"] is not None:
        over = merged(over, {"method": {"parts": options["method"]}})
    for name, section in (("tau", "method"), ("gamma", "method"), ("steps", "training")):
        if options[name] is not None:
            over = merged(over, {section: {name: options[name]}})
    if options["seed"] is not None:
        over["seed"] = options["seed"]
    config = validated(_without_stray(merged(table, over)) if options["method"] is not None else merged(table, over))
    parts = parse_parts(config.method.parts)
    takers = law_takers(parts)
    if options["prior"] is not None:
        parts = with_law(parts, options["prior"], takers)
    if "cbdm" not in [part.name for part in parts]:
        for name in ("tau", "gamma"):
            if options[name] is not None:
                raise CbdmError(
                    f"--{name} {options[name]}: no part of method {format_parts(parts)!r} reads it; try --method cbdm"
                )
    method = config.method.model_copy(update={"parts": format_parts(parts)})
    return config.model_copy(update={"method": method})


def _without_stray(table: dict[str, Any]) -> dict[str, Any]:
    """Without the preset's options for parts that the method named on the command line does not have."""
    method = dict(table["method"])
    there = {part.name for part in parse_parts(method["parts"])}
    preset = (
        preset_table(table["preset"]).get("method", {}).get("options", {}) if table["preset"] in preset_names() else {}
    )
    kept = {k: v for k, v in method.get("options", {}).items() if k in there or preset.get(k) != v}
    return {**table, "method": {**method, "options": kept}}

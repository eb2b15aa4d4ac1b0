"""From plain values and named options to one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cbdm_cli.batches import with_augmentation
from cbdm_cli.config import Config, validated
from cbdm_cli.laws import law_takers
from cbdm_cli.method import completed, method_over, only_its_parts, with_law, with_option
from cbdm_cli.overlay import merged, preset_table
from cbdm_cli.preset_files import preset_names

__all__ = ["resolved", "with_sampling"]

_JUDGING = ("per_class", "intervals", "prd_runs")
_TRACKING = ("temperature", "top_k", "every")


def resolved(table: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """The configuration of plain values with the named options laid over them.

    Args:
        table: of `load_config`.
        options: method, prior, tau, gamma, steps, seed; None where not given.

    Raises:
        CbdmError: a value out of range, or an option that no part of the method would read, or several.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "method" in given:
        table = _without_stray(
            {**table, "method": {**method_over(None, table.get("method")), "parts": given["method"]}}
        )
    if "steps" in given:
        table = merged(table, {"training": {"steps": given["steps"]}})
    config = validated({**table, "seed": given["seed"]} if "seed" in given else table)
    parts = config.method
    if "prior" in given:
        parts = with_law(parts, given["prior"], law_takers(parts))
    for name in ("tau", "gamma"):
        if name in given:
            parts = with_option(parts, name, given[name])
    return with_augmentation(config.model_copy(update={"method": completed(parts)}))


def _without_stray(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without the preset's options for parts that the method named on the command line does not have."""
    preset = preset_table(table["preset"]) if table["preset"] in preset_names() else {}
    theirs = method_over(None, preset.get("method"))["options"]
    method = table["method"]
    own = {part: values for part, values in method["options"].items() if theirs.get(part) != values}
    return {**table, "method": {**method, "options": {**only_its_parts(method)["options"], **own}}}


def with_sampling(config: Config, options: dict[str, Any]) -> Config:
    """The configuration with sampling options, seed or images per class replaced where given."""
    over: dict[str, Any] = {}
    for option, value in options.items():
        if value is None:
            continue
        sections = {
            "seed": (),
            **dict.fromkeys(_JUDGING, ("evaluation",)),
            **dict.fromkeys(_TRACKING, ("sampling", "tracking")),
        }
        table = {option: value}
        for section in reversed(sections.get(option, ("sampling",))):
            table = {section: table}
        over = merged(over, table)
    return validated(merged(config.model_dump(), over))

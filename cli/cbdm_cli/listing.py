"""`cbdm presets` and `cbdm priors`: what there is, and what a law makes of the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

from cbdm_cli import render
from cbdm_cli.config import load_config, preset_names, preset_table, validated

__all__ = ["list_presets", "list_priors"]

_SHOWN = ("training", "power:0.5", "uniform", "balanced:0.999", "power:-1", "null")


def list_presets(name: str | None) -> None:
    """A table of presets, or one preset's TOML."""
    if name is not None:
        preset_table(name)
        render.note((files("cbdm_cli") / "presets" / f"{name}.toml").read_text(encoding="utf-8").rstrip())
        return
    rows = [(preset, str(preset_table(preset).get("question", ""))) for preset in preset_names()]
    render.plain_table(rows, "presets: cbdm train PRESET", ("preset", "question"))


def list_priors(preset: str, laws: Sequence[str], settings: Sequence[str]) -> None:
    """A table of laws over a preset's classes."""
    from cbdm_cli.assemble import load_data
    from cbdm_core.interfaces import LabelPrior
    from cbdm_core.laws_by_name import make_law

    _, data, _ = load_data(validated(load_config(preset, None, settings)))
    counts = data.counts()
    training = make_law("training", counts)
    assert isinstance(training, LabelPrior)
    common = int(counts.argmax())
    rare = int(counts.masked_fill(counts == 0, int(counts.max()) + 1).argmin())
    rows: list[tuple[str, list[float | None]]] = []
    for text in laws or _SHOWN:
        law = make_law(text, counts)
        if not isinstance(law, LabelPrior):
            rows.append((text, [None] * 5))
            continue
        entropy = float(law.entropy())
        p = law.probs
        rows.append((text, [float(p[common]), float(p[rare]), entropy, float(law.kl(training)), math.exp(entropy)]))
    shown = f"{int(counts.max())} … {int(counts[rare])} images a class"
    render.law_table(rows, f"{preset}: {int((counts > 0).sum())} classes with images, {shown}")

"""`cbdm priors`: what a law makes of the counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cbdm_cli import render
from cbdm_core.errors import CbdmError

if TYPE_CHECKING:
    from cbdm_core.data.dataset import Dataset
    from cbdm_core.priors import ConditionPrior

__all__ = ["list_priors"]

_SHOWN = ("training", "power:0.5", "uniform", "balanced:0.999", "power:-1", "affinity", "null")
# By whether conditions are vectors, or else attributes.
_SHOWN_CONDITIONS = {
    True: ("bank", "knn:0.5", "knn:1", "kde:1", "gaussian", "null"),
    False: ("combinations:1", "combinations:0.5", "combinations:0", "combinations:-1", "null"),
}


def list_priors(preset: str, laws: Sequence[str], settings: Sequence[str]) -> None:
    """A table of laws over a preset's classes, or over the regions of its conditions."""
    from cbdm_cli.config import validated
    from cbdm_cli.laws import law_of
    from cbdm_cli.overlay import load_config
    from cbdm_cli.run_data import load_data
    from cbdm_core.priors import LabelPrior
    from cbdm_priors.laws.affinity import Affinity

    config = validated(load_config(preset, None, settings))
    _, data, _ = load_data(config)
    counts = data.counts()
    common = int(counts.argmax())
    rare = int(counts.masked_fill(counts == 0, int(counts.max()) + 1).argmin())
    shown = _SHOWN if data.condition is None else _SHOWN_CONDITIONS[data.condition.is_floating_point()]
    affinity = next((part.affinity for part in config.method if part.affinity is not None), None)
    rows: list[tuple[str, list[float | None]]] = []
    for text in laws or shown:
        law = law_of(text, data, affinity)
        if data.condition is not None and isinstance(law, LabelPrior | Affinity):
            raise CbdmError(f"the law {text!r} draws class labels, and {preset} is told conditions: try {shown[1]}")
        rows.append((text, _numbers(law, data, common, rare) if law.finite else [None] * 5))
    what = "classes with images" if data.condition is None else "regions of the condition"
    span = f"{int(counts.max())} … {int(counts[rare])} images each"
    render.law_table(
        rows, f"{preset}: {int((counts > 0).sum())} {what}, {span}", len(data.condition_values().unique(dim=0))
    )


def _numbers(law: ConditionPrior, data: Dataset, common: int, rare: int) -> list[float | None]:
    """p of the commonest and rarest class (region), entropy, KL from training, exp(entropy).

    Of a law that looks at the row it is the law of y' where y is drawn as in training.
    """
    import torch

    from cbdm_core.conditions import Condition

    conditions = data.condition_values()
    values, probs = law.atoms(Condition.of(conditions))
    p = probs.double().mean(0) if probs.ndim == 2 else probs.double()
    known, place, number = torch.unique(conditions.double(), dim=0, return_inverse=True, return_counts=True)
    at = {tuple(row): i for i, row in enumerate(known.reshape(len(known), -1).tolist())}
    region = torch.zeros(len(known), dtype=torch.long).index_copy(0, place, data.y)
    mass = torch.zeros(len(known), dtype=torch.float64)
    for value, share in zip(values.double().reshape(len(values), -1).tolist(), p.tolist(), strict=True):
        if tuple(value) in at:  # a fixed law may name a class without images
            mass[at[tuple(value)]] += share
    alive, q = mass > 0, number / number.sum()
    # Both are 0 or more; rounding may say otherwise.
    entropy = max(0.0, float(-(mass[alive] * mass[alive].log()).sum()))
    divergence = max(0.0, float((mass[alive] * (mass[alive] / q[alive]).log()).sum()))
    shares = [float(mass[region == y].sum()) for y in (common, rare)]
    return [*shares, entropy, divergence, math.exp(entropy)]

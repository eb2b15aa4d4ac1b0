"""What `cbdm classify` found: accuracies by arm, group and seed, and what they amount to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from cbdm_cli.numerals import difference
from cbdm_cli.study.results import Estimate, estimate
from cbdm_core.metrics.recognition import ARMS, Recognition, recognition_groups

__all__ = ["DIFFERENCES", "Classified"]

# (what, less what): the second keeps the effect of balance out of the first.
DIFFERENCES = (("filled", "alone"), ("filled", "oversampled"), ("oversampled", "alone"))


@dataclass(frozen=True)
class Classified:
    """The accuracies of every arm at every seed, and what they amount to.

    Args:
        class_names: K names.
        training_counts: (K,) of each class.
        test_counts: (K,) images of the balanced set that are not in the training set.
        fill: up to how many images a class was filled.
        generated: how many images that took, for each seed.
        values: arm → its recognition at seed 0, 1, …
    """

    class_names: tuple[str, ...]
    training_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    fill: int
    generated: int
    values: dict[str, list[Recognition]]

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Those that have a test image, with their labels."""
        known = self.values[ARMS[0]][0].groups
        groups = recognition_groups(torch.tensor(self.training_counts))
        return {name: labels for name, labels in groups.items() if known[name] is not None}

    def of(self, arm: str, group: str) -> list[float]:
        """The accuracy at each seed."""
        return [value for found in self.values[arm] if (value := found.groups[group]) is not None]

    def mean(self, arm: str, group: str) -> Estimate:
        """Over seeds."""
        return estimate(self.of(arm, group))

    def difference(self, arm: str, other: str, group: str) -> Estimate:
        """Of accuracies, paired by seed."""
        return estimate([a - b for a, b in zip(self.of(arm, group), self.of(other, group), strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "labels": "long-tailed, each class that has images filled up to `fill`",
            "reference": "images of the balanced set that are not in the training set; each class weighs the same",
            "class_names": list(self.class_names),
            "training_counts": list(self.training_counts),
            "test_counts": list(self.test_counts),
            "fill": self.fill,
            "generated": self.generated,
            "seeds": len(self.values[ARMS[0]]),
            "groups": {name: list(labels) for name, labels in self.groups.items()},
            "accuracy": {arm: {name: _plain(self.mean(arm, name)) for name in self.groups} for arm in ARMS},
            "differences": {
                f"{arm} - {other}": {name: _plain(self.difference(arm, other, name)) for name in self.groups}
                for arm, other in DIFFERENCES
            },
            "values": {arm: {name: self.of(arm, name) for name in self.groups} for arm in ARMS},
            "classes": {arm: [list(found.classes) for found in self.values[arm]] for arm in ARMS},
            "verdict": self.verdict(),
        }

    def verdict(self) -> str:
        """What the intervals say of filling, and no more."""
        seeds = len(self.values[ARMS[0]])
        if seeds < 2:
            return "No verdict: one seed has no interval; at least 2 are needed, and 3 or more are better."
        against = {"alone": "training alone", "oversampled": "oversampling"}
        parts = [f"Filled against {described}: {self._compared(other)}." for other, described in against.items()]
        return " ".join(parts)

    def _compared(self, other: str) -> str:
        shown = {name: self.difference("filled", other, name) for name in self.groups}
        described = [f"{name} by {_points(d)}" for name, d in shown.items() if d.excludes_zero]
        open_ = [name for name, d in shown.items() if not d.excludes_zero]
        parts = [f"accuracy differs in {', '.join(described)}"] if described else []
        if open_:
            parts.append(f"nothing is shown for {', '.join(open_)}, where the 95 % interval holds 0")
        return "; ".join(parts)


def _points(e: Estimate) -> str:
    return f"{difference(e, 1, scale=100)} points"


def _plain(e: Estimate) -> dict[str, float | None]:
    return {"mean": e.mean, "half_width": e.half_width if math.isfinite(e.half_width) else None}

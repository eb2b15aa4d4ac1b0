"""From samples to a report: what they are held against, and in which features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from cbdm_cli.config import Config
from cbdm_cli.run_data import load_reference
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.mapped_rows import MappedRows
from cbdm_core.memory import check_memory
from cbdm_core.metrics.evaluation import Copies, evaluate
from cbdm_core.metrics.features.classifier import FeatureExtractor
from cbdm_core.metrics.features.named import check_features, feature_extractor
from cbdm_core.metrics.features.reference import reference_features
from cbdm_core.metrics.report import Report
from cbdm_core.metrics.scores import known_scores

__all__ = ["Evaluator", "check_judging"]


def check_judging(config: Config, full: Dataset, training: Dataset) -> None:
    """Refuse before any work a reference that these data do not have, and features and scores that cannot be found."""
    known_scores()
    reference, name = load_reference(config, full, training)
    whole = [reference, *([full] if config.evaluation.features.strip() == "classifier" else [])]  # it learns from all
    if sizes := [data.x.numel() for data in whole if isinstance(data.x, MappedRows)]:
        mend = "train with --no-evaluate, or judge a smaller set in other features"
        check_memory(f"to judge against {name}", 4 * max(sizes), mend)
    check_features(config.evaluation.features, full)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What samples are held against and in which features; those of the data are taken once, at the first samples.

    Args:
        full: the balanced set; the classifier is trained on it.
        training: its long-tailed part.
        reference: what samples are held against.
        name: of the reference, in words.
        extractor: gives the features.
        kept: whether the features of the reference are kept on disk.
    """

    full: Dataset
    training: Dataset
    reference: Dataset
    name: str
    extractor: FeatureExtractor
    kept: bool

    @classmethod
    def of(cls, config: Config, full: Dataset, training: Dataset, device: str = "cpu") -> Evaluator:
        """By the configuration's `evaluation` table.

        Raises:
            CbdmError: a reference or features that these data do not have.
        """
        reference, name = load_reference(config, full, training)
        features = config.evaluation.features
        extractor = feature_extractor(features, full, device=device)
        return cls(full, training, reference, name, extractor, features.strip() != "classifier")

    @cached_property
    def known(self) -> tuple[Tensor, Tensor]:
        """(features, log-probabilities) of the reference."""
        if self.kept:
            return reference_features(self.reference, self.extractor)
        return self.extractor(self.reference.model_input())

    @cached_property
    def copies(self) -> Copies:
        """Held-out rows are those of the reference; the training set has none, and then they are the full set's."""
        if self.reference is self.training:
            return Copies.of(self.training, self.full, self.extractor)
        return Copies.of(self.training, self.reference, self.extractor, self.known)

    def __call__(self, config: Config, x: Tensor, labels: Tensor) -> Report:
        """The samples against the reference, and how much closer they are to the training set than to held-out rows."""
        asked = config.evaluation
        return evaluate(
            x,
            labels,
            self.reference,
            self.extractor,
            self.training.counts(),
            k=asked.k,
            training=self.copies,
            known=self.known,
            intervals=asked.intervals,
            prd_runs=asked.prd_runs,
        )

    @property
    def lacks(self) -> list[str]:
        """The classes without a reference example."""
        names, counts = self.reference.class_names, self.reference.counts().tolist()
        return [name for name, count in zip(names, counts, strict=True) if count == 0]

    def facts(self, report: Report) -> dict[str, Any]:
        """What a result file says of it."""
        return {
            "n_samples": report.overall.n_samples,
            "reference": self.name,
            "reference_counts": self.reference.counts().tolist(),
            "reference_lacks": self.lacks,
        }

    def caption(self, report: Report) -> str:
        """The reference in a phrase, for captions."""
        parts, lacks = [f"{self.name} ({report.overall.n_reference:,} examples)"], self.lacks
        there = [n for n in self.reference.counts().tolist() if n]
        if max(there) > 2 * min(there):
            parts.append(f"{min(there)} to {max(there)} a class, a mix that figures over several classes measure too")
        if lacks:
            parts.append(f"which lacks {', '.join(lacks)}: no figures of their own, though counted overall")
        return ", ".join(parts)

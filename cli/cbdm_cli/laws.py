"""The laws of a method's parts: which parts take one, and from a configuration and a training set to the laws."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cbdm_cli.config import Config
from cbdm_cli.method import BATCH_PARTS, PURE, RESAMPLE, Part
from cbdm_core.adjustment import ADJUSTMENTS
from cbdm_core.conditions import space_to_dict
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.priors import PRIORS, ConditionPrior, LabelPrior, law_subject, make_law
from cbdm_priors.laws.affinity import Affinity, feature_similarity

__all__ = [
    "DEFAULT_LAWS",
    "ChosenLaws",
    "choose_laws",
    "counts_classes",
    "law_of",
    "law_takers",
    "parameters_of",
    "read_table",
    "sampled_from",
    "table_law",
    "target_law",
]

DEFAULT_LAWS = {
    "cbdm": "null",
    "shrink": "null",
    "reweight": "uniform",
    "diffrop": "uniform",
    RESAMPLE: "uniform",
    PURE: "training",
}


def law_takers(parts: tuple[Part, ...]) -> list[str]:
    """The names of those parts that take a law."""
    return [part.name for part in parts if part.name in BATCH_PARTS or "target" in parameters_of(part.name)]


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """What a part of the loss is made from.

    Raises:
        CbdmError: no such part.
    """
    if name not in ADJUSTMENTS:
        raise unknown_name("method part", name, [*ADJUSTMENTS, *BATCH_PARTS, "ddpm"])
    return inspect.signature(ADJUSTMENTS[name]).parameters


def counts_classes(name: str) -> bool:
    """Whether a part of the loss looks at the counts of classes."""
    return not {"counts", "training"}.isdisjoint(parameters_of(name))


@dataclass(frozen=True, eq=False)
class ChosenLaws:
    """The laws of a method.

    Args:
        of: part → (text, law), for the parts that take one.
        made_from: what the laws were made from beside the counts.
    """

    of: dict[str, tuple[str, ConditionPrior]]
    made_from: dict[str, Tensor]


def choose_laws(config: Config, parts: tuple[Part, ...], data: Dataset) -> ChosenLaws:
    """The laws that the parts name, or their defaults, made from the training set.

    Raises:
        CbdmError: a law for a part that takes none, no law for one that needs it, or a law that these data do not have.
    """
    takers, texts = law_takers(parts), {}
    for part in parts:
        if part.name not in takers:
            if part.law is not None:
                raise CbdmError(f"method part {part.name!r} takes no law, got {part.law!r}: write just {part.name}")
            continue
        texts[part.name] = part.law or DEFAULT_LAWS.get(part.name)
        if texts[part.name] is None:
            raise CbdmError(f"method part {part.name!r} needs a law: write for example {part.name}:uniform")
    # Names that are none are refused by make_law.
    subjects = {
        law_subject(name) for name in (str(text).partition(":")[0] for text in texts.values()) if name in PRIORS
    }
    if config.method.affinity is not None and "similarity" not in subjects:
        raise CbdmError(
            f"method.affinity = {config.method.affinity!r}: no part of {config.method.parts!r} has the law affinity"
        )
    similarity = _similarity(config.method.affinity, data) if "similarity" in subjects else None
    laws = {
        name: (text, make_law(text, data.counts(), conditions=data.condition, similarity=similarity))
        for name, text in texts.items()
        if text is not None
    }
    for name, (text, law) in laws.items():
        # A part that counts classes is refused as a whole, since no other law would mend it.
        draws = data.condition is not None and name not in BATCH_PARTS and not counts_classes(name)
        if draws and isinstance(law, LabelPrior | Affinity):
            raise CbdmError(
                f"method part {name!r}: the law {text!r} draws class labels, and these data are told "
                f"{space_to_dict(data.space)['kind']}: try {name}:null, {name}:knn or {name}:combinations"
            )
    made_from = {} if data.condition is None else {"conditions": data.condition, "labels": data.y}
    return ChosenLaws(laws, made_from if similarity is None else {**made_from, "similarity": similarity})


def law_of(text: str, data: Dataset, affinity: str | None = None) -> ConditionPrior:
    """The law that `text` names, made from a training set."""
    name = text.partition(":")[0]
    similar = name in PRIORS and law_subject(name) == "similarity"
    similarity = _similarity(affinity, data) if similar else None
    return make_law(text, data.counts(), conditions=data.condition, similarity=similarity)


def _similarity(affinity: str | None, data: Dataset) -> Tensor:
    """What the affinity law is made from: the logarithm of a given table, or the training set's mean inputs."""
    if data.condition is not None:
        raise CbdmError("the law affinity compares classes, and these data are told none: try knn or combinations")
    if affinity is None:
        return feature_similarity(data.model_input().flatten(1), data.y, data.num_classes)
    table = read_table(Path(affinity))
    K = data.num_classes
    if table.shape != (K, K) or not np.isfinite(table).all() or (table < 0).any() or (table.sum(1) == 0).any():
        raise CbdmError(
            f"method.affinity = {affinity!r}: it must hold {K} × {K} finite numbers of 0 or more, one row a class "
            f"and none all 0, and has the shape {table.shape}"
        )
    return torch.from_numpy(table).log()


def read_table(path: Path) -> np.ndarray:
    """A table of numbers from a .npy file (no pickle is read) or from text parted by commas or spaces.

    Raises:
        CbdmError: the file cannot be read, or holds something else than numbers.
    """
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:  # not np.load, which opens whatever else bears that ending
                return np.lib.format.read_array(file, allow_pickle=False).astype(np.float64, casting="same_kind")
        lines = path.read_text(encoding="utf-8").replace(",", " ").split("\n")
        if not any(line.strip() for line in lines):
            raise ValueError("it is empty")
        return np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise CbdmError(f"the table {path} cannot be read: {str(error).splitlines()[0]}; give .npy or .csv") from error


def table_law(part: str, text: str, law: ConditionPrior) -> LabelPrior:
    """The law, where it has a probability for each label and stands still.

    Raises:
        CbdmError: it has none, or learns.
    """
    if not isinstance(law, LabelPrior):
        raise CbdmError(
            f"method part {part!r} needs a law with probabilities, and {text!r} has none: try {part}:uniform"
        )
    if law.learns:
        raise CbdmError(
            f"method part {part!r} reads its law once, before training, and {text!r} learns: try {part}:uniform, or "
            "cbdm:learned"
        )
    return law


def target_law(part: Part, parameters: Mapping[str, inspect.Parameter], laws: ChosenLaws) -> ConditionPrior:
    """The law of a part, as the part takes it."""
    text, law = laws.of[part.name]
    wants = str(parameters["target"].annotation)
    return table_law(part.name, text, law) if "LabelPrior" in wants else law


def sampled_from(laws: ChosenLaws, counts: Tensor) -> ConditionPrior:
    """What the examples' classes are drawn from: the training law, unless a part of the batches says otherwise."""
    return next((laws.of[name][1] for name in BATCH_PARTS if name in laws.of), make_law("training", counts))

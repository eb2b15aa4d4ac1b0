"""The laws of a method's parts: from its texts and a training set to the laws themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cbdm_cli.method import (
    BATCH_LAWS,
    BATCH_PARTS,
    PURE,
    RESAMPLE,
    Part,
    part_class,
    part_options,
    parted_levels,
    takes_law,
)
from cbdm_core.conditions import space_to_dict
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.priors import PRIORS, ConditionPrior, LabelPrior, make_law
from cbdm_priors.laws.affinity import Affinity, feature_similarity

__all__ = [
    "ChosenLaws",
    "choose_laws",
    "counts_classes",
    "law_of",
    "law_takers",
    "law_text",
    "parted",
    "read_table",
    "sampled_from",
    "table_law",
]

_DEFAULTS = {RESAMPLE: "uniform", PURE: "training"}


def law_takers(parts: Iterable[Part]) -> list[str]:
    """The names of those parts that take a law."""
    return [part.name for part in parts if takes_law(part.name)]


def counts_classes(name: str) -> bool:
    """Whether a part of the loss looks at the counts of classes."""
    return not {"counts", "training"}.isdisjoint(part_class(name).needs)


@dataclass(frozen=True, eq=False)
class ChosenLaws:
    """The laws of a method.

    Args:
        of: part → (text, law), for the parts that take one.
        made_from: what the laws were made from beside the counts: "conditions" and "labels", "similarity.PART".
        levels: the text of the noise levels at which the law of `resample` stands, None for all.
    """

    of: dict[str, tuple[str, ConditionPrior]]
    made_from: dict[str, Tensor]
    levels: str | None = None


def choose_laws(parts: Sequence[Part], data: Dataset) -> ChosenLaws:
    """The laws that the parts name, or their defaults, made from the training set.

    Raises:
        CbdmError: a law for a part that takes none, no law for one that needs it, or a law that these data do not have.
    """
    laws: dict[str, tuple[str, ConditionPrior]] = {}
    levels = None
    made_from = {} if data.condition is None else {"conditions": data.condition, "labels": data.y}
    for part in parts:
        text = law_text(part)
        if text is None:
            continue
        text, own = parted(part.name, text)
        levels = own or levels
        similarity = _similarity(part.affinity, data) if _made_from(text) == "similarity" else None
        if similarity is None and part.affinity is not None:
            raise CbdmError(f"method.{part.name}.affinity = {part.affinity!r}: its law is {text!r}, not affinity")
        if similarity is not None:
            made_from = {**made_from, f"similarity.{part.name}": similarity}
        law = make_law(text, data.counts(), conditions=data.condition, similarity=similarity)
        _refuse_labels(part, text, law, data)
        laws[part.name] = text, law
    return ChosenLaws(laws, made_from, levels)


def _own_mend(part: Part) -> str:
    """What a class of the user's own lacks, whose constructor has a place for a law."""
    return ', or let its class say needs = ("target",)' if "target" in part_options(part.name) else ""


def law_text(part: Part) -> str | None:
    """The text of a part's law, or None where it takes none.

    Raises:
        CbdmError: a law for a part that takes none, or none for a part that needs one.
    """
    if not takes_law(part.name):
        if part.law is not None:
            raise CbdmError(
                f"method part {part.name!r} takes no law, got {part.law!r}: write just {part.name}{_own_mend(part)}"
            )
        return None
    default = _DEFAULTS[part.name] if part.name in BATCH_LAWS else part_class(part.name).default_law
    text = part.law or default
    if text is None:
        raise CbdmError(f"method part {part.name!r} needs a law: write for example {part.name}:uniform")
    return text


def parted(part: str, text: str) -> tuple[str, str | None]:
    """A part's law without its noise levels, and these, None for all.

    Raises:
        CbdmError: levels of another part than `resample`, which alone reads them.
    """
    law, levels = parted_levels(text)
    if levels is not None and part != RESAMPLE:
        raise CbdmError(f"method part {part!r}: only {RESAMPLE} reads noise levels, got {text!r}; write {part}:{law}")
    return law, levels


def _made_from(text: str) -> str:
    """What the law is made from; names that are none are refused by `make_law`."""
    name = text.partition(":")[0]
    return PRIORS[name].made_from if name in PRIORS else "counts"


def _refuse_labels(part: Part, text: str, law: ConditionPrior, data: Dataset) -> None:
    """A law that draws labels, where conditions are none; a part that counts classes is refused as a whole."""
    if data.condition is None or part.name in BATCH_PARTS or counts_classes(part.name):
        return
    if isinstance(law, LabelPrior | Affinity):
        raise CbdmError(
            f"method part {part.name!r}: the law {text!r} draws class labels, and these data are told "
            f"{space_to_dict(data.space)['kind']}: try {part.name}:null, {part.name}:knn or {part.name}:combinations"
        )


def law_of(text: str, data: Dataset, affinity: str | None = None) -> ConditionPrior:
    """The law that `text` names, made from a training set."""
    similarity = _similarity(affinity, data) if _made_from(text) == "similarity" else None
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
            f"affinity = {affinity!r}: it must hold {K} × {K} finite numbers of 0 or more, one row a class "
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


def sampled_from(laws: ChosenLaws, counts: Tensor) -> ConditionPrior:
    """What the examples' classes are drawn from: the training law, unless a part of the batches says otherwise.

    Raises:
        CbdmError: a law that depends on the noise level.
    """
    drawn = next((laws.of[name] for name in BATCH_LAWS if name in laws.of), None)
    if drawn is None:
        return make_law("training", counts)
    if laws.levels is not None:
        raise CbdmError(
            f"{RESAMPLE}:{drawn[0]}@{laws.levels} draws by the noise level, and another part of the method needs one "
            f"law for all levels: write {RESAMPLE}:{drawn[0]}, or leave that part out"
        )
    return drawn[1]

"""What is to be drawn: labels, conditions, or a law without either, by the options of `cbdm sample`."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.run_data import known_counts
from cbdm_core.conditions import Classes
from cbdm_core.errors import CbdmError, closest, some_of
from cbdm_core.generation import conditions_for, cyclic_labels, labels_from
from cbdm_core.priors import PRIORS, LabelPrior, make_law
from cbdm_core.run import Run

__all__ = ["SampleRequest", "conditions_of", "conditions_to_draw", "labels_of", "sample_request"]

_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class SampleRequest:
    """What `cbdm sample` was asked to draw.

    Args:
        labels: `--labels`.
        conditions: `--condition`, none of them for conditions of the training set by label.
        n: `--n`.
        prior: the law of `--unconditional --prior`; None draws under conditions.
    """

    labels: str = "cyclic"
    conditions: Sequence[str] = ()
    n: int | None = None
    prior: str | None = None


def sample_request(
    labels: str | None,
    conditions: Sequence[str],
    n: int | None,
    prior: str | None,
    guided: Mapping[str, Any],
    tracked: Mapping[str, Any],
    *,
    unconditional: bool,
) -> SampleRequest:
    """What the options ask for, None where not given.

    Raises:
        CbdmError: options that do not go together.
    """
    if unconditional and (labels is not None or conditions or any(value is not None for value in guided.values())):
        raise CbdmError("--unconditional shows the network no condition: leave out --labels, --condition, --omega, …")
    if prior is not None and not unconditional:
        raise CbdmError(f"--prior {prior} goes with --unconditional; labels drawn from a law are --labels {prior}")
    tracks = unconditional or guided["guidance_prior"] is not None
    if not tracks and any(value is not None for value in tracked.values()):
        raise CbdmError("--temperature, --top-k and --track-every need --guidance-prior LAW or --unconditional")
    if conditions and labels is not None:
        raise CbdmError("--labels and --condition both say what to draw: give one of them")
    law = "uniform" if prior is None else prior  # an empty text is refused where it is read
    return SampleRequest("cyclic" if labels is None else labels, conditions, n, law if unconditional else None)


def labels_of(text: str, n: int | None, run: Run, seed: int) -> Tensor:
    """The labels that `--labels` names.

    Args:
        text: cyclic, a law with probabilities, or labels parted by commas, each a number or the name of its class.
        n: how many; 16 a class by default, or as many as are listed (a list is repeated up to `n`).
        run: for its classes and counts.
        seed: of labels drawn from a law.

    Raises:
        CbdmError: a label outside [0, K), a word that is neither class nor law, or the null law.
    """
    classes = len(run.counts)
    if text == "cyclic":
        return cyclic_labels(n or 16 * classes, classes)
    if text.partition(":")[0] not in PRIORS:
        listed = torch.tensor(_listed(text, run.class_names))
        return listed[torch.arange(n or len(listed)) % len(listed)]
    law = make_law(text, run.counts)
    if law.learns:  # what this run has learned, not a law at its start
        law = next((known for known in run.laws.values() if known.learns), None)
        if law is None:
            raise CbdmError(f"--labels {text}: this run has learned no law; try uniform, training or power:0.5")
    if not isinstance(law, LabelPrior):
        raise CbdmError(f"--labels {text}: this law has no label to draw; try uniform, training or power:0.5")
    return labels_from(law, n or 16 * classes, seed)


def _listed(text: str, class_names: Sequence[str]) -> list[int]:
    """Labels parted by commas, each as its number or as its class."""
    by_name, labels = _by_name(class_names), list[int]()
    words = list(_parted(text, by_name))
    for name in words:
        if _NUMBER.fullmatch(name):
            labels.append(_in_range(text, int(name), class_names))
        elif name not in by_name:
            raise _no_label(text, name, by_name, alone=len(words) == 1)
        else:
            labels.append(_only(text, name, by_name[name]))
    return labels


def _by_name(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name, as `_parted` has it."""
    by_name: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_name.setdefault(", ".join(_words(name)), []).append(place)
    return by_name


def _parted(text: str, names: Iterable[str]) -> Iterator[str]:
    """What stands between the commas: names may hold some, the longest goes first; numbers stand alone."""
    words, known, at = _words(text), {*names}, 0
    most = max((name.count(",") for name in known), default=0) + 1
    while at < len(words):
        longest_first = (", ".join(words[at : at + n]) for n in range(most, 0, -1))
        name = next((joined for joined in longest_first if joined in known), words[at])
        yield words[at] if _NUMBER.fullmatch(words[at]) else name
        at += 1 if _NUMBER.fullmatch(words[at]) else name.count(",") + 1


def _only(text: str, name: str, labels: Sequence[int]) -> int:
    """The label of a name; names that differ by spaces or by the form of an accent alone are read as one."""
    if len(labels) > 1:
        numbers = " and ".join(map(str, labels))
        raise CbdmError(f"--labels {text!r}: {name!r} is the name of the classes {numbers}: give the number of one")
    return labels[0]


def _words(text: str) -> list[str]:
    """What stands between the commas; letters with accents as one sign, which some file systems take apart."""
    return [word.strip() for word in unicodedata.normalize("NFC", text).split(",")]


def _in_range(text: str, label: int, class_names: Sequence[str]) -> int:
    if 0 <= label < len(class_names):
        return label
    called = f", and the class {str(label)!r} is {class_names.index(str(label))}" if str(label) in class_names else ""
    last = len(class_names) - 1
    raise CbdmError(f"--labels {text}: label {label} is out of range; the run has labels 0 … {last}{called}")


def _no_label(text: str, word: str, classes: Iterable[str], *, alone: bool) -> CbdmError:
    """The error for a word that is no label, nor a law where it stands alone."""
    near = closest(word.partition(":")[0], [*classes, *(("cyclic", *PRIORS) if alone else ())])
    hint = f" did you mean {near!r}?" if near else ""
    return CbdmError(
        f"--labels {text!r}: {word!r} is no class of this run:{hint} allowed: cyclic, classes by number or name parted "
        f"by commas ({some_of([*classes])}), or a law such as uniform, training or power:0.5"
    )


def conditions_of(texts: Sequence[str], n: int | None, run: Run) -> Tensor:
    """The conditions that `--condition` names, repeated up to n.

    Args:
        texts: each the numbers of one, parted by commas, or the names of those of its attributes that are 1.
        n: how many; 16 for each text by default.
        run: for its conditions and their names.

    Raises:
        CbdmError: a run that is told labels, numbers that are none or of another length than the run's conditions, or
            names that it has not.
    """
    if isinstance(run.space, Classes):
        raise CbdmError(f"--condition {texts[0]}: this run is told labels; use --labels, for example --labels 3,3,7")
    kind, size = run.law_data["conditions"].dtype, run.law_data["conditions"].shape[1]
    rows = []
    for text in texts:
        row = _numbers(text, size, kind.is_floating_point)
        if row is None and not kind.is_floating_point:
            row = _present(text, run.condition_names or ())
        if row is None:
            raise _no_condition(text, size, run.condition_names or (), kind.is_floating_point)
        rows.append(row)
    return torch.tensor(rows).to(kind)[torch.arange(n or 16 * len(rows)) % len(rows)]


def _numbers(text: str, size: int, floats: bool) -> list[float] | None:
    try:
        row = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return row if len(row) == size and (all(map(math.isfinite, row)) if floats else {*row} <= {0, 1}) else None


def _present(text: str, names: Sequence[str]) -> list[float] | None:
    """1 at the attributes that are named, each by a name that no other has."""
    by_name = _by_name(names)
    places = [by_name.get(name, []) for name in _parted(text, by_name)]
    if any(len(found) != 1 for found in places):
        return None
    return [float([place] in places) for place in range(len(names))]


def _no_condition(text: str, size: int, names: Sequence[str], floats: bool) -> CbdmError:
    allowed = f"{size} values ({'numbers' if floats else '0 or 1'}), parted by commas"
    if names:
        allowed += f", of {some_of(names)}" + ("" if floats else "; or the names of those that are 1")
    unknown = [word for word in _parted(text, names) if not _NUMBER.fullmatch(word) and word not in names]
    near = closest(unknown[0], names) if unknown and not floats else None
    hint = f" did you mean {near!r}?" if near else ""
    return CbdmError(f"--condition {text!r}:{hint} this run is told {allowed}")


def conditions_to_draw(
    request: SampleRequest, run: Run, seed: int
) -> tuple[Tensor, Tensor, tuple[str, ...], Sequence[int | None]]:
    """(label of each sample, what the network is told, class names, counts).

    Raises:
        CbdmError: fewer than one sample, or labels or conditions that the run does not have.
    """
    if request.n is not None and request.n < 1:
        raise CbdmError(f"--n must be 1 or more, got {request.n}")
    if request.prior is not None:
        count = request.n or 16 * len(run.counts)
        zeros = torch.zeros(count, dtype=torch.long)
        return zeros, zeros, (f"law {request.prior}",), [None]
    if request.conditions:
        conditions = conditions_of(request.conditions, request.n, run)
        labels = torch.arange(len(conditions)) % len(request.conditions)
        return labels, conditions, tuple(request.conditions), [None] * len(request.conditions)
    labels = labels_of(request.labels, request.n, run, seed)
    conditions = labels
    if not isinstance(run.space, Classes):
        conditions = conditions_for(labels, run.law_data["conditions"], run.law_data["labels"])
    return labels, conditions, run.class_names, known_counts(run)

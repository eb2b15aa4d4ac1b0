"""The table of scores: what each is called, how many digits it deserves, which way is better, and where it is shown.

Every table, page and file of results takes its scores from here. Another package adds one by an entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry

if TYPE_CHECKING:  # a table of names costs no torch
    from cbdm_core.metrics.rows import EvaluatedRows

__all__ = ["Score", "compared_scores", "digits_of", "known_scores", "label_of", "meanings"]


@dataclass(frozen=True)
class Score:
    """One score of an evaluation.

    Args:
        key: its name in a result file, and its field in `Scores` or, of a registered score, in `Scores.further`.
        label: as columns and captions call it.
        digits: after the point.
        less_is_better: which way is better; None where neither is.
        shown: whether the tables of one evaluation have a column for it.
        compared: the groups of classes in which a study compares it, of "head", "medium", "tail"; "" is overall.
        name: as a study calls it behind the group, where that is not the key.
        of: (reference rows, sample rows) → the score, None where they are too few; of a registered score, since
            `evaluate` computes the others itself.
        meaning: a phrase for captions, where the label does not say it all.
    """

    key: str
    label: str
    digits: int = 3
    less_is_better: bool | None = False
    shown: bool = False
    compared: tuple[str, ...] = ()
    name: str = ""
    of: Callable[[EvaluatedRows, EvaluatedRows], float | None] | None = None
    meaning: str = ""


_COPIES = "the share of these samples that copy training images, beyond chance, so that it may be a little below 0"
_COPIES_IN_PIXELS = "the share of them that copy by neighbours in pixels instead of features"
_AUTHENTICITY = (
    "the share of these samples farther from their nearest training image than that one is from its own, 0 for copies "
    "and about ½ for a fair sampler"
)
_OWN = (
    Score("fid", "FID", digits=2, less_is_better=True, shown=True, compared=("", "tail")),
    Score("kid", "KID", digits=2, less_is_better=True, shown=True),
    Score("precision", "precision", shown=True, compared=("",)),
    Score("recall", "recall", shown=True, compared=("", "tail")),
    Score("coverage", "coverage", shown=True),
    Score("label_accuracy", "label acc.", shown=True),
    Score("memorised", "copies", less_is_better=True, compared=("tail",), name="copies", meaning=_COPIES),
    Score(
        "memorised_pixels",
        "copies in pixels",
        less_is_better=True,
        compared=("tail",),
        name="copies in pixels",
        meaning=_COPIES_IN_PIXELS,
    ),
    Score("authenticity", "authenticity", compared=("tail",), meaning=_AUTHENTICITY),
)


_GROUPS = ("", "head", "medium", "tail")  # those of `Report.groups`, and all samples


def known_scores() -> tuple[Score, ...]:
    """Our own, and after them those of other packages by name, which are loaded when they are first asked for.

    Raises:
        CbdmError: one that cannot be loaded, or is no new score.
    """
    return _known()


@cache
def _known() -> tuple[Score, ...]:
    registry = Registry("score", "cbdm.scores", {})
    found = {name: registry[name] for name in registry}
    for name, score in found.items():
        fault = _fault(name, score)
        if fault:
            raise CbdmError(f"the score {name!r} is registered as {score!r}: {fault}")
    return *_OWN, *found.values()


def _fault(name: str, score: object) -> str | None:
    """What keeps it from standing beside ours."""
    from cbdm_core.metrics.report import Scores

    if not isinstance(score, Score) or score.of is None or score.key != name:
        return "register a Score with of=… whose key is that name"
    taken = {field.name for field in fields(Scores)} | {own.name or own.key for own in _OWN}
    if {score.key, score.name} & taken:
        return f"choose a key and a name other than {', '.join(sorted(taken))}"
    if not isinstance(score.compared, tuple) or not set(score.compared) <= set(_GROUPS):
        return f"compared must be a tuple of {', '.join(map(repr, _GROUPS))}"
    return None


def compared_scores() -> dict[str, tuple[tuple[str, ...], Score]]:
    """What a study compares: name → (where it stands in a result, the score), overall first, then group by group."""
    return _compared()


@cache
def _compared() -> dict[str, tuple[tuple[str, ...], Score]]:
    groups = dict.fromkeys(group for score in known_scores() for group in score.compared)
    return {
        f"{group} {score.name or score.key}".strip(): (
            (*(("groups", group) if group else ("overall",)), score.key),
            score,
        )
        for group in groups
        for score in known_scores()
        if group in score.compared
    }


def _score(name: str) -> Score:
    """The score of a study's name, or of a field of an evaluation; one of a package that is not here has its name."""
    compared = compared_scores()
    if name in compared:
        return compared[name][1]
    return next((score for score in known_scores() if score.key == name), Score(name, name))


def label_of(name: str) -> str:
    """How columns and captions call a score: `tail fid` → `tail FID`, `kid` → `KID`."""
    score = _score(name)
    return name.removesuffix(score.name or score.key).removesuffix(score.key) + score.label


def digits_of(name: str) -> int:
    """Digits after the point that a score deserves."""
    return _score(name).digits


def meanings(names: Iterable[str]) -> list[str]:
    """`label: meaning` of those scores, by a study's names, whose label does not say it all."""
    return [f"{label_of(name)}: {meaning}" for name in names if (meaning := _score(name).meaning)]

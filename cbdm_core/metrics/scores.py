"""The table of scores: what each is called, how many digits it deserves, which way is better, and where it is shown.

Every table, page and file of results takes its scores from here, so that a score is added in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCORES", "Score", "compared_scores", "digits_of", "label_of"]


@dataclass(frozen=True)
class Score:
    """One score of an evaluation.

    Args:
        key: its field in `Scores`, and so in a result file.
        label: as columns and captions call it.
        digits: after the point.
        less_is_better: which way is better; None where neither is.
        shown: whether the tables of one evaluation have a column for it.
        compared: the groups of classes in which a study compares it; "" is overall.
        name: as a study calls it behind the group, where that is not the key.
    """

    key: str
    label: str
    digits: int = 3
    less_is_better: bool | None = False
    shown: bool = False
    compared: tuple[str, ...] = ()
    name: str = ""


SCORES: tuple[Score, ...] = (
    Score("fid", "FID", digits=2, less_is_better=True, shown=True, compared=("", "tail")),
    Score("kid", "KID", digits=2, less_is_better=True, shown=True),
    Score("precision", "precision", shown=True, compared=("",)),
    Score("recall", "recall", shown=True, compared=("", "tail")),
    Score("coverage", "coverage", shown=True),
    Score("label_accuracy", "label acc.", shown=True),
    Score("memorised", "copies", less_is_better=True, compared=("tail",), name="copies"),
    Score("memorised_pixels", "copies in pixels", less_is_better=True, compared=("tail",), name="copies in pixels"),
    Score("authenticity", "authenticity", compared=("tail",)),
)


def compared_scores() -> dict[str, tuple[tuple[str, ...], Score]]:
    """What a study compares: name → (where it stands in a result, the score), overall first, then group by group."""
    groups = dict.fromkeys(group for score in SCORES for group in score.compared)
    return {
        f"{group} {score.name or score.key}".strip(): (
            (*(("groups", group) if group else ("overall",)), score.key),
            score,
        )
        for group in groups
        for score in SCORES
        if group in score.compared
    }


def _score(name: str) -> Score:
    """The score of a study's name, or of a field of an evaluation."""
    compared = compared_scores()
    return compared[name][1] if name in compared else next(score for score in SCORES if score.key == name)


def label_of(name: str) -> str:
    """How columns and captions call a score: `tail fid` → `tail FID`, `kid` → `KID`."""
    score = _score(name)
    return name.removesuffix(score.name or score.key).removesuffix(score.key) + score.label


def digits_of(name: str) -> int:
    """Digits after the point that a score deserves."""
    return _score(name).digits

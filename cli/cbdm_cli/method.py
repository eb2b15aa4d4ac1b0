"""The grammar of --method: `cbdm:null+resample:uniform` is parts with their laws. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cbdm_core.errors import CbdmError

__all__ = ["BATCH_PARTS", "PLAIN", "PURE", "RESAMPLE", "Part", "format_parts", "parse_parts", "with_law"]

PLAIN = "ddpm"  # no part at all
RESAMPLE = "resample"  # rows drawn by a law
PURE = "pure"  # batches of one class, drawn by a law
BATCH_PARTS = (RESAMPLE, PURE)  # act on the batches, the others on the loss


@dataclass(frozen=True)
class Part:
    """One part of a method and the text of its law, None for the part's own default."""

    name: str
    law: str | None = None

    def __str__(self) -> str:
        return self.name if self.law is None else f"{self.name}:{self.law}"


def parse_parts(text: str) -> tuple[Part, ...]:
    """`a:law+b` → its parts, the outermost first; `ddpm` has none.

    Raises:
        CbdmError: an empty part, a part twice, or `ddpm` beside another part or with a law.
    """
    pieces = [piece.strip() for piece in text.split("+")]
    if pieces == [PLAIN]:
        return ()
    parts = []
    for piece in pieces:
        name, colon, law = piece.partition(":")
        if not name or (colon and not law):
            raise CbdmError(f"method {text!r} has an empty part: write for example cbdm:null+resample:uniform")
        parts.append(Part(name, law or None))
    names = [part.name for part in parts]
    if PLAIN in names:
        raise CbdmError(f"method {text!r}: {PLAIN} means no part at all, so it takes no law and stands alone")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CbdmError(f"method {text!r} names {twice[0]!r} twice: a part may stand in a method only once")
    return tuple(parts)


def format_parts(parts: Sequence[Part]) -> str:
    """The text that `parse_parts` reads."""
    return "+".join(str(part) for part in parts) or PLAIN


def with_law(parts: Sequence[Part], law: str, takers: Sequence[str]) -> tuple[Part, ...]:
    """The parts with `law` given to the one part that takes a law.

    Args:
        parts: the method's parts.
        law: the text of `--prior`.
        takers: names of those parts that take a law.

    Raises:
        CbdmError: none of the parts takes a law, or more than one does.
    """
    if not takers:
        raise CbdmError(
            f"--prior {law}: method {format_parts(parts)!r} has no part that takes a law; try --method cbdm"
        )
    if len(takers) > 1:
        shown = "+".join(f"{p.name}:{law if p.name == takers[0] else p.law or 'LAW'}" for p in parts)
        raise CbdmError(
            f"--prior {law}: the parts {', '.join(takers)} each take a law; say which one, for example --method {shown}"
        )
    return tuple(Part(part.name, law) if part.name == takers[0] else part for part in parts)

"""The values of `--omega`."""

from __future__ import annotations

from collections.abc import Sequence

from cbdm_core.guidance import parse_omega

__all__ = ["omegas_of"]


def omegas_of(texts: Sequence[str]) -> list[str]:
    """The values of `--omega`: each a schedule of ω, or numbers parted by commas.

    Raises:
        CbdmError: a text that is neither.
    """
    values = []
    for text in texts:
        pieces = text.split(",")
        values += pieces if ":" not in text else [text]
    for value in values:
        parse_omega(value)
    return [value.strip() for value in values]

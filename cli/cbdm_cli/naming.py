"""Texts of the user's as parts of file names. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import re

__all__ = ["file_tag", "file_words"]

_MOST = 48  # bytes of a tag before its digits; a name of several has 255 in all


def file_words(text: str) -> str:
    """The text with a dash for what no file name may hold: `linear:2,1` → `linear-2-1`."""
    return re.sub(r'[:,/\\*?"<>|\x00-\x1f]', "-", text)


def file_tag(text: str) -> str:
    """Words of bounded length that no other text has: with eight digits of its hash where they do not tell it whole."""
    words = file_words(text)
    if words == text.replace(":", "-", 1) and len(os.fsencode(words)) <= _MOST:
        return words
    kept = os.fsencode(words)[:_MOST].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"

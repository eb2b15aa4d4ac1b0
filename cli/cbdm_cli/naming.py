"""Texts of the user's as parts of file names. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import re

from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["file_tag", "file_words", "path_name"]

_LONGEST = 255  # bytes of a name
_MOST = 48  # bytes of a tag before its digits; a name of several has 255 in all


def path_name(name: str, what: str, mend: str = "choose another name") -> str:
    """The name, if it can be one step of a path and leads nowhere else.

    Args:
        name: a user's, or one from a file that somebody else has made.
        what: is named, for the message.
        mend: what to do.

    Raises:
        CbdmError: an empty or hidden name, one with a separator or a control character, or one too long.
    """
    wrong = name.startswith(".") or not name.strip() or any(c in name for c in "/\\")
    if wrong or not name.isprintable() or len(os.fsencode(name)) > _LONGEST:
        raise CbdmError(f"{what} {clean_text(name[:80])!r} cannot be the name of a file or folder: {mend}")
    return name


def file_words(text: str) -> str:
    """The text with a dash for what no file name may hold: `linear:2,1` → `linear-2-1`."""
    return re.sub(r'[:,/\\*?"<>|\x00-\x1f]', "-", text)


def file_tag(text: str) -> str:
    """Words of bounded length that no other text has: with eight digits of its hash where they do not tell it whole.

    `feats:a` → `feats-a`, so that `feats-a` itself has the digits.
    """
    words = file_words(text)
    if _tell_whole(words, text) and len(os.fsencode(words)) <= _MOST:
        return words
    shortened = os.fsencode(words)[:_MOST].decode(errors="ignore")
    return f"{shortened}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"


def _tell_whole(words: str, text: str) -> bool:
    """Whether a single dash stands for a colon, and any other number for dashes; nor are the words those of a hash."""
    single = words.count("-") == 1
    same = words == text.replace(":", "-") and (":" in text) == single
    return same and not re.search(r"-[0-9a-f]{8}$", words)

"""Files out of tar archives, in memory and of bounded size; nothing is ever written to a disk."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text, inner_name, regular_file

__all__ = ["check_md5", "md5_of", "members"]

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


def members(path: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files of a tar archive, compressed or not, in its order, read in one pass.

    Args:
        path: of the archive.
        most: bytes that one file may have.

    Raises:
        CbdmError: no such archive, a damaged one, a name that leads out of it, or a larger file.
    """
    regular_file(path)
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                inner_name(member.name, str(path))
                if not member.isfile():
                    continue
                yield member.name, _content(path, archive, member, most)
    except CbdmError:
        raise
    except _DAMAGE as error:
        reason = clean_text(str(error) or type(error).__name__)
        raise CbdmError(f"{path} cannot be read as a tar archive ({reason}): fetch it again") from error


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise CbdmError(
            f"{clean_text(member.name)} of {path} has {member.size:,} bytes, more than the {most:,} that one may have"
        )
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise CbdmError(f"{path} ends inside {clean_text(member.name)}: fetch it again")
    return content


def md5_of(path: Path) -> str:
    """The MD5 sum of a regular file.

    Raises:
        CbdmError: there is none.
    """
    with regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file whose MD5 sum is another than the published one, which a broken download has.

    Raises:
        CbdmError: it is another.
    """
    if (found := md5_of(path)) != expected:
        raise CbdmError(
            f"{path} has the MD5 sum {found}, the published one is {expected}: fetch it again, or read it as it is by "
            "verify=false"
        )

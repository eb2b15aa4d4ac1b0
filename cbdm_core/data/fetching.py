"""Published files over http: streamed, gone on with after a break, and held against their MD5 sums."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cbdm_core.data.archives import md5_of
from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["Loaded", "Published", "check_address", "download", "is_there"]

_CHUNK = 1 << 18  # bytes read at once, at most


@dataclass(frozen=True)
class Published:
    """The files of a published data set and where they are.

    Args:
        folder: its name under $CBDM_DATA.
        address: of the folder of files on the web.
        md5s: the MD5 sum of each file, by its name.
        most: bytes that one of them may have.
    """

    folder: str
    address: str
    md5s: Mapping[str, str]
    most: int


class Loaded(NamedTuple):
    """How many bytes of a file have come, and how many it has, where the address tells."""

    done: int
    total: int | None


def is_there(path: Path, md5: str) -> bool:
    """Whether a file is there already, with the right bytes.

    Raises:
        CbdmError: it has others, which might be somebody's own.
    """
    if not path.exists():
        return False
    if (found := md5_of(path)) != md5:
        raise CbdmError(
            f"{path} is there with the MD5 sum {found}, the published one is {md5}: move it away and fetch again"
        )
    return True


def download(
    url: str, path: Path, md5: str, *, most: int, stall: float = 10.0, tries: int = 4, pause: float = 1.0
) -> Iterator[Loaded]:
    """Load a file, telling after each piece how far it is; it gets its name when it is whole and right.

    Until then it is `path` with `.part` behind, which a later call goes on with.

    Args:
        url: http or https.
        path: of the file; its folder is made.
        md5: its MD5 sum.
        most: bytes that it may have.
        stall: seconds without a byte after which a try is given up.
        tries: how many there are in all.
        pause: seconds before the second try; doubled for each further one.

    Raises:
        CbdmError: another kind of address, no answer, too many or wrong bytes, or a folder that cannot be written.
    """
    check_address(url)
    part = path.with_name(f"{path.name}.part")
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise CbdmError(f"{part} is a link or no file, and nothing is written through it: remove it")
    if not part.exists() or md5_of(part) != md5:  # whole already where a run was stopped just before the renaming
        yield from _in_tries(url, part, most, stall, tries, pause)
    if (found := md5_of(part)) != md5:
        part.unlink()
        raise CbdmError(
            f"{url} gave bytes with the MD5 sum {found}, expected {md5}; they are removed: fetch again, "
            f"{_by_hand(part)}"
        )
    with _writing(path):
        part.replace(path)


def _in_tries(url: str, part: Path, most: int, stall: float, tries: int, pause: float) -> Iterator[Loaded]:
    for turn in range(tries):
        try:
            yield from _stream(url, part, most, stall)
            return
        except (OSError, HTTPException) as error:
            if turn == tries - 1 or not _may_pass(error):
                kept = f"; what came is in {part}, and the next fetch goes on with it" if _size(part) else ""
                raise CbdmError(f"{url} cannot be fetched ({_reason(error, stall)}): {_by_hand(part)}{kept}") from error
        time.sleep(pause * 2**turn)


def _stream(url: str, part: Path, most: int, stall: float) -> Iterator[Loaded]:
    """One try: from where the last one ended, or from the beginning where the server knows no ranges."""
    start = _size(part)
    with _answer(url, part, start, stall) as response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise ConnectionError(f"the range from byte {start:,} was asked for, and another came")
        done = start if response.status == 206 else 0
        total = None if response.length is None else done + response.length
        _check_bound(url, part, total or done, most)
        if not done:
            _put(part, b"", "wb")
        yield Loaded(done, total)
        while piece := response.read1(_CHUNK):
            done += len(piece)
            if done > most:
                part.unlink()
                _check_bound(url, part, done, most)
            _put(part, piece, "ab")
            yield Loaded(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"it ended after {done:,} of {total:,} bytes")


@contextmanager
def _answer(url: str, part: Path, start: int, stall: float) -> Iterator[HTTPResponse]:
    wanted = {"User-Agent": "cbdm", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = _opener().open(request.Request(url, headers=wanted), timeout=stall)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the part is longer than the file
            part.unlink()
            raise ConnectionError("the part did not belong to the file") from error
        raise
    with response:
        yield response


def _opener() -> request.OpenerDirector:
    """urllib's own one reads files and ftp too, by a redirection even."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        _Redirects,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


class _Redirects(request.HTTPRedirectHandler):
    """Redirections to http and https."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_address(url: str) -> None:
    """Refuse what urllib would read from elsewhere, or stumble over.

    Raises:
        CbdmError: not http or https, a user in it, or what no address has.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        good = good and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise CbdmError(
            f"{clean_text(url)!r} is no address to fetch from: it must begin with http:// or https://, "
            "without a user or blanks"
        )


def _check_bound(url: str, part: Path, size: int, most: int) -> None:
    if size > most:
        raise CbdmError(f"{url} has {size:,} bytes or more, and at most {most:,} are taken: {_by_hand(part)}")


def _by_hand(part: Path) -> str:
    return f"bring {part.stem} into {part.parent} by hand, or name another address by --mirror URL"


def _may_pass(error: Exception) -> bool:
    """Whether a further try may go better."""
    return not isinstance(error, HTTPError) or error.code in (408, 429) or error.code >= 500


def _reason(error: Exception, stall: float) -> str:
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    if isinstance(cause, TimeoutError):
        return f"no byte for {stall:g} s"
    return clean_text(str(cause) or type(cause).__name__)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _put(part: Path, piece: bytes, mode: str) -> None:
    """Opened for each piece, so that an error of the disk is told from one of the network."""
    with _writing(part), part.open(mode) as file:
        file.write(piece)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CbdmError(f"cannot write {path} ({error.strerror or error}): make room or choose another --to") from error

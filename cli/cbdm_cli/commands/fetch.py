"""`cbdm fetch`: download the files of a published data set to where its source looks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cbdm_cli import render
from cbdm_cli.fetchable import FETCHED
from cbdm_cli.locking import held
from cbdm_cli.trust import quoted
from cbdm_core.data.fetching import Published, check_address, download, is_there
from cbdm_core.data.sources import DATASETS
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.writing import plain_write_errors

__all__ = ["fetch_source"]


def fetch_source(source: str, to: str | None, mirror: str | None) -> None:
    """Bring each file of a data set into its folder; those that are there and right are left.

    Args:
        source: its name.
        to: the folder; None is its place under $CBDM_DATA.
        mirror: address of a web folder with the same files; None is the published one.

    Raises:
        CbdmError: another source, no folder, wrong files there, another fetch into the folder, or what `download`
            refuses.
    """
    published = _published(source)
    folder = _folder(source, published, to)
    address = published.address if mirror is None else mirror
    missing = {name: md5 for name, md5 in published.md5s.items() if not _is_there(folder / name, md5)}
    for name in missing:
        check_address(_url(address, name))
    with _alone(folder) if missing else nullcontext():
        for name, md5 in missing.items():
            _bring(_url(address, name), folder / name, md5, published.most)
    found = "" if to is None else f" --set {quoted(f'data.options.root={folder}')}"
    render.note(f"cbdm data {source}{found} shows what it holds")


def _published(source: str) -> Published:
    if source in FETCHED:
        return FETCHED[source]
    if source in DATASETS:
        raise CbdmError(
            f"{source} is not among what can be fetched, {', '.join(sorted(FETCHED))}: where it needs files, bring "
            f"them by hand and name them by --set data.options (cbdm data lists what each source reads)"
        )
    raise unknown_name("source to fetch", source, FETCHED)


def _folder(source: str, published: Published, to: str | None) -> Path:
    kept = os.environ.get("CBDM_DATA")
    if to is not None and not to:
        raise CbdmError("the folder of --to is empty: name one, or leave it out for the place under $CBDM_DATA")
    if to is None and not kept:
        raise CbdmError(f"where shall {source} go? Set CBDM_DATA to the folder of your data sets, or give --to FOLDER")
    return Path(to).expanduser() if to else Path(kept or "").expanduser() / published.folder


def _url(address: str, name: str) -> str:
    return f"{address.rstrip('/')}/{name}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder, made and held: two downloads would write into one part."""
    with plain_write_errors(folder, "--to"):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder, "cbdm fetch", "--to", cleans=False):  # any folder: samples may just be written into it
        yield


def _is_there(path: Path, md5: str) -> bool:
    if there := is_there(path, md5):
        render.note(f"{path} is there already, and right")
    return there


def _bring(url: str, path: Path, md5: str, most: int) -> None:
    if _is_there(path, md5):  # another fetch ended between the look and the lock
        return
    with render.progress() as bar:
        task = bar.add_task(path.name, total=None, facts="kB")
        for done, total in download(url, path, md5, most=most):
            bar.update(task, completed=done / 1e3, total=None if total is None else total / 1e3)
    render.note(f"{path}: {path.stat().st_size:,} bytes, MD5 sum as published")

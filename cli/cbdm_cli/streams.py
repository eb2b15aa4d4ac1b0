"""Samples that are written as they come, in shards: any number fits in memory, and a stop loses one shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.run_folder import write_json
from cbdm_core.distributed import World, sum_over_ranks
from cbdm_core.errors import CbdmError
from cbdm_core.reading import CONFIG_BYTES, regular_file

__all__ = ["MANIFEST", "opened", "stream"]

MANIFEST = ".sampling.json"  # hidden: readers of class folders pass over it


def opened(folder: Path, request: dict[str, Any]) -> int:
    """How many samples of this request a folder has already.

    Raises:
        CbdmError: it holds something else, or samples of another request.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return 0
    try:
        there = json.loads(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8"))
        done, before = there["done"], dict(there["request"])
        if not isinstance(done, int) or not 0 <= done <= before["n"]:
            raise ValueError(f"{done} samples are done")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CbdmError(f"{file} cannot be read ({type(error).__name__}): choose another --out") from error
    differing = sorted(key for key in {*before, *request} if before.get(key) != request.get(key))
    if differing:
        key = differing[0]
        raise CbdmError(
            f"--out {folder} holds samples with {key} = {before.get(key)!r}, not {request.get(key)!r}: ask for the "
            "same to go on, or choose another --out"
        )
    return done


def stream(
    folder: Path,
    request: dict[str, Any],
    total: int,
    size: int,
    draw: Callable[[int, int], Iterator[Tensor]],
    write: Callable[[Path, int, Tensor], None],
    world: World,
) -> int:
    """Draw and write samples `done` … total − 1, in shards; returns how many were there before.

    Args:
        folder: of the shards and of the manifest, which says how many are done.
        request: what was asked for, plain values.
        total: samples in all.
        size: of a shard; one is in memory at a time.
        draw: (first, end) → the samples of these numbers, in batches.
        write: (folder, first, samples) writes one shard; the leader alone calls it.
        world: the processes that draw.
    """
    here = opened(folder, request) if world.leads else 0
    if world.leads and not here:  # so that a stop within the first shard is gone on with
        write_json(folder / MANIFEST, {"request": request, "done": 0})
    before = int(sum_over_ranks(torch.tensor(here, device=world.device)))  # as the leader reads it
    for first in range(before, total, size):
        end = min(first + size, total)
        x = torch.cat(list(draw(first, end)))
        if world.leads:
            write(folder, first, x)
            write_json(folder / MANIFEST, {"request": request, "done": end})
    return before

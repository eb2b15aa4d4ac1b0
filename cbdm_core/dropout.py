"""The generator that dropout draws its masks from: where it starts at a step, and how to draw the same masks again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["dropout_rng_state", "has_dropout", "replayed", "seed_dropout"]


def seed_dropout(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Start the device's default generator, which dropout uses, from (seed, "dropout", step, rank).

    Not `torch.manual_seed`, which queues a call for every device that has not been used yet, and so grows at each step.
    """
    digest = hashlib.sha256(f"{seed}/dropout/{step}/{rank}".encode()).digest()
    number = int.from_bytes(digest[:8], "little") >> 1
    if device.type == "cuda":
        with torch.cuda.device(device):  # or the current device would be seeded, whichever that is
            torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


def dropout_rng_state(device: torch.device) -> Tensor:
    """Where that generator stands."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.get_rng_state()


@contextmanager
def replayed(state: Tensor, device: torch.device) -> Iterator[None]:
    """Inside, the masks drawn after `state`; after it the generator goes on from where it stood."""
    before = dropout_rng_state(device)
    _put(state, device)
    try:
        yield
    finally:
        _put(before, device)


def _put(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


def has_dropout(network: nn.Module) -> bool:
    """Whether two forwards of the network may differ by their masks: it is training and has dropout above 0."""
    # Of the instance only: some libraries answer `module.dropout` with a warning.
    rates = (vars(module).get(name) for module in network.modules() if module.training for name in ("p", "dropout"))
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)

"""Weights that a training starts from: of a run, or of a file that another program wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cbdm_cli.config import Origin
from cbdm_cli.run_folder import is_step
from cbdm_core.checkpoint import latest_checkpoint, read_tensors, read_torch
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.published import load_published
from cbdm_core.run import load_run

__all__ = ["read_state_dict", "start_from"]

_AUGMENTATION = "augment.project.weight"  # zero at first, so that a network that was told nothing may start one that is


def start_from(path: Path, network: ScoreNetwork, shape: Sequence[int]) -> Origin:
    """Put weights into a network, in place.

    Args:
        path: a run folder, of whose newest checkpoint the averaged weights are taken; a safetensors file with the
            names of our networks; or a published-style checkpoint, of which `ema_model` is.
        network: of the same architecture; augmentation alone may be new to it.
        shape: of one example.

    Returns:
        What the weights are: where they lay, after how many steps, and the SHA-256 of their file.

    Raises:
        CbdmError: nothing there, a damaged file, or weights of another network.
    """
    if path.is_dir():
        run, file = load_run(path), latest_checkpoint(path / "checkpoints") / "ema.safetensors"
        tensors, step = run.network.state_dict(), run.step
    elif path.suffix == ".safetensors":
        tensors, step, file = read_tensors(path), 0, path
    else:
        state, step = read_state_dict(path, "ema_model")
        tensors, file = load_published(state, spatial=shape[1:]).float().state_dict(), path
    _load(path, tensors, network)
    with file.open("rb") as stream:
        return Origin(path=str(path), step=step, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def _load(path: Path, tensors: dict[str, Tensor], network: ScoreNetwork) -> None:
    own = network.state_dict()
    new = {name: value for name, value in own.items() if name.endswith(_AUGMENTATION) and name not in tensors}
    given = {**tensors, **new}
    wrong = sorted({*own} ^ {*given}) or [name for name in own if own[name].shape != given[name].shape]
    if wrong:
        name = wrong[0]
        mine, theirs = (tuple(of[name].shape) if name in of else "not there" for of in (own, given))
        raise CbdmError(
            f"--from {path} holds the weights of another network: {name} is {theirs} in it and {mine} in this one; "
            "make network.name, network.options and the classes agree"
        )
    network.load_state_dict(given)


def read_state_dict(path: Path, weights: str) -> tuple[dict[str, torch.Tensor], int]:
    """(state dict, step) of a checkpoint; no pickle in it is executed.

    Args:
        path: a file written by `torch.save`.
        weights: the entry to take, ema_model or net_model; a bare state dict is taken whole.

    Raises:
        CbdmError: the file is missing or truncated, would execute code, or has no such entry.
    """
    content = read_torch(path)
    if not isinstance(content, dict):
        raise CbdmError(f"{path} holds a {type(content).__name__}, not a state dict: save a dict of tensors")
    step = content.get("step", 0)
    state = content
    if "net_model" in content or "ema_model" in content:
        if weights not in content:
            raise unknown_name("entry of the checkpoint", weights, [k for k in content if str(k).endswith("_model")])
        state = content[weights]
    named = isinstance(state, dict) and bool(state) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CbdmError(f"{path} holds no state dict of tensors: expected net_model and ema_model, or bare tensors")
    return state, int(step) if is_step(step) else 0

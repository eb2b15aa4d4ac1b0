"""Checkpoints: a folder that appears whole or not at all, holds no pickle that is executed, and knows its hashes.

`step-00000400/` holds `model.safetensors` (network and adjustment), `ema.safetensors` (the averaged network),
`optimizer.pt` (read with `weights_only=True`) and `state.json` (step, size and SHA-256 of each file).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cbdm_core.errors import CbdmError
from cbdm_core.networks.experts import has_experts, merged_state
from cbdm_core.training import TrainState
from cbdm_core.writing import flush, plain_write_errors

__all__ = ["checkpoints", "latest_checkpoint", "load_checkpoint", "load_weights", "read_tensors", "save_checkpoint"]

_FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt")
_FORMAT = 1


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def latest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint in a folder.

    Raises:
        CbdmError: there is none.
    """
    found = checkpoints(folder)
    if not found:
        raise CbdmError(f"no checkpoint in {folder}: it should hold a folder named step-…; train first")
    return found[-1]


def save_checkpoint(folder: Path, state: TrainState, *, keep: int = 2) -> Path:
    """Write the state as `folder/step-NNNNNNNN`, then remove all but the newest `keep`.

    The files are written to a temporary folder, flushed to the disk and renamed, so a crash or a full disk leaves the
    earlier checkpoints as they were.

    Raises:
        CbdmError: the disk is full or the path cannot be written.
    """
    target = folder / f"step-{state.step:08d}"
    with plain_write_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        try:
            _write(temporary, state)
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
            flush(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _write(folder: Path, state: TrainState) -> None:
    save_file(_tensors(state.objective), folder / "model.safetensors")
    save_file(_tensors(state.ema), folder / "ema.safetensors")
    torch.save(
        {"optimizer": state.optimizer.state_dict(), "scaler": state.scaler.state_dict()}, folder / "optimizer.pt"
    )
    if state.averages.of:
        save_file(state.averages.state_dict(), folder / "averages.safetensors")
    files = sorted(file.name for file in folder.iterdir())
    facts = {"format": _FORMAT, "step": state.step, "files": {name: _fingerprint(folder / name) for name in files}}
    (folder / "state.json").write_text(json.dumps(facts, indent=1))
    for file in folder.iterdir():
        flush(file)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().cpu() for name, value in module.state_dict().items()}


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def load_checkpoint(checkpoint: Path, state: TrainState) -> TrainState:
    """Put a checkpoint's weights, optimiser, averages and step into `state`, and return it.

    Raises:
        CbdmError: a missing, truncated or altered file, or weights of another network.
    """
    facts = _verified(checkpoint, (*_FILES, "averages.safetensors") if state.averages.of else _FILES)
    load_weights(checkpoint / "model.safetensors", state.objective)
    load_weights(checkpoint / "ema.safetensors", state.ema)
    try:
        saved = torch.load(checkpoint / "optimizer.pt", map_location=state.world.device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CbdmError(f"{checkpoint / 'optimizer.pt'} is no optimiser state: {_first_line(error)}") from error
    fused = [group["fused"] for group in state.optimizer.param_groups]
    state.optimizer.load_state_dict(saved["optimizer"])
    for group, here in zip(state.optimizer.param_groups, fused, strict=True):
        group["fused"] = here  # what this device has, not the one the checkpoint came from
    if state.averages.of:
        state.averages.load_state_dict(read_tensors(checkpoint / "averages.safetensors"))
    state.scaler.load_state_dict(saved["scaler"])
    state.step = facts["step"]
    return state


def load_weights(path: Path, module: nn.Module, *, verify: bool = False) -> None:
    """Read a safetensors file into a module.

    Args:
        path: the file.
        module: gets the weights in place; where the file's network had low-rank experts and this one has none, theirs
            are merged into the weights.
        verify: also hold the file against the hash in the `state.json` beside it.

    Raises:
        CbdmError: the file is missing or damaged, or it holds the weights of another network.
    """
    if verify:
        _verified(path.parent, (path.name,))
    tensors = read_tensors(path)
    if has_experts(tensors) and not has_experts(module):
        tensors = merged_state(tensors)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CbdmError(f"{path} holds the weights of another network: {_first_line(error, 1)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CbdmError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CbdmError(
            f"{path} cannot be read as safetensors ({_first_line(error)}): take another checkpoint"
        ) from error


def _verified(checkpoint: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The facts in `state.json`, once the named files agree with them."""
    try:
        facts = json.loads((checkpoint / "state.json").read_text())
        expected = {name: facts["files"][name] for name in names}
        step, known = int(facts["step"]), facts["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CbdmError(
            f"{checkpoint} is no complete checkpoint ({type(error).__name__} in state.json): delete it and "
            "resume from an earlier one"
        ) from error
    if not known:
        raise CbdmError(f"{checkpoint} has format {facts['format']}; this version reads format {_FORMAT}")
    for name, fact in expected.items():
        file = checkpoint / name
        if not file.exists() or _fingerprint(file) != fact:
            size = file.stat().st_size if file.exists() else 0
            raise CbdmError(
                f"{file} is damaged: {size} bytes, expected {fact['bytes']} with another hash; delete "
                f"{checkpoint.name} and resume from an earlier checkpoint"
            )
    return {"step": step}


def _first_line(error: Exception, line: int = 0) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[min(line, len(lines) - 1)].strip()

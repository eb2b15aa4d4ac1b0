"""Checkpoints: a folder that appears whole or not at all, holds no pickle that is executed, and knows its hashes.

`step-00000400/` holds `model.safetensors` (network and adjustment), `ema.safetensors` (the averaged network),
`optimizer.pt` (read with `weights_only=True`) and `state.json` (step, size and SHA-256 of each file).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cbdm_core.errors import CbdmError
from cbdm_core.networks.experts import has_experts, merged_state
from cbdm_core.optimizer_state import load_optimizer, load_scaler, whole_optimizer
from cbdm_core.reading import CONFIG_BYTES, regular_file
from cbdm_core.sharding import spread, whole_on_cpu
from cbdm_core.training import TrainState
from cbdm_core.writing import WRITING, flush, plain_write_errors

__all__ = [
    "checkpoints",
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "read_tensors",
    "save_checkpoint",
    "verified",
]

_FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt")
_FORMAT = 1
_DEEPEST = 50


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; only names that `save_checkpoint` gives count."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and p.name.removeprefix("step-").isdecimal())


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

    The first process writes; where the network is spread over several, all must call this, to give it their parts.
    The files are written to a temporary folder, flushed to the disk and renamed, so a crash or a full disk leaves the
    earlier checkpoints as they were.

    Raises:
        CbdmError: the disk is full or the path cannot be written.
    """
    target = folder / f"step-{state.step:08d}"
    contents = _contents(state)
    try:
        if state.world.leads:
            _replace(target, contents, state.step)
    finally:
        deque(contents, maxlen=0)  # also after a failed write: the others wait for this process's parts
    if state.world.leads:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return target


def _contents(state: TrainState) -> Iterator[tuple[str, Any]]:
    """Each file's name and whole tensors, gathered when it is asked for, so that one file at a time is in memory.

    Where the network is spread, every process must ask for all; one that does not write keeps none of the tensors.
    """
    keeps = state.world.leads
    yield "model.safetensors", whole_on_cpu(state.objective.state_dict(), keeps=keeps)
    yield "ema.safetensors", whole_on_cpu(state.ema.state_dict(), keeps=keeps)
    yield (
        "optimizer.pt",
        {"optimizer": whole_optimizer(state.optimizer, keeps=keeps), "scaler": state.scaler.state_dict()},
    )
    if state.averages.of:
        yield "averages.safetensors", whole_on_cpu(state.averages.tensors(), keeps=keeps)


def _replace(target: Path, contents: Iterator[tuple[str, Any]], step: int) -> None:
    """Write a checkpoint beside its place, and put it there once it is whole."""
    with plain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{WRITING}{os.getpid()}-{target.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            _write(temporary, contents, step)
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
            flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, contents: Iterator[tuple[str, Any]], step: int) -> None:
    for name, content in contents:
        (torch.save if name == "optimizer.pt" else save_file)(content, folder / name)
        del content  # before the next is gathered
    files = sorted(file.name for file in folder.iterdir())
    facts = {"format": _FORMAT, "step": step, "files": {name: _fingerprint(folder / name) for name in files}}
    (folder / "state.json").write_text(json.dumps(facts, indent=1))
    for file in folder.iterdir():
        flush(file)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def load_checkpoint(checkpoint: Path, state: TrainState) -> TrainState:
    """Put a checkpoint's weights, optimiser, averages and step into `state`, and return it.

    Raises:
        CbdmError: a missing, truncated or altered file, or weights of another network.
    """
    facts = verified(checkpoint, (*_FILES, "averages.safetensors") if state.averages.of else _FILES)
    load_weights(checkpoint / "model.safetensors", state.objective)
    load_weights(checkpoint / "ema.safetensors", state.ema)
    file = checkpoint / "optimizer.pt"
    saved = read_torch(file, "cpu" if state.settings.shard else state.world.device)
    if not isinstance(saved, dict):
        raise CbdmError(f"{file} holds a {type(saved).__name__}, no optimiser state: take an earlier checkpoint")
    load_optimizer(state.optimizer, saved.get("optimizer"), str(file))
    load_scaler(state.scaler, saved.get("scaler"), str(file))
    if state.averages.of:
        state.averages.load_state_dict(read_tensors(checkpoint / "averages.safetensors"))
    state.step = facts["step"]
    return state


def read_torch(file: Path, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote, of tensors and plain values only: no pickle in it is executed.

    Raises:
        CbdmError: the file cannot be read, is damaged, or holds anything else.
    """
    regular_file(file)
    try:
        with warnings.catch_warnings():  # of a pickle's protocol, beside the refusal
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location=device, weights_only=True)
    except OSError as error:
        raise CbdmError(f"{file} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CbdmError(
            f"{file} holds more than tensors, or is damaged, and loading it could execute code, so it was not loaded: "
            "save it again as a state dict of tensors"
        ) from error
    except Exception as error:
        why = _first_line(error)
        why = why if "weights_only" not in why else "an unknown kind of file"
        raise CbdmError(f"{file} is truncated or no torch checkpoint: {why}") from error
    return _plain(content, str(file))


def _plain(content: Any, where: str, depth: int = 0) -> Any:
    """The content, if each tensor in it holds what its shape says: a view may repeat one number without end."""
    if depth > _DEEPEST:
        raise CbdmError(f"{where} is nested too deeply to be a checkpoint")
    if isinstance(content, Tensor):
        strided = content.layout == torch.strided and content.device.type != "meta" and not content.is_quantized
        if not strided or content.nbytes > content.untyped_storage().nbytes():
            raise CbdmError(f"{where} holds a tensor of shape {tuple(content.shape)} that is not stored whole")
    elif isinstance(content, dict):
        for value in content.values():
            _plain(value, where, depth + 1)
    elif isinstance(content, list | tuple | set):
        for value in content:
            _plain(value, where, depth + 1)
    return content


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
        verified(path.parent, (path.name,))
    tensors = read_tensors(path)
    if has_experts(tensors) and not has_experts(module):
        tensors = merged_state(tensors)
    try:
        module.load_state_dict(spread(tensors, module.state_dict()))
    except RuntimeError as error:
        raise CbdmError(f"{path} holds the weights of another network: {_first_line(error, 1)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CbdmError: the file is missing or damaged.
    """
    regular_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CbdmError(
            f"{path} cannot be read as safetensors ({_first_line(error)}): take another checkpoint"
        ) from error


def verified(checkpoint: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The step in `state.json`, once the named files agree with the facts in it.

    Raises:
        CbdmError: a file that is missing, truncated or altered.
    """
    facts = _facts(checkpoint)
    lacking = [name for name in names if name not in facts["files"]]
    if lacking:
        raise CbdmError(
            f"{checkpoint} has no {lacking[0]}, as in an exported run: it can be sampled and judged, and a new "
            "training can start from its weights (cbdm train --from)"
        )
    if facts["format"] != _FORMAT:
        raise CbdmError(f"{checkpoint} has format {facts['format']}; this version reads format {_FORMAT}")
    for name in names:
        fact = facts["files"][name]
        file = checkpoint / name
        if not file.exists() or _fingerprint(file) != fact:
            size = file.stat().st_size if file.exists() else 0
            raise CbdmError(
                f"{file} is damaged: {size} bytes, expected {fact['bytes']} with another hash; delete "
                f"{checkpoint.name} and resume from an earlier checkpoint"
            )
    return {"step": facts["step"]}


def _facts(checkpoint: Path) -> dict[str, Any]:
    """What `state.json` says of a checkpoint: its format, its step, and size and hash of each file."""
    try:
        facts = json.loads(regular_file(checkpoint / "state.json", CONFIG_BYTES).read_text(encoding="utf-8"))
        step, _ = facts["step"], facts["format"]
        if not isinstance(step, int) or not 0 <= step < 2**63:
            raise ValueError(f"step is {step!r}")
        if any(set(fact) != {"bytes", "sha256"} for fact in facts["files"].values()):
            raise ValueError("a file has no size or hash")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CbdmError(
            f"{checkpoint} is no complete checkpoint ({type(error).__name__} in state.json): delete it and "
            "resume from an earlier one"
        ) from error
    return facts


def _first_line(error: Exception, line: int = 0) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[min(line, len(lines) - 1)].strip()

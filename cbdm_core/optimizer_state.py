"""An optimiser's state from a file, held against its parameters before it is used.

Fused kernels trust shapes and types: a state of another shape is read and written out of bounds.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.sharding import in_parts, spread_like, whole

__all__ = ["load_optimizer", "load_scaler", "whole_optimizer"]


def whole_optimizer(optimizer: torch.optim.Optimizer, *, keeps: bool = True) -> dict[str, Any]:
    """The optimiser's `state_dict()` with whole tensors, those that were in parts on the CPU.

    Args:
        optimizer: where its tensors are in parts, every process must call this.
        keeps: False leaves the state out, on a process that only helps to gather.
    """
    found, state = optimizer.state_dict(), {}
    for place, entry in found["state"].items():
        made = {name: whole(value).cpu() if in_parts(value) else value for name, value in entry.items()}
        if keeps:
            state[place] = made
    return {**found, "state": state}


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Any, where: str) -> None:
    """Put the moments of a saved state dict into the optimiser; its own settings stay.

    Args:
        optimizer: over the parameters of the run.
        saved: what `state_dict()` gave, from a file.
        where: the file, for messages.

    Raises:
        CbdmError: anything that is not this optimiser's state for these parameters.
    """
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        raise CbdmError(_other(where, "it holds no optimiser state"))
    groups = saved.get("param_groups")
    if not isinstance(groups, list) or [_places(g) for g in groups] != [_places(g) for g in own["param_groups"]]:
        raise CbdmError(_other(where, "its parameters are grouped in another way"))
    state = saved["state"]
    strange = set(state) - set(range(len(parameters)))
    if strange or (state and len(state) < len(_driven(parameters))):
        raise CbdmError(_other(where, f"it has {len(state)} entries for {len(parameters)} parameters"))
    places = [group for group in optimizer.param_groups for _ in group["params"]]
    own_parts: dict[int, Any] = {}
    for place, entry in state.items():
        fresh = _fresh(optimizer, places[place], parameters[place])
        fault = _fault(entry, fresh, parameters[place])
        if fault:
            raise CbdmError(_other(where, f"parameter {place}: {fault}"))
        own_parts[place] = {name: _part(value, fresh[name]) for name, value in entry.items()}
    # The settings are the run's configuration's, not the file's; a rate is set anew at every step.
    optimizer.load_state_dict({"state": own_parts, "param_groups": own["param_groups"]})


def _part(value: Any, fresh: Any) -> Any:
    return spread_like(value, fresh) if isinstance(fresh, Tensor) else value


def _driven(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _fresh(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The entry that this optimiser makes for the parameter at its first step: what any entry must look like."""
    lone = torch.zeros_like(parameter, requires_grad=True)
    lone.grad = torch.zeros_like(parameter)
    taken = inspect.signature(type(optimizer)).parameters
    twin = type(optimizer)([lone], **{name: group[name] for name in optimizer.defaults if name in taken})
    twin.step()
    return dict(twin.state_dict()["state"].get(0, {}))


def _places(group: Any) -> Any:
    places = group.get("params") if isinstance(group, Mapping) else None
    return places if isinstance(places, list) and all(isinstance(place, int) for place in places) else None


def _fault(entry: Any, fresh: Mapping[str, Any], parameter: Tensor) -> str:
    """What is wrong with one parameter's entry, "" if nothing."""
    if not isinstance(entry, Mapping) or set(entry) != set(fresh):
        return f"its entries are {sorted(map(str, entry)) if isinstance(entry, Mapping) else entry!r:.60}"
    for name in sorted(fresh):
        fault = _unlike(name, entry[name], fresh[name], parameter)
        if fault:
            return fault
    step = float(entry.get("step", 0))
    return "" if math.isfinite(step) and step >= 0 else f"step is {step}"


def _unlike(name: str, value: Any, fresh: Any, parameter: Tensor) -> str:
    """How a value differs in kind from the one that the optimiser makes, "" if it does not."""
    if not isinstance(fresh, Tensor):
        return "" if type(value) is type(fresh) else f"{name} is a {type(value).__name__}"
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return f"{name} is no dense tensor"
    if value.shape != fresh.shape or value.dtype != fresh.dtype:
        allowed = f"it must be {fresh.dtype} of shape {tuple(fresh.shape)}"
        return f"{name} is {value.dtype} of shape {tuple(value.shape)}, {allowed}"
    if value.device.type not in (parameter.device.type, "cpu"):
        return f"{name} is on {value.device}"
    return ""


def load_scaler(scaler: torch.amp.GradScaler, saved: Any, where: str) -> None:
    """Put a saved state of the loss scaler in place.

    Raises:
        CbdmError: other entries than this scaler's, or values that are no positive numbers.
    """
    own = scaler.state_dict()
    if not isinstance(saved, Mapping) or (saved and own and set(saved) != set(own)):
        raise CbdmError(_other(where, "it holds no state of this loss scaler"))
    for name, value in saved.items():
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise CbdmError(_other(where, f"the loss scaler's {name} is {value!r:.40}"))
    scaler.load_state_dict(dict(saved))


def _other(where: str, fault: str) -> str:
    return f"{where} is not this run's optimiser state: {fault}; take an earlier checkpoint"

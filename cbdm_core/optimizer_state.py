"""An optimiser's state from a file, held against its parameters before it is used.

Fused kernels trust shapes and types: a state of another shape is read and written out of bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["load_optimizer", "load_scaler"]


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
    state, names = saved["state"], _expected(optimizer)
    if state and set(state) != set(range(len(parameters))):
        raise CbdmError(_other(where, f"it has {len(state)} entries for {len(parameters)} parameters"))
    for place, entry in state.items():
        fault = _fault(entry, parameters[place], names)
        if fault:
            raise CbdmError(_other(where, f"parameter {place}: {fault}"))
    # The settings are the run's configuration's, not the file's; a rate is set anew at every step.
    optimizer.load_state_dict({"state": dict(state), "param_groups": own["param_groups"]})


def _expected(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names that an entry must have."""
    names = {"step", "exp_avg", "exp_avg_sq"}
    return names | {"max_exp_avg_sq"} if optimizer.param_groups[0].get("amsgrad") else names


def _places(group: Any) -> Any:
    return group.get("params") if isinstance(group, Mapping) else None


def _fault(entry: Any, parameter: Tensor, names: set[str]) -> str:
    """What is wrong with one parameter's entry, "" if nothing."""
    if not isinstance(entry, Mapping) or set(entry) != names:
        return f"its entries are {sorted(map(str, entry)) if isinstance(entry, Mapping) else entry!r:.60}"
    for name in sorted(names):
        value = entry[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return f"{name} is no dense tensor"
        shape = () if name == "step" else tuple(parameter.shape)
        dtype = torch.float32 if name == "step" else parameter.dtype
        if tuple(value.shape) != shape or value.dtype != dtype:
            return f"{name} is {value.dtype} of shape {tuple(value.shape)}, it must be {dtype} of shape {shape}"
        if value.device.type not in (parameter.device.type, "cpu"):
            return f"{name} is on {value.device}"
    step = float(entry["step"])
    return "" if math.isfinite(step) and step >= 0 else f"step is {step}"


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

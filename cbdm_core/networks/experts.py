"""Low-rank experts: W = W_g + B·A on the weights of a network, with a switch, merged away when training is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cbdm_core.errors import CbdmError

__all__ = ["LowRank", "add_experts", "experts_off", "has_experts", "merge_experts", "merged_state"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_GENERAL, _LEFT, _RIGHT = (f"parametrizations.weight.{end}" for end in ("original", "0.B", "0.A"))


class LowRank(nn.Module):
    """W_g ↦ W_g + B·A, or W_g while `on` is False.

    Args:
        weight: W_g (out, in, *kernel), for its shape, dtype and device.
        rank: r ≥ 1. A is (r, in·kernel), normal with variance 1/(in·kernel), so that A keeps the size of what it is
            given; B is (out, r) and starts at 0, so that W starts as W_g.

    Attributes:
        on: whether the expert counts.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        # Drawn on the CPU, so that the start is the same on every device.
        start = torch.randn(rank, columns, dtype=weight.dtype) / columns**0.5
        self.A = nn.Parameter(start.to(weight.device))
        self.B = nn.Parameter(torch.zeros(rows, rank, dtype=weight.dtype, device=weight.device))
        self.on = True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        # In full precision under autocast too: training and the merged weight shall be the same.
        with torch.autocast(weight.device.type, enabled=False):
            return _sum(weight, self.B, self.A)


def _sum(weight: Tensor, B: Tensor, A: Tensor) -> Tensor:
    return weight + (B @ A).reshape(weight.shape)


def add_experts(network: nn.Module, rank_ratio: float = 0.1) -> None:
    """Give every Linear and Conv layer an expert of rank max(1, round(ρ·min(out, in·kernel))), in place.

    What the network says stays the same, bit for bit, until it is trained. Embeddings, norms and biases have none. Each
    forward pass computes B·A of every layer anew; `merge_experts` ends that.

    Args:
        network: any module; an optimiser has to be made after this.
        rank_ratio: ρ in (0, 1].

    Raises:
        CbdmError: ρ out of range, no such layer, or a layer whose weight is parametrised already.
    """
    if not 0 < rank_ratio <= 1:
        raise CbdmError(f"the rank ratio of experts must lie in (0, 1], got {rank_ratio}: 0.1 is usual")
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, _LAYERS)}
    if not layers:
        raise CbdmError(
            f"{type(network).__name__} has no Linear or Conv layer to give an expert to: use another network"
        )
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise CbdmError(f"the weight of layer {name!r} is parametrised already: merge or remove that first")
    for layer in layers.values():
        rank = max(1, round(rank_ratio * min(layer.weight.flatten(1).shape)))
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


@contextmanager
def experts_off(network: nn.Module) -> Iterator[None]:
    """Inside, the network is the general one, f_g with W = W_g; after it the experts stand as they stood."""
    experts = [module for module in network.modules() if isinstance(module, LowRank)]
    before = [expert.on for expert in experts]
    for expert in experts:
        expert.on = False
    try:
        yield
    finally:
        for expert, on in zip(experts, before, strict=True):
            expert.on = on


def merge_experts(network: nn.Module) -> None:
    """Put W_g + B·A in the place of W_g and take the experts away, in place; what the network says stays the same."""
    for layer in list(network.modules()):
        if isinstance(layer, _LAYERS) and parametrize.is_parametrized(layer, "weight"):
            parts = list(layer.get_submodule("parametrizations.weight").children())
            if len(parts) == 1 and isinstance(parts[0], LowRank):
                parts[0].on = True
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network without experts whose weights are W_g + B·A: `merge_experts` on a state dict.

    Args:
        state: of a network with experts, under any prefix; one without is returned as it is.
    """
    merged = {}
    for name, value in state.items():
        layer = _layer_of(name, state)
        if layer is None:
            merged[name] = value
        elif name.endswith(_GENERAL):
            merged[f"{layer}weight"] = _sum(value, state[layer + _LEFT], state[layer + _RIGHT])
    return merged


def _layer_of(name: str, state: Mapping[str, Tensor]) -> str | None:
    """The prefix of the layer with an expert that the entry belongs to, or None."""
    for end in (_GENERAL, _LEFT, _RIGHT):
        layer = name.removesuffix(end)
        if layer != name and all(layer + part in state for part in (_GENERAL, _LEFT, _RIGHT)):
            return layer
    return None


def has_experts(network: nn.Module | Mapping[str, Tensor]) -> bool:
    """Whether a network, or the state dict of one, has experts."""
    if isinstance(network, nn.Module):
        return any(isinstance(module, LowRank) for module in network.modules())
    return any(_layer_of(name, network) is not None for name in network)

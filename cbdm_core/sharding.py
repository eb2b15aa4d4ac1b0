"""A network that is spread over processes: each keeps a part of every weight, and a block is whole while it computes.

A tensor that is kept in parts is known by its `full_tensor`: to import its type costs every start most of a second.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError

__all__ = ["gathered", "in_parts", "own_bytes", "shard", "spread", "spread_like", "whole", "whole_on_cpu"]

N = TypeVar("N", bound=nn.Module)


def shard(objective: nn.Module, network: N, world: World) -> N:
    """Spread parameters and gradients over the processes, in place, and move them to the device.

    A block of the network (`repeats = True` on its class) is gathered before it computes, in the backward pass once
    more, and let go after it; all that stands outside the blocks is gathered for the length of a step. Gradients are
    the mean over the processes, each of which keeps those of its part.

    Args:
        objective: what is called at a step, with the network in it; the same weights on every process.
        network: its network.
        world: of two processes or more.

    Returns:
        A copy of the network in the same parts, to hold averages; `gathered` makes it one that can be asked.

    Raises:
        CbdmError: one process, a network without blocks, or one that is spread already.

    Source: Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, section 5.3.
    """
    if world.size == 1:
        raise CbdmError(
            "shard spreads the network over processes, and there is 1: start it under torchrun with --nproc-per-node 2 "
            "or more, or set it to false"
        )
    if any(in_parts(parameter) for parameter in objective.parameters()):
        raise CbdmError("the network is spread over the processes already: build a new one for another training")
    blocks = [module for module in network.modules() if getattr(module, "repeats", False)]
    if not blocks:
        raise CbdmError(f"{type(network).__name__} has no blocks that say repeats = True: leave shard out")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    twin = gathered(network, [parameter.to("meta") for parameter in network.parameters()])  # without its weights
    mesh = init_device_mesh(world.device.type, (world.size,))
    # The objective is the root, not the network: a network is asked in two ways, several times a step.
    for module in (*reversed(blocks), objective):
        fully_shard(module, mesh=mesh)
    return gathered(twin, [parameter.clone() for parameter in network.parameters()]).to(world.device)


def in_parts(value: Any) -> bool:
    """Whether a tensor is one of which each process has a part."""
    return hasattr(value, "full_tensor")


def whole(value: Any) -> Any:
    """A tensor with the parts of all processes, which must all call this; anything else as it is."""
    return value.full_tensor() if in_parts(value) else value


def whole_on_cpu(tensors: Mapping[str, Tensor], *, keeps: bool = True) -> dict[str, Tensor]:
    """Whole tensors on the CPU, one gathered after another; none of them on a process that only helps to gather."""
    made = ((name, whole(value.detach())) for name, value in tensors.items())
    return {name: value.contiguous().cpu() for name, value in made if keeps}


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that every process has, where `like` is in parts; else the tensor itself."""
    if not in_parts(like) or in_parts(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def spread(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of those tensors that are in parts in `like` and of the same shape there; the others as they are."""
    fits = {name for name, value in tensors.items() if name in like and like[name].shape == value.shape}
    return {name: spread_like(value, like[name]) if name in fits else value for name, value in tensors.items()}


def gathered(network: N, parameters: Iterable[Tensor] | None = None) -> N:
    """A copy of a network with other tensors as its parameters, which need no gradient; its own are not copied.

    Args:
        network: not one that `shard` was given.
        parameters: one for each of the network's; None makes its own whole, which every process must call.
    """
    own = list(network.parameters())
    given = map(whole, own) if parameters is None else parameters
    pairs = zip(own, given, strict=True)
    # Deepcopy looks a thing up in this table, by its identity, before it copies it.
    return copy.deepcopy(network, {id(old): nn.Parameter(new.detach(), requires_grad=False) for old, new in pairs})


def own_bytes(value: Tensor) -> int:
    """Bytes of a tensor that this process keeps."""
    part: Any = value
    return part.to_local().nbytes if in_parts(value) else value.nbytes

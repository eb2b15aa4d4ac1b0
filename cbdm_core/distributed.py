"""One process or several: which rank this is, sums and rows across ranks. Started by torchrun, or not at all."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = [
    "World",
    "anywhere",
    "backends",
    "check_device",
    "join",
    "largest_over_ranks",
    "leader_first",
    "leave",
    "own_rows",
    "pick_device",
    "rows_of_all_ranks",
    "sum_over_ranks",
    "text_of_the_leader",
]

_DEVICES = "auto, cuda, cuda:N, mps, cpu"
_PATIENCE = timedelta(hours=2)  # the others wait while the leader judges samples


@dataclass(frozen=True)
class World:
    """This process's place among its peers: rank in [0, size), and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def check_device(name: str) -> None:
    """Refuse a name that is no device of any machine.

    Raises:
        CbdmError: another name than auto, cuda, cuda:N, mps or cpu.
    """
    if not re.fullmatch(r"auto|cpu(:0)?|mps(:0)?|cuda(:[0-9]{1,4})?", name):
        raise CbdmError(f"unknown device {name!r}: allowed are {_DEVICES}")


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" is cuda, else mps, else cpu.

    Raises:
        CbdmError: a name torch does not know, or a device this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.split(":")[0]
    if kind not in available:
        raise CbdmError(f"unknown device {name!r}: allowed are {_DEVICES}")
    if not available[kind]:
        here = ", ".join(k for k, there in available.items() if there)
        raise CbdmError(f"device {name!r} is not available on this machine, which has: {here}")
    if name == "cuda":
        return torch.device("cuda", local_rank)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CbdmError(f"unknown device {name!r}: allowed are {_DEVICES}") from error
    if kind != "cuda" and device.index:
        raise CbdmError(f"device {name!r}: this machine has one {kind}; name it {kind!r}")
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CbdmError(f"device {name!r} is not there: this machine has cuda:0 … cuda:{torch.cuda.device_count() - 1}")
    return device


def join(device: str = "auto") -> World:
    """Enter the process group that torchrun describes in the environment; without one, be alone.

    Raises:
        CbdmError: a device that this machine does not have, or the number of one GPU for several processes.
    """
    torch.backends.cudnn.deterministic = True  # resume promises the same bits
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, pick_device(device))
    if ":" in device:
        raise CbdmError(f"device {device!r} would put every process on one GPU: leave the number out under torchrun")
    picked = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
    if not dist.is_initialized():
        dist.init_process_group(backends(picked.type), timeout=_PATIENCE, **_fresh_store())
    return World(dist.get_rank(), dist.get_world_size(), picked)


def backends(kind: str) -> str:
    """What carries tensors between processes that compute on a kind of device: NCCL those on CUDA, gloo all others.

    A group for CUDA takes tensors of the CPU too: a method is rehearsed before it is moved, and processes agree then.
    """
    return "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"


def _fresh_store() -> dict[str, Any]:
    """Where the ranks meet: under torchrun on one node, apart from the addresses of workers that died before.

    torchrun keeps one store over its restarts, and gloo would wait at an address that lies there from the last time.
    On several nodes the count of restarts differs between them, and each must set TORCH_DISABLE_SHARE_RDZV_TCP_STORE.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    store, rank, size = next(dist.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    apart = dist.PrefixStore(f"restart-{restarts}", store)  # pyright: ignore[reportPrivateImportUsage]
    return {"store": apart, "rank": rank, "world_size": size}


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        gc.collect()  # DDP sits in reference cycles, and a group it outlives ends the process with an abort
        dist.destroy_process_group()


T = TypeVar("T")


def leader_first(world: World, make: Callable[[], T]) -> T:
    """What `make` gives on each rank; the leader calls it first, and the others then find what it left on the disk."""
    if world.size == 1:
        return make()
    value = make() if world.leads else None
    dist.barrier()
    return make() if value is None else value


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks, on every rank; the value itself where there is one rank."""
    if _alone():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def anywhere(mask: Tensor) -> bool:
    """Whether a boolean tensor is true somewhere, on any process; all must ask.

    It is how the processes agree to ask a network that is spread over them: one that asks alone would wait for ever.
    """
    return bool(sum_over_ranks(mask.sum()))


def largest_over_ranks(number: int, world: World) -> int:
    """The largest of a whole number that each rank has, on every rank."""
    if world.size == 1:
        return number
    box = torch.tensor(number, device=world.device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def text_of_the_leader(text: str | None, world: World) -> str:
    """What rank 0 gives, on every rank."""
    box = [text]
    if world.size > 1:
        dist.broadcast_object_list(box)
    return str(box[0])


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


class _Gather(torch.autograd.Function):
    """The rows of all ranks; a row's gradient is the sum of what every rank's loss says of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[own_rows(len(total) // dist.get_world_size())]


def rows_of_all_ranks(value: Tensor) -> Tensor:
    """(W·B, …) the rows of all W ranks in the order of the global batch, with their gradient; `value` where W is 1.

    Every rank must call this, with as many rows. The mean over ranks of the gradients of each rank's own rows, which
    distributed training takes, is then the gradient of the global batch.
    """
    if _alone():
        return value
    if value.dtype == torch.bool:  # which NCCL does not gather
        return rows_of_all_ranks(value.to(torch.uint8)).bool()
    return _Gather.apply(value)  # pyright: ignore[reportReturnType]


def own_rows(count: int) -> slice:
    """Where this rank's `count` rows stand in `rows_of_all_ranks`."""
    first = 0 if _alone() else dist.get_rank() * count
    return slice(first, first + count)

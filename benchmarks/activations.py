"""What CBDM with every label of ten at once holds in memory: `python benchmarks/activations.py`.

The peak is of all bytes that torch has on the CPU in a step, forward and backward, above the weights; what is kept are
the tensors that the forward pass saved, each storage once. Times are CPU seconds of a step on one thread; routes take
turns in every round, and a ratio is the median over rounds of a route's time over the first one's.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from metrics import machine, measured_anew, on_one_thread, timed
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.dropout import seed_dropout
from cbdm_core.networks.efficiency import checkpoint_blocks
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Linear
from cbdm_priors.laws.counts import Uniform
from cbdm_priors.penalties.balancing import ClassBalancing

RESULTS = Path(__file__).parent / "results" / "activations.json"
K = 10
ROUTES = {
    "all are kept": (False, False),
    "`training.checkpointing`": (True, False),
    "`recompute`": (False, True),
    "both": (True, True),
}
LIKE = {"blocks": 1, "attention": [1], "dropout": 0.1, "groups": 8}
SIZES: dict[tuple[int, ...], dict[str, Any]] = {
    (64, 1, 8, 8): {"width": 16, "multipliers": [1, 2], **LIKE},  # the preset digits-lt
    (32, 3, 32, 32): {"width": 32, "multipliers": [1, 2, 2], **LIKE},
}

Row = dict[str, Any]


def objective(shape: tuple[int, ...], options: dict[str, Any], blocks: bool, recompute: bool) -> Objective:
    """CBDM at its published γ under every label; `blocks` are checkpointed, the further passes done again, or not."""
    torch.manual_seed(0)
    network = UNet(shape, K, **options)
    if blocks:
        checkpoint_blocks(network)
    adjustment = ClassBalancing(DenoisingLoss(), Uniform([1] * K), draws="all", recompute=recompute)
    return Objective(Process(Linear()), network, adjustment, drop=0.0)


def loss(made: Objective, B: int, shape: tuple[int, ...]) -> Tensor:
    """Of one step, under the same masks each time."""
    made.zero_grad(set_to_none=True)
    seed_dropout(0, 0, 0, torch.device("cpu"))
    x_0 = torch.randn(B, *shape, generator=torch.Generator().manual_seed(0))
    terms = made(x_0, Condition.of(torch.arange(B) % K), Draws(0, 0, torch.arange(B)))
    return torch.stack([term.mean() for term in terms.values()]).sum()


def kept(made: Objective, B: int, shape: tuple[int, ...]) -> int:
    """Bytes that the forward pass saves, beside the weights."""
    own, saved = {p.untyped_storage().data_ptr() for p in made.parameters()}, {}

    def keep(value: Tensor) -> Tensor:
        if (storage := value.untyped_storage()).data_ptr() not in own:
            saved[storage.data_ptr()] = value, storage.nbytes()  # the tensor too, or its place is given away
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        total = loss(made, B, shape)
        del total
    return sum(count for _, count in saved.values())


def peak(made: Objective, B: int, shape: tuple[int, ...]) -> int:
    """The most bytes at a time, above what there was before the step."""
    made.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        loss(made, B, shape).backward()
    now = most = 0
    assert found.profiler is not None and found.profiler.kineto_results is not None
    events: list[Any] = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def compared(B: int, *shape: int, pairs: int) -> list[Row]:
    """A row for each route."""
    made = {name: objective(shape, SIZES[B, *shape], *route) for name, route in ROUTES.items()}
    steps = {name: lambda one=one: loss(one, B, shape).backward() for name, one in made.items()}
    timed(steps, 1)  # what is done once is not what is timed
    seconds, _ = timed(steps, pairs)
    first = seconds[next(iter(ROUTES))]
    return [
        {
            "batch": [B, *shape],
            "route": name,
            "kept": kept(one, B, shape),
            "peak": peak(one, B, shape),
            "seconds": round(statistics.median(seconds[name]), 3),
            "ratio": round(statistics.median(b / a for a, b in zip(first, seconds[name], strict=True)), 2),
        }
        for name, one in made.items()
    ]


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = ["| batch | route | kept, MiB | peak, MiB | a step, s | ratio |", "|---|---|---|---|---|---|"]
    for row in results["rows"]:
        batch = " × ".join(map(str, row["batch"]))
        sizes = " | ".join(f"{row[name] / 2**20:,.0f}" for name in ("kept", "peak"))
        lines.append(f"| {batch} | {row['route']} | {sizes} | {row['seconds']:.2f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def measured(pairs: int) -> Row:
    rows = [row for size in SIZES for row in compared(*size, pairs=pairs)]
    return {"machine": machine(), "pairs": pairs, "rows": rows}


if __name__ == "__main__":
    on_one_thread(lambda: measured_anew(__doc__ or "", 5, measured, page, RESULTS))

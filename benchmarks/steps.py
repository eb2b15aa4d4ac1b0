"""What random numbers and a sampler's step cost beside others' programs: `python benchmarks/steps.py`.

Routes take turns in every round, on one thread, and a ratio is the median over rounds of the other's time over ours.
Times are CPU microseconds of the process. The network of the steps says x_t and costs nothing.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from metrics import machine, measured_anew, on_one_thread, timed
from PIL import Image
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws, _key
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.samplers import DDIM, Ancestral
from cbdm_core.schedules import Linear

RESULTS = Path(__file__).parent / "results" / "steps.json"
STEPS, ANCESTRAL_STEPS = 200, 20
SHAPES = ((64, 3, 32, 32), (64, 1, 8, 8), (128, 2))

Row = dict[str, Any]


def plain_normal(draws: Draws, count: int) -> Tensor:
    """The formulas over whole tensors, as one would write them down; to the bit what `Draws.normal` says."""
    low32 = 0xFFFFFFFF
    blocks = torch.arange((count + 1) // 2)[None]
    row, high = (draws.rows & low32)[:, None], (draws.rows >> 32)[:, None]
    c0, c1, c2, c3 = (word.expand(len(row), blocks.shape[1]) for word in (blocks, row, row * 0 + draws.step, high))
    k0, k1 = _key(draws.seed, draws.scope + "z")
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((p1 >> 32) & low32) ^ c1 ^ k0, p1 & low32
        c2, c3 = ((p0 >> 32) & low32) ^ c3 ^ k1, p0 & low32
        k0, k1 = (k0 + 0x9E3779B9) & low32, (k1 + 0xBB67AE85) & low32
    u, v = ((((a >> 5) << 26 | (b >> 6)).double() + 0.5) / 2**53 for a, b in ((c0, c1), (c2, c3)))
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * v
    z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(1)
    return z[:, :count].float()


def normals(B: int, *shape: int, pairs: int, times: int = 5) -> list[Row]:
    """Standard normal numbers of B rows: ours, the formulas over whole tensors or fused, and torch's own generator."""
    draws, count = Draws(0, 0, torch.arange(B)), math.prod(shape)
    fused = replace(draws, fused=True)
    routes: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: draws.normal("z", count),
        "the formulas, whole tensors": lambda: plain_normal(draws, count),
        "ours, fused": lambda: fused.normal("z", count),
        "torch.randn": lambda: torch.randn(B, count),
    }
    assert torch.equal(routes["ours"](), plain_normal(draws, count))
    name = "normal, " + " × ".join(str(n) for n in (B, *shape))
    return _rows(name, {key: _repeated(route, times) for key, route in routes.items()}, pairs, times)


def labels(K: int, pairs: int, times: int = 5) -> list[Row]:
    """A label of each of 64 rows by one law over K classes, and four: beside a copy of the law for each row."""
    draws, law = Draws(0, 0, torch.arange(64)), 1 / torch.arange(1, K + 1).double()
    name, rows = f"64 × {K:,} classes", law.expand(64, K).contiguous()
    single: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: draws.categorical("y", law),
        "a law for each row": lambda: draws.categorical("y", rows),
        "torch.multinomial": lambda: torch.multinomial(law, 64, replacement=True),
    }
    several: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: draws.systematic("y", law, 4),
        "a law for each row": lambda: draws.systematic("y", rows, 4),
    }
    made = {f"a label of {name}": single, f"four labels of {name}": several}
    for routes in made.values():
        assert torch.equal(routes["ours"](), routes["a law for each row"]())
    return [
        row
        for what, routes in made.items()
        for row in _rows(what, {key: _repeated(route, times) for key, route in routes.items()}, pairs, times)
    ]


class _Says(ScoreNetwork):
    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return x_t


def ddim(omega: float, pairs: int) -> list[Row]:
    """Steps of DDIM with η = 0 at 8 × 1 × 8 × 8, guided or not, above the network."""
    x, ours = torch.randn(8, 1, 8, 8), our_ddim(omega)
    routes: dict[str, Callable[[], Any]] = {"ours": lambda: ours(x), "diffusers": lambda: published_ddim(x, omega)}
    return _rows("step of DDIM" + ", guided" * (omega != 0), routes, pairs, STEPS)


def our_ddim(omega: float) -> Callable[[Tensor], Tensor]:
    """From x_T to samples."""
    network = _Says() if omega == 0 else ClassifierFreeGuidance(_Says(), omega)
    sampler, c, draws = DDIM(Linear()), Condition.of(torch.arange(8)), Draws(0, 0, torch.arange(8))
    return lambda x: sampler.sample(network, c, (1, 8, 8), steps=STEPS, draws=draws, x_T=x)


def published_ddim(x: Tensor, omega: float) -> Tensor:
    """From x_T to samples."""
    return _published(DDIMScheduler(1000), x, STEPS, omega)  # pyright: ignore[reportCallIssue]


def ancestral(pairs: int) -> list[Row]:
    """Steps of ancestral sampling at 64 × 3 × 32 × 32, each of which draws as many normal numbers."""
    x = torch.randn(64, 3, 32, 32)
    routes: dict[str, Callable[[], Any]] = {
        "ours": lambda: our_ancestral(x),
        "ours, fused draws": lambda: our_ancestral(x, fused=True),
        "diffusers": lambda: published_ancestral(x),
    }
    return _rows("step of ancestral, 64 × 3 × 32 × 32", routes, pairs, ANCESTRAL_STEPS)


def our_ancestral(x: Tensor, fused: bool = False) -> Tensor:
    """From x_T to samples, with the variance "small"."""
    numbers = torch.arange(len(x))
    sampler, draws = Ancestral(Linear(), variance="small", clip=1.0), Draws(0, 0, numbers, fused=fused)
    return sampler.sample(_Says(), Condition.of(numbers), x.shape[1:], steps=ANCESTRAL_STEPS, draws=draws, x_T=x)


def published_ancestral(x: Tensor) -> Tensor:
    """From x_T to samples, with the clip and the variance of the scheduler's defaults."""
    return _published(DDPMScheduler(1000), x, ANCESTRAL_STEPS)  # pyright: ignore[reportCallIssue]


@torch.inference_mode()
def _published(scheduler: Any, x: Tensor, steps: int, omega: float = 0.0) -> Tensor:
    """The loop of diffusers' pipelines around a scheduler."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        eps = x
        if omega:
            eps_c, eps_null = torch.cat([x] * 2).chunk(2)
            eps = eps_null + (1 + omega) * (eps_c - eps_null)
        x = scheduler.step(eps, t, x).prev_sample
    return x


def batches(size: int, pairs: int, times: int = 20) -> list[Row]:
    """Batches of mirrored images from 10,000: rows of one tensor of bytes, and an image at a time by Pillow.

    The images are noise, which PNG does not compress, so that they are read as quickly as they can be.
    """
    x = torch.randint(0, 256, (10_000, 3, size, size), dtype=torch.uint8)
    arrays = [image.movedim(0, -1).numpy() for image in x]
    files = [_png(array) for array in arrays]
    ours = Batches(Dataset(x, torch.arange(10_000) % 10, tuple("0123456789")), 64, seed=0, flip=True)
    steps = iter(range(10**9))
    routes: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours.at(next(steps)).x_0,
        "Pillow, from arrays": lambda: by_pillow([Image.fromarray(arrays[i]) for i in chosen()]),
        "Pillow, from PNG": lambda: by_pillow([Image.open(BytesIO(files[i])) for i in chosen()]),
    }
    name = f"batch, 64 × 3 × {size} × {size}"
    return _rows(name, {key: _repeated(route, times) for key, route in routes.items()}, pairs, times)


def chosen() -> list[int]:
    return torch.randint(0, 10_000, (64,)).tolist()


def _png(array: np.ndarray) -> bytes:
    packed = BytesIO()
    Image.fromarray(array).save(packed, format="PNG")
    return packed.getvalue()


def by_pillow(images: Sequence[Image.Image]) -> Tensor:
    """The pipeline of a data set whose items are images: mirrored by a coin, made a tensor, scaled, stacked."""
    examples = []
    for image in images:
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).movedim(-1, 0).float().div(255)
        examples.append(tensor.sub(0.5).div(0.5))
    return torch.stack(examples)


def _repeated(route: Callable[[], Tensor], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            route()

    return repeated


def _rows(name: str, routes: dict[str, Callable[[], Any]], pairs: int, times: int) -> list[Row]:
    timed(routes, 1)  # what is done once is not what is timed
    seconds, _ = timed(routes, pairs)
    each = {key: [1e6 * s / times for s in of_route] for key, of_route in seconds.items()}
    ours = each.pop("ours")
    return [
        {
            "what": name,
            "route": key,
            "ours": round(statistics.median(ours), 1),
            "theirs": round(statistics.median(theirs), 1),
            "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2),
        }
        for key, theirs in each.items()
    ]


def measured(pairs: int) -> Row:
    rows = [row for shape in SHAPES for row in normals(*shape, pairs=pairs)]
    rows += labels(10_000, pairs)
    rows += [row for size in (32, 64) for row in batches(size, pairs)]
    return {"machine": machine(), "pairs": pairs, "rows": rows + ddim(0.0, pairs) + ddim(1.0, pairs) + ancestral(pairs)}


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = ["| what | other route | theirs, µs | ours, µs | ratio |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        lines.append(
            f"| {row['what']} | {row['route']} | {row['theirs']:,.0f} | {row['ours']:,.0f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    on_one_thread(lambda: measured_anew(__doc__ or "", 9, measured, page, RESULTS))

"""Random numbers as a function of (seed, purpose, step, row), so that nothing has to be saved.

A counter-based generator (Philox4x32-10, Salmon et al., SC 2011) replaces the state of an ordinary one: the key is a
hash of (seed, purpose), the counter is (block, row, step). A row's numbers therefore depend neither on its batch, nor
on the number of processes, nor on what was drawn before.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Draws", "philox", "real_dtype"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_CACHED = 1 << 13  # counters at a time: eight words of them lie in half a megabyte
_WHOLE_BATCH = _MASK  # the row number of a draw that the whole batch shares


def real_dtype(device: torch.device) -> torch.dtype:
    """The dtype for times and schedule coefficients: float64, or float32 where the device has no float64 (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four 32-bit random words for each counter (Philox4x32-10).

    Args:
        counter: four int64 tensors of one shape, each word in [0, 2³²).
        key: two words in [0, 2³²).

    Returns:
        Four int64 tensors of that shape, each word in [0, 2³²).
    """
    shape = torch.broadcast_shapes(*(word.shape for word in counter))
    flat = [word.expand(shape).reshape(-1) for word in counter]
    if len(flat[0]) <= _CACHED:
        return tuple(word.reshape(shape) for word in _rounds([word.clone() for word in flat], key))
    out = tuple(torch.empty_like(word) for word in flat)
    # In parts that stay in the cache: ten rounds over memory would wait for it.
    for place in range(0, len(flat[0]), _CACHED):
        words = _rounds([word[place : place + _CACHED].clone() for word in flat], key)
        for whole, part in zip(out, words, strict=True):
            whole[place : place + _CACHED] = part
    return tuple(word.reshape(shape) for word in out)


def _rounds(words: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """The ten rounds, in place: p = c·M, its low half one new word, its high half xor another and the key a second."""
    (c0, c1, c2, c3), (k0, k1) = words, key
    p0, p1 = torch.empty_like(c0), torch.empty_like(c0)
    for _ in range(10):
        # int64 products wrap, which leaves both 32-bit halves right once masked.
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0)
        c0.bitwise_and_(_MASK).bitwise_xor_(c1).bitwise_xor_(k0)
        torch.bitwise_right_shift(p0, 32, out=c2)
        c2.bitwise_and_(_MASK).bitwise_xor_(c3).bitwise_xor_(k1)
        torch.bitwise_and(p1, _MASK, out=c1)
        torch.bitwise_and(p0, _MASK, out=c3)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of some rows at one step; every method is a pure function of (seed, purpose, step, row).

    Args:
        seed: any integer.
        step: the training step or sampler step, ≥ 0.
        rows: (B,) long, the row's place in the global batch, or the number of the sample.
        scope: a prefix for every purpose, so that two users of one `Draws` do not meet.
    """

    seed: int
    step: int
    rows: Tensor
    scope: str = ""

    def __getitem__(self, rows: Tensor | slice) -> Draws:
        return replace(self, rows=self.rows[rows])

    def at(self, step: int) -> Draws:
        """The same rows at another step."""
        return replace(self, step=step)

    def within(self, scope: str) -> Draws:
        """The same rows and step, with every purpose prefixed by `scope`."""
        return replace(self, scope=f"{self.scope}{scope}/")

    def bits(self, purpose: str, count: int) -> Tensor:
        """(B, count) int64, uniform on [0, 2³²)."""
        return self._bits(self.rows, purpose, count)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """(B, *shape), uniform on (0, 1) with 53 bits (23 on MPS), never 0."""
        return self._uniform(self.rows, purpose, math.prod(shape)).reshape(len(self.rows), *shape)

    def shared_uniform(self, purpose: str) -> float:
        """One number, uniform on (0, 1), the same for every row of the step on every process."""
        row = torch.full((1,), _WHOLE_BATCH, dtype=torch.long)
        return float(self._uniform(row, purpose, 1))

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) standard normal (Box–Muller, computed in float64 where the device has it)."""
        count = math.prod(shape)
        u = self._uniform(self.rows, purpose, 2 * ((count + 1) // 2))
        radius, angle = torch.sqrt(-2 * torch.log(u[:, 0::2])), 2 * math.pi * u[:, 1::2]
        z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(1)
        return z[:, :count].reshape(len(self.rows), *shape).to(dtype)

    def categorical(self, purpose: str, probs: Tensor) -> Tensor:
        """(B,) long, drawn by inverting the distribution function.

        Args:
            purpose: what the draw is for.
            probs: (K,) or (B, K), non-negative; rows are normalised here. A class of probability 0 is never drawn.
        """
        p = probs.to(device=self.rows.device, dtype=real_dtype(self.rows.device))
        return _inverted(p, self.uniform(purpose, 1))[:, 0]

    def systematic(self, purpose: str, probs: Tensor, count: int) -> Tensor:
        """(B, count) long, `count` draws of each row of which class k is drawn ⌊count·p_k⌋ or ⌈count·p_k⌉ times.

        Its expected number is count·p_k, so that a mean over the draws is unbiased, and no class comes twice where
        count·p_k ≤ 1. One point in each of `count` equal parts of the distribution function; the classes' order is
        shuffled anew at each step, the same for all rows.

        Args:
            purpose: what the draw is for.
            probs: (K,) or (B, K), non-negative; rows are normalised here.
            count: m ≥ 1.

        Source: systematic sampling (Madow 1949).
        """
        device = self.rows.device
        classes = replace(self, rows=torch.arange(probs.shape[-1], device=device))
        order = torch.argsort(classes.bits(f"{purpose} order", 1)[:, 0], stable=True)
        p = probs.to(device=device, dtype=real_dtype(device))[..., order]
        return order[_inverted(p, (torch.arange(count, device=device) + self.uniform(purpose, 1)) / count)]

    def _uniform(self, rows: Tensor, purpose: str, count: int) -> Tensor:
        words = self._bits(rows, purpose, 2 * count)
        high, low = words[:, 0::2], words[:, 1::2]
        if real_dtype(rows.device) == torch.float32:
            return ((high >> 9).float() + 0.5) / 2**23
        return (((high >> 5) << 26 | (low >> 6)).double() + 0.5) / 2**53

    def _bits(self, rows: Tensor, purpose: str, count: int) -> Tensor:
        blocks = torch.arange((count + 3) // 4, device=rows.device)
        row, block = torch.broadcast_tensors(rows[:, None], blocks[None, :])
        step = torch.full_like(block, self.step & _MASK)
        high = (row >> 32) & _MASK
        words = philox((block, row & _MASK, step, high), _key(self.seed, self.scope + purpose))
        return torch.stack(words, dim=-1).flatten(1)[:, :count]


def _inverted(probs: Tensor, u: Tensor) -> Tensor:
    """(B, M) long, where the distribution function of (K,) or (B, K) `probs` passes (B, M) `u` times its total.

    One law for all rows is summed once, not for each of them.
    """
    cdf = probs.cumsum(-1)
    drawn = torch.searchsorted(cdf.contiguous(), (u * cdf[..., -1:]).contiguous(), right=True)
    # u·total may round up to the total, which would point past the last class that can be drawn.
    last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).long().argmax(-1, keepdim=True)
    return torch.minimum(drawn, last)

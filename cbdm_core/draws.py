"""Random numbers as a function of (seed, purpose, step, row), so that nothing has to be saved.

A counter-based generator (Philox4x32-10, Salmon et al., SC 2011) replaces the state of an ordinary one: the key is a
hash of (seed, purpose), the counter is (block, row, step). A row's numbers therefore depend neither on its batch, nor
on the number of processes, nor on what was drawn before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws", "philox", "real_dtype"]

Words = Any  # int64 in a tensor, or on the CPU uint64 in an array: numpy's integers cost half of what torch's do

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_HIGH, _LOW = (1 << 53) - (1 << 26), (1 << 26) - 1  # of 53 bits, those of a first word and those of a second
_CACHED = 1 << 14  # counters at a time on the CPU: the words of so many stay in its cache
_WHOLE_BATCH = _MASK  # the row number of a draw that the whole batch shares


def real_dtype(device: torch.device) -> torch.dtype:
    """The dtype for times and schedule coefficients: float64, or float32 where the device has no float64 (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four 32-bit random words for each counter (Philox4x32-10).

    Args:
        counter: four int64 tensors that broadcast, each word in [0, 2³²).
        key: two words in [0, 2³²).

    Returns:
        Four int64 tensors of the common shape, each word in [0, 2³²).
    """
    c0_c1, c2_c3 = _rounds([_quick(word) for word in counter], key)
    return *_split(c0_c1), *_split(c2_c3)


def _number(number: int) -> Words:
    """An array of no dimension: Python's own cost a small array as much again as the operation."""
    return np.array(number, np.uint64)


_HALF, _FACTORS = _number(32), [_number(factor) for factor in _MULTIPLIERS]


def _quick(words: Tensor) -> Words:
    """The same numbers as an array, where they are on the CPU."""
    return words.numpy().view(np.uint64) if words.device.type == "cpu" else words


def _split(pair: Words) -> tuple[Tensor, Tensor]:
    return _tensor((pair >> 32) & _MASK), _tensor(pair & _MASK)


def _tensor(words: Words) -> Tensor:
    if isinstance(words, Tensor):
        return words
    return torch.from_numpy(np.asarray(words).view(np.int64))  # of no dimension, numpy's sums are no arrays


def _rounds(words: Sequence[Words], key: tuple[int, int]) -> tuple[Words, Words]:
    """The ten rounds: p = c·M, its low half one new word, its high half xor another and the key a second.

    Returns:
        2³² c0 + c1 and 2³² c2 + c3, for the CPU's numbers are as wide as two words.
    """
    return _of_tensors(words, _of_rounds(*key)) if isinstance(words[0], Tensor) else _of_arrays(words, key)


def _of_tensors(words: Sequence[Words], keys: Sequence[Sequence[Any]]) -> tuple[Words, Words]:
    """Word by word, which is the fewest kernels where right shifts keep the sign.

    The first rounds multiply words that differ along rows or along blocks only, and are done on those: a row's word
    meets a block's in the second round.
    """
    c0, c1, c2, c3 = words
    for k0, k1 in keys:
        # int64 products wrap, which leaves both 32-bit halves right once masked; a low half is masked when it is used.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = _mixed(p1, c1, k0), p1, _mixed(p0, c3, k1), p0
    return (c0 << 32) | (c1 & _MASK), (c2 << 32) | (c3 & _MASK)


def _mixed(product: Words, word: Words, key: int | Tensor) -> Words:
    mixed = (product >> 32) ^ word
    mixed ^= key
    mixed &= _MASK
    return mixed


def _of_arrays(words: Sequence[Words], key: tuple[int, int]) -> tuple[Words, Words]:
    """Two words at a time and in place: a new pair is a product xor the old low word and the key, both shifted up."""
    (c0, c1, c2, c3), keys = words, _keys(key)
    shape = np.broadcast_shapes(*(word.shape for word in words))
    x, y, of_x, of_y = (np.empty(shape, np.uint64) for _ in range(4))
    np.bitwise_xor(c2 * _FACTORS[1] ^ keys[0][0], c1 << _HALF, out=x)
    np.bitwise_xor(c0 * _FACTORS[0] ^ keys[0][1], c3 << _HALF, out=y)
    for k0, k1 in keys[1:]:
        _multiply(x, _FACTORS[0], of_x)
        _multiply(y, _FACTORS[1], of_y)
        _mix(x, of_y, k0)
        _mix(y, of_x, k1)
    return x, y


def _multiply(pair: Words, factor: Words, out: Words) -> None:
    np.right_shift(pair, _HALF, out=out)
    np.multiply(out, factor, out=out)


def _mix(pair: Words, product: Words, key: Words) -> None:
    np.left_shift(pair, _HALF, out=pair)
    np.bitwise_xor(pair, key, out=pair)
    np.bitwise_xor(pair, product, out=pair)


@lru_cache(maxsize=1024)
def _keys(key: tuple[int, int]) -> list[tuple[Words, Words]]:
    """The keys of the ten rounds, each where a pair has its high word."""
    return [(_number(k0 << 32), _number(k1 << 32)) for k0, k1 in _of_rounds(*key)]


def _of_rounds(k0: int, k1: int) -> list[tuple[int, int]]:
    return [((k0 + i * _WEYL[0]) & _MASK, (k1 + i * _WEYL[1]) & _MASK) for i in range(10)]


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
        fused: draw by one compiled kernel (torch.compile) instead of dozens: the same numbers, normal ones up to the
            rounding of a logarithm and a cosine. The first of each kind takes seconds.
    """

    seed: int
    step: int
    rows: Tensor
    scope: str = ""
    fused: bool = False

    def __getitem__(self, rows: Tensor | slice) -> Draws:
        return replace(self, rows=self.rows[rows])

    def at(self, step: int) -> Draws:
        """The same rows at another step."""
        # Half the cost of `replace`, once a solver step.
        return type(self)(self.seed, step, self.rows, self.scope, self.fused)

    def within(self, scope: str) -> Draws:
        """The same rows and step, with every purpose prefixed by `scope`."""
        return replace(self, scope=f"{self.scope}{scope}/")

    def bits(self, purpose: str, count: int) -> Tensor:
        """(B, count) int64, uniform on [0, 2³²)."""
        return self._drawn(self.rows, purpose, count, _Kind(_as_drawn, 4, torch.long))

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """(B, *shape), uniform on (0, 1) with 53 bits (23 on MPS), never 0."""
        return self._uniform(self.rows, purpose, math.prod(shape)).reshape(len(self.rows), *shape)

    def uniform_ahead(self, purpose: str, steps: int) -> Tensor:
        """(steps, B), what `uniform(purpose)` says at this step and at those after it, for little more than one."""
        row, step = _quick(self.rows)[None], _quick(torch.arange(steps, device=self.rows.device) + self.step)[:, None]
        counter = (step * 0, row & _MASK, step & _MASK, (row >> 32) & _MASK)
        return _uniform_of(_rounds(counter, _key(self.seed, self.scope + purpose))[0])

    def shared_uniform(self, purpose: str) -> float:
        """One number, uniform on (0, 1), the same for every row of the step on every process."""
        row = torch.full((1,), _WHOLE_BATCH, dtype=torch.long)
        return float(self._uniform(row, purpose, 1))

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) standard normal (Box–Muller, computed in float64 where the device has it)."""
        z = self._drawn(self.rows, purpose, math.prod(shape), _Kind(_normals, 2, dtype))
        return z.reshape(len(self.rows), *shape)

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
        return self._drawn(rows, purpose, count, _Kind(_uniforms, 2, real_dtype(rows.device)))

    def _drawn(self, rows: Tensor, purpose: str, count: int, kind: _Kind) -> Tensor:
        """(B, count) numbers, a cache's worth of counters at a time on the CPU."""
        blocks, key = -(-count // kind.per_block), _key(self.seed, self.scope + purpose)
        if self.fused and len(rows) > 1:
            step = torch.full((1, 1), self.step & _MASK, device=rows.device)
            block = torch.arange(max(2, blocks), device=rows.device)  # dimensions of 1 would be compiled apart
            with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):  # and so would their modes be
                return _fused(kind)(rows.contiguous(), block, step, _key_table(key, rows.device))[:, :count]
        row, block = _quick(rows)[:, None], _quick(torch.arange(blocks, device=rows.device))[None]
        step, low, high = row[:1] * 0 + (self.step & _MASK), row & _MASK, (row >> 32) & _MASK
        out = torch.empty(len(rows), blocks, kind.per_block, dtype=kind.dtype, device=rows.device)
        for some, span in _parts(len(rows), blocks, rows.device):
            pairs = _rounds((block[:, span], low[some], step, high[some]), key)
            for place, number in enumerate(kind.made_of(*pairs)):
                out[some, span, place] = number
        return out.flatten(1)[:, :count]


class _Kind(NamedTuple):
    """What is drawn: how `per_block` numbers are made of the two pairs of words of a block, and their dtype."""

    made_of: Callable[[Words, Words], Sequence[Tensor]]
    per_block: int
    dtype: torch.dtype


@lru_cache
def _fused(kind: _Kind) -> Callable[..., Tensor]:
    def at_once(rows: Tensor, block: Tensor, step: Tensor, keys: Tensor) -> Tensor:
        return _at_once(kind, rows, block, step, keys)

    # torch counts recompilations by code, of which all kinds would have one and run into its limit.
    at_once.__code__ = at_once.__code__.replace(co_name=f"{kind.made_of.__name__}_{kind.dtype}")
    return torch.compile(at_once, dynamic=True)


@lru_cache(maxsize=1024)
def _key_table(key: tuple[int, int], device: torch.device) -> Tensor:
    """(10, 2), made once: a kernel whose keys were numbers would be compiled anew for each."""
    table = torch.tensor(_of_rounds(*key), device=device)
    torch._dynamo.mark_static(table)  # or sizes that happen to be 10 or 2 would be taken for the table's
    return table


def _at_once(kind: _Kind, rows: Tensor, block: Tensor, step: Tensor, keys: Tensor) -> Tensor:
    """(B, blocks · per_block), without a loop over data, so that it compiles to one kernel."""
    row = rows[:, None]
    counter = (block[None], row & _MASK, step, (row >> 32) & _MASK)
    pairs = _of_tensors(counter, [round_keys.unbind() for round_keys in keys.unbind()])
    return torch.stack(list(kind.made_of(*pairs)), dim=-1).to(kind.dtype).flatten(1)


def _as_drawn(first: Words, second: Words) -> tuple[Tensor, ...]:
    return *_split(first), *_split(second)


def _uniforms(first: Words, second: Words) -> tuple[Tensor, Tensor]:
    return _uniform_of(first), _uniform_of(second)


def _uniform_of(pair: Words, times: float = 1.0) -> Tensor:
    """`times` 53 bits of two words (23 of one on MPS) and a half, which is never 0."""
    if isinstance(pair, Tensor) and real_dtype(pair.device) == torch.float32:
        return (((pair >> 41) & 0x7FFFFF).float() + 0.5) * (times / 2**23)
    low = pair >> 6
    low &= _LOW
    pair >>= 11
    pair &= _HIGH
    pair |= low
    return _tensor(pair).double().add_(0.5).mul_(times / 2**53)


def _normals(first: Words, second: Words) -> tuple[Tensor, Tensor]:
    """Box–Muller: the radius from the first half of a block, the angle from the second."""
    radius = _uniform_of(first).log_().mul_(-2).sqrt_()
    angle = _uniform_of(second, 2 * math.pi)  # the power of two in 2π/2⁵³ rounds nothing
    return radius * torch.cos(angle), radius.mul_(angle.sin_())


def _parts(rows: int, blocks: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and blocks that stay in the CPU's cache: ten rounds over memory would wait for it; all at once elsewhere."""
    most = _CACHED if device.type == "cpu" else rows * blocks
    width = max(1, min(blocks, most))
    height = max(1, most // width)
    for first in range(0, rows, height):
        for start in range(0, blocks, width):
            yield slice(first, first + height), slice(start, start + width)


def _inverted(probs: Tensor, u: Tensor) -> Tensor:
    """(B, M) long, where the distribution function of (K,) or (B, K) `probs` passes (B, M) `u` times its total.

    One law for all rows is summed once, not for each of them.
    """
    cdf = probs.cumsum(-1)
    drawn = torch.searchsorted(cdf.contiguous(), (u * cdf[..., -1:]).contiguous(), right=True)
    # u·total may round up to the total, which would point past the last class that can be drawn.
    last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).long().argmax(-1, keepdim=True)
    return torch.minimum(drawn, last)

"""The diffusion transformer, for signals, images and volumes, with adaLN-Zero and cross-attention to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cbdm_core.conditions import Condition, ConditionSpace, Tokens, as_space, class_count
from cbdm_core.errors import CbdmError, check_at_most, check_positive
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.encoders import (
    AugmentEmbedding,
    ClassEmbedding,
    MultiLabelEmbedding,
    TimeEmbedding,
    TokenEmbedding,
    condition_encoder,
    sinusoid,
)
from cbdm_core.networks.layers import check_batch, linear

__all__ = ["CrossAttention", "DiT", "SelfAttention", "patchify", "positions", "unpatchify"]

_AXES = "xyz"
_SPREAD = 0.02  # of embeddings at the start, as published


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, *spatial) → (B, N, patchᵈ C): places row by row; inside a patch its places, then channels."""
    places, inside, whole = _pattern(x.ndim - 2)
    return rearrange(x, f"b c {whole} -> b ({places}) ({inside} c)", **_sizes(x.ndim - 2, patch))


def unpatchify(h: Tensor, shape: Sequence[int], patch: int) -> Tensor:
    """(B, N, patchᵈ C) → (B, C, *spatial), the inverse of `patchify`; `shape` is (C, *spatial)."""
    places, inside, whole = _pattern(len(shape) - 1)
    sizes = {axis: size // patch for axis, size in zip(_AXES, shape[1:], strict=False)}
    return rearrange(h, f"b ({places}) ({inside} c) -> b c {whole}", **sizes, **_sizes(len(shape) - 1, patch))


def _pattern(dims: int) -> tuple[str, str, str]:
    axes = _AXES[:dims]
    return " ".join(axes), " ".join(f"p{a}" for a in axes), " ".join(f"({a} p{a})" for a in axes)


def _sizes(dims: int, patch: int) -> dict[str, int]:
    return {f"p{axis}": patch for axis in _AXES[:dims]}


def positions(grid: Sequence[int], width: int) -> Tensor:
    """(N, width) float64: the sinusoid of each coordinate in its own share of the channels.

    With d axes each has 2⌊width/2d⌋ channels; what is left over is zero.

    Args:
        grid: places along each axis; N is their product, row by row.
        width: ≥ 2d.

    Source: Vaswani et al. 2017, section 3.5, for each axis, as Peebles & Xie 2023, section 3.2.
    """
    share = width // (2 * len(grid)) * 2
    places = torch.tensor(list(product(*(range(n) for n in grid))), dtype=torch.float64)
    table = torch.cat([sinusoid(axis, share) for axis in places.unbind(1)], dim=1)
    return F.pad(table, (0, width - table.shape[1]))


class SelfAttention(nn.Module):
    """Linear(softmax(q kᵀ/√d) v) over all places, q, k, v linear in them; d = width / heads.

    Source: Vaswani et al. 2017, eq. 1.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(h), "b n (part heads d) -> part b heads n d", part=3, heads=self.heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)"))


class CrossAttention(nn.Module):
    """Linear(softmax(q kᵀ/√d) v), q linear in the places, k and v in the sequence, over those of it that are seen.

    Source: Vaswani et al. 2017, eq. 1.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = linear(width, width), linear(width, 2 * width), linear(width, width)

    def forward(self, h: Tensor, sequence: Tensor, seen: Tensor) -> Tensor:
        """(B, N, width) from h (B, N, width), sequence (B, L, width) and seen (B, L), one or more in each row."""
        q = rearrange(self.query(h), "b n (heads d) -> b heads n d", heads=self.heads)
        k, v = rearrange(self.key_value(sequence), "b l (part heads d) -> part b heads l d", part=2, heads=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        return self.out(rearrange(attended, "b heads n d -> b n (heads d)"))


class _Block(nn.Module):
    """h + gate ⊙ branch(LN(h) ⊙ (1 + scale) + shift) for self-attention, cross-attention if any, and an MLP.

    Shifts, scales and gates are linear in SiLU of the embedding and start at zero, so that a fresh block is the
    identity (adaLN-Zero).
    """

    repeats = True

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, *, crosses: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads) if crosses else None
        self.first, self.second = linear(width, hidden), linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.modulate = linear(width, (9 if crosses else 6) * width, gain=0.0)

    def forward(self, h: Tensor, e: Tensor, sequence: Tensor | None, seen: Tensor | None) -> Tensor:
        shift, scale, gate, *rest = rearrange(self.modulate(e), "b (part w) -> part b 1 w", w=h.shape[-1])
        h = h + gate * self.dropout(self.attention(self.norm(h) * (1 + scale) + shift))
        if self.cross is not None:
            shift, scale, gate, *rest = rest
            h = h + gate * self.dropout(self.cross(self.norm(h) * (1 + scale) + shift, sequence, seen))
        shift, scale, gate = rest
        return h + gate * self.dropout(self._mlp(self.norm(h) * (1 + scale) + shift))

    def _mlp(self, h: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(h), approximate="tanh"))


class DiT(ScoreNetwork):
    """ε̂(x_t, t, c): patches as a sequence, transformer blocks steered by adaLN-Zero, patches back.

    The number of spatial axes of `shape` makes it 1-D, 2-D or 3-D. Labels, vectors and multi-hot labels join the time
    embedding; tokens are attended to in every block. Starts as published: linear maps Xavier-uniform, embeddings
    with a standard deviation of 0.02, and the modulations and the output at zero, so that ε̂ = 0.

    Args:
        shape: (C, *spatial) of one example, 1 to 3 spatial axes, each divisible by `patch`.
        condition: K ≥ 1 classes, or another space.
        patch: side of a patch, ≥ 1.
        width: of the places; even, divisible by `heads`, 2 or more for each spatial axis.
        depth: blocks, ≥ 1.
        heads: of the attentions.
        mlp_ratio: hidden width of a block's MLP in units of `width`, > 0.
        dropout: probability in [0, 1), at the end of each branch.
        augmentations: length of the augmentation vector, 0 for none.
        time_steps: T for a network trained on a T-step table (it embeds i = round(tT) − 1), None embeds 1000·t.

    Attributes:
        options: the keyword arguments, so that `DiT(shape, condition, **options)` has the same architecture.
        condition: the space.
        num_classes: K, or None where the condition is no class.
        num_features: D of `with_features`, the width.

    Raises:
        CbdmError: any of these that does not fit, with what would.

    Source: Peebles & Xie, Scalable Diffusion Models with Transformers, 2023, section 3.2.
    """

    places: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        condition: int | ConditionSpace,
        *,
        patch: int = 2,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        augmentations: int = 0,
        time_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.condition, self.num_features = tuple(shape), as_space(condition), width
        self.num_classes, self.patch = class_count(self.condition), patch
        self.options: dict[str, Any] = {"patch": patch, "width": width, "depth": depth, "heads": heads}
        self.options |= {"mlp_ratio": mlp_ratio, "dropout": dropout}
        self.options |= {"augmentations": augmentations, "time_steps": time_steps}
        _check_sizes(width, depth, heads, mlp_ratio, dropout)
        _check_shape(self.shape, patch, width)
        crosses = isinstance(self.condition, Tokens)
        self.time = TimeEmbedding(width, width, time_steps)
        if isinstance(self.condition, Tokens):
            self.label = TokenEmbedding(self.condition, width, spread=_SPREAD)
        else:
            self.label = condition_encoder(self.condition, width)
        self.augment = AugmentEmbedding(augmentations, width)
        volume = self.shape[0] * patch ** (len(self.shape) - 1)
        self.inward = linear(volume, width)
        grid = [size // patch for size in self.shape[1:]]
        self.register_buffer("places", positions(grid, width).to(self.inward.weight.dtype), persistent=False)
        hidden = max(1, round(mlp_ratio * width))
        self.blocks = nn.ModuleList(_Block(width, heads, hidden, dropout, crosses=crosses) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulate = linear(width, 2 * width, gain=0.0)
        self.outward = linear(width, volume, gain=0.0)
        for table in (self.time.first.weight, self.time.second.weight):
            nn.init.normal_(table, std=_SPREAD)
        if isinstance(self.label, ClassEmbedding | MultiLabelEmbedding):
            for table in self.label.parameters():
                nn.init.normal_(table, std=_SPREAD)

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ of the shape of `x_t`.

        Args:
            x_t: (B, C, *spatial).
            t: (B,) in [0, 1].
            c: B conditions; `augment` (B, augmentations) or None, which is the zero vector.

        Raises:
            CbdmError: a shape that is not this network's, a condition outside its space, or an unexpected augmentation
                vector.
        """
        return self._decode(*self._encode(x_t, t, c))

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε̂, z), z (B, width) the output of the last block averaged over its places."""
        h, e = self._encode(x_t, t, c)
        return self._decode(h, e), h.mean(1)

    def _encode(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        check_batch(self.shape, x_t, t, c)
        e, sequence, seen = self._steering(t, c)
        h = self.inward(patchify(x_t, self.patch)) + self.places
        for block in self.blocks:
            h = block(h, e, sequence, seen)
        return h, e

    def _steering(self, t: Tensor, c: Condition) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(SiLU of the embedding, the sequence to attend to, which of it is seen)."""
        if isinstance(self.label, TokenEmbedding):
            return F.silu(self.augment(self.time(t), c.augment)), *self.label(c)
        return F.silu(self.augment(self.time(t) + self.label(c), c.augment)), None, None

    def _decode(self, h: Tensor, e: Tensor) -> Tensor:
        shift, scale = rearrange(self.modulate(e), "b (part w) -> part b 1 w", part=2)
        return unpatchify(self.outward(self.norm(h) * (1 + scale) + shift), self.shape, self.patch)


def _check_sizes(width: int, depth: int, heads: int, mlp_ratio: float, dropout: float) -> None:
    check_positive(width=width, depth=depth, heads=heads)
    check_at_most(1000, depth=depth)
    if width % heads:
        raise CbdmError(f"the {width} channels do not split into {heads} heads: use heads that divide them, such as 1")
    if not 0 < mlp_ratio < float("inf"):
        raise CbdmError(f"mlp_ratio must be a number above 0, got {mlp_ratio}")
    if not 0 <= dropout < 1:
        raise CbdmError(f"dropout must be a probability in [0, 1), got {dropout}")


def _check_shape(shape: tuple[int, ...], patch: int, width: int) -> None:
    if not 2 <= len(shape) <= 4:
        raise CbdmError(f"a dit needs shape (C, *spatial) with 1 to 3 spatial axes, got {shape}: use mlp for vectors")
    check_positive(patch=patch)
    for size in shape:
        check_positive(shape=size)
    for size in shape[1:]:
        if size % patch:
            raise CbdmError(f"patches of side {patch} do not tile {size} in {shape}: use a patch that divides it")
    if width < 2 * (len(shape) - 1):
        raise CbdmError(f"{len(shape) - 1} spatial axes need a width of {2 * (len(shape) - 1)} or more, got {width}")

"""The U-Net of denoising diffusion models, for signals, images and volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.conditions import Condition, ConditionSpace, as_space, class_count
from cbdm_core.errors import CbdmError, check_at_most, check_positive
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.encoders import AugmentEmbedding, TimeEmbedding, condition_encoder
from cbdm_core.networks.layers import TINY, Downsample, ResidualBlock, Upsample, check_batch, conv

__all__ = ["UNet"]


class UNet(ScoreNetwork):
    """ε̂(x_t, t, c): residual blocks down, a middle, and up again over the concatenated skips.

    The number of spatial axes of `shape` makes it 1-D, 2-D or 3-D. The embedding is that of time, plus that of the
    condition where it is present, plus that of the augmentation. Convolutions and linear maps start Xavier-uniform; the
    last convolution of each residual block and of the network, and the output of attention, with a gain of 1e-5.

    Args:
        shape: (C, *spatial) of one example, 1 to 3 spatial axes, each divisible by 2^(levels − 1).
        condition: K ≥ 1 classes, or another space: Vectors or MultiLabel.
        width: channels at the first level; even, divisible by `groups` and, where there is attention, by `heads`.
        multipliers: channels of each level in units of `width`; as many levels as numbers.
        attention: the levels (from 0) whose blocks have attention; the middle always has.
        blocks: residual blocks per level on the way down, one more on the way up.
        dropout: probability in [0, 1) inside the blocks.
        groups: of the group normalisations.
        heads: attention heads; 1 is one head of all channels.
        augmentations: length of the augmentation vector, 0 for none.
        time_steps: T for a network trained on a T-step table (it embeds i = round(tT) − 1), None embeds 1000·t.

    Attributes:
        options: the keyword arguments, so that `UNet(shape, condition, **options)` has the same architecture.
        condition: the space.
        num_classes: K, or None where the condition is no class.
        num_features: D of `with_features`.

    Raises:
        CbdmError: any of these that does not fit, with what would.

    Source: Ho et al. 2020, appendix B; Qin et al. 2023 for the label embedding.
    """

    def __init__(
        self,
        shape: Sequence[int],
        condition: int | ConditionSpace,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        attention: Sequence[int] = (1,),
        blocks: int = 1,
        dropout: float = 0.1,
        groups: int = 8,
        heads: int = 1,
        augmentations: int = 0,
        time_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.condition = tuple(shape), as_space(condition)
        self.num_classes = class_count(self.condition)
        multipliers, attention = tuple(multipliers), tuple(attention)
        self.options: dict[str, Any] = {
            "width": width,
            "multipliers": multipliers,
            "attention": attention,
            "blocks": blocks,
            "dropout": dropout,
            "groups": groups,
            "heads": heads,
            "augmentations": augmentations,
            "time_steps": time_steps,
        }
        _check_channels(width, multipliers, attention, blocks, dropout, groups, heads)
        _check_shape(self.shape, len(multipliers))
        self._build(**self.options)

    def _build(
        self,
        width: int,
        multipliers: tuple[int, ...],
        attention: tuple[int, ...],
        blocks: int,
        dropout: float,
        groups: int,
        heads: int,
        augmentations: int,
        time_steps: int | None,
    ) -> None:
        """The layers, of the options in `options`."""
        dims, size = len(self.shape) - 1, 4 * width
        self.time = TimeEmbedding(width, size, time_steps)
        self.label = condition_encoder(self.condition, size)
        self.augment = AugmentEmbedding(augmentations, size)
        self.stem = conv(dims, self.shape[0], width)
        block = partial(_block, dims, size, heads, groups=groups, dropout=dropout)
        channels, attends = [width * m for m in multipliers], [n in attention for n in range(len(multipliers))]
        self.down, skips = _way_down(dims, block, channels, attends, blocks, width)
        self.num_features = channels[-1]
        self.middle = nn.ModuleList([block(self.num_features, self.num_features, attend) for attend in (True, False)])
        self.up = _way_up(dims, block, channels, attends, blocks, skips)
        self.norm = nn.GroupNorm(groups, channels[0])
        self.out = conv(dims, channels[0], self.shape[0], gain=TINY)

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
        """(ε̂, z), z (B, D) the output of the middle averaged over its places, D = width · multipliers[−1]."""
        h, skips, e = self._encode(x_t, t, c)
        return self._decode(h, skips, e), h.flatten(2).mean(2)

    def _encode(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, list[Tensor], Tensor]:
        check_batch(self.shape, x_t, t, c)
        # Every block wants SiLU of the embedding: once here instead of in each of them.
        e = F.silu(self.augment(self.time(t) + self.label(c), c.augment))
        h = self.stem(x_t)
        skips = [h]
        for layer in self.down:
            h = layer(h, e)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, e)
        return h, skips, e

    def _decode(self, h: Tensor, skips: list[Tensor], e: Tensor) -> Tensor:
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1) if isinstance(layer, ResidualBlock) else h, e)
        return self.out(F.silu(self.norm(h)))


_MakeBlock = Callable[[int, int, bool], ResidualBlock]


def _block(
    dims: int, size: int, heads: int, inputs: int, outputs: int, attends: bool, *, groups: int, dropout: float
) -> ResidualBlock:
    chosen = heads if attends else 0
    return ResidualBlock(dims, inputs, outputs, size, groups=groups, dropout=dropout, heads=chosen)


def _way_down(
    dims: int, block: _MakeBlock, channels: list[int], attends: list[bool], blocks: int, width: int
) -> tuple[nn.ModuleList, list[int]]:
    """(layers, the channels of the skips): of the stem with `width` channels and of each layer."""
    layers, skips = nn.ModuleList(), [width]
    for level, outputs in enumerate(channels):
        for _ in range(blocks):
            layers.append(block(skips[-1], outputs, attends[level]))
            skips.append(outputs)
        if level + 1 < len(channels):
            layers.append(Downsample(dims, outputs))
            skips.append(outputs)
    return layers, skips


def _way_up(
    dims: int, block: _MakeBlock, channels: list[int], attends: list[bool], blocks: int, skips: list[int]
) -> nn.ModuleList:
    """The layers from the last level to the first; each block takes a skip off the end."""
    layers, now = nn.ModuleList(), channels[-1]
    for level, outputs in reversed(list(enumerate(channels))):
        for _ in range(blocks + 1):
            layers.append(block(now + skips.pop(), outputs, attends[level]))
            now = outputs
        if level > 0:
            layers.append(Upsample(dims, now))
    return layers


def _check_channels(
    width: int,
    multipliers: tuple[int, ...],
    attention: tuple[int, ...],
    blocks: int,
    dropout: float,
    groups: int,
    heads: int,
) -> None:
    check_positive(width=width, blocks=blocks, groups=groups, heads=heads)
    check_at_most(1000, blocks=blocks)
    if not multipliers:
        raise CbdmError("multipliers must name 1 level or more, got (): (1, 2) makes two levels")
    for multiplier in multipliers:
        check_positive(multipliers=multiplier)
    if width % groups:
        raise CbdmError(
            f"width {width} is not divisible by groups {groups}: use {_near(width, groups)}, or other groups"
        )
    outside = [level for level in attention if level not in range(len(multipliers))]
    if outside:
        raise CbdmError(
            f"attention names level {outside[0]}, and the levels are 0 to {len(multipliers) - 1}: "
            "name one of them, or add a multiplier"
        )
    if not 0 <= dropout < 1:
        raise CbdmError(f"dropout must be a probability in [0, 1), got {dropout}")
    for level in {*attention, len(multipliers) - 1}:
        if width * multipliers[level] % heads:
            raise CbdmError(
                f"the {width * multipliers[level]} channels of level {level} do not split into {heads} heads: "
                "use heads that divide them, such as 1"
            )


def _check_shape(shape: tuple[int, ...], levels: int) -> None:
    if not 2 <= len(shape) <= 4:
        raise CbdmError(f"a unet needs shape (C, *spatial) with 1 to 3 spatial axes, got {shape}: use mlp for vectors")
    for size in shape:
        check_positive(shape=size)
    factor = 2 ** (levels - 1)
    for size in shape[1:]:
        if size % factor:
            raise CbdmError(
                f"{levels} levels halve the size {levels - 1} times, so sizes must be divisible by {factor}, "
                f"got {size} in {shape}: use {_near(size, factor)}, or fewer multipliers"
            )


def _near(value: int, factor: int) -> str:
    """The multiples of `factor` on both sides of `value`, in words."""
    below = value // factor * factor
    return f"{below} or {below + factor}" if below else str(factor)

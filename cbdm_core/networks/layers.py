"""The parts the networks are made of: convolutions in 1, 2 or 3 dimensions, attention, and their checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError

__all__ = [
    "TINY",
    "Attention",
    "Downsample",
    "ResidualBlock",
    "Upsample",
    "check_batch",
    "conv",
    "linear",
]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

# A residual branch starts almost silent, so that a fresh network is close to its shortcuts (Ho et al. 2020).
TINY = 1e-5


def conv(dims: int, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, gain: float = 1.0) -> nn.Module:
    """A convolution over `dims` ∈ {1, 2, 3} axes that keeps the size (stride 1) or halves it (stride 2).

    Weights are Xavier-uniform times `gain`, the bias starts at 0.
    """
    layer = _CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    _initialise(layer, gain)
    return layer


def linear(inputs: int, outputs: int, *, gain: float = 1.0) -> nn.Linear:
    """A linear map, Xavier-uniform times `gain`, the bias starts at 0."""
    layer = nn.Linear(inputs, outputs)
    _initialise(layer, gain)
    return layer


def _initialise(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, gain: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """x + Linear(softmax(q kᵀ/√d) v) over all places, q, k, v linear in GroupNorm(x); d = channels / heads.

    Args:
        channels: divisible by `groups` and `heads`.
        groups: of the normalisation.
        heads: one head of all channels by default, as published.

    Source: Vaswani et al. 2017, eq. 1; Ho et al. 2020, appendix B.
    """

    def __init__(self, channels: int, groups: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.query, self.key, self.value = (linear(channels, channels) for _ in range(3))
        self.out = linear(channels, channels, gain=TINY)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        q, k, v = (self._split(part(places)) for part in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended).transpose(1, 2).reshape(x.shape)

    def _split(self, places: Tensor) -> Tensor:
        """(B, N, C) → (B, heads, N, C / heads)."""
        return places.unflatten(2, (self.heads, -1)).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Convolution, + embedding, convolution, + shortcut, and attention where asked for.

    h = conv(SiLU(GN(x))) + Linear(e); x' = shortcut(x) + conv(dropout(SiLU(GN(h)))), where e has been through SiLU
    already and the shortcut is a 1×1 convolution if the channels change.

    Args:
        dims: number of spatial axes.
        inputs: channels of x.
        outputs: channels of x'.
        embedding: size of e.
        groups: of the normalisations; divides both channel counts.
        dropout: probability in [0, 1).
        heads: of the attention; 0 has no attention.

    Source: Ho et al. 2020, appendix B.
    """

    repeats = True

    def __init__(
        self, dims: int, inputs: int, outputs: int, embedding: int, *, groups: int, dropout: float, heads: int
    ) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(groups, inputs), conv(dims, inputs, outputs)
        self.embed = linear(embedding, outputs)
        self.norm_2, self.conv_2 = nn.GroupNorm(groups, outputs), conv(dims, outputs, outputs, gain=TINY)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else conv(dims, inputs, outputs, 1)
        self.attention = Attention(outputs, groups, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.embed(e).reshape(*h.shape[:2], *[1] * (h.ndim - 2))
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        return self.attention(self.shortcut(x) + h)


class Downsample(nn.Module):
    """Half the size: a 3-wide convolution with stride 2. The embedding is not looked at."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels, stride=2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then a 3-wide convolution. The embedding is not looked at."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def check_batch(shape: Sequence[int], x_t: Tensor, t: Tensor, c: Condition) -> None:
    """Refuse x_t that is not (B, *shape), t that is not (B,), or conditions of another number of rows."""
    if tuple(x_t.shape[1:]) != tuple(shape):
        raise CbdmError(f"x_t must be (B, {', '.join(map(str, shape))}) for this network, got {tuple(x_t.shape)}")
    if tuple(t.shape) != (len(x_t),) or len(c.value) != len(x_t) or tuple(c.present.shape) != (len(x_t),):
        raise CbdmError(
            f"{len(x_t)} rows of x_t need t ({len(x_t)},) and as many conditions, got t {tuple(t.shape)}, "
            f"labels {tuple(c.value.shape)}, present {tuple(c.present.shape)}"
        )

"""A residual multilayer perceptron, for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.conditions import Condition, ConditionSpace, as_space, class_count
from cbdm_core.errors import CbdmError, check_at_most, check_positive
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.encoders import TimeEmbedding, condition_encoder
from cbdm_core.networks.layers import check_batch, linear

__all__ = ["MLP"]


class _Block(nn.Module):
    """h + Linear(dropout(SiLU(Linear(h) ⊙ (1 + scale) + shift))), scale and shift linear in the embedding.

    No normalisation: on a ring of Gaussians it costs nothing near the data, and twice as far out as the data go the
    error is a fifth of that with one.
    """

    repeats = True

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.modulate = linear(width, 2 * width)
        self.first, self.second = linear(width, width), linear(width, width, gain=0.1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulate(e).chunk(2, dim=1)
        inner = F.silu(self.first(h) * (1 + scale) + shift)
        return h + self.second(self.dropout(inner))


class MLP(ScoreNetwork):
    """ε̂(x_t, t, c) of vectors: a linear map in, residual blocks, a linear map out, steered by time and condition.

    Nothing is normalised, so that far from the data ε̂ can still grow with x_t.

    Args:
        shape: (D,) of one example.
        condition: K ≥ 1 classes, or another space: Vectors or MultiLabel.
        width: of the hidden layers and embeddings; even.
        depth: residual blocks, ≥ 1.
        dropout: probability in [0, 1) inside the blocks.
        time_steps: T embeds the index i = round(tT) − 1 of a T-step table, None embeds 1000·t.

    Attributes:
        condition: the space.
        num_classes: K, or None where the condition is no class.
        num_features: D of `with_features`, the width.

    Raises:
        CbdmError: any of these that does not fit, with what would.
    """

    def __init__(
        self,
        shape: Sequence[int],
        condition: int | ConditionSpace,
        *,
        width: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        time_steps: int | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise CbdmError(
                f"an mlp needs vectors of shape (D,), got {tuple(shape)}: use unet or dit for images and signals"
            )
        check_positive(shape=shape[0], width=width, depth=depth)
        check_at_most(1000, depth=depth)
        if not 0 <= dropout < 1:
            raise CbdmError(f"dropout must be a probability in [0, 1), got {dropout}")
        self.shape, self.condition, self.num_features = tuple(shape), as_space(condition), width
        self.num_classes = class_count(self.condition)
        self.time = TimeEmbedding(width, width, time_steps)
        self.label = condition_encoder(self.condition, width)
        self.inward = linear(shape[0], width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.outward = linear(width, shape[0], gain=0.1)

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ (B, D) from x_t (B, D), t (B,) in [0, 1] and B conditions.

        Raises:
            CbdmError: a shape that is not this network's, a condition outside its space, or an augmentation vector.
        """
        return self.with_features(x_t, t, c)[0]

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε̂, z), z (B, width) the last hidden layer.

        Raises:
            CbdmError: as `forward`.
        """
        check_batch(self.shape, x_t, t, c)
        if c.augment is not None:
            raise CbdmError("an mlp takes no augmentation vector: give conditions without one")
        e = F.silu(self.time(t) + self.label(c))
        h = self.inward(x_t)
        for block in self.blocks:
            h = block(h, e)
        return self.outward(h), h

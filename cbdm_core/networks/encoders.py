"""A condition as a vector that joins the time embedding, or as a sequence that the network attends to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.conditions import Classes, Condition, ConditionSpace, MultiLabel, Tokens, Vectors
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError, check_positive
from cbdm_core.networks.layers import linear

__all__ = [
    "AugmentEmbedding",
    "ClassEmbedding",
    "MultiLabelEmbedding",
    "TimeEmbedding",
    "TokenEmbedding",
    "VectorEmbedding",
    "condition_encoder",
    "sinusoid",
]


def sinusoid(position: Tensor, size: int) -> Tensor:
    """(B, size): sin and cos of position · 10000^(−2k/size) in turn, k = 0 … size/2 − 1.

    Args:
        position: (B,) in steps of the table; computed in float64 where the device has it.
        size: even.

    Source: Vaswani et al. 2017, section 3.5.
    """
    dtype = real_dtype(position.device)
    k = torch.arange(0, size, 2, device=position.device, dtype=dtype)
    angle = position.to(dtype)[:, None] * 10000.0 ** (-k / size)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class TimeEmbedding(nn.Module):
    """t → (B, size): a sinusoid, Linear, SiLU, Linear.

    Args:
        width: of the sinusoid; even.
        size: of the embedding.
        time_steps: T embeds the table's index i = round(tT) − 1 (0 at the least), None embeds 1000·t.

    Raises:
        CbdmError: an odd width, or fewer than one step.
    """

    def __init__(self, width: int, size: int, time_steps: int | None = None) -> None:
        super().__init__()
        if width % 2:
            raise CbdmError(f"width must be even for the time embedding's sine and cosine pairs, got {width}")
        if time_steps is not None:
            check_positive(time_steps=time_steps)
        self.width, self.time_steps = width, time_steps
        self.first, self.second = linear(width, size), linear(size, size)

    def position(self, t: Tensor) -> Tensor:
        """(B,) what the sinusoid is taken of."""
        if self.time_steps is None:
            return 1000 * t
        # Below half a step there is no row: −1 would be the last row of a table.
        return ((t * self.time_steps).round() - 1).clamp(min=0)

    def forward(self, t: Tensor) -> Tensor:
        table_row = sinusoid(self.position(t), self.width).to(self.second.weight.dtype)
        return self.second(F.silu(self.first(table_row)))


class ClassEmbedding(nn.Module):
    """A learned vector for each label, and the zero vector where the condition is not present.

    A label under a null row has no influence, whatever its value is. Vectors start standard normal.

    Args:
        num_classes: K ≥ 1.
        size: of the vectors.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        self.space = Classes(num_classes)
        self.vectors = nn.Embedding(num_classes, size)

    def forward(self, c: Condition) -> Tensor:
        """(B, size).

        Raises:
            CbdmError: labels that are not (B,) integers, or one outside [0, K) (`Classes.shown`).
        """
        return _shown_only(self.vectors(self.space.shown(c)), c)


class AugmentEmbedding(nn.Module):
    """(B, A) description of the augmentation → (B, size), linear without bias, so that none is the zero vector.

    It starts at zero and draws no random number: the other weights are those of a network without.

    Args:
        augmentations: A ≥ 0; 0 refuses a description.
        size: of the embedding.

    Raises:
        CbdmError: A below 0.
    """

    def __init__(self, augmentations: int, size: int) -> None:
        super().__init__()
        if augmentations < 0:
            raise CbdmError(f"augmentations must be 0 or more, got {augmentations}")
        self.augmentations = augmentations
        self.project = None
        if augmentations:
            self.project = nn.utils.skip_init(nn.Linear, augmentations, size, bias=False)
            nn.init.zeros_(next(self.project.parameters()))

    def forward(self, embedding: Tensor, augment: Tensor | None) -> Tensor:
        """`embedding` plus that of `augment`; both (B, …).

        Raises:
            CbdmError: a description for a network without augmentations, or of the wrong shape.
        """
        if self.project is None:
            if augment is not None:
                raise CbdmError(
                    f"an augmentation vector of {augment.shape[-1]} numbers was given to a network without: "
                    f"build it with augmentations={augment.shape[-1]}, or give none"
                )
            return embedding
        if augment is None:
            # Zeros rather than nothing: distributed training wants every parameter in every step.
            augment = embedding.new_zeros(len(embedding), self.augmentations)
        if augment.shape != (len(embedding), self.augmentations):
            raise CbdmError(
                f"the augmentation vectors must be {(len(embedding), self.augmentations)}, got {tuple(augment.shape)}"
            )
        return embedding + self.project(augment.to(embedding.dtype))


def condition_encoder(space: ConditionSpace, size: int) -> nn.Module:
    """The embedding of a space's conditions: forward(c) is (B, size), the zero vector where c is not present.

    Args:
        space: `Classes`, `Vectors` or `MultiLabel`.
        size: of the embedding, ≥ 1.

    Raises:
        CbdmError: `Tokens`, which one vector would crowd.
    """
    if isinstance(space, Classes):
        return ClassEmbedding(space.size, size)
    if isinstance(space, Vectors):
        return VectorEmbedding(space, size)
    if isinstance(space, MultiLabel):
        return MultiLabelEmbedding(space, size)
    raise CbdmError(f"this network takes no token conditions, got {space}: use the dit, which attends to them")


class VectorEmbedding(nn.Module):
    """Linear(SiLU(Linear(v))) of a vector v, and the zero vector where the condition is not present.

    Args:
        space: of D numbers.
        size: of the embedding.
    """

    def __init__(self, space: Vectors, size: int) -> None:
        super().__init__()
        self.space = space
        self.first, self.second = linear(space.size, size), linear(size, size)

    def forward(self, c: Condition) -> Tensor:
        """(B, size).

        Raises:
            CbdmError: values that are not (B, D) finite floats.
        """
        value = self.space.shown(c).to(self.first.weight.dtype)
        return _shown_only(self.second(F.silu(self.first(value))), c)


class MultiLabelEmbedding(nn.Module):
    """b + Σ_k y_k w_k of a multi-hot y, and the zero vector where the condition is not present.

    The bias b tells "no label holds" from "nothing is said".

    Args:
        space: of K labels.
        size: of the embedding.
    """

    def __init__(self, space: MultiLabel, size: int) -> None:
        super().__init__()
        self.space = space
        self.project = linear(space.size, size)
        nn.init.normal_(self.project.weight)
        nn.init.normal_(self.project.bias)

    def forward(self, c: Condition) -> Tensor:
        """(B, size).

        Raises:
            CbdmError: values that are not (B, K) of 0 and 1.
        """
        return _shown_only(self.project(self.space.shown(c).to(self.project.weight.dtype)), c)


class TokenEmbedding(nn.Module):
    """A sequence to attend to: a learned null token, then the tokens' vectors plus the sinusoid of their places.

    The null token is seen where the condition is not present, and where it is but all padding, so that there is
    always something to see. All else that is hidden is a zero vector.

    Args:
        space: of L tokens from a vocabulary.
        size: of the vectors; even.
        spread: standard deviation of the vectors at the start.
    """

    places: Tensor

    def __init__(self, space: Tokens, size: int, *, spread: float = 1.0) -> None:
        super().__init__()
        self.space = space
        self.vectors = nn.Embedding(space.vocabulary, size)
        self.null = nn.Parameter(torch.empty(size))
        nn.init.normal_(self.vectors.weight, std=spread)
        nn.init.normal_(self.null, std=spread)
        places = sinusoid(torch.arange(space.length), size).to(self.null.dtype)
        self.register_buffer("places", places, persistent=False)

    def forward(self, c: Condition) -> tuple[Tensor, Tensor]:
        """((B, 1 + L, size) vectors, (B, 1 + L) bool: which are seen).

        Raises:
            CbdmError: values that are not (B, L) integers in [−1, vocabulary).
        """
        token = self.space.shown(c)
        seen = c.present[:, None] & (token >= 0)
        vectors = self.vectors(token.clamp(min=0)) + self.places
        vectors = torch.where(seen[..., None], vectors, torch.zeros_like(vectors))
        nothing = ~seen.any(1, keepdim=True)
        null = torch.where(nothing[..., None], self.null, torch.zeros_like(self.null))
        return torch.cat([null, vectors], dim=1), torch.cat([nothing, seen], dim=1)


def _shown_only(vectors: Tensor, c: Condition) -> Tensor:
    """Selecting rather than multiplying by zero, so that not even a NaN in a weight shows under a null."""
    return torch.where(c.present[:, None], vectors, torch.zeros_like(vectors))

"""A condition as a vector that joins the time embedding, or as a sequence that the network attends to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cbdm_core.conditions import Classes, ConditionSpace, MultiLabel, Tokens, Vectors
from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import Condition
from cbdm_core.networks.layers import ClassEmbedding, linear, sinusoid

__all__ = ["MultiLabelEmbedding", "TokenEmbedding", "VectorEmbedding", "condition_encoder"]


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

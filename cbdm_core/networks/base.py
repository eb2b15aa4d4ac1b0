"""The score network: ε̂(x_t, t, c)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError

__all__ = ["ScoreNetwork"]


class ScoreNetwork(nn.Module, ABC):
    """ε̂(x_t, t, c), the network's estimate of the noise; the score is −ε̂/σ_t."""

    __call__: Callable[[Tensor, Tensor, Condition], Tensor]  # as typed; what it does is torch's

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ of the shape of `x_t`; `t` is (B,) in [0, 1]."""

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε̂, z) with z (B, D) pooled inner features, for the adjustments that need them.

        Raises:
            CbdmError: the network has no features to give.
        """
        raise CbdmError(f"{type(self).__name__} has no features: use a network that overrides with_features")

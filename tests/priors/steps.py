"""Steps made by hand, so that a test states what the network said under every condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep

__all__ = ["LawStub", "TableNetwork", "make_step"]


class TableNetwork(ScoreNetwork):
    """Says table[c] to every row, and table[K] under the null condition; `calls` records what it was asked."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.calls: list[tuple[Condition, bool]] = []

    def forward(self, x_t, t, c):
        self.calls.append((c, torch.is_grad_enabled()))
        null = len(self.table) - 1
        return self.table[torch.where(c.present, c.value, torch.full_like(c.value, null))]


class LawStub(ConditionPrior):
    """Draws the labels it was given, and writes down the draws it was handed."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels = labels
        self.seen: list[Draws] = []

    def sample(self, c, *, draws):
        self.seen.append(draws)
        return c.with_value(self.labels)


def make_step(network: ScoreNetwork, c: Condition, eps: Tensor, *, t: Tensor | None = None, seed: int = 0):
    """A step at x_0 = 0 with α = 0.6 and σ = 0.8 whose noise is `eps`."""
    t = torch.full((len(eps),), 0.5, dtype=torch.float64) if t is None else t
    column = torch.ones(len(eps), *[1] * (eps.ndim - 1), dtype=eps.dtype)
    x_0 = torch.zeros_like(eps)
    x_t = 0.8 * eps
    draws = Draws(seed, 0, torch.arange(len(eps)))
    eps_hat = network(x_t, t, c)
    return DenoisingStep(x_0, c, t, eps, 0.6 * column, 0.8 * column, x_t, eps_hat, None, network, draws)

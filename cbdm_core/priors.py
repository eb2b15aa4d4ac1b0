"""Laws over conditions: the interface, and laws by name, so that `power:0.5` becomes an object."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry

__all__ = ["PRIORS", "ConditionPrior", "LabelPrior", "make_law"]


class ConditionPrior(nn.Module, ABC):
    """A law over conditions, π(c' | c), from which an adjustment draws the other condition.

    Class attributes: `made_from`, what the constructor takes first, "counts", "conditions" or "similarity"; `finite`,
    whether the law draws from a list (`atoms`); `learns`, whether `observe` changes it.
    """

    made_from: str = "counts"
    finite: bool = False
    learns: bool = False

    @abstractmethod
    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        """c' ~ π(·|c), one per row; a pure function of `draws`."""

    def atoms(self, c: Condition) -> tuple[Tensor, Tensor]:
        """The S values (S, …) that the law can draw, and their probabilities (S,), or (B, S) if they depend on c.

        Raises:
            CbdmError: the law is not `finite`.
        """
        raise CbdmError(f"{type(self).__name__} has no list of conditions: draw from it, with draws = 1, 2, 3, …")

    def observe(self, c: Condition, loss: Tensor) -> None:
        """Tell a learned law the per-example denoising loss; laws that do not learn ignore it."""

    def forward(self, c: Condition, draws: Draws) -> Condition:
        return self.sample(c, draws=draws)


class LabelPrior(ConditionPrior):
    """A law over K labels that does not depend on the row: `log_prob` is the one method to write."""

    @abstractmethod
    def log_prob(self) -> Tensor:
        """(K,) float64 log-probabilities; −inf where the law never draws the class."""

    finite = True

    @property
    def probs(self) -> Tensor:
        """(K,) float64 probabilities; they sum to 1."""
        return self.log_prob().exp()

    def sample(self, c: Condition, *, draws: Draws) -> Condition:
        return c.with_value(draws.categorical("law", self.probs))

    def atoms(self, c: Condition) -> tuple[Tensor, Tensor]:
        probs = self.probs
        return torch.arange(len(probs), device=probs.device), probs

    def entropy(self) -> Tensor:
        """H(π) = −Σ π log π in nats, with 0·log 0 = 0; exp(H) is the effective number of classes."""
        log_p = self.log_prob()
        return -torch.where(log_p.isneginf(), torch.zeros_like(log_p), log_p.exp() * log_p).sum()

    def kl(self, other: LabelPrior) -> Tensor:
        """KL(π‖ρ) = Σ π log(π/ρ) in nats over the support of π; inf where ρ misses a class that π draws."""
        log_p, log_r = self.log_prob(), other.log_prob()
        terms = log_p.exp() * (log_p - log_r)
        return torch.where(log_p.isneginf(), torch.zeros_like(terms), terms).sum()


# The core knows no strategy: cbdm_priors declares its laws in the group, like any other distribution.
PRIORS = Registry("law", "cbdm.priors", {})


def make_law(
    text: str,
    counts: Tensor | Sequence[int],
    *,
    conditions: Tensor | None = None,
    similarity: Tensor | None = None,
) -> ConditionPrior:
    """The law that `text` names, made from what its class declares as `made_from`.

    Args:
        text: `name` or `name:a,b,…` with numbers, for example `training`, `power:0.5`, `fixed:0.2,0.8`.
        counts: (K,) training images of each class.
        conditions: (N, D) the training set's conditions, where they are no classes.
        similarity: (K, K) how alike the classes are.

    Raises:
        CbdmError: an unknown name, an argument that is no number, too many or too few of them, or a law made from
            something that is not there.
    """
    name, colon, rest = text.partition(":")
    law = PRIORS[name]
    try:
        numbers = [float(part) for part in rest.split(",")] if colon else []
    except ValueError:
        raise CbdmError(f"law {text!r}: {rest!r} is no list of numbers; write for example power:0.5") from None
    offers = {"counts": torch.as_tensor(counts), "conditions": conditions, "similarity": similarity}
    subject = offers[law.made_from]
    if subject is None:
        raise CbdmError(f"law {text!r} is made from the training set's {law.made_from}, which these data do not have")
    try:
        inspect.signature(law).bind(subject, *numbers)
    except TypeError as error:
        raise CbdmError(f"law {text!r} has the wrong number of arguments ({error}): signature {_shown(law)}") from None
    return law(subject, *numbers)


def _shown(law: type) -> str:
    return ", ".join(str(p) for p in list(inspect.signature(law).parameters.values())[1:]) or "none"

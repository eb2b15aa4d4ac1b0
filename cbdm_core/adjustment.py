"""What to do about the law of the conditions: the interface, and its innermost case, the denoising loss.

Losses are per example and named, `dict[str, (B,)]`; the trainer reduces them in one line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cbdm_core.errors import CbdmError
from cbdm_core.loss_weights import Constant, LossWeight
from cbdm_core.priors import ConditionPrior
from cbdm_core.process import DenoisingStep
from cbdm_core.registry import Registry

__all__ = ["ADJUSTMENTS", "DenoisingLoss", "PriorAdjustment", "add_term", "mean_squared"]

# The core knows no strategy: cbdm_priors declares its own in the group, like any other distribution.
ADJUSTMENTS = Registry("adjustment", "cbdm.adjustments", {})


def mean_squared(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean over everything but the rows of (a − b)², in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return (a.to(dtype) - b.to(dtype)).square().flatten(1).mean(1)


class PriorAdjustment(nn.Module, ABC):
    """What to do about the law of the conditions: a map from a step to named per-example losses.

    Adjustments compose by wrapping; the outer one sees the step first. `inner` is the wrapped one, None innermost; a
    law that is drawn from stands as `target`.

    Class attributes, which a configuration is read by: `term`, the name of the term it adds, "" if it adds none;
    `needs`, what its constructor takes beside the inner one and its options, of "target" (its law), "training" (the
    law the examples are drawn from), "counts", "network" and "num_features"; `default_law`, the text of its law where
    none is named, None to ask for one; `reads_law`, whether it reads the law's probabilities once, so that the law
    must have them and not learn; `couples_rows`, whether it compares rows with one another; `needs_features`, whether
    it reads `step.features`; `needs_dropout_state`, whether it asks the network again with the same dropout masks.
    """

    term: str = ""
    needs: tuple[str, ...] = ()
    default_law: str | None = None
    reads_law: bool = False
    couples_rows: bool = False
    needs_features: bool = False
    needs_dropout_state: bool = False
    inner: PriorAdjustment | None

    def __init__(self) -> None:
        super().__init__()
        self.inner = None  # on the object: a class attribute would hide the submodule of that name

    @abstractmethod
    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        """Named losses, each (B,)."""

    def __call__(self, step: DenoisingStep) -> dict[str, Tensor]:
        return super().__call__(step)

    def loss_weight(self, step: DenoisingStep) -> Tensor:
        """(B,) the factor of the innermost denoising loss, so that a regulariser keeps its strength relative to it."""
        if self.inner is None:
            return torch.ones(len(step), dtype=step.x_0.dtype, device=step.x_0.device)
        return self.inner.loss_weight(step)

    @property
    def law(self) -> ConditionPrior | None:
        """The law that this adjustment draws from, None where it draws from none."""
        return None

    @property
    def learns(self) -> bool:
        """Whether a training step changes its state beside its parameters, as a law that learns does."""
        return self.law is not None and self.law.learns

    def chain(self) -> Iterator[PriorAdjustment]:
        """This adjustment and those inside it, the outermost first."""
        part: PriorAdjustment | None = self
        while part is not None:
            yield part
            part = part.inner

    def whole_batch(self) -> str | None:
        """Why a batch must not be cut into parts whose losses add up to its own; None if it may."""
        for part in self.chain():
            name = part.term or type(part).__name__
            if part.couples_rows:
                return f"{name} compares the rows of a batch with one another"
            if part.learns:
                return f"{name} learns from the batch before it is done"
        return None

    def wants_features(self) -> bool:
        """Whether this adjustment, or one inside it, reads `step.features`."""
        return any(part.needs_features for part in self.chain())

    def wants_dropout_state(self) -> bool:
        """Whether this adjustment, or one inside it, asks the network again with the same dropout masks."""
        return any(part.needs_dropout_state for part in self.chain())


def add_term(terms: dict[str, Tensor], name: str, value: Tensor) -> dict[str, Tensor]:
    """The terms with one more; the same name twice raises."""
    if name in terms:
        raise CbdmError(f"the term {name!r} is there already: an adjustment may stand in a composition only once")
    return {**terms, name: value}


class DenoisingLoss(PriorAdjustment):
    """w(t) · mean (ε̂ − ε)², the term "denoising" (Ho et al. 2020, eq. 14).

    Args:
        weight: the factor w(t); constant 1 by default.
    """

    def __init__(self, weight: LossWeight | None = None) -> None:
        super().__init__()
        self.weight = weight or Constant()

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        return {"denoising": self.loss_weight(step) * mean_squared(step.eps_hat, step.eps)}

    def loss_weight(self, step: DenoisingStep) -> Tensor:
        return self.weight(step.alpha_t.flatten(), step.sigma_t.flatten())

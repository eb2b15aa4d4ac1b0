"""One more named term: on all rows, on a fraction of them, or at every k-th step, without bias."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment, add_term, mean_squared
from cbdm_core.conditions import Condition
from cbdm_core.distributed import anywhere
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.process import DenoisingStep

__all__ = [
    "TIME_WEIGHTS",
    "Penalty",
    "TimeWeight",
    "class_labels",
    "constant",
    "linear",
    "named_time_weight",
    "published",
]

TimeWeight = Callable[[Tensor], Tensor]


def linear(t: Tensor) -> Tensor:
    """t itself: what the published t/T tends to, independent of the number of steps."""
    return t


def constant(t: Tensor) -> Tensor:
    """1 at every time."""
    return torch.ones_like(t)


def published(steps: int) -> TimeWeight:
    """i/T = t − 1/T for the T-step table, whose index i = 0 … T − 1 stands at t = (i + 1)/T."""
    return lambda t: t - 1 / steps


def power(exponent: float) -> TimeWeight:
    """t^a with a ≥ 0."""
    return lambda t: t**exponent


def window(low: float, high: float) -> TimeWeight:
    """1 for low ≤ t ≤ high, else 0."""
    return lambda t: ((t >= low) & (t <= high)).to(t.dtype)


TIME_WEIGHTS = ("linear", "constant", "published", "power:a", "window:low,high")


def named_time_weight(text: str, steps: int | None = None) -> TimeWeight:
    """The time weight that a text names.

    Args:
        text: `linear` t, `constant` 1, `published` t − 1/T, `power:a` t^a with a ≥ 0, `window:low,high` 1 inside.
        steps: the T of a table schedule, which `published` needs.

    Raises:
        CbdmError: another name, or numbers that do not fit it.
    """
    name, _, rest = text.partition(":")
    if text == "published":
        if steps is None:
            raise CbdmError(
                "the published time weight needs a table schedule with T steps: use schedule linear, or in Python "
                "time_weight=published(T)"
            )
        return published(steps)
    plain: dict[str, TimeWeight] = {"linear": linear, "constant": constant}
    if text in plain:
        return plain[text]
    makers: dict[str, tuple[int, Callable[..., TimeWeight]]] = {"power": (1, power), "window": (2, window)}
    if name not in makers:
        raise unknown_name("time weight", text, TIME_WEIGHTS)
    count, make = makers[name]
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    fits = len(numbers) == count and all(0 <= n < math.inf for n in numbers) and numbers == sorted(numbers)
    if not fits:
        raise CbdmError(f"time weight {text!r}: write power:a with a ≥ 0, or window:low,high with 0 ≤ low ≤ high")
    return make(*numbers)


def class_labels(c: Condition, term: str) -> Tensor:
    """(B,) long labels.

    Raises:
        CbdmError: the condition is no class.
    """
    if c.value.ndim != 1 or c.value.is_floating_point() or c.value.dtype == torch.bool:
        raise CbdmError(
            f"{term} compares classes, so it needs labels (B,), got {tuple(c.value.shape)} of {c.value.dtype}: "
            "use an adjustment without counts"
        )
    return c.value.long()


class Penalty(PriorAdjustment):
    """The inner terms and one of its own: strength · w(t) · (loss weight) · penalty, 0 on rows that see the null.

    With a fraction f < 1 a systematic sample of the rows, which every row enters with probability f, counts 1/f
    times; with `every` = k only the steps 0, k, 2k, … count, k times. Both leave the expected loss and gradient as
    they are and cost less: 1 + f or 1 + 1/k of a plain step where the penalty costs as much as that step.

    A penalty that is no distance between ε̂ says so by `in_eps = False`, and takes the loss weight where it needs it.
    Its law, if it has one, is shown the denoising loss at every training step.

    Args:
        inner: the adjustment that gives the other terms.
        strength: ≥ 0; at 0 this adjustment is its inner one.
        time_weight: w(t), (B,) → (B,), or the name of one (`named_time_weight`).
        fraction: f in (0, 1].
        every: k ≥ 1.

    Raises:
        CbdmError: a number out of range, or a fraction for a penalty that couples rows.
    """

    in_eps: bool = True

    def __init__(
        self,
        inner: PriorAdjustment,
        *,
        strength: float,
        time_weight: TimeWeight | str = "constant",
        fraction: float = 1.0,
        every: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= strength < math.inf:
            raise CbdmError(f"the strength of {self.term} must be a number of 0 or more, got {strength}")
        if not 0 < fraction <= 1:
            raise CbdmError(f"the fraction of rows must lie in (0, 1], got {fraction}")
        if every < 1 or every != int(every):
            raise CbdmError(f"every must be a whole number of steps, 1 or more, got {every}")
        if self.couples_rows and fraction < 1:
            raise CbdmError(
                f"{self.term} compares rows with one another, so it takes no fraction of them, got {fraction}: "
                "use every = 2, 3, … to make it cheaper"
            )
        if not isinstance(time_weight, str) and not callable(time_weight):
            raise CbdmError(f"the time weight of {self.term} is a function of t or a name, got {time_weight!r}")
        self.inner, self.strength = inner, float(strength)
        self.time_weight = named_time_weight(time_weight) if isinstance(time_weight, str) else time_weight
        self.fraction, self.every = float(fraction), int(every)

    @abstractmethod
    def penalty(self, step: DenoisingStep) -> Tensor:
        """(B,) the penalty of each row at strength 1; what it says of rows under the null condition is not used."""

    def observe(self, step: DenoisingStep) -> None:
        """Look at a training step before the penalty is taken: tell the law the denoising loss, if it learns."""
        if self.law is not None:
            self.law.observe(step.c, mean_squared(step.eps_hat, step.eps).detach())

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        assert self.inner is not None
        terms = self.inner(step)
        if self.training:
            self.observe(step)
        if self.strength == 0:
            return terms
        return add_term(terms, self.term, self._spread(step))

    def _spread(self, step: DenoisingStep) -> Tensor:
        """The term on the rows and steps that count, 0 elsewhere."""
        zeros = self._zeros(step)
        if step.draws.step % self.every:
            return zeros
        if self.fraction == 1:
            return zeros + self.every * self._weighted(step)
        chosen = self._chosen(step)
        if not anywhere(chosen >= 0):
            return zeros
        value = (self.every / self.fraction) * self._weighted(step[chosen])
        return zeros.index_add(0, chosen, value.to(zeros.dtype))

    def _chosen(self, step: DenoisingStep) -> Tensor:
        """Rows i with frac(i·f + u) < f: each with probability f, and f·B of them give or take one."""
        u = step.draws.within(self.term).shared_uniform("fraction")
        return ((step.draws.rows.double() * self.fraction + u).frac() < self.fraction).nonzero()[:, 0]

    def _weighted(self, step: DenoisingStep) -> Tensor:
        # A batch dropped whole is not worth a forward pass.
        if not anywhere(step.c.present):
            return self._zeros(step)
        value = self.penalty(step)
        weight = self.strength * self.time_weight(step.t).to(value.dtype) * step.c.present.to(value.dtype)
        if self.in_eps:
            weight = weight * self.loss_weight(step).to(value.dtype)
        # Selecting, so that a penalty that is not finite under the null condition does not show.
        return torch.where(step.c.present, weight * value, torch.zeros_like(value))

    def _zeros(self, step: DenoisingStep) -> Tensor:
        """(B,) zeros that hang on this penalty's own parameters: distributed training waits for each one's gradient."""
        zeros = torch.zeros_like(mean_squared(step.eps_hat.detach(), step.eps_hat.detach()))
        for name, parameter in self.named_parameters():
            if not name.startswith("inner."):
                zeros = zeros + 0 * parameter.sum().to(zeros.dtype)
        return zeros

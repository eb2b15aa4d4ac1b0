"""Classifier-free guidance: a score network around a score network; ω constant, a function of t, in an interval."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.schedules import per_row

__all__ = ["ClassifierFreeGuidance", "Constant", "Implied", "LinearInTime", "Omega", "parse_omega"]


def _text(number: float) -> str:
    """The shortest text that reads back as the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


class Omega(ABC):
    """The strength of guidance as a function of time, ω(t); 0 is plain conditional."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """(B,) strengths."""


@dataclass(frozen=True)
class Constant(Omega):
    """ω(t) = ω.

    Raises:
        CbdmError: ω is not finite.
    """

    omega: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.omega):
            raise CbdmError(f"the strength of guidance must be finite, got {self.omega}: 0 is plain conditional")

    def __call__(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.omega)

    def __str__(self) -> str:
        return _text(self.omega)


@dataclass(frozen=True)
class LinearInTime(Omega):
    """ω(t) = a·τt + b; a = 1 and b = 0 undo the pull of CBDM at γ = 0 towards the same target."""

    a: float
    b: float
    tau: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        return self.a * self.tau * t + self.b

    def __str__(self) -> str:
        return f"linear:{_text(self.a)},{_text(self.b)},{_text(self.tau)}"


@dataclass(frozen=True)
class Implied(Omega):
    """ω_eff(t) = (1 + ω)/(1 + τt) − 1: a plain model's equal of guidance ω in one pulled to the null with λ = τt.

    Raises:
        CbdmError: τ < 0, which is no pull and from −1 on divides by 0.
    """

    omega: float
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise CbdmError(f"implied guidance needs tau ≥ 0, got {self.tau}: give the τ that the model trained with")

    def __call__(self, t: Tensor) -> Tensor:
        return (1 + self.omega) / (1 + self.tau * t) - 1

    def __str__(self) -> str:
        return f"implied:{_text(self.omega)},{_text(self.tau)}"


def parse_omega(text: str) -> Omega:
    """The ω that a text names: `0.5`, `linear:a,b` or `linear:a,b,tau`, `implied:omega` or `implied:omega,tau`.

    Raises:
        CbdmError: anything else, a number that is not finite, or `implied` with τ < 0.
    """
    name, colon, rest = text.strip().partition(":")
    kinds: dict[str, tuple[type, int, int]] = {"linear": (LinearInTime, 2, 3), "implied": (Implied, 1, 2)}
    kind, low, high = kinds.get(name, (Constant, 1, 1)) if colon else (Constant, 1, 1)
    try:
        numbers = [float(part) for part in (rest if kind is not Constant else text).split(",")]
    except ValueError:
        numbers = []
    if not low <= len(numbers) <= high or not all(math.isfinite(n) for n in numbers):
        raise CbdmError(f"ω {text!r}: allowed are a number, linear:a,b[,tau] and implied:omega[,tau], for example 0.5")
    return kind(*numbers)


class ClassifierFreeGuidance(ScoreNetwork):
    """ε_c + ω(t)(ε_c − ε_∅) in one forward of twice the rows; without guidance one plain forward.

    Args:
        network: the score network.
        omega: a number or a function of t.
        interval: (t_low, t_high); outside it ω is 0 (Kynkäänniemi et al. 2024).
        null: says ε_∅ instead of the network, in a forward of its own; it is asked under the null condition, and not
            at all where ω is 0 for every row.

    Raises:
        CbdmError: an interval that is not within [0, 1], or an ω that is not finite.

    Source: Ho & Salimans 2022, eq. 6, with w = ω.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        omega: float | Omega,
        *,
        interval: tuple[float, float] = (0.0, 1.0),
        null: ScoreNetwork | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise CbdmError(f"a guidance interval lies in [0, 1], lower end first, got {interval}")
        self.network, self.interval, self.null = network, interval, null
        self.omega: Omega = omega if isinstance(omega, Omega) else Constant(float(omega))

    def strength(self, t: Tensor) -> Tensor:
        """(B,) ω(t), 0 outside the interval."""
        low, high = self.interval
        return torch.where((t >= low) & (t <= high), self.omega(t), torch.zeros_like(t))

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        omega = self._constant(x_t)
        if omega is None:
            omega = self.strength(t)
            if not omega.any():
                return self.network(x_t, t, c)
            omega = per_row(omega, x_t)
        eps_c, eps_null = self._pair(x_t, t, c)
        return eps_c + omega * (eps_c - eps_null)

    def _constant(self, like: Tensor) -> Tensor | None:
        """ω in the dtype of `like` where every t has the same, not 0, and so none need be asked."""
        if isinstance(self.omega, Constant) and self.omega.omega and self.interval == (0.0, 1.0):
            return like.new_full((), self.omega.omega)
        return None

    def _pair(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε_c, ε_∅)."""
        if self.null is not None:
            return self.network(x_t, t, c), self.null(x_t, t, c.null())
        both = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), c.beside_null())
        eps_c, eps_null = both.chunk(2)
        return eps_c, eps_null

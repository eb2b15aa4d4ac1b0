"""The five nouns and the parcel that travels between them.

Conventions, stated once:

- t ∈ [0, 1], t = 0 is data; x_t = α_t x_0 + σ_t ε. `NoiseSchedule.domain` is where every conversion is finite.
- A `ScoreNetwork` returns ε̂, whatever it was trained to say (`Predicts` converts).
- `Condition.present` is False where the network sees no condition (null); the true label stays in `value`.
- Guidance is ε_c + ω(ε_c − ε_∅), so ω = 0 is plain conditional.
- Losses are per example and named: `dict[str, (B,)]`; the trainer reduces them in one line.
- Every random number is a function of (seed, purpose, step, row): `Draws`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cbdm_core.draws import Draws
from cbdm_core.dropout import replayed
from cbdm_core.errors import CbdmError

__all__ = [
    "Condition",
    "ConditionPrior",
    "DenoisingStep",
    "Draws",
    "LabelPrior",
    "NoiseSchedule",
    "PriorAdjustment",
    "Sampler",
    "ScoreNetwork",
    "add_term",
    "at_time",
    "per_row",
    "uniform_times",
]


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1) in the dtype of `like`, so that it multiplies `like` row by row."""
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class Condition:
    """What the network is told about each row, and whether it is told.

    Args:
        value: (B, …) long labels, float vectors, multi-hot rows or tokens. Kept even where it is not shown.
        present: (B,) bool; False shows the network the null condition.
        augment: (B, A) float description of the augmentation applied to the image, or None.
    """

    value: Tensor
    present: Tensor
    augment: Tensor | None = None

    @classmethod
    def of(cls, value: Tensor | Sequence[int], augment: Tensor | None = None) -> Condition:
        """Every row's condition is shown."""
        value = torch.as_tensor(value)
        return cls(value, torch.ones(len(value), dtype=torch.bool, device=value.device), augment)

    def null(self) -> Condition:
        """The same rows with no condition shown."""
        return replace(self, present=torch.zeros_like(self.present))

    def with_value(self, value: Tensor) -> Condition:
        """The same rows under another condition, shown wherever this one is."""
        return replace(self, value=value)

    def differs_from(self, other: Condition) -> Tensor:
        """(B,) bool: rows of which the network would be told something else."""
        return (self.value != other.value).reshape(len(self), -1).any(1) | (self.present != other.present)

    def to(self, device: torch.device | str) -> Condition:
        augment = None if self.augment is None else self.augment.to(device)
        return Condition(self.value.to(device), self.present.to(device), augment)

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        augment = None if self.augment is None else self.augment[rows]
        return Condition(self.value[rows], self.present[rows], augment)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """The rows of several conditions one after another."""
        augments = [p.augment for p in parts if p.augment is not None]
        if augments and len(augments) != len(parts):
            raise CbdmError("conditions with and without an augmentation vector cannot be joined: give all or none one")
        return Condition(
            torch.cat([p.value for p in parts]),
            torch.cat([p.present for p in parts]),
            torch.cat(augments) if augments else None,
        )


class NoiseSchedule(ABC):
    """How much signal and noise there is at time t: x_t = α_t x_0 + σ_t ε.

    `domain` = (t_min, t_max) is the closed interval on which log-SNR is finite and strictly decreasing; training and
    sampling stay inside (a sampler's last step may end at t = 0, where α = 1 and σ = 0).
    """

    domain: tuple[float, float]

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t), each of the shape of `t`, in float64 where the device has it."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(α_t² / σ_t²), strictly decreasing on `domain`."""
        alpha_t, sigma_t = self(t)
        return 2 * (torch.log(alpha_t) - torch.log(sigma_t))

    def draw_t(self, draws: Draws) -> Tensor:
        """(B,) training times, uniform on `domain`."""
        t_min, t_max = self.domain
        return t_min + (t_max - t_min) * draws.uniform("t", 1)[:, 0]


class ScoreNetwork(nn.Module, ABC):
    """ε̂(x_t, t, c), the network's estimate of the noise; the score is −ε̂/σ_t."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ of the shape of `x_t`; `t` is (B,) in [0, 1]."""

    def __call__(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return super().__call__(x_t, t, c)

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε̂, z) with z (B, D) pooled inner features, for the adjustments that need them.

        Raises:
            CbdmError: the network has no features to give.
        """
        raise CbdmError(f"{type(self).__name__} has no features: use a network that overrides with_features")


class Sampler(ABC):
    """One step of a reverse-time solver, from which `sample` is derived.

    Class attributes: `order` is the order of the global error in the step size (weak order if `stochastic`), and
    `evaluations` the number of network evaluations a step costs.
    """

    order: int
    evaluations: int = 1
    stochastic: bool = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    @abstractmethod
    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        """x_s from x_t for s < t, and what the next step wants to remember (None at first, opaque to the caller)."""

    @torch.inference_mode()
    def sample(
        self,
        network: ScoreNetwork,
        c: Condition,
        shape: Sequence[int],
        *,
        steps: int,
        draws: Draws,
        x_T: Tensor | None = None,
        times: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """(B, *shape) samples under the conditions `c`, one per row of `draws`.

        Args:
            network: the score network, guided or not; put it in eval mode first.
            c: (B,) conditions.
            shape: the shape of one sample.
            steps: number of solver steps, ≥ 1; the grid is uniform in t from `domain[1]` to 0. Its last point before 0
                should lie in the domain: no more steps than 1/domain[0].
            draws: B rows; the starting noise and every step's noise come from here.
            x_T: (B, *shape) starting points instead of drawn ones.
            times: a strictly decreasing grid instead of the uniform one (`steps` is then its length − 1).
            dtype: of the samples.

        Raises:
            CbdmError: `steps` < 1, a grid that does not decrease, or one row count that differs from another.
        """
        grid = uniform_times(self.schedule, steps) if times is None else [float(t) for t in times]
        if len(grid) < 2 or any(a <= b for a, b in pairwise(grid)):
            raise CbdmError(f"the time grid must decrease strictly and have 2 points or more, got {grid[:6]}")
        if len(c) != len(draws.rows):
            raise CbdmError(f"{len(c)} conditions for {len(draws.rows)} rows of draws: give one condition per row")
        start = x_T
        if start is None:
            alpha_T, sigma_T = at_time(self.schedule, grid[0])
            start = draws.at(0).normal("x_T", *shape, dtype=dtype) * (alpha_T**2 + sigma_T**2) ** 0.5
        x, memory = start.to(dtype), None
        for i, (t, s) in enumerate(pairwise(grid)):
            x, memory = self.step(network, x, t, s, c, memory, draws=draws.at(i))
        return x


def uniform_times(schedule: NoiseSchedule, steps: int) -> list[float]:
    """`steps` + 1 times, uniform from the schedule's t_max to 0 (diffusers calls it trailing)."""
    if steps < 1:
        raise CbdmError(f"steps must be 1 or more, got {steps}")
    return [schedule.domain[1] * (steps - i) / steps for i in range(steps + 1)]


def at_time(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    """(α_t, σ_t) as Python floats, which cost a sampler less than tensors do."""
    alpha_t, sigma_t = schedule(torch.tensor(t, dtype=torch.float64))
    return float(alpha_t), float(sigma_t)


class ConditionPrior(nn.Module, ABC):
    """A law over conditions, π(c' | c), from which an adjustment draws the other condition.

    Class attributes: `finite`, whether the law draws from a list (`atoms`); `learns`, whether `observe` changes it.
    """

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


@dataclass(frozen=True, eq=False)
class DenoisingStep:
    """One noised batch and what the network said about it: the parcel that every adjustment is handed.

    Args:
        x_0: (B, …) data.
        c: (B,) conditions the network saw.
        t: (B,) times.
        eps: (B, …) the noise that was added.
        alpha_t: (B, 1, …, 1) in the dtype of x_0.
        sigma_t: (B, 1, …, 1) in the dtype of x_0.
        x_t: (B, …), always α_t x_0 + σ_t ε.
        eps_hat: (B, …) the network's output, with its gradient.
        features: (B, D) pooled inner features when a part of the adjustment needs them, else None.
        network: the score network, for `predict`.
        draws: the random numbers of these rows.
        dropout_state: where the generator of the dropout masks stood before the network was asked, if it was kept.
    """

    x_0: Tensor
    c: Condition
    t: Tensor
    eps: Tensor
    alpha_t: Tensor
    sigma_t: Tensor
    x_t: Tensor
    eps_hat: Tensor
    features: Tensor | None
    network: ScoreNetwork
    draws: Draws
    dropout_state: Tensor | None = None

    def predict(self, c: Condition, *, same_dropout: bool = False) -> Tensor:
        """What the network would have said under another condition: ε̂(x_t, t, c), with its gradient.

        Args:
            c: the other condition of each row.
            same_dropout: with the dropout masks of `eps_hat`.

        Raises:
            CbdmError: `same_dropout` on some rows of a batch, or where the masks were not kept.
        """
        if not same_dropout:
            return self.network(self.x_t, self.t, c)
        if self.dropout_state is None:
            raise CbdmError(
                "the dropout masks of this batch are not known: shared dropout needs the whole batch of an Objective "
                "whose adjustment says wants_dropout_state()"
            )
        with replayed(self.dropout_state, self.x_t.device):
            return self.network(self.x_t, self.t, c)

    def __len__(self) -> int:
        return len(self.x_0)

    def __getitem__(self, rows: Tensor) -> DenoisingStep:
        names = ["x_0", "c", "t", "eps", "alpha_t", "sigma_t", "x_t", "eps_hat", "draws"]
        features = None if self.features is None else self.features[rows]
        taken = {name: getattr(self, name)[rows] for name in names}
        # Masks are drawn for a batch as a whole, so a part of it cannot have them again.
        return replace(self, features=features, dropout_state=None, **taken)


class PriorAdjustment(nn.Module, ABC):
    """What to do about the law of the conditions: a map from a step to named per-example losses.

    Adjustments compose by wrapping; the outer one sees the step first. `inner` is the wrapped one, None innermost.
    """

    inner: PriorAdjustment | None
    needs_features: bool = False
    needs_dropout_state: bool = False

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

    def wants_features(self) -> bool:
        """Whether this adjustment, or one inside it, reads `step.features`."""
        return self.needs_features or (self.inner is not None and self.inner.wants_features())

    def wants_dropout_state(self) -> bool:
        """Whether this adjustment, or one inside it, asks the network again with the same dropout masks."""
        return self.needs_dropout_state or (self.inner is not None and self.inner.wants_dropout_state())


def add_term(terms: dict[str, Tensor], name: str, value: Tensor) -> dict[str, Tensor]:
    """The terms with one more; the same name twice raises."""
    if name in terms:
        raise CbdmError(f"the term {name!r} is there already: an adjustment may stand in a composition only once")
    return {**terms, name: value}

"""The forward process q, its posterior, and what ε and x_0 say of one another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.dropout import dropout_rng_state, replayed
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.scalars import divided, scaled
from cbdm_core.schedules import NoiseSchedule, per_row

__all__ = [
    "DenoisingStep",
    "Process",
    "Step",
    "eps_to_x0",
    "gaussian_kl",
    "x0_to_eps",
]

Number = Tensor | float


def eps_to_x0(eps: Tensor, x_t: Tensor, alpha_t: Number, sigma_t: Number) -> Tensor:
    """x_0 = (x_t − σ_t ε)/α_t."""
    return divided(x_t - scaled(sigma_t, eps), alpha_t)


def x0_to_eps(x_0: Tensor, x_t: Tensor, alpha_t: Number, sigma_t: Number) -> Tensor:
    """ε = (x_t − α_t x_0)/σ_t."""
    return divided(x_t - scaled(alpha_t, x_0), sigma_t)


class Step(NamedTuple):
    """The coefficients of q(x_t | x_s) and of q(x_s | x_t, x_0) = N(of_x_t x_t + of_x_0 x_0, variance I), s < t.

    α_{t|s} = α_t/α_s, σ²_{t|s} = σ_t² − α²_{t|s} σ_s²; of_x_t = α_{t|s} σ_s²/σ_t², of_x_0 = α_s σ²_{t|s}/σ_t²,
    variance = σ²_{t|s} σ_s²/σ_t².

    Args:
        ratio: α_{t|s}.
        between: σ²_{t|s}.
        of_x_t: the share of x_t in the posterior mean.
        of_x_0: the share of x_0.
        variance: of the posterior.

    Source: Kingma et al., Variational Diffusion Models, 2021, eq. 25–27 and appendix A.
    """

    ratio: Any
    between: Any
    of_x_t: Any
    of_x_0: Any
    variance: Any

    @classmethod
    def of(cls, at_s: tuple[Number, Number], at_t: tuple[Number, Number]) -> Step:
        """From (α_s, σ_s) and (α_t, σ_t), numbers or tensors."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = at_s, at_t
        ratio = alpha_t / alpha_s
        between = sigma_t**2 - ratio**2 * sigma_s**2
        of_x_t, of_x_0 = ratio * sigma_s**2 / sigma_t**2, alpha_s * between / sigma_t**2
        return cls(ratio, between, of_x_t, of_x_0, between * sigma_s**2 / sigma_t**2)


def gaussian_kl(mean_1: Tensor, variance_1: Tensor, mean_2: Tensor, variance_2: Tensor) -> Tensor:
    """(B,) KL(N(μ_1, v_1 I) ‖ N(μ_2, v_2 I)) = ½ Σ [v_1/v_2 − 1 − log(v_1/v_2) + (μ_1 − μ_2)²/v_2], in nats.

    Args:
        mean_1: (B, …).
        variance_1: broadcasts with `mean_1`, > 0.
        mean_2: (B, …).
        variance_2: broadcasts with `mean_2`, > 0.
    """
    ratio = variance_1 / variance_2
    terms = ratio - 1 - torch.log(ratio) + (mean_1 - mean_2).square() / variance_2
    return 0.5 * terms.expand_as(mean_1).flatten(1).sum(1)


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

    def predict(self, c: Condition, *, same_dropout: bool = False, recompute: bool = False) -> Tensor:
        """What the network would have said under another condition: ε̂(x_t, t, c), with its gradient.

        Args:
            c: the other condition of each row.
            same_dropout: with the dropout masks of `eps_hat`.
            recompute: keep nothing of the pass for the backward one, which does it again under the same masks.

        Raises:
            CbdmError: `same_dropout` on some rows of a batch, or where the masks were not kept.
        """
        if recompute and torch.is_grad_enabled():
            # x_t is an argument, for by the tensors among them torch tells whose generator to put back.
            return checkpoint(self._said, self.x_t, c, same_dropout, use_reentrant=False)
        return self._said(self.x_t, c, same_dropout)

    def _said(self, x_t: Tensor, c: Condition, same_dropout: bool) -> Tensor:
        if not same_dropout:
            return self.network(x_t, self.t, c)
        if self.dropout_state is None:
            raise CbdmError(
                "the dropout masks of this batch are not known: shared dropout needs the whole batch of an Objective "
                "whose adjustment says wants_dropout_state()"
            )
        with replayed(self.dropout_state, x_t.device):
            return self.network(x_t, self.t, c)

    def __len__(self) -> int:
        return len(self.x_0)

    def __getitem__(self, rows: Tensor) -> DenoisingStep:
        names = ["x_0", "c", "t", "eps", "alpha_t", "sigma_t", "x_t", "eps_hat", "draws"]
        features = None if self.features is None else self.features[rows]
        taken = {name: getattr(self, name)[rows] for name in names}
        # Masks are drawn for a batch as a whole, so a part of it cannot have them again.
        return replace(self, features=features, dropout_state=None, **taken)

    def repeated(self, times: int) -> DenoisingStep:
        """These rows so many times, one batch after another; without the masks, which belong to one batch."""
        rows = torch.arange(len(self), device=self.t.device).repeat(times)
        again = {
            # A gradient of rows by `repeat` is a sum in one order, which that of an index is not on every machine.
            name: value.repeat(times, *(1 for _ in value.shape[1:]))
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "dropout_state"
        }
        return replace(self, **again, c=self.c[rows], draws=self.draws[rows], dropout_state=None)


@dataclass(frozen=True, eq=False)
class Process:
    """q(x_t | x_0) = N(α_t x_0, σ_t² I) and what follows from it.

    Args:
        schedule: gives α_t and σ_t.
    """

    schedule: NoiseSchedule

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t) as (B, 1, …, 1) in the dtype of `like`."""
        alpha_t, sigma_t = self.schedule(t)
        return per_row(alpha_t, like), per_row(sigma_t, like)

    def perturb(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε."""
        alpha_t, sigma_t = self.coefficients(t, x_0)
        return alpha_t * x_0 + sigma_t * eps

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_t | x_s) for s < t: α_{t|s} x_s and σ²_{t|s}.

        α_{t|s} = α_t/α_s and σ²_{t|s} = σ_t² − α²_{t|s} σ_s² (Kingma et al. 2021, appendix A).
        """
        step = self._step(s, t)
        return per_row(step.ratio, x_s) * x_s, per_row(step.between, x_s)

    def posterior(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t, x_0) for any 0 ≤ s < t.

        Mean α_{t|s} σ_s²/σ_t² x_t + α_s σ²_{t|s}/σ_t² x_0, variance σ²_{t|s} σ_s²/σ_t².

        Args:
            x_t: (B, …).
            x_0: (B, …).
            s: (B,) or one time.
            t: (B,) or one time, above s.

        Source: Kingma et al., Variational Diffusion Models, 2021, eq. 25–27 (Ho et al. 2020, eq. 7, for s = t − 1/T).
        """
        step = self._step(s, t)
        mean = per_row(step.of_x_t, x_t) * x_t + per_row(step.of_x_0, x_t) * x_0
        return mean, per_row(step.variance, x_t)

    def _step(self, s: Tensor, t: Tensor) -> Step:
        if bool((s >= t).any()):
            raise CbdmError(
                f"a transition goes from an earlier time to a later, got s = {s.tolist()}, t = {t.tolist()}"
            )
        return Step.of(self.schedule(s), self.schedule(t))

    def denoise(
        self,
        network: ScoreNetwork,
        x_0: Tensor,
        c: Condition,
        draws: Draws,
        t: Tensor | None = None,
        *,
        with_features: bool = False,
        keep_dropout: bool = False,
    ) -> DenoisingStep:
        """Draw ε and, where it is not given, t, make x_t, ask the network, and pack the step.

        Args:
            network: the score network.
            x_0: (B, …) data.
            c: (B,) conditions, as the network shall see them.
            draws: B rows.
            t: (B,) times in the schedule's domain; None draws them from the schedule.
            with_features: also ask for the network's inner features.
            keep_dropout: remember the dropout masks, so that the network can be asked again with the same ones.

        Raises:
            CbdmError: row counts that disagree.
        """
        if not len(x_0) == len(c) == len(draws.rows):
            raise CbdmError(
                f"{len(x_0)} examples, {len(c)} conditions and {len(draws.rows)} rows of draws: give as many of each"
            )
        t = self.schedule.draw_t(draws) if t is None else t
        eps = draws.normal("eps", *x_0.shape[1:], dtype=x_0.dtype)
        alpha_t, sigma_t = self.coefficients(t, x_0)
        x_t = alpha_t * x_0 + sigma_t * eps
        masks = dropout_rng_state(x_t.device) if keep_dropout else None
        eps_hat, features = network.with_features(x_t, t, c) if with_features else (network(x_t, t, c), None)
        return DenoisingStep(x_0, c, t, eps, alpha_t, sigma_t, x_t, eps_hat, features, network, draws, masks)

"""Another law over the labels while sampling, without a classifier: the path itself says which classes it is of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.guidance import ClassifierFreeGuidance, Omega
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.priors import LabelPrior
from cbdm_core.process import Process, eps_to_x0
from cbdm_core.samplers import Sampler
from cbdm_core.schedules import NoiseSchedule, at_time
from cbdm_priors.laws.counts import normalised
from cbdm_priors.sampling.posterior import all_predictions, fitting_log_probs, support, weighted_sum

__all__ = ["TrackedWeights", "kernel_log_likelihood"]

MODES = ("mixture", "null")


def kernel_log_likelihood(
    schedule: NoiseSchedule, x_s: Tensor, x_t: Tensor, eps_hat: Tensor, s: float, t: float, *, clip: float | None = None
) -> Tensor:
    """(B, K) −‖x_s − μ_y(x_t)‖²/(2σ̃²), the log-likelihood of a step under every class, up to a constant per row.

    μ_y and σ̃² = (σ_s²/σ_t²) σ²_{t|s} are mean and variance of the ancestral kernel q(x_s|x_t, x̂_0,y), whichever
    sampler made x_s: a sampler's own variance is another one where it is not ancestral, and says nothing where it is 0.

    Args:
        schedule: gives α and σ.
        x_s: (B, …).
        x_t: (B, …).
        eps_hat: (B, K, …) ε̂ at x_t under every class.
        s: in (0, t); at 0 the kernel has no width.
        t: in the schedule's domain.
        clip: bound on |x̂_0,y|, or None.

    Raises:
        CbdmError: s not between 0 and t.
    """
    if not 0 < s < t:
        raise CbdmError(f"the likelihood of a step needs 0 < s < t, got s = {s} and t = {t}: at s = 0 there is none")
    real = real_dtype(x_t.device)
    x_0 = eps_to_x0(eps_hat.to(real), x_t[:, None].to(real), *at_time(schedule, t))
    x_0 = x_0 if clip is None else x_0.clamp(-clip, clip)
    at_s, at_t = (torch.tensor([time], dtype=real, device=x_t.device) for time in (s, t))
    mean, variance = Process(schedule).posterior(x_t[:, None].to(real), x_0, at_s, at_t)
    return -((x_s[:, None].to(real) - mean).square() / (2 * variance)).flatten(2).sum(2)


class _Start(NamedTuple):
    """Where an update of the weights starts: x_t (B, …), t (B,) and as a number, ε̂ under every class (B, S, …)."""

    x_t: Tensor
    times: Tensor
    t: float
    predictions: Tensor


class _Memory(NamedTuple):
    """The inner sampler's memory, L (B, S), the steps since the start of the next update, and that start."""

    inner: Any
    log_likelihood: Tensor
    since: int
    start: _Start | None


class _Weighted(ScoreNetwork):
    """Σ_y w_y ε̂_y with given weights (B, S), added to ε_∅ or alone; what the step's start knows is used again."""

    def __init__(
        self,
        network: ScoreNetwork,
        classes: Tensor,
        weights: Tensor,
        *,
        known: _Start | None,
        add_null: bool,
        chunk: int | None,
    ) -> None:
        super().__init__()
        self.network, self.classes, self.weights = network, classes, weights
        self.known, self.add_null, self.chunk = known, add_null, chunk

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        known = self.known
        if known is not None and x_t is known.x_t and torch.equal(t, known.times):
            predictions = known.predictions
        else:
            asked = self.weights != 0
            predictions = all_predictions(self.network, x_t, t, self.classes, chunk=self.chunk, where=asked)
        mixed = weighted_sum(self.weights, predictions)
        return self.network(x_t, t, c.null()) + mixed if self.add_null else mixed


class TrackedWeights(Sampler):
    """Sampling under another law without a classifier: the path itself says which classes it may come from.

    Along the path L_y += `kernel_log_likelihood`, from L = 0 and not at s = 0; then w^π ∝ π e^{L/T} and
    w^q ∝ q e^{L/T} stand for the posteriors under π and q. The inner sampler is stepped with

    - mode "mixture": Σ_y w^π_y ε̂_y, unconditional generation under π; the conditions given are ignored;
    - mode "null": ε_c + ω(t)(ε_c − ε_∅^π), ε_∅^π = ε_∅ + Σ_y (w^π_y − w^q_y) ε̂_y: prior-adjusted guidance to c.

    With an ancestral inner sampler, or η = 1, the weights tend to the posterior as the steps get short. With less noise
    on the path (η < 1, 2M, Heun) L is off by ½(1 − η²) ∫ g² Δ log p_t(x|y) dt, which all classes share only where they
    are equally wide: elsewhere use η = 1, above all in high dimension.

    Cost of a step that starts an update, in network evaluations a row: S, the number of classes with π > 0 (mixture) or
    q > 0 (null, where ε_c and ε_∅ come to it). These serve the step and the update. A second evaluation of the step
    (Heun) and the steps between two updates ask for the classes of positive weight only: S, or with `top_k` k of them
    (null: at most 2k). So `top_k` saves nothing at `every` = 1 with one evaluation a step, for L needs every class.
    `evaluations` is the most that a step costs. With `every` > 1 a row's S predictions are kept between updates.

    Give the plain network: a guided one has other class predictions.

    Args:
        sampler: makes the steps.
        law: π.
        training: q, the label law that the network was trained under, or t ↦ q(y|t) where it depended on the noise.
        temperature: T > 0, which divides L; above 1 for weights less peaked, as in high dimension. 1 is exact.
        top_k: keep the k largest weights of each row and renormalise; None for all.
        every: update L at every m-th step, by the kernel from where the update began m steps ago to where the path is
            now; 1 is every step. Between updates the weights stand still.
        mode: "mixture" or "null".
        omega: ω, for mode "null" only, where it must be given.
        interval: of guidance in t, for mode "null" only.
        clip: bound on |x̂_0,y| in the update; give the sampler's. At large t an error of ε̂ is a large one of x̂_0.
        chunk: the most (row, class) pairs of one forward.

    Raises:
        CbdmError: laws that do not fit each other, or a setting out of range or without a meaning in the mode.
    """

    def __init__(
        self,
        sampler: Sampler,
        law: LabelPrior,
        training: LabelPrior | Callable[[float], LabelPrior],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        every: int = 1,
        mode: str = "mixture",
        omega: float | Omega | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        clip: float | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(sampler.schedule)
        last = training if isinstance(training, LabelPrior) else training(sampler.schedule.domain[1])
        log_pi, log_q = fitting_log_probs(law, last)
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        if (mode == "null") != (omega is not None) or (mode == "mixture" and interval != (0.0, 1.0)):
            raise CbdmError(
                f"ω and its interval go with mode 'null', which needs an ω, got mode {mode!r} with ω = {omega} in "
                f"{interval}: write mode='null', omega=1.0, or neither"
            )
        if not temperature > 0:
            raise CbdmError(f"the temperature of tracked weights is above 0, got {temperature}: 1 is exact")
        if top_k is not None and not 1 <= top_k <= len(log_pi):
            raise CbdmError(f"top_k is from 1 to the {len(log_pi)} classes, or left out, got {top_k}")
        if every < 1:
            raise CbdmError(f"the weights are updated at every m-th step with m ≥ 1, got {every}")
        if clip is not None and not clip > 0:
            raise CbdmError(f"clip must be a bound above 0 on |x_0|, or left out, got {clip}")
        self.sampler, self.mode, self.omega, self.interval = sampler, mode, omega, interval
        self.temperature, self.top_k, self.every, self.clip, self.chunk = temperature, top_k, every, clip, chunk
        self.log_pi, self.log_q, self.training = log_pi, log_q, training
        self.classes = support(log_pi if mode == "mixture" else log_q)
        self.order, self.stochastic, self.evaluations = sampler.order, sampler.stochastic, self._cost()

    def _cost(self) -> int:
        """The most evaluations of a step, per row."""
        asked, guided = len(self.classes), 0 if self.mode == "mixture" else 2
        kept = asked if self.top_k is None else min(self.top_k * (1 if self.mode == "mixture" else 2), asked)
        return asked + guided + (self.sampler.evaluations - 1) * (kept + guided)

    def weights(self, memory: Any) -> Tensor:
        """(B, K) w^π after the step that returned `memory`; in mode "null" the w^π of the adjusted null."""
        kept = self._weights(memory.log_likelihood, self.log_pi)
        everything = kept.new_zeros(len(kept), len(self.log_pi))
        return everything.index_copy(1, self.classes.to(kept.device), kept)

    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        if isinstance(network, ClassifierFreeGuidance):
            raise CbdmError("tracked weights need the plain network: for guidance give mode='null' and omega=… instead")
        inner, log_likelihood, since, start = memory or self._begin(x_t)
        known = None
        if since == 0:
            known = start = self._start(network, x_t, t)
        weighted = self._network(network, log_likelihood, known, t)
        x_s, inner = self.sampler.step(weighted, x_t, t, s, c, inner, draws=draws)
        since += 1
        if since == self.every:
            if s > 0 and start is not None:
                log_likelihood = self._updated(log_likelihood, start, x_s, s)
            since, start = 0, None
        return x_s, _Memory(inner, log_likelihood, since, start)

    def _begin(self, x_t: Tensor) -> _Memory:
        zero = torch.zeros(len(x_t), len(self.classes), dtype=real_dtype(x_t.device), device=x_t.device)
        return _Memory(None, zero, 0, None)

    def _start(self, network: ScoreNetwork, x_t: Tensor, t: float) -> _Start:
        times = torch.full((len(x_t),), t, device=x_t.device, dtype=real_dtype(x_t.device))
        return _Start(x_t, times, t, all_predictions(network, x_t, times, self.classes, chunk=self.chunk))

    def _updated(self, log_likelihood: Tensor, start: _Start, x_s: Tensor, s: float) -> Tensor:
        gain = kernel_log_likelihood(self.schedule, x_s, start.x_t, start.predictions, s, start.t, clip=self.clip)
        log_likelihood = log_likelihood + gain
        # Only differences between classes count; without this the sum grows with the dimension and the steps.
        return log_likelihood - log_likelihood.amax(1, keepdim=True)

    def _weights(self, log_likelihood: Tensor, log_law: Tensor) -> Tensor:
        """(B, S) weights ∝ π e^{L/T}, the k largest of them."""
        log_w = log_law[self.classes].to(log_likelihood) + log_likelihood / self.temperature
        if self.top_k is not None and self.top_k < len(self.classes):
            largest = log_w.topk(self.top_k, dim=1)
            log_w = torch.full_like(log_w, -math.inf).scatter(1, largest.indices, largest.values)
        return normalised(log_w).exp()

    def _log_q(self, t: float) -> Tensor:
        """(K,) log q(y|t)."""
        return self.log_q if isinstance(self.training, LabelPrior) else self.training(t).log_prob()

    def _network(self, network: ScoreNetwork, log_likelihood: Tensor, known: _Start | None, t: float) -> ScoreNetwork:
        """What the inner sampler is stepped with."""
        weights, classes = self._weights(log_likelihood, self.log_pi), self.classes
        if self.omega is None:
            return _Weighted(network, classes, weights, known=known, add_null=False, chunk=self.chunk)
        change = weights - self._weights(log_likelihood, self._log_q(t))
        null = _Weighted(network, classes, change, known=known, add_null=True, chunk=self.chunk)
        return ClassifierFreeGuidance(network, self.omega, interval=self.interval, null=null)

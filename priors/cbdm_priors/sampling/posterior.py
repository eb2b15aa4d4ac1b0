"""Another law over the labels at sampling time: each class's prediction weighted by its posterior under that law."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable

import torch
from einops import einsum
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.priors import LabelPrior
from cbdm_priors.laws.counts import normalised

__all__ = [
    "Adjusted",
    "AdjustedNull",
    "LogPosterior",
    "MixtureScore",
    "all_predictions",
    "fitting_log_probs",
    "log_weights",
    "support",
    "weighted_sum",
]

LogPosterior = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) ↦ (B, K) log q(y | x_t): a classifier of noisy data, or an oracle."""


def fitting_log_probs(law: LabelPrior, training: LabelPrior) -> tuple[Tensor, Tensor]:
    """(log π, log q), each (K,), of two laws that fit each other.

    Raises:
        CbdmError: a law without probabilities, laws of other classes, or π > 0 where q = 0.
    """
    for given in (law, training):
        if not isinstance(given, LabelPrior):
            raise CbdmError(
                f"adjusting the prior needs two laws with a probability for each label, got {type(given).__name__}: "
                "give for example uniform, power or fixed"
            )
    log_pi = law.log_prob()
    log_q = training.log_prob().to(log_pi.device)
    if log_pi.shape != log_q.shape:
        raise CbdmError(
            f"the law has {len(log_pi)} classes and the training law {len(log_q)}: give two of one data set"
        )
    unseen = (~log_pi.isneginf() & log_q.isneginf()).nonzero()[:, 0].tolist()
    if unseen:
        raise CbdmError(
            f"the law draws the classes {unseen}, which the training law never does: no posterior knows them, so give "
            "them probability 0"
        )
    return log_pi, log_q


def log_weights(log_posterior: Tensor, law: LabelPrior, training: LabelPrior) -> Tensor:
    """(B, K) log w_y = log q(y|x_t) + log π(y) − log q(y) − log Z: the posterior under π instead of q.

    Args:
        log_posterior: (B, K) log q(y|x_t), up to a constant per row.
        law: π; classes with π = 0 get −inf.
        training: q, the law that the posterior was learned under.

    Raises:
        CbdmError: a law without probabilities, numbers of classes that disagree, a class with π > 0 and q = 0, or a row
            without one class of positive weight.

    Source: Menon et al., Long-tail learning via logit adjustment, 2021, eq. 9 with the balanced law replaced by π.
    """
    device = log_posterior.device
    log_pi, log_q = (log_p.to(device, real_dtype(device)) for log_p in fitting_log_probs(law, training))
    if log_posterior.ndim != 2 or log_posterior.shape[1] != len(log_pi):
        raise CbdmError(
            f"a posterior over {len(log_pi)} classes is (B, {len(log_pi)}), got the shape {tuple(log_posterior.shape)}"
        )
    never = torch.full_like(log_pi, -math.inf)
    logits = log_posterior.to(log_pi.dtype) + torch.where(log_pi.isneginf(), never, log_pi - log_q)
    if logits.isneginf().all(-1).any():
        raise CbdmError(
            "a posterior is 0 at every class that the law draws: give log q(y|x_t) from log_softmax, which does not "
            "underflow as the logarithm of a probability does"
        )
    return normalised(logits)


def all_predictions(
    network: ScoreNetwork,
    x_t: Tensor,
    t: Tensor,
    classes: Tensor,
    *,
    chunk: int | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """(B, S, …) ε̂(x_t, t, y) of every row under every one of `classes`, in forwards of at most `chunk` pairs.

    Args:
        network: the score network, not guided.
        x_t: (B, …).
        t: (B,).
        classes: (S,) long, the labels to ask for.
        chunk: the most (row, class) pairs of one forward, ≥ 1; None for all B·S at once.
        where: (B, S) bool, the pairs to ask for; the others cost nothing and are 0. None for all.

    Raises:
        CbdmError: `classes` that are no vector of labels, or a chunk < 1.
    """
    if classes.ndim != 1 or not len(classes) or classes.is_floating_point():
        raise CbdmError(f"classes are a vector of one whole label or more, got {classes.tolist()}")
    if chunk is not None and chunk < 1:
        raise CbdmError(f"chunk must be 1 pair of row and class or more, or left out, got {chunk}")
    classes = classes.to(x_t.device)
    asked = torch.ones(len(x_t), len(classes), dtype=torch.bool, device=x_t.device) if where is None else where
    row, place = asked.nonzero(as_tuple=True)
    size = chunk or max(len(row), 1)
    predictions = [
        network(x_t[rows], t[rows], Condition.of(classes[places]))
        for rows, places in zip(row.split(size), place.split(size))
        if len(rows)
    ]
    nothing = x_t.new_zeros(*asked.shape, *x_t.shape[1:])
    return nothing.to(predictions[0].dtype).index_put((row, place), torch.cat(predictions)) if predictions else nothing


def weighted_sum(weights: Tensor, predictions: Tensor) -> Tensor:
    """Σ_y w_y ε̂_y."""
    return einsum(weights.to(predictions.dtype), predictions, "b k, b k ... -> b ...")


def support(log_probs: Tensor) -> Tensor:
    """The labels whose probability is not 0."""
    return (~log_probs.isneginf()).nonzero()[:, 0]


class Adjusted(ScoreNetwork, ABC):
    """A network, the posterior of its classes, and the laws π and q: what adjusting a prediction to π is made from.

    Args:
        network: the score network, conditional and not guided.
        log_posterior: (x_t, t) ↦ (B, K) log q(y|x_t).
        law: π.
        training: q.
        chunk: the most (row, class) pairs of one forward.

    Raises:
        CbdmError: laws that do not fit each other.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        log_posterior: LogPosterior,
        law: LabelPrior,
        training: LabelPrior,
        *,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        fitting_log_probs(law, training)
        self.network, self.log_posterior, self.law, self.training_law = network, log_posterior, law, training
        self.chunk = chunk


class MixtureScore(Adjusted):
    """ε^π = Σ_y w_y ε̂_y with w = `log_weights`: unconditional generation under π. One evaluation per class with π > 0.

    The weights depend on x_t. A mean of the class scores with fixed weights is the score of another density, narrower
    than the mixture.

    Built from what `Adjusted` says.
    """

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε^π; the condition `c` is ignored, for π says what is drawn."""
        classes = support(self.law.log_prob()).to(x_t.device)
        weights = log_weights(self.log_posterior(x_t, t), self.law, self.training_law).exp()
        return weighted_sum(weights[:, classes], all_predictions(self.network, x_t, t, classes, chunk=self.chunk))


class AdjustedNull(Adjusted):
    """ε_∅^π = ε_∅ + Σ_y (w^π_y − w^q_y) ε̂_y: the null prediction as if trained under π. ε_∅ itself where π = q.

    The network's own null prediction stays, and the classes only say what changes (a control variate), so that an
    error that the class predictions share cancels. One evaluation per class with q > 0, and one for the null. As the
    `null` of `ClassifierFreeGuidance` it gives prior-adjusted guidance.

    Built from what `Adjusted` says.
    """

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε_∅^π for every row, whatever its condition."""
        eps_null = self.network(x_t, t, c.null())
        log_pi, log_q = fitting_log_probs(self.law, self.training_law)
        # Two ways to compute one law differ in their last digit.
        if torch.allclose(log_pi.exp(), log_q.exp(), rtol=0, atol=1e-12):
            return eps_null
        log_posterior, classes = self.log_posterior(x_t, t), support(log_q).to(x_t.device)
        w_pi, w_q = (log_weights(log_posterior, law, self.training_law).exp() for law in (self.law, self.training_law))
        predictions = all_predictions(self.network, x_t, t, classes, chunk=self.chunk)
        return eps_null + weighted_sum((w_pi - w_q)[:, classes], predictions)

"""From a network to a report: balanced samples, drawn and evaluated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbdm_cli import render
from cbdm_cli.assemble import build_sampler
from cbdm_cli.config import Config
from cbdm_cli.parts import BATCH_PARTS
from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.evaluation import Report, evaluate
from cbdm_core.generation import conditions_for, cyclic_labels, generate
from cbdm_core.guidance import ClassifierFreeGuidance, Constant, parse_omega
from cbdm_core.interfaces import LabelPrior, NoiseSchedule, Sampler, ScoreNetwork
from cbdm_core.laws_by_name import make_law
from cbdm_core.metrics.reference import reference_features
from cbdm_priors.laws import Fixed
from cbdm_priors.posterior import TrackedWeights

__all__ = ["balanced_samples", "drawn_with_bar", "judge", "solver"]


def drawn_with_bar(
    config: Config,
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    told: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    name: str = "sampling",
    *,
    unconditional: str | None = None,
) -> Tensor:
    """Samples for the conditions, guided and solved as the configuration's `sampling` table says, with a progress bar.

    Args:
        config: the configuration with its facts; its seed is the samples' seed.
        network: in eval mode on `device`.
        schedule: the schedule it was trained under.
        told: (N, …) what the network is told of each sample, such as its label.
        shape: of one sample.
        device: to compute on.
        name: what the bar is called.
        unconditional: a law to generate under without conditions; `told` then only counts the samples.
    """
    sampling = config.sampling
    guided, sampler = solver(config, network, schedule, unconditional)
    chunks = generate(
        guided,
        sampler,
        told,
        shape,
        steps=sampling.steps,
        seed=config.seed,
        batch_size=sampling.batch_size,
        device=device,
    )
    facts = f"ω {sampling.omega}" if unconditional is None else f"law {unconditional}"
    with render.progress() as bar:
        task = bar.add_task(name, total=len(told), facts=facts)
        drawn = []
        for chunk in chunks:
            drawn.append(chunk)
            bar.update(task, advance=len(chunk))
    return torch.cat(drawn)


def solver(
    config: Config, network: ScoreNetwork, schedule: NoiseSchedule, unconditional: str | None = None
) -> tuple[ScoreNetwork, Sampler]:
    """The network to ask and the sampler to ask it with: plain guidance, guidance from an adjusted null, or a mixture.

    Raises:
        CbdmError: a law without probabilities, conditions that are no labels, or ω that none of it fits.
    """
    sampling = config.sampling
    base, omega = build_sampler(config, schedule), parse_omega(sampling.omega)
    plain = sampling.guidance_prior is None or omega == Constant(0.0)  # at ω = 0 no null is asked
    if unconditional is None and plain:
        return ClassifierFreeGuidance(network, omega, interval=sampling.interval).eval(), base
    # Plain guidance doubles the rows; no more than that in one forward here either.
    most = 2 * sampling.batch_size
    tracking = {**sampling.tracking.model_dump(), "clip": getattr(base, "clip", None), "chunk": most}
    if unconditional is not None:
        laws = (_label_law(config, unconditional), _trained_under(config))
        return network, TrackedWeights(base, *laws, mode="mixture", **tracking)
    laws = (_label_law(config, str(sampling.guidance_prior)), _trained_under(config))
    return network, TrackedWeights(base, *laws, mode="null", omega=omega, interval=sampling.interval, **tracking)


def _trained_under(config: Config) -> LabelPrior:
    """The label law that the null branch has learned: that of the batches, times the weights of reweight."""
    facts = config.facts
    assert facts is not None
    drawn = next((facts.laws[name] for name in BATCH_PARTS if name in facts.laws), "training")
    q = _label_law(config, drawn)
    if "reweight" not in facts.laws:
        return q
    pi, cap = _label_law(config, facts.laws["reweight"]).probs, config.method.cap
    ratio = torch.where(q.probs > 0, pi / q.probs.clamp(min=1e-300), torch.zeros_like(pi))
    return Fixed(facts.counts, *(q.probs * (ratio if cap is None else ratio.clamp(max=cap))).tolist())


def _label_law(config: Config, text: str) -> LabelPrior:
    facts = config.facts
    assert facts is not None
    if facts.condition is not None:
        raise CbdmError(f"the law {text!r} is one of classes, and this run is told {facts.condition['kind']}")
    law = make_law(text, facts.counts)
    if law.learns:
        raise CbdmError(f"the law {text!r} is learned in training; here name one that stands still, such as uniform")
    if not isinstance(law, LabelPrior):
        raise CbdmError(f"the law {text!r} has no probabilities to sample under; try uniform, training or power:0.5")
    return law


def balanced_samples(config: Config, full: Dataset) -> tuple[Tensor, Tensor]:
    """(labels, what the network is told) of an evaluation: exactly `per_class` of each class, in cyclic order.

    Where conditions are no classes, the labels are their regions, and the conditions those of the balanced set.
    """
    labels = cyclic_labels(config.evaluation.per_class * full.num_classes, full.num_classes)
    return labels, labels if full.condition is None else conditions_for(labels, full.condition, full.y)


def judge(config: Config, x: Tensor, labels: Tensor, full: Dataset, data: Dataset, classifier: Any) -> Report:
    """The samples against the balanced set, and how much closer they are to the training set than to the rest of it."""
    asked = config.evaluation
    return evaluate(
        x,
        labels,
        full,
        classifier,
        data.counts(),
        k=asked.k,
        training=data,
        known=None if asked.features == "classifier" else reference_features(full, classifier),
        intervals=asked.intervals,
        prd_runs=asked.prd_runs,
    )

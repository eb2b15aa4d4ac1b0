"""From a network to samples: the solver that a configuration asks for, balanced conditions, and a bar that moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cbdm_cli import render
from cbdm_cli.assemble import build_sampler
from cbdm_cli.batches import drawn_law
from cbdm_cli.config import Config
from cbdm_cli.limits import check_limits
from cbdm_cli.method import BATCH_LAWS
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.generation import conditions_for, cyclic_labels, generate_stepwise
from cbdm_core.guidance import ClassifierFreeGuidance, Constant, parse_omega
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.numerics import in_precision
from cbdm_core.priors import LabelPrior, make_law
from cbdm_core.samplers import Sampler
from cbdm_core.schedules import NoiseSchedule
from cbdm_priors.laws.counts import Fixed
from cbdm_priors.reweighting import class_weights
from cbdm_priors.sampling.tracking import TrackedWeights

__all__ = ["Rows", "balanced_samples", "counted", "drawn_in_batches", "drawn_with_bar", "solver"]


def drawn_with_bar(
    config: Config,
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    conditions: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    name: str = "sampling",
    *,
    world: World | None = None,
) -> Tensor:
    """Samples for the conditions, guided and solved as the configuration's `sampling` table says, with a progress bar.

    Args:
        config: the configuration with its facts; its seed is the samples' seed.
        network: in eval mode on `device`.
        schedule: the schedule it was trained under.
        conditions: (N, …) what the network takes for each sample, such as its label.
        shape: of one sample.
        device: to compute on.
        name: what the bar is called.
        world: the processes that share the work; each is given all samples.
    """
    return torch.cat(list(drawn_in_batches(config, network, schedule, conditions, shape, device, name, world=world)))


def drawn_in_batches(
    config: Config,
    network: ScoreNetwork,
    schedule: NoiseSchedule,
    conditions: Tensor,
    shape: tuple[int, ...],
    device: torch.device,
    name: str = "sampling",
    *,
    unconditional: str | None = None,
    world: World | None = None,
    first: int = 0,
) -> Iterator[Tensor]:
    """As `drawn_with_bar`, a batch at a time; the bar moves at every solver step.

    Args:
        config: as of `drawn_with_bar`, and so are those that are not named here.
        network: in eval mode on `device`.
        schedule: the schedule it was trained under.
        conditions: (N, …).
        shape: of one sample.
        device: to compute on.
        name: what the bar is called.
        unconditional: a law to generate under without conditions; `conditions` then only counts the samples.
        world: the processes that share the work.
        first: the number of the first sample; those before it are not drawn.
    """
    sampling, size = config.sampling, world.size if world else 1
    guided, sampler = solver(config, in_precision(network, sampling.precision), schedule, unconditional)
    moves = generate_stepwise(
        guided,
        sampler,
        conditions,
        shape,
        steps=sampling.steps,
        seed=config.seed,
        batch_size=sampling.batch_size,
        device=device,
        first=first,
        world=world,
    )
    facts = f"steps, ω {sampling.omega}" if unconditional is None else f"steps, law {unconditional}"
    turns = math.ceil(math.ceil((len(conditions) - first) / sampling.batch_size) / size)
    with render.progress(shown=world is None or world.leads) as bar:
        task = bar.add_task(name, total=turns * sampling.steps, facts=facts)
        for x in moves:
            if x is None:
                bar.update(task, advance=1)
            else:
                yield x


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


def _trained_under(config: Config) -> LabelPrior | Callable[[float], LabelPrior]:
    """The label law that the null branch has learned, of t where the batches depend on it; with reweight's weights."""
    facts = config.facts
    assert facts is not None
    if facts.condition is None and (by_level := drawn_law(config)) is not None:
        return by_level
    drawn = next((facts.laws[name] for name in BATCH_LAWS if name in facts.laws), "training")
    q = _label_law(config, drawn)
    if "reweight" not in facts.laws:
        return q
    cap = next(part.options.get("cap") for part in config.method if part.name == "reweight")
    weights = class_weights(_label_law(config, facts.laws["reweight"]), q, cap)
    return Fixed(facts.counts, *(q.probs * weights).tolist())


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
    check_limits(config, tuple(full.shape), full.num_classes, len(full))
    labels = cyclic_labels(config.evaluation.per_class * full.num_classes, full.num_classes)
    return labels, labels if full.condition is None else conditions_for(labels, full.condition, full.y)


@dataclass
class Rows:
    """Rows that went through a network."""

    total: int = 0

    def per(self, samples: int) -> float:
        """The network evaluations (NFE) of one sample; a row under the null condition is one too."""
        return self.total / samples


@contextmanager
def counted(network: nn.Module) -> Iterator[Rows]:
    """Counts the rows that go through the network: what the sampler and the guidance ask, not what they should."""
    rows = Rows()

    def add(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        rows.total += len(out)

    hook = network.register_forward_hook(add)
    try:
        yield rows
    finally:
        hook.remove()

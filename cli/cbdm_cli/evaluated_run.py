"""A trained run, read once and judged as often as asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbdm_cli.config import Config, validated
from cbdm_cli.evaluator import Evaluator
from cbdm_cli.naming import file_tag, file_words
from cbdm_cli.overlay import merged
from cbdm_cli.resolve import with_sampling
from cbdm_cli.result_facts import evaluation_facts
from cbdm_cli.run_data import load_own_data
from cbdm_cli.run_folder import write_json
from cbdm_cli.sampling import balanced_samples, counted, drawn_with_bar
from cbdm_cli.trust import quoted, refuse_code
from cbdm_core.data.dataset import Dataset
from cbdm_core.distributed import World, leader_first, sum_over_ranks
from cbdm_core.metrics.features.classifier import FeatureExtractor
from cbdm_core.metrics.report import Report
from cbdm_core.run import Run, load_run

__all__ = ["EvaluatedRun", "evaluated_by", "measure_words"]


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run and what is needed to judge it, read once.

    Args:
        path: the run folder.
        run: the trained network.
        config: as the run was trained, judged as asked.
        evaluator: holds samples against the reference.
        world: the processes that draw.
    """

    path: Path
    run: Run
    config: Config
    evaluator: Evaluator
    world: World

    @classmethod
    def of(
        cls,
        path: Path,
        device: str,
        features: str | None = None,
        reference: str | None = None,
        world: World | None = None,
    ) -> EvaluatedRun:
        """The run in `path`, judged in these features and against this reference, or the run's own.

        Raises:
            CbdmError: no run, data that are not those of the run, a reference that they do not have, or features that
                run code and that only the run names.
        """
        run = load_run(path, device=device if world is None else str(world.device))
        saved = validated(run.config)
        config = evaluated_by(saved, {"features": features, "reference": reference}, path)
        full, data = load_own_data(path, saved)
        world = world or World(0, 1, next(run.network.parameters()).device)
        evaluator = leader_first(world, lambda: Evaluator.of(config, full, data, str(world.device)))
        return cls(path, run, config, evaluator, world)

    @property
    def full(self) -> Dataset:
        """The balanced set."""
        return self.evaluator.full

    @property
    def data(self) -> Dataset:
        """Its long-tailed part."""
        return self.evaluator.training

    @property
    def classifier(self) -> FeatureExtractor:
        """What gives the features."""
        return self.evaluator.extractor

    def drawn(self, options: dict[str, Any], name: str) -> tuple[Config, Tensor, Tensor, float]:
        """Balanced samples drawn on all ranks with these sampling options, their labels and the NFE.

        Args:
            options: laid over the run's.
            name: what the bar is called.
        """
        config, world = with_sampling(self.config, options), self.world
        labels, conditions = balanced_samples(config, self.full)
        network, run = self.run.network, self.run
        with counted(network) as rows:
            x = drawn_with_bar(config, network, run.schedule, conditions, run.shape, world.device, name, world=world)
        total = sum_over_ranks(torch.tensor(rows.total, device=world.device))
        return config, x, labels, float(total) / len(x)

    def report(self, options: dict[str, Any], name: str) -> tuple[Config, Report, float]:
        """Balanced samples drawn with these sampling options, judged, and the NFE; `name` is what the bar is called."""
        config, x, labels, nfe = self.drawn(options, name)
        return config, self.evaluator(config, x, labels), nfe

    def write(self, file: Path | None, options: dict[str, Any]) -> tuple[Config, Report]:
        """Judge and write the result; the file is named by the options where none is given."""
        config, report, nfe = self.report(options, f"{self.path.name} ω {options['omega']}")
        measured = {"nfe": nfe, **self.evaluator.facts(report)}
        facts = evaluation_facts(config, self.run.step, report, measured)
        write_json(file or self.path / _file_name(config), facts)
        return config, report


def evaluated_by(config: Config, judging: Mapping[str, Any], saved: Path | None = None) -> Config:
    """The configuration with those of the `evaluation` table's values replaced that are given.

    Args:
        config: with `evaluation`.
        judging: its values, None where not given.
        saved: the run whose configuration it is, if one's.

    Raises:
        CbdmError: a value out of range, or features that run code and that only the run names.
    """
    if saved is not None and judging.get("features") is None:
        refuse_code(saved / "config.toml", config, f"--features {quoted(config.evaluation.features)}")
    given = {name: value for name, value in judging.items() if value is not None}
    return validated(merged(config.model_dump(), {"evaluation": given}))


def measure_words(config: Config) -> str:
    """What sets a result's name apart where features or reference are not the usual ones."""
    features, reference = config.evaluation.features.strip(), config.evaluation.reference
    measure = "" if features == "classifier" else f"-{file_tag(features)}"
    return measure + ("" if reference == "balanced" else f"-{reference}")


def _file_name(config: Config) -> str:
    """A name that tells every option, so that another evaluation does not take its place."""
    sampling = config.sampling
    omega = file_words(sampling.omega)
    null = "" if sampling.guidance_prior is None else f"-null-{file_words(sampling.guidance_prior)}"
    how = f"{sampling.sampler}-{sampling.steps}-n{config.evaluation.per_class}"
    return f"evaluation-omega-{omega}{null}{measure_words(config)}-{how}.json"

"""A finished run as Python objects: `load_run(path)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cbdm_core.adjustment import ADJUSTMENTS
from cbdm_core.checkpoint import latest_checkpoint, load_weights, read_tensors
from cbdm_core.conditions import Classes, ConditionSpace, space_from_dict
from cbdm_core.data.units import Units
from cbdm_core.distributed import pick_device
from cbdm_core.errors import CbdmError
from cbdm_core.memory import check_memory
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.predicts import Predicts
from cbdm_core.priors import ConditionPrior, make_law
from cbdm_core.reading import clean_text
from cbdm_core.run_config import read_config
from cbdm_core.schedules import SCHEDULES, NoiseSchedule

__all__ = ["LAW_DATA", "Run", "build_network", "build_schedule", "load_run", "part_names"]

_USUAL = 1024  # no option below makes a network that is too large
LAW_DATA = "law_data.safetensors"  # what laws are made from beside the counts: conditions, their labels, similarity


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Args:
        path: the folder.
        checkpoint: the one that was read.
        network: the averaged (EMA) network in eval mode; it returns ε̂.
        schedule: the noise schedule it was trained under.
        laws: "training" and the law of each part of the method that has one.
        counts: (K,) training images of each class.
        class_names: K names.
        shape: of one example.
        space: of what the network is told.
        law_data: "conditions" (N, …) of the training set and their "labels" where its conditions are no labels, and
            "similarity.PART" (K, K) where the law of a part is made from it.
        step: training steps done.
        config: the run's configuration as plain values.
        units: of the data, where they are floats; None for images, and for vectors that a network saw as they are.
        condition_names: of the numbers of a condition, where they have some.
    """

    path: Path
    checkpoint: Path
    network: ScoreNetwork
    schedule: NoiseSchedule
    laws: dict[str, ConditionPrior]
    counts: torch.Tensor
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    space: ConditionSpace
    law_data: dict[str, torch.Tensor]
    step: int
    config: dict[str, Any]
    units: Units | None = None
    condition_names: tuple[str, ...] | None = None

    @property
    def is_images(self) -> bool:
        """Whether the examples are images in [−1, 1], or else floats."""
        return len(self.shape) > 1 and self.units is None

    def own_units(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …) float32 of what the network draws: floats in the data's units, images in [−1, 1] as they are."""
        return x if self.units is None else self.units.from_model(x)


def build_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """The schedule of a configuration's `schedule` table.

    Raises:
        CbdmError: an unknown name or option, or a value of the wrong kind.
    """
    return SCHEDULES.build(config["name"], config.get("options", {}))


def build_network(
    config: dict[str, Any], shape: tuple[int, ...], condition: ConditionSpace, schedule: NoiseSchedule
) -> ScoreNetwork:
    """The network of a configuration's `network` table, wrapped where it predicts something else than ε.

    Args:
        config: the table: name, options, and what it predicts.
        shape: of one example.
        condition: the space of what the network is told.
        schedule: that it is trained under.

    Raises:
        CbdmError: an unknown name or option, a value of the wrong kind, or a table of times of another length than the
            schedule's.
    """
    # A number where there are classes: that is all that a network written elsewhere need understand.
    classes = condition.size if isinstance(condition, Classes) else condition
    _check_weights(config, shape, classes)
    network = NETWORKS.build(config["name"], config.get("options", {}), shape, classes)
    options = {**config.get("options", {}), **getattr(network, "options", {})}
    table, steps = options.get("time_steps"), getattr(schedule, "steps", None)
    if table is not None and table != steps:
        raise CbdmError(
            f"the network embeds a table of {table} steps and the schedule has {steps or 'no table'}: "
            "make network.options.time_steps and schedule.options.steps agree"
        )
    predicts = config.get("predicts", "eps")
    if predicts == "eps":
        return network
    return Predicts(network, predicts, schedule, sigma_data=config.get("sigma_data", 0.5))


def _check_weights(config: Mapping[str, Any], shape: tuple[int, ...], classes: int | ConditionSpace) -> None:
    """Refuse weights that memory does not hold; they are counted on "meta", which has none, where they may be many."""
    options = config.get("options", {})
    if max((_largest(value) for value in options.values()), default=0) < _USUAL:
        return
    try:
        with torch.device("meta"):
            network = NETWORKS.build(config["name"], options, shape, classes)
        count = sum(p.numel() for p in network.parameters())
    except (CbdmError, RuntimeError):  # what is wrong is seen where it is built
        return
    name = f"network {config['name']} of {count:,} weights"
    check_memory(name, 4 * count, "make it smaller, such as network.options.width")


def _largest(value: Any) -> float:
    """The largest number in an option."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, int | float) else 0


def load_run(path: str | Path, *, device: str = "cpu", checkpoint: Path | None = None) -> Run:
    """The averaged network, schedule, laws and configuration of a run folder.

    Args:
        path: the folder.
        device: to compute on.
        checkpoint: one of the run's, None for the newest.

    Raises:
        CbdmError: the folder is no run, or the checkpoint is damaged.
    """
    path = Path(path)
    config = read_config(path)
    try:
        facts = config["facts"]
        counts, shape, names = _known(facts)
        schedule = build_schedule(config["schedule"])
        space = space_from_dict(facts["condition"]) if "condition" in facts else Classes(len(counts))
        network = build_network(config["network"], shape, space, schedule)
        units = _units_of(facts, shape)
        named = _condition_names(facts)
        data = read_tensors(path / LAW_DATA) if (path / LAW_DATA).exists() else {}
        texts = {"training": "training", **facts["laws"]}
        parts = part_names(config)
        laws = {part: make_law(text, counts, **_made_from(data, part)) for part, text in texts.items()}
    except CbdmError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise CbdmError(f"{path / 'config.toml'} is no run's configuration: {error}; restore it") from error
    checkpoint = checkpoint or latest_checkpoint(path / "checkpoints")
    load_weights(checkpoint / "ema.safetensors", network, verify=True)
    _restore_learned(laws, parts, checkpoint)
    network = network.to(pick_device(device)).eval().requires_grad_(False)
    step = int(checkpoint.name.removeprefix("step-"))
    return Run(path, checkpoint, network, schedule, laws, counts, names, shape, space, data, step, config, units, named)


def _units_of(facts: Mapping[str, Any], shape: tuple[int, ...]) -> Units | None:
    if facts.get("units") is None:
        return None
    units = Units.of_dict(facts["units"])
    if len(units.mean) != shape[0]:
        raise ValueError(f"{len(units.mean)} means and scales for {shape[0]} channels")
    return units


def _condition_names(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = facts.get("condition_names")
    if names is None:
        return None
    if not all(isinstance(name, str) for name in names) or len(names) != facts["condition"]["size"]:
        raise ValueError("condition_names are one name for each number of a condition")
    return tuple(map(clean_text, names))


def _known(facts: Mapping[str, Any]) -> tuple[torch.Tensor, tuple[int, ...], tuple[str, ...]]:
    """(counts, shape of an example, class names) of a run's facts, which somebody else may have written."""
    counts, shape, names = facts["counts"], tuple(facts["shape"]), facts["class_names"]
    whole = all(isinstance(n, int) and 0 <= n < 2**53 for n in counts) and all(isinstance(n, int) for n in shape)
    if not whole or min(shape, default=0) < 1 or not all(isinstance(name, str) for name in names):
        raise ValueError("facts are counts of 0 or more, sizes of 1 or more, and names")
    if len(names) != len(counts):
        raise ValueError(f"{len(names)} class_names for {len(counts)} counts")
    return torch.tensor(counts), shape, tuple(map(clean_text, names))


def _made_from(data: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor | None]:
    """What the law of a part is made from; runs of version 0.1 have one similarity for all parts."""
    return {
        "conditions": data.get("conditions"),
        "similarity": data.get(f"similarity.{part}", data.get("similarity")),
    }


def part_names(config: Mapping[str, Any]) -> list[str]:
    """The parts of a run's method, the outermost first; runs written before parts were a list have them as a text.

    Raises:
        TypeError: parts that are no names.
        KeyError: an entry without a part.
    """
    method = config.get("method", ())
    if isinstance(method, Mapping):
        names = [piece.partition(":")[0].strip() for piece in method["parts"].split("+")]
        return [name for name in names if name != "ddpm"]
    names = [entry["part"] for entry in method]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"the parts of the method are {names!r:.60}")
    return names


def _restore_learned(laws: Mapping[str, ConditionPrior], parts: Sequence[str], checkpoint: Path) -> None:
    """Put back what the laws have learned, which stands where their part stands in the chain of adjustments."""
    if not any(law.learns for law in laws.values()):
        return
    state, prefix = read_tensors(checkpoint / "model.safetensors"), "adjustment."
    for part in parts:
        if part not in ADJUSTMENTS:  # it acts on the batches
            continue
        law = laws.get(part)
        if law is not None and law.learns:
            _put_back(law, {key: state.get(f"{prefix}target.{key}") for key in law.state_dict()}, checkpoint)
        prefix += "inner."


def _put_back(law: ConditionPrior, values: Mapping[str, torch.Tensor | None], checkpoint: Path) -> None:
    try:
        law.load_state_dict(values)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CbdmError(
            f"{checkpoint} holds nothing that {type(law).__name__} has learned: take another checkpoint"
        ) from error

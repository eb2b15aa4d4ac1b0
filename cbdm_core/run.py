"""A finished run as Python objects: `load_run(path)`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cbdm_core.checkpoint import latest_checkpoint, load_weights
from cbdm_core.distributed import pick_device
from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import ConditionPrior, NoiseSchedule, ScoreNetwork
from cbdm_core.laws_by_name import make_law
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.predicts import Predicts
from cbdm_core.schedules import SCHEDULES

__all__ = ["Run", "build_network", "build_schedule", "load_run", "read_config"]


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Args:
        path: the folder.
        network: the averaged (EMA) network in eval mode; it returns ε̂.
        schedule: the noise schedule it was trained under.
        laws: "training" and the law of each part of the method that has one.
        counts: (K,) training images of each class.
        class_names: K names.
        shape: of one example.
        step: training steps done.
        config: the run's configuration as plain values.
    """

    path: Path
    network: ScoreNetwork
    schedule: NoiseSchedule
    laws: dict[str, ConditionPrior]
    counts: torch.Tensor
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    step: int
    config: dict[str, Any]


def read_config(path: Path) -> dict[str, Any]:
    """The `config.toml` of a run folder.

    Raises:
        CbdmError: no such folder, no such file in it, or a damaged one.
    """
    file = path / "config.toml"
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CbdmError(f"{path} is no run folder: it has no config.toml; name a folder that cbdm train made") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CbdmError(f"{file} cannot be read: {error}") from error
    missing = [key for key in ("network", "schedule", "facts") if key not in config]
    if missing:
        raise CbdmError(f"{file} is no run's configuration: it lacks {', '.join(missing)}")
    return config


def build_schedule(config: dict[str, Any]) -> NoiseSchedule:
    """The schedule of a configuration's `schedule` table."""
    return SCHEDULES[config["name"]](**config.get("options", {}))


def build_network(
    config: dict[str, Any], shape: tuple[int, ...], classes: int, schedule: NoiseSchedule
) -> ScoreNetwork:
    """The network of a configuration's `network` table, wrapped where it predicts something else than ε."""
    network = NETWORKS[config["name"]](shape, classes, **config.get("options", {}))
    predicts = config.get("predicts", "eps")
    return network if predicts == "eps" else Predicts(network, predicts, schedule)


def load_run(path: str | Path, *, device: str = "cpu") -> Run:
    """The averaged network, schedule, laws and configuration of a run folder's newest checkpoint.

    Raises:
        CbdmError: the folder is no run, or its newest checkpoint is damaged.
    """
    path = Path(path)
    config = read_config(path)
    try:
        facts = config["facts"]
        counts, shape, names = torch.tensor(facts["counts"]), tuple(facts["shape"]), tuple(facts["class_names"])
        schedule = build_schedule(config["schedule"])
        network = build_network(config["network"], shape, len(counts), schedule)
        laws = {part: make_law(text, counts) for part, text in {"training": "training", **facts["laws"]}.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CbdmError(f"{path / 'config.toml'} is no run's configuration: {error}; restore it") from error
    checkpoint = latest_checkpoint(path / "checkpoints")
    load_weights(checkpoint / "ema.safetensors", network, verify=True)
    network = network.to(pick_device(device)).eval().requires_grad_(False)
    step = int(checkpoint.name.removeprefix("step-"))
    return Run(path, network, schedule, laws, counts, names, shape, step, config)

"""The model: tensors and conditions. It knows no strategy and no terminal.

Names are loaded on first use, so that importing the package costs no import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cbdm_core.conditions import MultiLabel as MultiLabel
    from cbdm_core.conditions import Tokens as Tokens
    from cbdm_core.conditions import Vectors as Vectors
    from cbdm_core.data.batches import Batches as Batches
    from cbdm_core.data.dataset import Dataset as Dataset
    from cbdm_core.denoising import DenoisingLoss as DenoisingLoss
    from cbdm_core.errors import CbdmError as CbdmError
    from cbdm_core.evaluation import evaluate as evaluate
    from cbdm_core.generation import generate as generate
    from cbdm_core.guidance import ClassifierFreeGuidance as ClassifierFreeGuidance
    from cbdm_core.interfaces import Condition as Condition
    from cbdm_core.interfaces import ConditionPrior as ConditionPrior
    from cbdm_core.interfaces import DenoisingStep as DenoisingStep
    from cbdm_core.interfaces import Draws as Draws
    from cbdm_core.interfaces import LabelPrior as LabelPrior
    from cbdm_core.interfaces import NoiseSchedule as NoiseSchedule
    from cbdm_core.interfaces import PriorAdjustment as PriorAdjustment
    from cbdm_core.interfaces import Sampler as Sampler
    from cbdm_core.interfaces import ScoreNetwork as ScoreNetwork
    from cbdm_core.networks.adapters import Adapter as Adapter
    from cbdm_core.networks.adapters import from_diffusers as from_diffusers
    from cbdm_core.objective import Objective as Objective
    from cbdm_core.oracle import GaussianMixtureOracle as GaussianMixtureOracle
    from cbdm_core.process import Process as Process
    from cbdm_core.run import Run as Run
    from cbdm_core.run import load_run as load_run
    from cbdm_core.training import TrainSettings as TrainSettings
    from cbdm_core.training import TrainState as TrainState
    from cbdm_core.training import train as train

_HOMES = {
    "conditions": ["MultiLabel", "Tokens", "Vectors"],
    "data.batches": ["Batches"],
    "data.dataset": ["Dataset"],
    "denoising": ["DenoisingLoss"],
    "errors": ["CbdmError"],
    "evaluation": ["evaluate"],
    "generation": ["generate"],
    "guidance": ["ClassifierFreeGuidance"],
    "interfaces": [
        "Condition",
        "ConditionPrior",
        "DenoisingStep",
        "Draws",
        "LabelPrior",
        "NoiseSchedule",
        "PriorAdjustment",
        "Sampler",
        "ScoreNetwork",
    ],
    "networks.adapters": ["Adapter", "from_diffusers"],
    "objective": ["Objective"],
    "oracle": ["GaussianMixtureOracle"],
    "process": ["Process"],
    "run": ["Run", "load_run"],
    "training": ["TrainSettings", "TrainState", "train"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cbdm_core' has no attribute {name!r}")
    return getattr(import_module(f"cbdm_core.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]

"""Records of a training in the format of TensorBoard, Weights & Biases or Trackio."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cbdm_cli.config import Config
from cbdm_cli.overlay import flat
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.training import TrainRecord

__all__ = ["TRACKERS", "Tracker", "check_tracker", "open_tracker", "scalars"]


def scalars(record: TrainRecord) -> dict[str, float]:
    """The finite numbers of a record by name, `loss`, `terms/…`, `groups/…`, `grad_norm`, `learning_rate`."""
    values = {"loss": record.loss, "grad_norm": record.grad_norm, "learning_rate": record.learning_rate}
    values |= {f"terms/{name}": value for name, value in record.terms.items()}
    values |= {f"groups/{name}": value for name, value in record.groups.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Tracker(ABC):
    """Where records and grids of samples go besides the run folder."""

    @abstractmethod
    def write(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step by name."""

    @abstractmethod
    def picture(self, path: Path, step: int) -> None:
        """A grid of samples, a PNG."""

    @abstractmethod
    def close(self) -> None:
        """Nothing comes any more."""


class _TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`; what an interrupted run wrote after the step it goes on from is hidden."""

    def __init__(self, folder: Path, config: Config, step: int) -> None:
        self._writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Service(Tracker):
    """Weights & Biases, or Trackio, which has the same four calls; a run that goes on has the same name there."""

    def __init__(self, module: str, folder: Path, config: Config, step: int) -> None:
        self._module = _imported(module, module)
        settings = flat(config.model_dump(exclude={"facts"}))
        more: dict[str, Any] = {"dir": str(folder), "id": folder.name} if module == "wandb" else {}
        self._module.init(project="cbdm", name=folder.name, config=settings, resume="allow", **more)

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._module.log(dict(values), step=step)

    def picture(self, path: Path, step: int) -> None:
        self._module.log({"samples": self._module.Image(str(path))}, step=step)

    def close(self) -> None:
        self._module.finish()


TRACKERS: dict[str, Callable[[Path, Config, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": lambda folder, config, step: _Service("trackio", folder, config, step),
    "wandb": lambda folder, config, step: _Service("wandb", folder, config, step),
}


def open_tracker(name: str, folder: Path, config: Config, step: int) -> Tracker:
    """The tracker of a name, for a run in a folder that has `step` steps done.

    Raises:
        CbdmError: another name, or a package that is not installed.
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    return TRACKERS[name](folder, config, step)


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise CbdmError(f"--log {package} needs {package}: pip install 'cbdm[{package}]'") from error


def check_tracker(name: str | None) -> None:
    """Refuse before any work a tracker that is not there.

    Raises:
        CbdmError: another name, or a package that is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    _imported("torch.utils.tensorboard" if name == "tensorboard" else name, name)

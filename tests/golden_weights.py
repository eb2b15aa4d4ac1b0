"""The golden files of the published program, and its network filled by the formula of `tests/golden/README.md`."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.networks.published import load_published
from cbdm_core.networks.unet import UNet

__all__ = ["TABLE", "Golden", "fill", "load_golden"]

GOLDEN = Path(__file__).parent / "golden"
TABLE = "time_embedding.timembedding.0.weight"


def fill(name: str, number: int, shape: tuple[int, ...]) -> Tensor:
    """Parameter `number` of the list, float64: a·sin(0.37 k + number), plus 1 for a 1-D weight."""
    k = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    scale = 0.05 if len(shape) == 1 else 1.7 / np.sqrt(np.prod(shape[1:]))
    values = (scale * torch.sin(0.37 * k + number)).reshape(shape)
    return values + 1 if len(shape) == 1 and name.endswith("weight") else values


def time_table(steps: int, width: int) -> Tensor:
    """(steps, width) float64: row i interleaves sin and cos of i·10000^(−2k/width), written with numpy."""
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, width, 2)[None, :] / width)
    return torch.from_numpy(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(steps, width))


@dataclass(frozen=True)
class Golden:
    """One file: `config` (the program's JSON), the arrays as tensors by name, and the parameters' names and shapes."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    names: list[str]
    shapes: list[tuple[int, ...]]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def t(self) -> Tensor:
        """(B,) float64 times of the golden indices, t = (i + 1)/T."""
        return (self["t"].double() + 1) / self.config["T"]

    def condition(self, label: Tensor) -> Condition:
        """Labels shown, with the file's augmentation vector where it has one."""
        return Condition.of(label, self.tensors.get("augm"))

    def state_dict(self) -> dict[str, Tensor]:
        """The published program's state dict, float64."""
        filled = {n: fill(n, i, s) for i, (n, s) in enumerate(zip(self.names, self.shapes, strict=True))}
        return {**filled, TABLE: time_table(*self.shapes[self.names.index(TABLE)])}

    def network(self) -> UNet:
        """The published network in our terms: float64, eval mode, no dropout."""
        size = self.config["img"]
        return load_published(self.state_dict(), spatial=(size, size), dropout=0.0)


def load_golden(letter: str) -> Golden:
    """`cbdm_official_{letter}.npz`, letter "a" or "b"."""
    with np.load(GOLDEN / f"cbdm_official_{letter}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays.pop("config")))
    names = [str(name) for name in arrays.pop("param_names")]
    shapes = [tuple(ast.literal_eval(str(shape))) for shape in arrays.pop("param_shapes")]
    return Golden(config, {name: torch.from_numpy(array) for name, array in arrays.items()}, names, shapes)

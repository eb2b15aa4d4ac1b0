"""Averages of a network's weights: several at once while training, and one of any width made afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cbdm_core.errors import CbdmError
from cbdm_core.sharding import spread_like, whole_on_cpu
from cbdm_core.writing import replacing

__all__ = ["Averages", "average_factor", "post_hoc", "post_hoc_weights", "power_exponent", "save_snapshot", "snapshots"]

_MOST_WIDTH = 0.288  # σ_rel of γ = 0, the plain mean, is 1/√12


def power_exponent(width: float) -> float:
    """γ ≥ 0 of the profile τ^γ on [0, t] whose standard deviation is `width` · t.

    σ_rel² = (γ + 1)/((γ + 2)² (γ + 3)), the positive root of a cubic in γ.

    Args:
        width: σ_rel in (0, 0.288].

    Raises:
        CbdmError: a width outside of that.

    Source: Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (EDM2), 2024, eq. 125–126.
    """
    if not 0 < width <= _MOST_WIDTH:
        raise CbdmError(f"a power average has a width in (0, {_MOST_WIDTH}], got {width}: 0.05 and 0.1 are usual")
    t = width**-2
    roots = np.roots([1, 7, 16 - t, 12 - t])
    return max(0.0, float(roots.real.max()))


def average_factor(name: str, step: int) -> float:
    """β of θ̄ ← θ̄ + (1 − β)(θ − θ̄) after step 1, 2, …

    Args:
        name: "decay:d", β = min(d, (1 + i)/(10 + i)); or "power:σ", β = (1 − 1/i)^(γ+1) (EDM2, eq. 127).
        step: i ≥ 1.

    Raises:
        CbdmError: another name, or a number out of range.
    """
    kind, number = _parsed(name)
    if kind == "decay":
        return min(number, (1 + step) / (10 + step))
    return (1 - 1 / step) ** (power_exponent(number) + 1)


def _parsed(name: str) -> tuple[str, float]:
    kind, _, text = name.partition(":")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if kind == "power":
        power_exponent(number)
    elif kind != "decay" or not 0 <= number < 1:
        raise CbdmError(
            f"average {name!r}: write decay:d with 0 ≤ d < 1, or power:w with 0 < w ≤ {_MOST_WIDTH}, for example "
            "decay:0.9999 or power:0.05"
        )
    return kind, number


class Averages:
    """Averages of the weights of a network, each by its own rule (`average_factor`).

    Args:
        network: whose parameters are averaged; its values now are where each average starts.
        names: of the rules.

    Raises:
        CbdmError: a name of no rule, or one that comes twice.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            raise CbdmError(f"averages {', '.join(names)}: one comes twice; name each once")
        for name in names:
            _parsed(name)
        self._live = dict(network.named_parameters())
        self.of = {name: [p.detach().clone() for p in self._live.values()] for name in names}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step 1, 2, …"""
        for name, means in self.of.items():
            factor = average_factor(name, step)
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                means, [p.detach() for p in self._live.values()], 1 - factor
            )

    def tensors(self) -> dict[str, Tensor]:
        """The averages themselves, by "rule/parameter"."""
        return {
            f"{name}/{key}": mean
            for name, means in self.of.items()
            for key, mean in zip(self._live, means, strict=True)
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU, whole, by "rule/parameter"; of a network that is spread, every process must call this."""
        return whole_on_cpu(self.tensors())

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved averages back.

        Raises:
            CbdmError: one is missing.
        """
        for name, means in self.of.items():
            for key, mean in zip(self._live, means, strict=True):
                if f"{name}/{key}" not in tensors:
                    raise CbdmError(f"the checkpoint has no average {name!r} of {key!r}: resume with its averages")
                mean.copy_(spread_like(tensors[f"{name}/{key}"], mean))


def save_snapshot(folder: Path, averages: Averages, step: int, *, writes: bool = True) -> Path:
    """Write the power averages as `folder/step-NNNNNNNN.safetensors`, from which `post_hoc` makes others.

    Args:
        folder: made if it is not there.
        averages: those of a network that is spread over processes need all of them to call this.
        step: that they stand at.
        writes: False for a process that only gives its parts.

    Raises:
        CbdmError: the disk is full or the path cannot be written.
    """
    target = folder / f"step-{step:08d}.safetensors"
    powers = {key: value for key, value in averages.tensors().items() if key.startswith("power:")}
    tensors = whole_on_cpu(powers, keeps=writes)
    if not writes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        save_file(tensors, temporary)
    return target


def snapshots(folder: Path) -> list[tuple[Path, int, str]]:
    """(file, step, rule) of the power averages in a folder, oldest first; none where there is no such folder.

    Raises:
        CbdmError: a damaged file.
    """
    there = []
    for file in sorted(folder.glob("step-*.safetensors")):
        step = int(file.stem.removeprefix("step-"))
        try:
            with safe_open(file, "pt") as tensors:
                keys = tensors.keys()  # what is opened can be asked for its keys, but not gone through
        except (OSError, SafetensorError) as error:
            raise CbdmError(f"{file} cannot be read as safetensors: delete it and take the others") from error
        there += [(file, step, rule) for rule in sorted({key.partition("/")[0] for key in keys})]
    return there


def post_hoc_weights(steps: Sequence[int], widths: Sequence[float], step: int, width: float) -> list[float]:
    """The combination of stored power averages that is nearest, in L², to the average of another width at `step`.

    With the profiles p_i(τ) = (γ_i + 1) τ^γ_i/t_i^(γ_i+1) on [0, t_i] the weights solve A w = b,
    A_ij = ∫ p_i p_j = (γ_i + 1)(γ_j + 1)/(γ_i + γ_j + 1) · m^(γ_i+γ_j+1)/(t_i^(γ_i+1) t_j^(γ_j+1)), m = min(t_i, t_j),
    and b_i the same with the profile that is asked for.

    Args:
        steps: t_i ≥ 1 of the stored averages.
        widths: σ_rel of each.
        step: t of the one asked for.
        width: its σ_rel.

    Raises:
        CbdmError: nothing is stored, or a width out of range.

    Source: EDM2, section 3.2 and appendix C.2, algorithm 3.
    """
    if not steps:
        raise CbdmError("no power average is stored: train with training.averages = ['power:0.05', 'power:0.1']")
    t = np.array([*steps, step], dtype=np.float64) / step  # scaled: powers of large numbers would overflow
    gamma = np.array([power_exponent(w) for w in [*widths, width]])
    g, h = gamma[:, None], gamma[None, :]
    least = np.minimum(t[:, None], t[None, :])
    log = (g + h + 1) * np.log(least) - (g + 1) * np.log(t[:, None]) - (h + 1) * np.log(t[None, :])
    inner = (g + 1) * (h + 1) / (g + h + 1) * np.exp(log)
    weights, *_ = np.linalg.lstsq(inner[:-1, :-1], inner[:-1, -1], rcond=1e-14)
    return weights.tolist()


def post_hoc(folder: Path, width: float) -> dict[str, Tensor]:
    """The power average of a width at the last stored step, in float32, one file in memory at a time.

    Raises:
        CbdmError: nothing is stored, a damaged file, or a width out of range.
    """
    stored = snapshots(folder)
    widths = [_parsed(rule)[1] for _, _, rule in stored]
    steps = [step for _, step, _ in stored]
    weights = post_hoc_weights(steps, widths, steps[-1] if steps else 1, width)
    total: dict[str, Tensor] = {}
    for (file, _, rule), weight in zip(stored, weights, strict=True):
        with safe_open(file, "pt") as tensors:
            keys = tensors.keys()
            for key in keys:
                name, _, parameter = key.partition("/")
                if name == rule:
                    term = weight * tensors.get_tensor(key).double()
                    total[parameter] = total[parameter] + term if parameter in total else term
    return {name: value.float() for name, value in total.items()}

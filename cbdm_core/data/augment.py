"""Augmentation that the network is told of, so that it does not leak into the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["AUGMENTATIONS", "GEOMETRIC", "Augment"]

# The numbers that describe each to the network, in the order in which they are applied.
AUGMENTATIONS = {
    "flip_x": 1,
    "flip_y": 1,
    "scale": 1,
    "rotate": 2,
    "stretch": 2,
    "translate": 2,
    "brightness": 1,
    "contrast": 1,
    "luma_flip": 1,
    "hue": 2,
    "saturation": 1,
}
GEOMETRIC = ("flip_x", "flip_y", "scale", "rotate", "stretch", "translate")  # EDM's on CIFAR-10, nine numbers
_COLOURED = ("luma_flip", "hue", "saturation")  # need red, green and blue

# The published strengths: standard deviations of log2 of sizes, of shares of the side, of offsets.
_SCALE, _STRETCH, _TRANSLATE, _BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.2, 0.125, 0.2, 0.5, 1.0
_STRETCH_ALONG_ANY = 0.5  # probability that a stretch is along a drawn direction instead of the axes


@dataclass(frozen=True)
class Augment:
    """x ↦ (x', description): each part with probability `probability`, and flips along x always with one half.

    The geometric parts are one affine map, sampled bilinearly, with the image mirrored beyond its border; an image that
    none of them touches stays bit for bit. Values may leave [−1, 1] under changes of colour. EDM's program samples at
    twice the resolution with a wavelet filter; here there is none.

    Args:
        probability: p in [0, 1] of each part; 0.12 as published for CIFAR-10.
        parts: names of `AUGMENTATIONS`, each once; the order does not matter.

    Raises:
        CbdmError: a probability outside [0, 1], no part, an unknown one, or one twice.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, appendix F.2;
        Karras et al., Training Generative Adversarial Networks with Limited Data, 2020, appendix B.
    """

    probability: float
    parts: Sequence[str] = GEOMETRIC

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise CbdmError(f"augment must be a probability in [0, 1], got {self.probability}")
        strange = [name for name in self.parts if name not in AUGMENTATIONS]
        if strange:
            raise unknown_name("augmentation", strange[0], AUGMENTATIONS)
        if not self.parts or len({*self.parts}) != len(self.parts):
            raise CbdmError(f"augmentations {tuple(self.parts)}: name one or more of them, each once")

    @property
    def size(self) -> int:
        """The numbers of a description."""
        return sum(AUGMENTATIONS[name] for name in self.parts)

    def check(self, shape: Sequence[int]) -> None:
        """Refuse images that the parts cannot change.

        Args:
            shape: of one example.

        Raises:
            CbdmError: no (C, H, W), or a change of colour without three channels.
        """
        if len(shape) != 3:
            raise CbdmError(
                f"augmentation is for images (C, H, W), and an example is {tuple(shape)}: set augment=0 "
                "(--set data.augment=0)"
            )
        coloured = [name for name in self.parts if name in _COLOURED]
        if coloured and shape[0] != 3:
            raise CbdmError(f"augmentation {coloured[0]!r} needs 3 channels, and an image has {shape[0]}: leave it out")

    def __call__(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The changed images, and what was done.

        Args:
            x: (B, C, H, W) in [−1, 1].
            draws: the rows' random numbers.

        Returns:
            (B, C, H, W) and (B, size) in the dtype of `x`; the description of an image that stays is zero.
        """
        chance = _Chance(draws.within("augment"), self.probability)
        values = {name: _DRAWN[name](chance) for name in AUGMENTATIONS if name in self.parts}
        x = _flipped(x, values)
        x = _moved(x, values)
        x = _coloured(x, values)
        described = [_DESCRIBED.get(name, _as_drawn)(value) for name, value in values.items()]
        return x, torch.cat(described, dim=1).to(x.dtype)


@dataclass(frozen=True)
class _Chance:
    """Draws that are zero but with some probability."""

    draws: Draws
    probability: float

    def sometimes(self, name: str, value: Tensor, probability: float | None = None) -> Tensor:
        """(B, n) where a row's coin falls so, else 0."""
        p = self.probability if probability is None else probability
        return torch.where(self.draws.uniform(f"{name} coin", 1) < p, value, torch.zeros_like(value))

    def normal(self, name: str, count: int = 1) -> Tensor:
        """(B, count) standard normal, or 0."""
        return self.sometimes(name, self.draws.normal(name, count, dtype=real_dtype(self.draws.rows.device)))

    def flip(self, name: str, probability: float | None = None) -> Tensor:
        """(B, 1) of 0 and 1, 1 for half of the rows that may."""
        u = self.draws.uniform(name, 1)
        return self.sometimes(name, (u < 0.5).to(u.dtype), probability)

    def angle(self, name: str) -> Tensor:
        """(B, 1) uniform on (−π, π), or 0."""
        return self.sometimes(name, self._angle(name))

    def stretch(self, name: str) -> Tensor:
        """(B, 2): log2 of the stretch in standard deviations, and the angle of its direction."""
        along = f"{name} direction"
        return torch.cat([self.normal(name), self.sometimes(along, self._angle(along), _STRETCH_ALONG_ANY)], dim=1)

    def _angle(self, name: str) -> Tensor:
        return (2 * self.draws.uniform(name, 1) - 1) * math.pi


_DRAWN: dict[str, Callable[[_Chance], Tensor]] = {
    # Half of all images whatever p is: the mirror image of a photograph is a photograph.
    "flip_x": lambda chance: chance.flip("flip_x", 1.0),
    "flip_y": lambda chance: chance.flip("flip_y"),
    "scale": lambda chance: chance.normal("scale"),
    "rotate": lambda chance: chance.angle("rotate"),
    "stretch": lambda chance: chance.stretch("stretch"),
    "translate": lambda chance: chance.normal("translate", 2),
    "brightness": lambda chance: chance.normal("brightness"),
    "contrast": lambda chance: chance.normal("contrast"),
    "luma_flip": lambda chance: chance.flip("luma_flip"),
    "hue": lambda chance: chance.angle("hue"),
    "saturation": lambda chance: chance.normal("saturation"),
}


def _as_drawn(value: Tensor) -> Tensor:
    return value


def _on_circle(angle: Tensor) -> Tensor:
    """(B, 2), zero for no rotation."""
    return torch.cat([angle.cos() - 1, angle.sin()], dim=1)


def _directed(value: Tensor) -> Tensor:
    strength, angle = value.split(1, dim=1)
    return torch.cat([strength * angle.cos(), strength * angle.sin()], dim=1)


_DESCRIBED = {"rotate": _on_circle, "hue": _on_circle, "stretch": _directed}


def _flipped(x: Tensor, values: dict[str, Tensor]) -> Tensor:
    for name, axis in (("flip_x", -1), ("flip_y", -2)):
        if name in values:
            x = torch.where(values[name].reshape(-1, 1, 1, 1) == 1, x.flip(axis), x)
    return x


def _rows(*rows: Sequence[Tensor]) -> Tensor:
    """(B, n, n) of its entries, each (B,)."""
    return torch.stack([torch.stack(list(row), dim=-1) for row in rows], dim=-2)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, n) matrix products, whose rounding does not depend on how many rows there are."""
    product = a[:, :, :1] * b[:, :1]
    for k in range(1, a.shape[-1]):
        product = product + a[:, :, k : k + 1] * b[:, k : k + 1]
    return product


def _turn(angle: Tensor) -> Tensor:
    return _rows((angle.cos(), -angle.sin()), (angle.sin(), angle.cos()))


def _sized(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _rows((x, zero), (zero, y))


def _moved(x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Scaled, turned, stretched and shifted: where a pixel of the result lies in the image, read bilinearly."""
    moves = {name: value for name, value in values.items() if name in ("scale", "rotate", "stretch", "translate")}
    if not moves:
        return x
    zero = torch.zeros_like(next(iter(moves.values()))[:, :1])
    scale, turn = (moves.get(name, zero)[:, 0] for name in ("scale", "rotate"))
    stretch, along = moves.get("stretch", zero.expand(-1, 2)).unbind(1)
    size, longer = torch.exp2(-_SCALE * scale), torch.exp2(-_STRETCH * stretch)
    inverse = _times(_sized(size, size), _turn(turn))
    inverse = _times(_times(_times(inverse, _turn(-along)), _sized(longer, 1 / longer)), _turn(along))
    shift = moves.get("translate", zero.expand(-1, 2)) * _TRANSLATE
    touched = torch.cat(list(moves.values()), dim=1).ne(0).any(1)
    moved = F.grid_sample(x, _grid(inverse, shift, x), padding_mode="reflection", align_corners=False)
    return torch.where(touched.reshape(-1, 1, 1, 1), moved, x)


def _grid(inverse: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """(B, H, W, 2) places in [−1, 1] of the image: inverse · (pixel − shift) in pixels from the middle."""
    height, width = x.shape[-2:]
    across = torch.arange(width, device=x.device, dtype=inverse.dtype) - (width - 1) / 2
    down = torch.arange(height, device=x.device, dtype=inverse.dtype) - (height - 1) / 2
    u = across[None, None, :] - (shift[:, 0] * width)[:, None, None]
    v = down[None, :, None] - (shift[:, 1] * height)[:, None, None]
    entry = inverse[:, :, :, None, None]
    places = entry[:, 0, 0] * u + entry[:, 0, 1] * v, entry[:, 1, 0] * u + entry[:, 1, 1] * v
    return torch.stack([places[0] * (2 / width), places[1] * (2 / height)], dim=-1).to(x.dtype)


def _coloured(x: Tensor, values: dict[str, Tensor]) -> Tensor:
    """Each pixel mapped affinely, in turn brighter, of more contrast, of flipped luma, turned in hue, saturated."""
    if "brightness" in values:
        x = x + _per_image(_BRIGHTNESS * values["brightness"], x)
    if "contrast" in values:
        x = x * _per_image(torch.exp2(_CONTRAST * values["contrast"]), x)
    if "luma_flip" in values:
        x = x - 2 * _per_image(values["luma_flip"], x) * x.mean(1, keepdim=True)
    if "hue" in values:
        x = _turned(x, values["hue"])
    if "saturation" in values:
        factor = _per_image(torch.exp2(_SATURATION * values["saturation"]), x)
        gray = x.mean(1, keepdim=True)
        x = torch.where(factor == 1, x, gray + factor * (x - gray))
    return x


def _per_image(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).reshape(-1, 1, 1, 1)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Turned about the axis of grays: v cos θ + (a × v) sin θ + a (a·v)(1 − cos θ), a = (1, 1, 1)/√3 (Rodrigues)."""
    cos, sin = _per_image(angle.cos(), x), _per_image(angle.sin(), x)
    cross = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / math.sqrt(3)
    return x * cos + cross * sin + x.mean(1, keepdim=True) * (1 - cos)

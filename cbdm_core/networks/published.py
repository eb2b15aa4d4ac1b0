"""The published CBDM network: its sizes, and its weights read into our U-Net."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import ConditionSpace
from cbdm_core.errors import CbdmError, closest
from cbdm_core.networks.encoders import sinusoid
from cbdm_core.networks.unet import UNet

__all__ = ["load_published", "published_names", "published_unet"]

_TABLE = "time_embedding.timembedding.0.weight"
_LABELS = "label_embedding.weight"
_GROUPS = 32
_WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel and compiled training, in any order
_HEADS = ("mean_proj.", "logvar_proj.")  # of CORAL: training alone asks them

_STAGES = {"down": "downblocks", "middle": "middleblocks", "up": "upblocks"}
_PARTS = {
    "norm_1": "block1.0",
    "conv_1": "block1.2",
    "embed": "temb_proj.1",
    "norm_2": "block2.0",
    "conv_2": "block2.3",
    "shortcut": "shortcut",
    "attention.norm": "attn.group_norm",
    "attention.query": "attn.proj_q",
    "attention.key": "attn.proj_k",
    "attention.value": "attn.proj_v",
    "attention.out": "attn.proj",
    "conv": "main",
}
_ENDS = {
    "time.first": "time_embedding.timembedding.1",
    "time.second": "time_embedding.timembedding.3",
    "label.vectors": "label_embedding",
    "augment.project": "augm_embedding",
    "stem": "head",
    "norm": "tail.0",
    "out": "tail.2",
}


def published_unet(
    shape: Sequence[int],
    condition: int | ConditionSpace,
    *,
    width: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    attention: Sequence[int] = (1,),
    blocks: int = 2,
    dropout: float = 0.1,
    groups: int = _GROUPS,
    augmentations: int = 0,
    time_steps: int = 1000,
) -> UNet:
    """A `UNet` with the published sizes as defaults: 128 channels × (1, 2, 2, 2), attention at level 1, two blocks.

    Args:
        shape: (C, *spatial) of one example; (3, 32, 32) as published.
        condition: K ≥ 1 classes, or another space.
        width: as for `UNet`, and so are the others.
        multipliers: channels of each level in units of `width`.
        attention: levels with attention.
        blocks: residual blocks per level.
        dropout: probability in [0, 1).
        groups: of the group normalisations.
        augmentations: length of the augmentation vector; 9 as published with adaptive augmentation, 0 without.
        time_steps: T of the table.

    Raises:
        CbdmError: as `UNet`.

    Source: Qin et al. 2023, the experimental settings.
    """
    return UNet(
        shape,
        condition,
        width=width,
        multipliers=multipliers,
        attention=attention,
        blocks=blocks,
        dropout=dropout,
        groups=groups,
        augmentations=augmentations,
        time_steps=time_steps,
    )


def published_names(unet: UNet) -> dict[str, str]:
    """The published program's name for each parameter of `unet`, by our name."""
    return {name: _published(name) for name, _ in unet.named_parameters()}


def _published(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    stage, *inside = module.split(".", 2)
    if stage in _STAGES:
        index, part = inside
        return f"{_STAGES[stage]}.{index}.{_PARTS[part]}.{leaf}"
    return f"{_ENDS[module]}.{leaf}"


def load_published(
    state_dict: Mapping[str, Tensor], *, spatial: Sequence[int] = (32, 32), dropout: float = 0.1
) -> UNet:
    """A U-Net in eval mode with the weights of a published program, in their dtype; its sizes are read off them.

    The programs of CBDM, T2H and CORAL name their weights alike; CORAL's projection heads, which sampling does not ask,
    are left out. That of pytorch-ddpm has no labels: its network becomes one of a single class, whose vector is zero,
    so that it says the same with the label and without.

    Args:
        state_dict: the program's `net_model` or `ema_model`; keys may begin with `module.` and `_orig_mod.`. The
            weights are copied.
        spatial: (H, W) of the images, which the weights do not tell.
        dropout: of the blocks when trained further, which the weights do not tell either.

    Raises:
        CbdmError: a key that is missing, unknown or of the wrong shape, or a time table that is not the sinusoid.
    """
    weights = _unprefixed(state_dict)
    channels, options = _shape(weights, "head.weight", 4)[1], _options(weights)
    if _LABELS not in weights:
        weights[_LABELS] = weights["head.weight"].new_zeros(1, 4 * options["width"])
    # On "meta" nothing is drawn: a random start that is overwritten would move the default generator.
    with torch.device("meta"):
        unet = UNet(
            (channels, *spatial),
            _shape(weights, _LABELS, 2)[0],
            **options,
            dropout=dropout,
            groups=_GROUPS,
        )
    names = published_names(unet)
    _check_keys(weights, {_TABLE, *names.values()})
    unet = unet.to(weights["head.weight"].dtype).to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(_fitting(weights, names[name], parameter))
    return unet.eval()


def _unprefixed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by key without the names of wrappers, which stand before each, and without CORAL's heads."""
    for key, value in state_dict.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise CbdmError(f"{key!r} holds {found}: give net_model or ema_model, a dict of floating-point tensors")
    weights = dict(state_dict)
    while weights and (prefix := next((p for p in _WRAPPERS if all(key.startswith(p) for key in weights)), "")):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return {key: value for key, value in weights.items() if not key.startswith(_HEADS)}


def _shape(weights: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    if key not in weights:
        raise CbdmError(f"{key!r} is missing: not the weights of a published class-conditional U-Net")
    shape = tuple(weights[key].shape)
    if len(shape) != axes:
        raise CbdmError(f"{key!r} must have {axes} axes, got shape {shape}: not the weights of a published U-Net")
    if 0 in shape:
        raise CbdmError(f"{key!r} is empty, of shape {shape}: not the weights of a published U-Net")
    return shape


def _options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the names and shapes say about the architecture."""
    time_steps, width = _shape(weights, _TABLE, 2)
    _check_table(weights[_TABLE])
    augment = "augm_embedding.weight"
    levels = _levels(weights)
    return {
        "width": width,
        "multipliers": tuple(_shape(weights, f"{level[0]}.block1.2.weight", 4)[0] // width for level in levels),
        "attention": tuple(i for i, level in enumerate(levels) if f"{level[0]}.attn.proj_q.weight" in weights),
        "blocks": len(levels[0]),
        "augmentations": _shape(weights, augment, 2)[1] if augment in weights else 0,
        "time_steps": time_steps,
    }


def _levels(weights: Mapping[str, Tensor]) -> list[list[str]]:
    """The residual blocks on the way down, by level; a downsampling stands between two levels."""
    levels: list[list[str]] = [[]]
    layers = (f"downblocks.{i}" for i in itertools.count())
    layer = next(layers)
    while f"{layer}.main.weight" in weights or f"{layer}.block1.2.weight" in weights:
        if f"{layer}.main.weight" in weights:
            levels.append([])
        else:
            levels[-1].append(layer)
        layer = next(layers)
    if not all(levels):
        raise CbdmError(f"'{layer}.block1.2.weight' is missing: not the weights of a published U-Net")
    return levels


def _check_table(table: Tensor) -> None:
    """Refuse a table whose row i is not sinusoid(i): we compute the rows, in float64."""
    if table.shape[1] % 2:
        raise CbdmError(f"{_TABLE!r} has {table.shape[1]} columns, and sine and cosine pairs make an even number")
    rows = torch.arange(len(table))
    worst = float((sinusoid(rows, table.shape[1]) - table.cpu().double()).abs().max())
    # A float32 table is off by the rounding of its angles, which grow with T; one saved in half precision by its own.
    allowed = 1e-4 * max(1.0, len(table) / 1000) + torch.finfo(table.dtype).eps
    if not worst <= allowed:
        raise CbdmError(
            f"{_TABLE!r} differs by {worst:.3g} from the interleaved sinusoid (allowed {allowed:.3g}): "
            "a network trained on another time embedding cannot be loaded"
        )


def _check_keys(weights: Mapping[str, Tensor], expected: set[str]) -> None:
    missing, unknown = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
    if missing:
        raise CbdmError(
            f"{len(missing)} keys of the published U-Net are missing, the first {missing[0]!r}: the file is incomplete"
        )
    if unknown:
        near = closest(unknown[0], expected)
        raise CbdmError(
            f"{len(unknown)} keys are not of the published U-Net, the first {unknown[0]!r}"
            f"{f' (nearest: {near!r})' if near else ''}: load its net_model or ema_model"
        )


def _fitting(weights: Mapping[str, Tensor], key: str, parameter: Tensor) -> Tensor:
    """The weight in the shape of `parameter`; the program's 1×1 convolutions of attention are our linear maps."""
    weight = weights[key]
    expected = tuple(parameter.shape)
    if ".attn.proj" in key and parameter.ndim == 2:
        expected += (1, 1)
    if tuple(weight.shape) != expected:
        raise CbdmError(f"{key!r} must have shape {expected} in this U-Net, got {tuple(weight.shape)}")
    return weight.reshape(parameter.shape)

"""What makes a network cheaper to train without changing what it says: memory layout, recomputation, compilation."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.experts import has_experts

__all__ = ["channels_last", "checkpoint_blocks", "compile_network"]


def channels_last(network: nn.Module) -> None:
    """Keep the weights of 2-D convolutions with the channels last, in place; the activations follow them.

    Raises:
        CbdmError: the network has no 2-D convolution.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        raise CbdmError("channels_last is for networks with 2-D convolutions, and this one has none: leave it out")
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def checkpoint_blocks(network: nn.Module) -> None:
    """Keep only what enters each block (`repeats = True` on its class) and compute the rest again, in place.

    Memory for the activations falls to those of one block and the blocks' inputs, at one more forward pass a step; the
    dropout masks are the same in both.

    Raises:
        CbdmError: a network without blocks, or with low-rank experts, whose switch would stand otherwise by then.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, section 3.
    """
    if has_experts(network):
        raise CbdmError("checkpointing cannot repeat a pass with the experts of capacity switched off: leave it out")
    blocks = [module for module in network.modules() if getattr(module, "repeats", False)]
    if not blocks:
        raise CbdmError(f"{type(network).__name__} has no blocks that say repeats = True: leave checkpointing out")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_network(network: ScoreNetwork) -> None:
    """Compile the two ways that a network is asked, in place; names in the checkpoint stay as they are."""
    network.compile()
    network.with_features = torch.compile(network.with_features)

"""How a device computes: TF32 products, deterministic kernels, and forward passes in a low precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.errors import unknown_name
from cbdm_core.networks.base import ScoreNetwork

__all__ = ["DETERMINISM", "PRECISIONS", "InPrecision", "in_precision", "numerics"]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DETERMINISM = ("off", "cudnn", "full")


@contextmanager
def numerics(*, tf32: bool, determinism: str) -> Iterator[None]:
    """Inside, torch's own switches stand as named; after it, as before. On a CPU only "full" has an effect.

    Args:
        tf32: let float32 products and convolutions on a GPU round their factors to 10 bits, which is several times
            faster.
        determinism: "off" lets cuDNN try several kernels and take the quickest; "cudnn" takes the same each time;
            "full" also refuses every operation that has no deterministic form.

    Raises:
        CbdmError: another determinism.
    """
    if determinism not in DETERMINISM:
        raise unknown_name("determinism", determinism, DETERMINISM)
    backends: Any = torch.backends  # whose switches are made when it is imported
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    strict = torch.are_deterministic_algorithms_enabled()
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        cudnn.deterministic, cudnn.benchmark = determinism != "off", determinism == "off"
        if determinism == "full":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict)


def in_precision(network: ScoreNetwork, precision: str) -> ScoreNetwork:
    """The network, or at "bf16" and "fp16" the network in autocast (`InPrecision`).

    Raises:
        CbdmError: another precision.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return network if precision == "fp32" else InPrecision(network, PRECISIONS[precision])


class InPrecision(ScoreNetwork):
    """A network whose products are computed in a low precision; ε̂ comes in the dtype of x_t, as the solver's state.

    Args:
        network: the score network, its weights in float32.
        dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, network: ScoreNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    @property
    def shape(self) -> Any:
        """(C, …) of one example, as the network says."""
        return self.network.shape

    @property
    def condition(self) -> Any:
        """The space of the conditions, as the network says."""
        return self.network.condition

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        with torch.autocast(x_t.device.type, self.dtype):
            eps_hat = self.network(x_t, t, c)
        return eps_hat.to(x_t.dtype)

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_t.device.type, self.dtype):
            eps_hat, features = self.network.with_features(x_t, t, c)
        return eps_hat.to(x_t.dtype), features.to(x_t.dtype)

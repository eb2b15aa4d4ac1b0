"""Muon: hidden matrices take steps of orthogonal matrices, all other parameters those of AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from cbdm_core.errors import CbdmError
from cbdm_core.optimisers import has_fused
from cbdm_core.sharding import in_parts, spread_like, whole

__all__ = ["Muon", "mark_tables", "muon", "orthogonalised"]

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_RMS = 0.2  # of AdamW's steps, in units of the learning rate


def orthogonalised(g: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix with equal singular values, roughly: those of g/‖g‖_F go through aσ + bσ³ + cσ⁵ repeatedly.

    With the published a, b and c five times are enough to bring all but the smallest into [0.7, 1.2].

    Args:
        g: (N, m, n) matrices; zeros stay zeros.
        iterations: ≥ 1.

    Source: Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks, 2024, "Newton–Schulz".
    """
    a, b, c = _COEFFICIENTS
    wide = g.shape[1] <= g.shape[2]
    x = g if wide else g.mT  # so that x xᵀ is the smaller of the two
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """w ← (1 − ηλ)w − 0.2 η √max(m, n) · O(g + μ(m̄ − g)) with m̄ ← m̄ + (1 − μ)(g − m̄); AdamW for the other groups.

    O is `orthogonalised`, w as a matrix of m outputs by n inputs times places of the kernel. Steps are as large as
    AdamW's, so that one learning rate serves both.

    Args:
        params: parameters, or groups that say `orthogonal`; those where it is True have two dimensions or more.
        lr: η > 0.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: λ ≥ 0, apart from the gradient.
        momentum: μ in [0, 1).
        iterations: of `orthogonalised`, ≥ 1.
        fused: AdamW's steps in one launch.
        orthogonal: of groups that do not say.

    Raises:
        CbdmError: μ or iterations out of range.

    Source: Jordan et al. 2024, with Nesterov's momentum; the factor of Liu et al., Muon is Scalable for LLM Training,
    2025, eq. 4.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        iterations: int = 5,
        fused: bool = False,
        orthogonal: bool = True,
    ) -> None:
        if not 0 <= momentum < 1 or iterations < 1:
            raise CbdmError(f"muon needs momentum in [0, 1) and iterations ≥ 1, got {momentum} and {iterations}")
        defaults: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        defaults |= {"momentum": momentum, "iterations": iterations, "fused": fused, "orthogonal": orthogonal}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step with the gradients there are; returns what `closure` does, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            driven = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:
                self._step_of_matrices(driven, group)
            elif driven:
                self._step_of_adamw(driven, group)
        return loss

    def _step_of_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Those of one shape together, for small products cost what they cost to start; of parts one at a time."""
        alike: dict[Any, list[Tensor]] = {}
        for place, parameter in enumerate(parameters):
            alike.setdefault(place if in_parts(parameter) else parameter.shape, []).append(parameter)
        rate, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
        for of_shape in alike.values():
            matrices = torch.stack([whole(self._directed(p, group["momentum"])).flatten(1) for p in of_shape])
            turned = orthogonalised(matrices, group["iterations"])
            scale = _RMS * max(matrices.shape[1:]) ** 0.5
            for parameter, step in zip(of_shape, turned, strict=True):
                own = spread_like(step.reshape(parameter.shape), parameter)
                parameter.mul_(decay).add_(own, alpha=-rate * scale)

    def _directed(self, parameter: Tensor, momentum: float) -> Tensor:
        """The direction before it is orthogonal: the gradient, with its running mean."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)

    def _step_of_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not (state := self.state[parameter]):
                where = parameter.device if group["fused"] else None
                state["step"] = torch.zeros((), dtype=torch.float32, device=where)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        adamw(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def muon(
    parameters: list[Tensor],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.95,
    iterations: int = 5,
    narrowest: int = 16,
) -> torch.optim.Optimizer:
    """`Muon` for the matrices inside a network, kernels of convolutions among them, AdamW for all else.

    Vectors, tables of embeddings (`mark_tables`) and narrow matrices, such as first and last layers of images, are
    AdamW's: a table's rows have gradients of their own, and turning them would move the rows of labels that the batch
    has not.

    Args:
        parameters: of the objective.
        learning_rate: of both.
        weight_decay: of both.
        betas: of AdamW.
        eps: of AdamW.
        momentum: of `Muon`, in [0, 1).
        iterations: of `orthogonalised`, ≥ 1.
        narrowest: a matrix has so many rows and columns or more; ≥ 1.

    Raises:
        CbdmError: a number out of range.
    """
    if narrowest < 1:
        raise CbdmError(f"muon needs narrowest ≥ 1, got {narrowest}")
    hidden = [parameter for parameter in parameters if _is_hidden(parameter, narrowest)]
    chosen = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in parameters if id(parameter) not in chosen]
    return Muon(
        [{"params": hidden, "orthogonal": True}, {"params": rest, "orthogonal": False}],
        learning_rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        iterations=iterations,
        fused=has_fused(parameters),
    )


def _is_hidden(parameter: Tensor, narrowest: int) -> bool:
    if parameter.ndim < 2 or getattr(parameter, "is_table", False):
        return False
    return min(parameter.shape[0], math.prod(parameter.shape[1:])) >= narrowest


def mark_tables(module: nn.Module) -> None:
    """Have the weights of embeddings know that they are tables; optimisers are given no more than parameters."""
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.weight.is_table = True  # pyright: ignore[reportAttributeAccessIssue]

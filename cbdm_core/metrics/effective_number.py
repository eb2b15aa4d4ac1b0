"""How many images of a class a noised image of it could come from: where in the noise there is something to copy."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.schedules import NoiseSchedule, check_times

__all__ = ["effective_number"]

_ENTRIES = 2**22  # of a (queries, images) matrix held at once


def effective_number(
    x_0: Tensor,
    y: Tensor,
    num_classes: int,
    schedule: NoiseSchedule,
    times: Tensor,
    *,
    queries: int = 256,
    seed: int = 0,
) -> Tensor:
    """N_eff(c, t) = E[1/Σ_i p(i | x_t)²], the effective number of images in a class's own empirical posterior.

    x_t = α_t x_j + σ_t ε with j uniform over the n_c images of class c, and p(i | x_t) ∝ N(x_t; α_t x_i, σ_t² I) over
    the same images. It is 1 where x_t betrays its image, so that a network fitted to these images alone has to copy
    (two images that are equal count as 2 there), and n_c where the noise hides which it was. The noise is the same at
    all times, so that curves over t are smooth.

    Args:
        x_0: (N, …) images, in the model's range.
        y: (N,) long, in [0, K).
        num_classes: K; a class without images has N_eff 0.
        schedule: gives α_t and σ_t.
        times: (T,) within the schedule's domain.
        queries: noised images to average over for each class, ≥ 1: each image in turn, or a part drawn without
            replacement where there are more of them.
        seed: of these and of the noise.

    Returns:
        (K, T) float64 on the CPU, in [1, n_c]. Time is O(queries · N · D + queries · N · T), memory O(N · D).

    Raises:
        CbdmError: labels that disagree with the images or are out of range, times outside the domain, queries < 1.
    """
    _check(x_0, y, num_classes, schedule, times, queries)
    dtype = real_dtype(x_0.device)
    alpha_t, sigma_t = (part.to(x_0.device, dtype) for part in schedule(times.to(x_0.device, dtype)))
    found = torch.zeros(num_classes, len(times), dtype=torch.float64)
    for label in y.unique().tolist():
        images = x_0[y == label].flatten(1).to(dtype)
        draws = Draws(seed, label, torch.arange(queries, device=x_0.device)).within("effective number")
        found[label] = _of_class(images - images.mean(0), alpha_t, sigma_t, draws).cpu()
    return found


def _check(x_0: Tensor, y: Tensor, num_classes: int, schedule: NoiseSchedule, times: Tensor, queries: int) -> None:
    if y.shape != (len(x_0),):
        raise CbdmError(f"{len(x_0)} images need {len(x_0)} labels, got a label array of {tuple(y.shape)}")
    wrong = y[(y < 0) | (y >= num_classes)]
    if len(wrong):
        raise CbdmError(
            f"label {int(wrong[0])} is out of range: {num_classes} classes have labels 0 … {num_classes - 1}"
        )
    check_times(schedule, times)
    if queries < 1:
        raise CbdmError(f"queries must be 1 or more, got {queries}: 256 noised images a class do")


def _of_class(images: Tensor, alpha_t: Tensor, sigma_t: Tensor, draws: Draws) -> Tensor:
    """(T,) of one class, from centred (n, D) images and one row of draws a query."""
    queries, half_norms = len(draws.rows), images.square().sum(1) / 2
    order = torch.argsort(Draws(draws.seed, draws.step, torch.arange(len(images)), draws.scope).bits("order", 1)[:, 0])
    chosen = order.to(images.device)[torch.arange(queries, device=images.device) % len(images)]
    total = torch.zeros_like(alpha_t)
    for part in torch.arange(queries, device=images.device).split(max(1, _ENTRIES // len(images))):
        # ⟨x_t, x_i⟩ = α⟨x_j, x_i⟩ + σ⟨ε, x_i⟩: two products serve all times. What is the same for all i drops out.
        alike = images[chosen[part]] @ images.T
        noise = draws[part].normal("eps", images.shape[1], dtype=images.dtype) @ images.T
        for at, (alpha, sigma) in enumerate(zip(alpha_t, sigma_t, strict=True)):
            logits = (alpha / sigma) ** 2 * (alike - half_norms) + alpha / sigma * noise
            total[at] += torch.exp(-torch.logsumexp(2 * torch.log_softmax(logits, 1), 1)).sum()
    return total / queries

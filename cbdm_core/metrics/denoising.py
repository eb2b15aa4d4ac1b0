"""How well a denoiser does on given images, class by class and noise level by noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.schedules import NoiseSchedule, check_times, per_row

__all__ = ["Denoiser", "DenoisingErrors", "denoising_errors"]

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, rows of the data) -> ε̂


@dataclass(frozen=True, eq=False)
class DenoisingErrors:
    """The error of ε̂ on R noised images at T times.

    Args:
        eps: (T, R) float64 ‖ε̂ − ε‖², summed over pixels.
        x_0_factor: (T,) float64 σ_t²/α_t²; as x̂_0 = (x_t − σ_t ε̂)/α_t, ‖x̂_0 − x_0‖² is so many times that of ε̂.
        y: (R,) long, the class of each.
        image: (R,) long, the row of the data that was noised; several are of one image.
        num_classes: K.
    """

    eps: Tensor
    x_0_factor: Tensor
    y: Tensor
    image: Tensor
    num_classes: int

    @property
    def x_0(self) -> Tensor:
        """(T, R) ‖x̂_0 − x_0‖², summed over pixels."""
        return self.eps * self.x_0_factor[:, None]

    def minus(self, other: DenoisingErrors) -> DenoisingErrors:
        """The differences to another denoiser's errors on the same noised images."""
        return replace(self, eps=self.eps - other.eps)

    def by_class(self) -> tuple[Tensor, Tensor]:
        """(mean, standard error) of `eps`, each (K, T) float64.

        The mean over a class is that of its images' means. Its error is that of images drawn anew, noise included; NaN
        for a class of one image, as both are for a class without any.
        """
        mean, error = (torch.full((self.num_classes, len(self.eps)), torch.nan, dtype=torch.float64) for _ in range(2))
        for label in self.y.unique().tolist():
            of = self.y == label
            images, which = self.image[of].unique(return_inverse=True)
            sums = torch.zeros(len(images), len(self.eps), dtype=torch.float64).index_add_(0, which, self.eps[:, of].T)
            means = sums / torch.bincount(which)[:, None]
            mean[label] = means.mean(0)
            if len(images) > 1:
                error[label] = means.std(0) / len(images) ** 0.5
        return mean, error


def denoising_errors(
    denoise: Denoiser,
    data: Dataset,
    schedule: NoiseSchedule,
    times: Tensor,
    *,
    queries: int = 64,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> DenoisingErrors:
    """E‖ε̂ − ε‖² of a denoiser on images of each class, by `queries` noised images a class.

    Query q of a class has the same noise at every time, for every denoiser and on every set of images, so that
    differences between them are of the denoisers and the images.

    Args:
        denoise: (x_t (B, …), t (B,), rows (B,) long) → ε̂ (B, …), without a gradient; the rows are those of `data`.
        data: the images; a class may have none.
        schedule: gives α_t and σ_t.
        times: (T,) within the schedule's domain.
        queries: noised images of each class, ≥ 1: each image in turn, or a part drawn without replacement.
        seed: of these and of the noise.
        batch_size: rows of one call, ≥ 1.
        device: to compute on.

    Returns:
        See `DenoisingErrors`, on the CPU; memory is O(T·R) beside one batch.

    Raises:
        CbdmError: queries or batch_size below 1, or times outside the domain.
    """
    if queries < 1 or batch_size < 1:
        raise CbdmError(f"queries = {queries} and batch_size = {batch_size}: both must be 1 or more")
    check_times(schedule, times)
    device = torch.device(device)
    times = times.to(device, real_dtype(device))
    alpha_t, sigma_t = schedule(times)
    image, noise_row = _queries(data.y.cpu(), queries, seed)
    eps = torch.empty(len(times), len(image), dtype=torch.float64)
    for part in torch.arange(len(image)).split(batch_size):
        x_0 = data.model_input(image[part]).to(device)
        noise = Draws(seed, 0, noise_row[part]).within("denoising error").normal("eps", *data.shape).to(device)
        rows = image[part].to(device)
        for at, t in enumerate(times):
            x_t = per_row(alpha_t[at : at + 1], x_0) * x_0 + per_row(sigma_t[at : at + 1], x_0) * noise
            with torch.no_grad():
                eps_hat = denoise(x_t, t.expand(len(x_t)), rows)
            eps[at, part] = (eps_hat - noise).flatten(1).to(times.dtype).square().sum(1).double().cpu()
    factor = (sigma_t / alpha_t).square().double().cpu()
    return DenoisingErrors(eps, factor, data.y.cpu()[image], image, data.num_classes)


def _queries(y: Tensor, queries: int, seed: int) -> tuple[Tensor, Tensor]:
    """(R,) rows of the data to noise, class after class, and (R,) the rows of their noise."""
    order = torch.argsort(Draws(seed, 0, torch.arange(len(y))).within("denoising error").bits("order", 1)[:, 0])
    image, noise = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    for label in y.unique().tolist():
        rows, numbers = order[y[order] == label], torch.arange(queries)
        image.append(rows[numbers % len(rows)])
        noise.append(label * queries + numbers)
    return torch.cat(image), torch.cat(noise)

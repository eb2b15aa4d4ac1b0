"""Oriented transfer: some rows learn from the noise that would lead to another image of the batch (T2H and kin)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cbdm_core.adjustment import PriorAdjustment
from cbdm_core.distributed import own_rows, rows_of_all_ranks
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.process import DenoisingStep
from cbdm_core.schedules import per_row
from cbdm_priors.penalties.penalty import class_labels

__all__ = ["DIRECTIONS", "FullTransfer", "HeadToTail", "OrientedTransfer", "transfer_weights"]

DIRECTIONS = ("t2h", "h2t", "full", "none")


def transfer_weights(x_t: Tensor, x_0: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
    """(B, N) W_ij = softmax_j(−‖x_t,i/α_i − x_0,j‖²/2ς_i²), ς_i = σ_i/α_i: which image of the batch x_t,i came from.

    Args:
        x_t: (B, …) noised rows.
        x_0: (N, …) the batch's data, on several ranks that of all of them.
        alpha_t: (B, 1, …, 1).
        sigma_t: (B, 1, …, 1), > 0.

    Source: Zhang et al., Long-tailed Diffusion Models with Oriented Calibration, ICLR 2024; the posterior of x_0 given
        x_t under the empirical distribution of the batch.
    """
    scale = (sigma_t / alpha_t).flatten()[:, None]
    centres = (x_t / alpha_t).flatten(1)
    # Direct differences: ‖a‖² + ‖b‖² − 2ab would lose the digits that decide between close images at small noise.
    square = torch.cdist(centres, x_0.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.softmax(-square / (2 * scale.square()), dim=1)


class OrientedTransfer(PriorAdjustment):
    """Draw j ~ W_i (`transfer_weights`); if the direction allows it, row i learns ε' = (x_t,i − α_i x_0,j)/σ_i.

    The label stays y_i and x_t stays as it is; the inner adjustments see a step whose x_0 and ε are row j's. t2h allows
    q(y_j) ≥ q(y_i), so that tail rows learn from head images; h2t the reverse; full always; none never.

    Args:
        inner: the adjustment that is handed the changed step.
        counts: (K,) training images of each class, for q.
        direction: of rows whose condition is shown.
        null_direction: of rows that see the null condition; None for the same. The paper's conditional form is
            "t2h" with "h2t" on the null rows.
        window: (t_low, t_high), the times at which transfer happens.

    Raises:
        CbdmError: an unknown direction, or a window that is not within [0, 1].

    Needs: counts and the batch's x_0, on several ranks that of all of them; no further forward pass.
    Source: Zhang et al., ICLR 2024.
    """

    needs = ("counts",)
    couples_rows = True
    counts: Tensor

    def __init__(
        self,
        inner: PriorAdjustment,
        counts: Tensor | Sequence[int],
        *,
        direction: str = "t2h",
        null_direction: str | None = None,
        window: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        for name in (direction, null_direction or direction):
            if name not in DIRECTIONS:
                raise unknown_name("direction", name, DIRECTIONS)
        low, high = window
        if not 0 <= low <= high <= 1:
            raise CbdmError(f"the window of transfer must lie in [0, 1], low before high, got {tuple(window)}")
        self.inner, self.direction, self.null_direction = inner, direction, null_direction or direction
        self.window = (float(low), float(high))
        # Made anew from the data on every start, so no checkpoint carries it.
        self.register_buffer("counts", torch.as_tensor(counts).long(), persistent=False)

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        assert self.inner is not None
        return self.inner(self.transferred(step))

    @torch.no_grad()
    def transferred(self, step: DenoisingStep) -> DenoisingStep:
        """The step with x_0 and ε of the rows that were allowed to transfer replaced."""
        images = rows_of_all_ranks(step.x_0)
        weights = transfer_weights(step.x_t, images, step.alpha_t, step.sigma_t)
        drawn = step.draws.within("transfer").categorical("image", weights)
        moved = self.allowed(step, drawn)
        x_0 = images[drawn]
        eps = (step.x_t - step.alpha_t * x_0) / step.sigma_t
        # Where a row drew itself its ε is kept: computing it anew would only round it.
        keep = per_row(~moved, step.x_0).bool()
        return replace(step, x_0=torch.where(keep, step.x_0, x_0), eps=torch.where(keep, step.eps, eps))

    def allowed(self, step: DenoisingStep, drawn: Tensor) -> Tensor:
        """(B,) bool: rows that take another row's image, `drawn` being its place among the rows of all ranks."""
        label = class_labels(step.c, "transfer")
        mine, theirs = self.counts[label], self.counts[rows_of_all_ranks(label)[drawn]]
        by_direction = {
            "t2h": theirs >= mine,
            "h2t": theirs <= mine,
            "full": torch.ones_like(mine, dtype=torch.bool),
            "none": torch.zeros_like(mine, dtype=torch.bool),
        }
        allowed = torch.where(step.c.present, by_direction[self.direction], by_direction[self.null_direction])
        low, high = self.window
        own = own_rows(len(drawn))
        rows = torch.arange(own.start, own.stop, device=drawn.device)
        return allowed & (drawn != rows) & (step.t >= low) & (step.t <= high)


class HeadToTail(OrientedTransfer):
    """`OrientedTransfer` in the direction h2t: head rows learn from tail images."""

    def __init__(
        self,
        inner: PriorAdjustment,
        counts: Tensor | Sequence[int],
        *,
        null_direction: str | None = None,
        window: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__(inner, counts, direction="h2t", null_direction=null_direction, window=window)


class FullTransfer(OrientedTransfer):
    """`OrientedTransfer` that always allows: the denoising target is that of the batch's own posterior mean."""

    def __init__(
        self,
        inner: PriorAdjustment,
        counts: Tensor | Sequence[int],
        *,
        null_direction: str | None = None,
        window: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__(inner, counts, direction="full", null_direction=null_direction, window=window)

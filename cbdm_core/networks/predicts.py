"""Networks that say something else than the noise, made to return ε̂."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.schedules import NoiseSchedule, per_row

__all__ = ["PREDICTIONS", "Predicts"]

# ε̂ = a·x_t + b·said, from x_t = α x_0 + σ ε and what is said; each entry gives (a, b). "edm" asks for σ_d besides and
# scales its input, and so is not in the table.
PREDICTIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "eps": lambda alpha, sigma: (0 * alpha, 0 * alpha + 1),
    "x_0": lambda alpha, sigma: (1 / sigma, -alpha / sigma),
    "v": lambda alpha, sigma: (sigma / (alpha**2 + sigma**2), alpha / (alpha**2 + sigma**2)),
    "flow": lambda alpha, sigma: (1 / (alpha + sigma), alpha / (alpha + sigma)),
}


class Predicts(ScoreNetwork):
    """ε̂ from a network that says ε, x_0, v = α_t ε − σ_t x_0, the flow u = ε − x_0, or EDM's F.

    With x_t = α_t x_0 + σ_t ε for any α_t, σ_t (not both zero):
    x_0: ε̂ = (x_t − α x̂_0)/σ · v: ε̂ = (σ x_t + α v̂)/(α² + σ²) · flow: ε̂ = (x_t + α û)/(α + σ).

    "edm" shows the network c_in x̄ and reads x̂_0 = c_skip x̄ + c_out F, with x̄ = x_t/α, σ̄ = σ/α, c_in = 1/√(σ̄² + σ_d²),
    c_skip = σ_d² c_in² and c_out = σ̄ σ_d c_in. With n = √(σ² + α² σ_d²), the standard deviation of x_t, that is
    the input x_t/n and ε̂ = (σ/n²) x_t − (α σ_d/n) F, which divides by neither α nor σ. Where the variance explodes
    (the schedule "edm") every other prediction shows the network inputs as large as 80: "edm" is the one to use there.

    Args:
        network: its output means `what`; same arguments as any score network.
        what: "eps", "x_0", "v", "flow" or "edm".
        schedule: gives (α_t, σ_t); "x_0" needs σ_t > 0, which holds on its domain.
        sigma_data: σ_d > 0, the standard deviation of the data, which "edm" alone reads.

    Raises:
        CbdmError: an unknown `what`, or σ_d that is not above 0.

    Source: Salimans & Ho 2022, appendix D (v); Lipman et al. 2023, section 4.1 (flow); Karras et al. 2022, eq. 7 and
    appendix B.6 (edm).
    """

    def __init__(self, network: ScoreNetwork, what: str, schedule: NoiseSchedule, *, sigma_data: float = 0.5) -> None:
        super().__init__()
        if what not in PREDICTIONS and what != "edm":
            raise unknown_name("prediction", what, [*PREDICTIONS, "edm"])
        if not 0 < sigma_data < math.inf:
            raise CbdmError(f"edm needs the data's standard deviation sigma_data > 0, got {sigma_data}")
        self.network, self.what, self.schedule, self.sigma_data = network, what, schedule, sigma_data

    @property
    def shape(self) -> Any:
        """(C, …) of one example, as the network says."""
        return self.network.shape

    @property
    def condition(self) -> Any:
        """The space of the conditions, as the network says."""
        return self.network.condition

    @property
    def num_features(self) -> Any:
        """D of `with_features`, as the network says."""
        return self.network.num_features

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return self._eps(self.network(self._shown(x_t, t), t, c), x_t, t)

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        output, features = self.network.with_features(self._shown(x_t, t), t, c)
        return self._eps(output, x_t, t), features

    def _shown(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network sees: x_t, or under "edm" x_t/n."""
        return x_t if self.what != "edm" else x_t / per_row(self._spread(*self.schedule(t)), x_t)

    def _eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.what == "eps":
            return output
        of_x_t, of_output = self._coefficients(*self.schedule(t))
        return per_row(of_x_t, x_t) * x_t + per_row(of_output, x_t) * output

    def _coefficients(self, alpha_t: Tensor, sigma_t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of ε̂ = a x_t + b said."""
        if self.what != "edm":
            return PREDICTIONS[self.what](alpha_t, sigma_t)
        spread = self._spread(alpha_t, sigma_t)
        return sigma_t / spread.square(), -alpha_t * self.sigma_data / spread

    def _spread(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """n = √(σ² + α² σ_d²)."""
        return torch.hypot(sigma_t, alpha_t * self.sigma_data)

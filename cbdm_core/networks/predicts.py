"""Networks that say something else than the noise, made to return ε̂."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cbdm_core.errors import unknown_name
from cbdm_core.interfaces import Condition, NoiseSchedule, ScoreNetwork, per_row

__all__ = ["PREDICTIONS", "Predicts"]

# ε̂ = a·x_t + b·said, from x_t = α x_0 + σ ε and what is said; each entry gives (a, b).
PREDICTIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "eps": lambda alpha, sigma: (0 * alpha, 0 * alpha + 1),
    "x_0": lambda alpha, sigma: (1 / sigma, -alpha / sigma),
    "v": lambda alpha, sigma: (sigma / (alpha**2 + sigma**2), alpha / (alpha**2 + sigma**2)),
    "flow": lambda alpha, sigma: (1 / (alpha + sigma), alpha / (alpha + sigma)),
}


class Predicts(ScoreNetwork):
    """ε̂ from a network that says ε, x_0, v = α_t ε − σ_t x_0, or the flow u = ε − x_0.

    With x_t = α_t x_0 + σ_t ε for any α_t, σ_t (not both zero):
    x_0: ε̂ = (x_t − α x̂_0)/σ · v: ε̂ = (σ x_t + α v̂)/(α² + σ²) · flow: ε̂ = (x_t + α û)/(α + σ).

    Args:
        network: its output means `what`; same arguments as any score network.
        what: "eps", "x_0", "v" or "flow".
        schedule: gives (α_t, σ_t); "x_0" needs σ_t > 0, which holds on its domain.

    Raises:
        CbdmError: an unknown `what`.

    Source: Salimans & Ho 2022, appendix D (v); Lipman et al. 2023, section 4.1 (flow).
    """

    def __init__(self, network: ScoreNetwork, what: str, schedule: NoiseSchedule) -> None:
        super().__init__()
        if what not in PREDICTIONS:
            raise unknown_name("prediction", what, PREDICTIONS)
        self.network, self.what, self.schedule = network, what, schedule

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        return self._eps(self.network(x_t, t, c), x_t, t)

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        said, features = self.network.with_features(x_t, t, c)
        return self._eps(said, x_t, t), features

    def _eps(self, said: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.what == "eps":
            return said
        of_x_t, of_said = PREDICTIONS[self.what](*self.schedule(t))
        return per_row(of_x_t, x_t) * x_t + per_row(of_said, x_t) * said

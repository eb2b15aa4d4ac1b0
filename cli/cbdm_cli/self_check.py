"""A few seconds of the whole way, from draws to a checkpoint read back, against numbers known from elsewhere."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cbdm_cli.overlay import load_config
from cbdm_cli.resolve import resolved
from cbdm_core.checkpoint import load_checkpoint, save_checkpoint
from cbdm_core.conditions import Condition
from cbdm_core.distributed import World
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import SAMPLERS
from cbdm_core.schedules import Cosine
from cbdm_core.training import TrainState, train

__all__ = ["Check", "self_check"]

_STEPS = 40
_SETTINGS = ("training.batch_size=32", "training.warmup=1", "network.options={width=32, depth=2}")


@dataclass(frozen=True)
class Check:
    """One number against the golden one.

    Args:
        name: what was computed.
        value: here.
        golden: on the machine of the authors (x86-64, torch on the CPU).
        tolerance: allowed relative difference; 0 asks for the same bits.
        fault: why there is no value, "" if there is.
    """

    name: str
    value: float
    golden: float
    tolerance: float
    fault: str = ""

    @property
    def good(self) -> bool:
        return not self.fault and abs(self.value - self.golden) <= self.tolerance * abs(self.golden)

    @property
    def words(self) -> str:
        """The outcome in a phrase."""
        if self.fault:
            return f"FAILS: {self.fault}"
        if self.good:
            return f"as it should be ({self.value:.9g})"
        return f"DIFFERS: {self.value:.12g}, and {self.golden:.12g} is right to {self.tolerance:g} of it"


def self_check(device: torch.device) -> list[Check]:
    """Draws, a sampler on the oracle, training, and a checkpoint there and back, on the device."""
    checks: list[tuple[str, Callable[[], float], float, float]] = [
        ("random draws", _draws, 255.5888286826059, 0.0),
        ("sampler on the oracle", _sampled, 2.1220495738545813, 1e-5),
        (f"loss after {_STEPS} training steps", lambda: _trained(device)[1], 0.40763437203131614, 1e-3),
        ("checkpoint there and back", lambda: _read_back(device), 1.0, 0.0),
    ]
    return [_checked(*check) for check in checks]


def _checked(name: str, compute: Callable[[], float], golden: float, tolerance: float) -> Check:
    try:
        return Check(name, compute(), golden, tolerance)
    except (RuntimeError, ValueError, OSError) as error:  # what a broken installation raises
        line = (str(error).splitlines() or [""])[0][:120]
        return Check(name, float("nan"), golden, tolerance, f"{type(error).__name__}: {line}")


def _draws() -> float:
    """Σ of 500 uniform numbers, rounded once, so that it is the same whatever the order."""
    return math.fsum(Draws(7, 11, torch.arange(100)).uniform("doctor", 5).flatten().tolist())


def _sampled() -> float:
    """The mean distance from the origin of samples that DPM-Solver++ draws with the oracle's ε̂."""
    oracle = GaussianMixtureOracle.ring(Cosine())
    sampler = SAMPLERS.build("dpm++2m", {}, Cosine())
    c = Condition.of(torch.arange(64) % 4)
    x = sampler.sample(oracle, c, (2,), steps=20, draws=Draws(0, 0, torch.arange(64)))
    return float(x.double().norm(dim=1).mean())


def _trained(device: torch.device) -> tuple[TrainState, float]:
    """The state after the steps, and the mean loss of the last ten."""
    from cbdm_cli.assemble import assemble

    experiment = assemble(resolved(load_config("mixture-lt", None, _SETTINGS), {}))
    state = experiment.start(World(0, 1, device))
    losses = [record.loss for record in train(state, experiment.batches, steps=_STEPS)]
    return state, sum(losses[-10:]) / 10


def _read_back(device: torch.device) -> float:
    """1 if a checkpoint gives back every bit."""
    state, _ = _trained(device)
    weights = {name: value.clone() for name, value in state.objective.state_dict().items()}
    with tempfile.TemporaryDirectory() as place:
        checkpoint = save_checkpoint(Path(place), state)
        with torch.no_grad():
            for parameter in state.objective.parameters():
                parameter.zero_()
        load_checkpoint(checkpoint, state)
    back = state.objective.state_dict()
    if not all(torch.equal(value, back[name]) for name, value in weights.items()):
        raise CbdmError("weights that were read back are others")
    return 1.0

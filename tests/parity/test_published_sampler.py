"""The published ancestral sampler, both variances, with and without guidance, to 1e-8 in float64."""

import pytest
import torch

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.samplers import Ancestral
from cbdm_core.schedules import Linear
from tests.golden_weights import load_golden


class _GoldenNoise(Draws):
    """Draws whose noise of step j is the program's j-th draw."""

    def normal(self, purpose, *shape, dtype=torch.float64):
        assert purpose == "noise"
        return NOISE[self.seed][self.step]


NOISE: dict[int, torch.Tensor] = {}
CASES = [
    ("a", 0.0, "large"), ("a", 1.6, "large"), ("a", 1.6, "small"),
    ("b", 0.0, "large"), ("b", 0.8, "large"), ("b", 0.8, "small"),
]  # fmt: skip


@pytest.mark.parametrize(("letter", "omega", "variance"), CASES)
def test_samples_agree(letter, omega, variance):
    golden = load_golden(letter)
    NOISE[ord(letter)] = golden["noise"]
    c = golden.config
    sampler = Ancestral(Linear(steps=c["T"], beta_1=c["beta_1"], beta_T=c["beta_T"]), variance=variance)
    network = ClassifierFreeGuidance(golden.network(), omega).eval()
    x_T, label = golden["x_T"], golden["y_sample"]
    draws = _GoldenNoise(ord(letter), 0, torch.arange(len(label)))

    x = sampler.sample(
        network, Condition.of(label), x_T.shape[1:], steps=c["T"], draws=draws, x_T=x_T, dtype=torch.float64
    )
    torch.testing.assert_close(x.clamp(-1, 1), golden[f"sample_w{omega}_fixed{variance}"], atol=1e-8, rtol=0)

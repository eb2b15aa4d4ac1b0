"""What a drawing takes, by a clock on which each row of a pass takes a second."""

import pytest
import torch

from cbdm_cli import foreseen_drawing as module
from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.drawing import counted, drawn_with_bar
from cbdm_cli.overlay import load_config
from cbdm_core.distributed import World


@pytest.fixture(scope="module")
def experiment():
    small = ("network.options.width=8", "network.options.groups=4", "network.options.attention=[]")
    return assemble(validated(load_config("digits-lt", None, (*small, "sampling.steps=3", "sampling.batch_size=4"))))


@pytest.mark.parametrize("sampler", ["dpm++2m", "heun"])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5)])
@pytest.mark.parametrize(("count", "processes", "own"), [(10, 1, 10), (3, 1, 3), (10, 2, 8), (8, 4, 4)])
def test_seconds_are_those_of_all_passes(monkeypatch, experiment, sampler, interval, count, processes, own):
    """The network's passes are counted on a real drawing of as many samples as the busiest process has."""
    sampling = experiment.config.sampling.model_copy(update={"sampler": sampler, "interval": interval})
    config = experiment.config.model_copy(update={"sampling": sampling})
    network, conditions = experiment.objective.network.eval(), torch.zeros(count, dtype=torch.long)
    cpu = torch.device("cpu")
    with counted(network) as drawn:
        drawn_with_bar(config, network, experiment.schedule, conditions[:own], (1, 8, 8), cpu)
    with counted(network) as passed:
        monkeypatch.setattr(module, "perf_counter", lambda: float(passed.total))
        world = World(0, processes, cpu)
        found = module.foreseen_drawing(config, network, experiment.schedule, conditions, (1, 8, 8), world)
    assert found.nfe == drawn.per(own)
    assert found.seconds == pytest.approx(drawn.total, rel=1e-12)
    assert passed.total < drawn.total or own < 5  # a few evaluations, not all

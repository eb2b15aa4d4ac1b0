"""What a drawing takes, by a clock on which each row of a pass takes a second."""

import pytest
import torch

from cbdm_cli import sampling_cost as module
from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config
from cbdm_cli.sampling import counted, drawn_in_batches, drawn_with_bar
from cbdm_core.distributed import World
from cbdm_core.networks.base import ScoreNetwork


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
        found = module.sampling_cost(config, network, experiment.schedule, conditions, (1, 8, 8), world)
    assert found.nfe == drawn.per(own)
    assert found.seconds == pytest.approx(drawn.total, rel=1e-12)
    assert passed.total < drawn.total or own < 5  # a few evaluations, not all
    assert not found.at_most


class _Apart(ScoreNetwork):
    """ε̂ = y: classes are told apart, so that a path soon follows one."""

    def forward(self, x_t, t, c):
        return torch.zeros_like(x_t) + c.value.reshape(-1, *[1] * (x_t.ndim - 1))


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize("options", [{}, {"every": 2}, {"top_k": 2}], ids=["all", "every", "top"])
@pytest.mark.parametrize("unconditional", ["uniform", None], ids=["mixture", "guidance"])
def test_tracked_weights_take_no_more_than_is_told(experiment, sampler, options, unconditional):
    """Classes that a path no longer thinks possible are not evaluated, which only the drawing itself shows."""
    law = None if unconditional else "uniform"
    sampling = experiment.config.sampling
    tracking = sampling.tracking.model_copy(update=options)
    update = {"sampler": sampler, "steps": 8, "guidance_prior": law, "omega": "1", "tracking": tracking}
    config = experiment.config.model_copy(update={"sampling": sampling.model_copy(update=update)})
    network, conditions, cpu = _Apart(), torch.zeros(3, dtype=torch.long), torch.device("cpu")
    found = module.sampling_cost(
        config, network, experiment.schedule, conditions, (1, 8, 8), World(0, 1, cpu), unconditional=unconditional
    )
    with counted(network) as drawn:
        for _ in drawn_in_batches(
            config, network, experiment.schedule, conditions, (1, 8, 8), cpu, unconditional=unconditional
        ):
            pass
    assert found.at_most and drawn.per(3) <= found.nfe
    assert found.evaluations() == f"at most {found.nfe} network evaluations"
    if options.get("every"):
        assert drawn.per(3) < found.nfe

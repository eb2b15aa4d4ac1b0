"""Two processes on GPUs look at a method before they move it there; gloo stands in for NCCL."""

import json
from pathlib import Path

import pytest

from tests.core.test_distributed import launch

pytestmark = pytest.mark.slow  # two processes in two kinds of group
METHODS = ("cbdm:null", "coral")  # processes agree whether the network is asked; rows of all are compared

# As a group on GPUs is made, but for NCCL; then one that takes no tensor of the CPU, as NCCL's alone.
_PEER = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from cbdm_core.distributed import backends, leave
from tests.cli.test_rehearsal import METHODS, looked_at
said = {}
for group in (backends("cuda").replace("nccl", "gloo"), "cuda:gloo"):
    dist.init_process_group(group)
    said[group] = {method: looked_at(method) for method in METHODS}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(said))
    leave()
"""


def looked_at(method):
    """Operations of a step where a rehearsal and the count both go through, else why not."""
    from cbdm_cli.assemble import assemble
    from cbdm_cli.commands.train import _rehearse
    from cbdm_cli.config import validated
    from cbdm_cli.method import method_parts
    from cbdm_cli.overlay import load_config
    from cbdm_cli.training_cost import step_cost

    small = ("network.options.width=8", "network.options.groups=4", "network.options.attention=[]")
    table = load_config("digits-lt", None, (*small, "training.batch_size=8"))
    experiment = assemble(validated({**table, "method": method_parts(method)}))
    try:
        _rehearse(experiment)
        return step_cost(experiment, 4).flops
    except RuntimeError as error:
        return str(error)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsed")
    (folder / "peer.py").write_text(_PEER)
    launch(folder / "peer.py", folder / "said.json", cwd=Path(__file__).parents[2])
    return json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_looked_at_on_the_cpu_by_processes_of_gpus(said, method):
    """One process's count of operations, to 1%: CORAL compares the rows of both. A group for GPUs alone fails."""
    on_gpus, on_gpus_alone = said.values()
    assert on_gpus[method] == pytest.approx(looked_at(method), rel=0.01)
    assert "No backend type associated with device type cpu" in on_gpus_alone[method]

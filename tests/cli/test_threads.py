"""The threads of a training: asked for, of before, of the environment, or found by a trial that changes nothing."""

import json

import pytest
import torch

from cbdm_cli import threads
from cbdm_cli.assemble import assemble
from cbdm_cli.overlay import load_config
from cbdm_cli.resolve import resolved
from cbdm_cli.threads import set_threads, threads_of
from cbdm_cli.trainer import RunOptions
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.training import train

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def experiment(monkeypatch):
    """Of a preset, where neither the environment nor torch says one thread."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield made()
    torch.set_num_threads(before)


def made(*settings):
    return assemble(resolved(load_config("mixture-lt", None, list(settings)), {}))


def test_a_trial_changes_no_number(experiment, monkeypatch):
    """Weights, the generator of the masks and the first losses are those of a training without a trial."""
    state, plain = torch.get_rng_state(), made()
    monkeypatch.setattr(threads, "quickest_threads", lambda work, counts: (work(), work(), counts[0])[-1])
    set_threads(experiment, ALONE, None)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), state)
    first, second = (list(train(e.start(ALONE), e.batches, steps=2)) for e in (experiment, plain))
    assert [r.terms for r in first] == [r.terms for r in second]


def test_who_is_obeyed(experiment, monkeypatch):
    """The user, then the environment, then the run of before; only then a trial."""
    tried = []
    monkeypatch.setattr(threads, "quickest_threads", lambda work, counts: tried.append(counts) or 1)
    for asked, before in ((2, 1), (2, None), (None, 2)):
        set_threads(experiment, ALONE, asked, before)
        assert torch.get_num_threads() == 2 and not tried
    for unlike in (made("training.steps=199"), made("training.accumulate=2"), made("training.checkpointing=true")):
        set_threads(unlike, ALONE, None)
        assert not tried
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    set_threads(experiment, ALONE, None, before=1)
    assert torch.get_num_threads() == 2 and not tried
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(experiment, ALONE, None)
    assert tried == [(1, 2)]


def test_no_thread_is_refused():
    with pytest.raises(CbdmError, match="--threads 0: a training takes 1 thread or more"):
        RunOptions(threads=0)


@pytest.mark.parametrize(
    ("facts", "threads_then"),
    [({"device": "cpu", "threads": 3}, 3), ({"device": "cuda", "threads": 3}, None), ([], None), (None, None)],
)
def test_a_run_says_its_threads(tmp_path, facts, threads_then):
    if facts is not None:
        (tmp_path / "environment.json").write_text(json.dumps(facts))
    assert threads_of(tmp_path) == threads_then

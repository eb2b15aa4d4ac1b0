"""A full disk, at every byte: one line, and what was written before is whole."""

import os
import resource
import signal

import pytest
import torch

from cbdm_cli.run_folder import write_json, write_text
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.networks.mlp import MLP
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import VP
from cbdm_core.training import TrainSettings, TrainState
from cbdm_core.writing import WRITING, clean


@pytest.fixture
def file_size():
    """Sets the largest size of a file that this process may write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def state_at(step):
    torch.manual_seed(0)
    objective = Objective(Process(VP()), MLP((2,), 3, width=16, depth=1), DenoisingLoss())
    state = TrainState.start(objective, TrainSettings(), World(0, 1, torch.device("cpu")))
    for p in objective.parameters():
        p.grad = torch.full_like(p, float(step))
    state.optimizer.step()
    state.step = step
    return state


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, file_size):
    """Swept over the size at which writing fails, from nothing to all of the largest file."""
    folder, state = tmp_path / "checkpoints", state_at(1)
    first = save_checkpoint(folder, state)
    largest = max(file.stat().st_size for file in first.iterdir())
    failed, later = 0, state_at(2)
    for size in range(0, largest, max(1, largest // 60)):
        file_size(size)
        try:
            with pytest.raises(CbdmError, match="cannot write") as error:
                save_checkpoint(folder, later)
        finally:
            file_size(None)
        assert "\n" not in str(error.value) and "what was written before is intact" in str(error.value)
        assert [path.name for path in folder.iterdir()] == [first.name], "a half-written folder was left"
        failed += 1
    assert failed >= 50
    assert load_checkpoint(first, state_at(3)).step == 1
    assert len(checkpoints(save_checkpoint(folder, later).parent)) == 2


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "x" * 9000), lambda path: write_json(path, ["y"] * 900)]
)
def test_a_small_file_is_whole_or_as_before(tmp_path, file_size, write):
    path = tmp_path / "file"
    path.write_text("before")
    for size in (0, 1, 500, 4095, 4096):
        file_size(size)
        try:
            with pytest.raises(CbdmError, match="file-size limit"):
                write(path)
        finally:
            file_size(None)
        assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_leftovers_are_cleaned_and_nothing_else(tmp_path):
    """Unfinished files and folders go; a link is unlinked, not followed."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "mine").write_text("x")
    run = tmp_path / "run"
    run.mkdir()
    for name in (f"{WRITING}1-a", "kept"):
        (run / name).write_text("x")
    (run / f"{WRITING}2-b").mkdir()
    (run / f"{WRITING}3-c").symlink_to(inside)
    clean(run)
    assert [path.name for path in run.iterdir()] == ["kept"] and (inside / "mine").exists()


def test_checkpoints_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        made = save_checkpoint(tmp_path / "c", state_at(1))
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o750

"""Processes killed at any time; `python -m tests.faults.kills --n 50` makes many more drills, of every command."""

import pytest

from tests.faults.kills import Drills, elastic

KILLS = 5


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_end(tmp_path, cache):
    drills = Drills(tmp_path, ("train",))
    assert sum(drills("train", seed) for seed in range(KILLS)) > 0


def test_killed_drawing_leaves_a_whole_file_or_none(tmp_path, cache):
    drills = Drills(tmp_path, ("sample",))
    assert sum(drills("sample", seed) for seed in range(KILLS)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compare", "classify"])
def test_killed_commands_go_on_to_the_same_end(tmp_path, cache, kind):
    drills = Drills(tmp_path, (kind,))
    assert sum(drills(kind, seed) for seed in range(KILLS)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_worker_that_dies_under_torchrun_is_started_again(tmp_path, cache, nodes):
    elastic(tmp_path, nodes)

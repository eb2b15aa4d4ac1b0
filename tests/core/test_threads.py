"""The number of threads is that which the work is quickest with, and more only where they pay."""

import time

import pytest
import torch

from cbdm_core.threads import quickest_threads


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.002, 2: 0.02}, 1),  # threads in one another's way
        ({1: 0.04, 2: 0.01}, 2),
        ({1: 0.024, 2: 0.02}, 1),  # a gain of a fifth is not worth a core
        ({1: 0.03, 2: 0.003, 4: 0.02}, 2),
    ],
)
def test_the_quickest_number_is_taken_and_torchs_own_put_back(seconds, best):
    before = torch.get_num_threads()
    assert quickest_threads(lambda: time.sleep(seconds[torch.get_num_threads()]), sorted(seconds)) == best
    assert torch.get_num_threads() == before


def test_long_work_is_done_once_and_keeps_all_threads(monkeypatch):
    monkeypatch.setattr("cbdm_core.threads._PATIENCE", 0.001)
    done = []
    assert quickest_threads(lambda: (done.append(1), time.sleep(0.002)), (1, 2)) == 2 and len(done) == 1


def test_the_number_is_put_back_after_a_fault():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        quickest_threads(lambda: 1 / 0, (1, before + 1))
    assert torch.get_num_threads() == before

"""Where the masks of dropout start, and the same masks again."""

import hashlib

import pytest
import torch
from torch import nn

from cbdm_core.dropout import dropout_rng_state, has_dropout, replayed, seed_dropout

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_generator():
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_generator_starts_from_seed_step_and_rank():
    """The first 63 bits, low byte first, of SHA-256("seed/dropout/step/rank")."""
    starts = set()
    for seed, step, rank in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 11, 0), (0, 1, 10)):
        seed_dropout(seed, step, rank, CPU)
        digest = hashlib.sha256(f"{seed}/dropout/{step}/{rank}".encode()).digest()
        assert torch.initial_seed() == int.from_bytes(digest[:8], "little") // 2
        starts.add(torch.initial_seed())
    assert len(starts) == 6


def test_masks_come_again_inside_and_go_on_after():
    """After the block the generator stands where it would have stood without, also where the block fails."""
    drop, x = nn.Dropout(0.5), torch.ones(64)
    seed_dropout(3, 5, 0, CPU)
    state = dropout_rng_state(CPU)
    first, second = drop(x), drop(x)
    seed_dropout(3, 5, 0, CPU)
    drop(x)
    with replayed(state, CPU):
        assert torch.equal(drop(x), first)
    with pytest.raises(KeyError), replayed(state, CPU):
        drop(x)
        raise KeyError
    assert torch.equal(drop(x), second) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval(), False),
        (nn.Sequential(nn.Dropout(0.0), nn.ReLU()), False),
        (nn.MultiheadAttention(4, 2, dropout=0.2), True),
        (nn.MultiheadAttention(4, 2), False),
    ],
)
def test_dropout_is_there_while_training_and_above_0(network, expected):
    assert has_dropout(network) is expected

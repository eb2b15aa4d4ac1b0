"""Counter-based randomness: the generator against its published vectors, and rows that stand alone."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from cbdm_core.draws import Draws, _key, _of_arrays, _of_rounds, _of_tensors, _quick, _uniform_of, philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, words):
    """Known answers of Philox4x32-10 (Random123)."""
    for shape in ((), (1,), (2, 1)):
        drawn = philox(tuple(torch.full(shape, word) for word in counter), key)
        assert all(torch.equal(got, torch.full(shape, word)) for got, word in zip(drawn, words, strict=True))


def test_a_device_draws_by_tensors_what_the_cpu_draws_by_arrays():
    """Words, and the bits of uniform numbers made of them, at counters whose high bits are set and not."""
    rows = (torch.arange(50)[:, None] * 0x5DEECE66D) & ONES
    counter, key = (torch.arange(7)[None], rows, torch.full((1, 1), 3), rows.flip(0)), (ONES, 12345)
    for ours, quick in zip(
        _of_tensors(counter, _of_rounds(*key)), _of_arrays([_quick(word) for word in counter], key), strict=True
    ):
        assert ours.tolist() == quick.view("int64").tolist() and ours.shape == (50, 7)
        assert torch.equal(_uniform_of(ours), _uniform_of(quick))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_one_kernel_draws_the_same_numbers(device):
    """Words and uniforms to the bit, normals to 4e-15 in float64 and 5e-7 in float32; few graphs for all shapes."""
    before = len(torch._dynamo.utils.get_compilation_metrics())
    for rows, step in (([5, 2**40 + 3, 7], 0), (range(64), 2**33 + 1), ([9], 7)):
        draws = Draws(2**70, step, torch.tensor([*rows], device=device), "scope/")
        fused = replace(draws, fused=True)[:].at(step)
        assert fused.fused
        for purpose, count in (("a", 1), ("b", 20), ("c", 300)):
            assert torch.equal(fused.bits(purpose, count), draws.bits(purpose, count))
            assert torch.equal(fused.uniform(purpose, count), draws.uniform(purpose, count))
            for dtype, atol in ((torch.float64, 4e-15), (torch.float32, 5e-7)):
                z, expected = (d.normal(purpose, count, dtype=dtype) for d in (fused, draws))
                torch.testing.assert_close(z, expected, rtol=0, atol=atol)
                assert (z != expected).float().mean() < (0.2 if dtype == torch.float64 else 1e-3)
        law = torch.tensor([0.2, 0.5, 0.3], device=device)
        assert torch.equal(fused.categorical("law", law), draws.categorical("law", law))
        assert torch.equal(fused.systematic("law", law, 2), draws.systematic("law", law, 2))
    assert 4 <= len(torch._dynamo.utils.get_compilation_metrics()) - before <= 8  # of 36 shapes


@pytest.mark.parametrize("first", [0, 31, 2**32 - 2])
def test_what_is_drawn_ahead_is_what_each_step_draws(first):
    draws = Draws(3, first, torch.arange(6) + 2**33, "scope/")
    ahead = draws.uniform_ahead("flip", 5)
    for step, row in enumerate(ahead):
        assert torch.equal(row, draws.at(first + step).uniform("flip"))
    assert ahead.shape == (5, 6)


def plain_words(counter, key):
    """Philox4x32-10 in whole numbers, as Salmon et al. write it."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & ONES, (p0 >> 32) ^ c3 ^ k1, p0 & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return c0, c1, c2, c3


def plain_normal(words):
    """Box–Muller over a whole table of words at once."""
    u = (((words[:, 0::2] >> 5) << 26 | (words[:, 1::2] >> 6)).double() + 0.5) / 2**53
    radius, angle = torch.sqrt(-2 * torch.log(u[:, 0::2])), 2 * math.pi * u[:, 1::2]
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten(1)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (300, 7), (40, 1026), (2, 40_001)])  # one part, several, long rows
def test_what_is_drawn_in_parts_has_the_bits_of_the_formulas(rows, count):
    """Words at 40 places against whole numbers; uniforms and normals against the formulas on all words, to the bit."""
    draws = Draws(5, 3, torch.arange(rows) + 2**33 - 2)
    words, key = draws.bits("b", 4 * ((count + 1) // 2)), _key(5, "b")
    for row, block in zip(torch.arange(40) % rows, torch.arange(40) * 1013 % ((count + 1) // 2), strict=True):
        number = int(draws.rows[row])
        plain = plain_words((int(block), number & ONES, 3, number >> 32), key)
        assert tuple(words[row, 4 * block : 4 * block + 4].tolist()) == plain
    z = plain_normal(words)[:, :count]
    assert torch.equal(draws.normal("b", count, dtype=torch.float64), z)
    assert torch.equal(draws.normal("b", count), z.float())


def everything(draws):
    return torch.cat(
        [
            draws.uniform("u", 3),
            draws.normal("z", 2, 2, dtype=torch.float64).flatten(1),
            draws.categorical("c", torch.tensor([0.2, 0.0, 0.8]))[:, None].double(),
        ],
        dim=1,
    )


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.lists(st.integers(0, 2**40), min_size=1, max_size=6))
def test_a_row_is_the_same_in_every_batch(seed, step, rows):
    """Draws are a function of (seed, purpose, step, row) and of nothing else, bit for bit."""
    together = everything(Draws(seed, step, torch.tensor(rows)))
    for place, row in enumerate(rows):
        assert torch.equal(everything(Draws(seed, step, torch.tensor([row])))[0], together[place])


def test_seed_purpose_step_scope_and_row_each_change_the_numbers():
    rows = torch.arange(50)
    base = Draws(1, 2, rows)
    others = [Draws(2, 2, rows), base.at(3), base.within("x"), Draws(1, 2, rows + 50), Draws(1, 2, rows + 2**32)]
    first = base.uniform("u", 4)
    seen = [first, base.uniform("v", 4), *(other.uniform("u", 4) for other in others)]
    assert len({float(value) for block in seen for value in block.flatten()}) == len(seen) * 200


def test_uniform_and_normal_have_their_distributions():
    draws = Draws(0, 0, torch.arange(500))
    u, z = draws.uniform("u", 40).flatten().numpy(), draws.normal("z", 41, dtype=torch.float64).flatten().numpy()
    assert u.min() > 0 and u.max() < 1
    assert kstest(u, "uniform").pvalue > 0.01 and kstest(z, "norm").pvalue > 0.01


def test_neighbours_are_uncorrelated():
    """Along rows, along columns and from one step to the next."""
    z = torch.stack([Draws(0, step, torch.arange(300)).normal("z", 30, dtype=torch.float64) for step in range(20)])
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[:, :, 1:], z[:, :, :-1])):
        correlation = (a * b).mean()
        assert abs(float(correlation)) < 4 / a.numel() ** 0.5


@pytest.mark.parametrize("probs", [[0.5, 0.0, 0.3, 0.2, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_categorical_follows_its_probabilities(probs):
    p = torch.tensor(probs, dtype=torch.float64)
    drawn = Draws(0, 0, torch.arange(20_000)).categorical("c", p)
    counts = torch.bincount(drawn, minlength=5).double()
    assert (counts[p == 0] == 0).all()
    if (p > 0).sum() > 1:
        expected = 20_000 * p[p > 0] / p.sum()
        assert chisquare(counts[p > 0].numpy(), expected.numpy()).pvalue > 0.01


def test_the_shared_number_is_the_same_on_every_process():
    assert Draws(3, 7, torch.arange(4)).shared_uniform("coin") == Draws(3, 7, torch.arange(4, 8)).shared_uniform("coin")
    assert Draws(3, 7, torch.arange(4)).shared_uniform("coin") != Draws(3, 8, torch.arange(4)).shared_uniform("coin")


@pytest.mark.gpu
def test_a_gpu_draws_the_same_bits():
    rows = torch.arange(64)
    here, there = Draws(0, 1, rows), Draws(0, 1, rows.cuda())
    assert torch.equal(here.bits("b", 9), there.bits("b", 9).cpu())
    assert torch.equal(here.uniform("u", 9), there.uniform("u", 9).cpu())
    torch.testing.assert_close(here.normal("z", 9), there.normal("z", 9).cpu(), atol=1e-6, rtol=1e-6)

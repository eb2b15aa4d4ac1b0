"""Which labels and conditions samples are drawn for, and that a batch is what the sampler gives for its numbers."""

import pytest
import torch

from cbdm import DDIM, Cosine, Power, ScoreNetwork
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.generation import conditions_for, cyclic_labels, generate, labels_from
from cbdm_core.oracle import GaussianMixtureOracle

SAMPLER = DDIM(Cosine())


def test_labels_go_around():
    assert cyclic_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_labels_of_a_law_are_functions_of_seed_and_number():
    """Shares to four standard errors of 4,000; the first 50 are the same whatever comes after, another seed differs."""
    law = Power([90, 10, 0], 0.5)
    labels = labels_from(law, 4000, seed=2)
    shares = torch.bincount(labels, minlength=3) / 4000
    assert (shares - torch.tensor([0.75, 0.25, 0.0])).abs().max() < 4 * (0.75 * 0.25 / 4000) ** 0.5
    assert torch.equal(labels_from(law, 50, seed=2), labels[:50])
    assert not torch.equal(labels_from(law, 50, seed=3), labels[:50])


def test_the_kth_sample_of_a_label_takes_its_kth_condition_and_around():
    known = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    asked = torch.tensor([1, 0, 1, 1, 0])
    assert conditions_for(asked, known, torch.tensor([1, 0, 1, 0])).flatten().tolist() == [0, 1, 2, 0, 3]


def test_a_label_without_a_condition_is_refused():
    with pytest.raises(CbdmError, match=r"no condition of label 2 is known: ask for \[0, 1\]"):
        conditions_for(torch.tensor([0, 2]), torch.zeros(2, 1), torch.tensor([0, 1]))


def test_batches_are_what_the_sampler_draws_for_their_numbers():
    oracle, labels = GaussianMixtureOracle.ring(Cosine()), torch.arange(5) % 4
    batches = list(generate(oracle, SAMPLER, labels, (2,), steps=4, seed=3, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    draws = Draws(3, 0, torch.arange(5), "sampling/")
    whole = SAMPLER.sample(oracle, Condition.of(labels), (2,), steps=4, draws=draws)
    torch.testing.assert_close(torch.cat(batches), whole, rtol=0, atol=1e-6)


def test_samples_that_are_not_finite_are_counted():
    class Broken(ScoreNetwork):
        def forward(self, x_t, t, c):
            return x_t * torch.where(c.value == 1, torch.nan, 1.0)[:, None]

    with pytest.raises(CbdmError, match="2 of 6 samples are not finite: lower ω"):
        list(generate(Broken(), SAMPLER, torch.arange(6) % 3, (2,), steps=2, seed=0))

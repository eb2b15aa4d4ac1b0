"""Muon against singular values, torch's own class and AdamW."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from cbdm_core.checkpoint import load_checkpoint, save_checkpoint
from cbdm_core.data.batches import Batches
from cbdm_core.errors import CbdmError
from cbdm_core.muon import Muon, muon, orthogonalised
from cbdm_core.optimizer_state import load_optimizer
from cbdm_core.training import TrainSettings, train
from tests.core.test_training import fresh, vectors


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def went(make, starts, gradients):
    """Where parameters are after one step for each list of gradients."""
    parameters = [nn.Parameter(start.clone()) for start in starts]
    optimiser = make(parameters)
    for of_step in gradients:
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_singular_values_go_through_the_polynomial_and_vectors_stay(shape):
    """In float64 by the singular value decomposition, each matrix of a stack by itself; to 1e-12."""
    g = normal(3, *shape)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    s = s / s.square().sum(1, keepdim=True).sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalised(g), u * s[:, None] @ vh, atol=1e-12, rtol=0)
    assert s.min() > 0.6 and s.max() < 1.3


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 3)), torch.zeros(1, 4, 3))


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_a_first_step_by_hand(shape):
    """m̄ = (1 − μ)g, and the scale of g falls out: w − ηλw − 0.2 η √40 O(g), to 1e-12."""
    w, g = normal(*shape), normal(*shape, seed=1)
    (after,) = went(partial(muon, learning_rate=0.1, weight_decay=0.3), [w], [[g]])
    expected = w - 0.1 * 0.3 * w - 0.1 * 0.2 * 40**0.5 * orthogonalised(g[None])[0]
    torch.testing.assert_close(after, expected, atol=1e-12, rtol=0)


def test_several_steps_are_those_of_torch():
    """Two of one shape and one of another; torch's products are in bfloat16, so that steps agree to 5 percent."""
    shapes = [(16, 24), (16, 24), (32, 16)]
    starts = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    gradients = [[normal(*shape, seed=10 * k + i) for i, shape in enumerate(shapes)] for k in range(1, 5)]
    theirs = partial(torch.optim.Muon, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    ours = went(partial(muon, learning_rate=0.1, weight_decay=0.2), starts, gradients)
    for start, one, other in zip(starts, ours, went(theirs, starts, gradients), strict=True):
        assert (one - other).norm() < 0.05 * (other - start).norm()


def test_a_kernel_is_a_matrix_of_outputs_by_all_else():
    w, gradients = normal(16, 8, 3, 3), [normal(16, 8, 3, 3, seed=k) for k in (1, 2)]
    (kernel,) = went(partial(muon, learning_rate=0.1), [w], [[g] for g in gradients])
    (matrix,) = went(partial(muon, learning_rate=0.1), [w.flatten(1)], [[g.flatten(1)] for g in gradients])
    assert torch.equal(kernel.flatten(1), matrix)


def test_all_else_is_adamws_to_the_bit():
    """A bias, a first layer, a last layer and a table of embeddings, beside a matrix."""
    table = nn.Embedding(20, 32).weight
    shapes = [(32,), (32, 4), (3, 32), (20, 32), (32, 32)]
    starts = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    gradients = [[normal(*shape, seed=10 * k + i) for i, shape in enumerate(shapes)] for k in range(1, 4)]

    def marked(parameters):
        parameters[3].is_table = True
        return muon(parameters, 0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6)

    theirs = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6, fused=True)
    same = [
        torch.equal(*pair)
        for pair in zip(went(marked, starts, gradients), went(theirs, starts, gradients), strict=True)
    ]
    assert same == [True, True, True, True, False] and table.shape == (20, 32)


def test_a_training_turns_its_matrices_and_no_table():
    state = fresh(vectors(), TrainSettings(optimiser=partial(muon, narrowest=2)))
    hidden, rest = ({id(p) for p in group["params"]} for group in state.optimizer.param_groups)
    names = dict(state.objective.named_parameters())
    tables = {f"{name}.weight" for name, part in state.objective.named_modules() if isinstance(part, nn.Embedding)}
    assert tables and all(id(names[name]) in rest for name in tables)
    assert {name for name, p in names.items() if id(p) in hidden} == {
        name for name, p in names.items() if p.ndim > 1 and name not in tables
    }
    assert hidden.isdisjoint(rest) and len(hidden) + len(rest) == len(names)


def test_the_rate_of_a_schedule_is_that_of_both():
    data = vectors()
    state = fresh(data, TrainSettings(optimiser=muon, learning_rate=1e-2, lr_schedule=lambda step: 0.5**step))
    for record in train(state, Batches(data, 8, seed=0), steps=3):
        assert [group["lr"] for group in state.optimizer.param_groups] == [record.learning_rate] * 2


def test_a_checkpoint_holds_what_matrices_and_the_rest_need(tmp_path):
    data, settings = vectors(), TrainSettings(learning_rate=1e-2, optimiser=muon)
    batches, whole, cut = Batches(data, 8, seed=0), fresh(data, settings), fresh(data, settings)
    assert all(group["params"] for group in cut.optimizer.param_groups)
    for state, steps in ((whole, 6), (cut, 3)):
        for _ in train(state, batches, steps=steps):
            pass
    again = load_checkpoint(save_checkpoint(tmp_path, cut), fresh(data, settings))
    for _ in train(again, batches, steps=6):
        pass
    one, other = whole.objective.state_dict(), again.objective.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_state_of_another_optimiser_is_refused():
    parameters: list[torch.Tensor] = [nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.ones(16))]
    made = muon(parameters, 0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    saved = copy.deepcopy(made.state_dict())
    saved["state"][0], saved["state"][1] = saved["state"][1], saved["state"][0]
    with pytest.raises(CbdmError, match="its entries are"):
        load_optimizer(made, saved, "optimizer.pt")


def test_a_closure_is_called_with_gradients():
    w = nn.Parameter(torch.ones(16, 16))
    optimiser = Muon([w], 0.1)

    def closure():
        optimiser.zero_grad()
        value = w.square().sum()
        value.backward()
        return value

    assert optimiser.step(closure) == 256 and not torch.equal(w.detach(), torch.ones(16, 16))


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": -0.1}, {"iterations": 0}, {"narrowest": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(CbdmError, match="muon needs"):
        muon([nn.Parameter(torch.ones(16, 16))], 0.1, **wrong)

"""Conditions that are no classes: what is hidden has no influence, what is shown is learned, mistakes are told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import (
    Classes,
    Condition,
    MultiLabel,
    Tokens,
    Vectors,
    as_space,
    class_count,
    space_from_dict,
    space_to_dict,
)
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.encoders import ClassEmbedding, TokenEmbedding, condition_encoder, sinusoid
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.predicts import Predicts
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine

PRESENT = torch.tensor([True, False, True, False])


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stirred(module, seed=0):
    """In float64, every parameter random."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


# --- spaces -----------------------------------------------------------------------------------------------------------

_size = st.integers(1, 10**6)
_space = st.one_of(
    st.builds(Classes, _size), st.builds(Vectors, _size), st.builds(MultiLabel, _size), st.builds(Tokens, _size, _size)
)


@given(_space)
def test_a_space_comes_back_from_its_description(space):
    assert space_from_dict(space_to_dict(space)) == space


def test_descriptions_are_plain():
    assert space_to_dict(Vectors(2)) == {"kind": "vectors", "size": 2}
    assert space_to_dict(Classes(5)) == {"kind": "classes", "size": 5}
    assert space_to_dict(MultiLabel(4)) == {"kind": "multilabel", "size": 4}
    assert space_to_dict(Tokens(7, 3)) == {"kind": "tokens", "vocabulary": 7, "length": 3}


def test_a_number_is_a_number_of_classes():
    assert as_space(5) == Classes(5) and as_space(Vectors(2)) == Vectors(2)
    assert class_count(as_space(5)) == 5 and class_count(MultiLabel(5)) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Classes(0), "num_classes must be a whole number of 1 or more, got 0"),
        (lambda: as_space(True), "got True"),
        (lambda: as_space("five"), "a number of classes, Classes, Vectors, MultiLabel or Tokens, got 'five'"),
        (lambda: Vectors(2.5), "size must be a whole number of 1 or more, got 2.5"),
        (lambda: MultiLabel(-1), "size must be a whole number of 1 or more, got -1"),
        (lambda: Tokens(0, 3), "vocabulary must be"),
        (lambda: Tokens(3, 0), "length must be"),
        (lambda: space_from_dict({"kind": "vector", "size": 2}), "did you mean 'vectors'?"),
        (lambda: space_from_dict({"size": 2}), "unknown kind of condition 'None'"),
        (lambda: space_from_dict({"kind": "vectors"}), "need size: add it"),
        (lambda: space_from_dict({"kind": "tokens", "vocabulary": 2, "lenght": 2}), "did you mean 'length'?"),
        (lambda: condition_encoder(Tokens(3, 2), 4), "use the dit"),
        (lambda: MLP((2,), Tokens(3, 2)), "use the dit"),
        (lambda: UNet((1, 8, 8), Tokens(3, 2), width=8), "use the dit"),
    ],
)
def test_a_space_that_cannot_be_is_refused(make, words):
    with pytest.raises(CbdmError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Classes(3), torch.tensor([0, 0, 3, 0]), "label 3 is outside [0, 3)"),
        (Vectors(2), torch.zeros(4, 3), "must be (B, 2) floats, got (4, 3)"),
        (Vectors(2), torch.zeros(4), "must be (B, 2) floats, got (4,)"),
        (Vectors(2), torch.zeros(4, 2, dtype=torch.long), "floats, got (4, 2) of torch.int64"),
        (Vectors(2), torch.tensor([[0.0, float("nan")]] * 4), "holds nan"),
        (MultiLabel(2), torch.zeros(4, 3), "must be (B, 2) of 0 and 1, got (4, 3)"),
        (MultiLabel(2), torch.tensor([[0, 2]] * 4), "0 or 1, got 2"),
        (MultiLabel(2), torch.tensor([[0.0, float("nan")]] * 4), "0 or 1, got nan"),
        (Tokens(5, 3), torch.zeros(4, 2, dtype=torch.long), "must be (B, 3) integers, got (4, 2)"),
        (Tokens(5, 3), torch.zeros(4, 3), "integers, got (4, 3) of torch.float32"),
        (Tokens(5, 3), torch.tensor([[0, 1, 5]] * 4), "token 5 is outside [0, 5)"),
        (Tokens(5, 3), torch.tensor([[0, 1, -2]] * 4), "token -2 is outside"),
    ],
)
def test_values_outside_the_space_are_refused(space, value, words):
    with pytest.raises(CbdmError) as error:
        space.shown(Condition(value, PRESENT))
    assert words in str(error.value) and "\n" not in str(error.value)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 99))
def test_shown_is_the_value_where_present_and_zero_elsewhere(present, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, mask = len(present), torch.tensor(present)
    wild = {
        Classes(3): (torch.randint(0, 3, (rows,), generator=generator), 10**9),
        Vectors(2): (torch.randn(rows, 2, generator=generator), float("nan")),
        MultiLabel(4): (torch.randint(0, 2, (rows, 4), generator=generator), -7),
        Tokens(3, 2): (torch.randint(-1, 3, (rows, 2), generator=generator), 99),
    }
    for space, (value, hidden) in wild.items():
        by_row = mask.reshape(-1, *[1] * (value.ndim - 1))
        shown = space.shown(Condition(value.masked_fill(~by_row, hidden), mask))
        assert torch.equal(shown, value * by_row)


# --- encoders ---------------------------------------------------------------------------------------------------------

VALUES = {
    Classes(3): torch.tensor([0, 2, 1, 0]),
    Vectors(3): normal(4, 3),
    MultiLabel(3): torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]),
}
_spaces = pytest.mark.parametrize("space", list(VALUES), ids=lambda s: type(s).__name__)


@_spaces
@torch.no_grad()
def test_null_is_the_zero_vector_whatever_value_and_weights(space):
    encoder = stirred(condition_encoder(space, 5))
    value = VALUES[space].clone()
    out = encoder(Condition(value, PRESENT))
    assert (out[~PRESENT] == 0).all() and (out[PRESENT].abs().amax(1) > 0).all()
    value[~PRESENT] = float("nan") if value.is_floating_point() else 99
    assert torch.equal(encoder(Condition(value, PRESENT)), out)
    for p in encoder.parameters():
        p.fill_(float("nan"))
    assert (encoder(Condition(value, torch.zeros(4, dtype=torch.bool))) == 0).all()


@_spaces
def test_a_batch_of_nulls_gives_every_parameter_a_gradient_of_zero(space):
    encoder = stirred(condition_encoder(space, 5))
    value = torch.full_like(VALUES[space], float("nan")) if isinstance(space, Vectors) else VALUES[space]
    encoder(Condition.of(value).null()).sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in encoder.parameters())


@torch.no_grad()
def test_encoders_are_their_formulas():
    vectors = stirred(condition_encoder(Vectors(3), 5))
    v = VALUES[Vectors(3)]
    hidden = v @ vectors.first.weight.T + vectors.first.bias
    expected = (hidden / (1 + torch.exp(-hidden))) @ vectors.second.weight.T + vectors.second.bias
    torch.testing.assert_close(vectors(Condition.of(v)), expected, rtol=1e-12, atol=1e-12)
    labels = stirred(condition_encoder(MultiLabel(3), 5))
    y = VALUES[MultiLabel(3)]
    for row, said in zip(y, labels(Condition.of(y)), strict=True):
        total = labels.project.bias.clone()
        for k in range(3):
            if row[k]:
                total += labels.project.weight[:, k]
        torch.testing.assert_close(said, total, rtol=1e-12, atol=1e-12)
    for dtype in (torch.bool, torch.uint8, torch.float32):
        assert torch.equal(labels(Condition.of(y.to(dtype))), labels(Condition.of(y)))


def test_published_weights_keep_their_names():
    encoder = condition_encoder(Classes(3), 5)
    assert type(encoder) is ClassEmbedding and [n for n, _ in encoder.named_parameters()] == ["vectors.weight"]


@torch.no_grad()
def test_no_label_differs_from_null():
    """All zeros is something said: that no label holds."""
    torch.manual_seed(0)
    encoder = condition_encoder(MultiLabel(3), 5)
    none = Condition.of(torch.zeros(1, 3))
    assert encoder(none).abs().max() > 0.1 and (encoder(none.null()) == 0).all()


@torch.no_grad()
def test_token_vectors_carry_place_and_padding_is_not_seen():
    encoder = stirred(TokenEmbedding(Tokens(4, 3), 6))
    value = torch.tensor([[2, 0, -1], [3, 3, 3], [-1, -1, -1], [1, 1, -1]])
    vectors, seen = encoder(Condition(value, torch.tensor([True, False, True, True])))
    expected = [
        [False, True, True, False],
        [True, False, False, False],
        [True] + 3 * [False],
        [False, True, True, False],
    ]
    assert seen.tolist() == expected
    assert (vectors[~seen] == 0).all()
    for row in (1, 2):  # nothing is said, and nothing can be read
        assert torch.equal(vectors[row, 0], encoder.null)
    place = sinusoid(torch.arange(3), 6)
    torch.testing.assert_close(vectors[0, 2], encoder.vectors.weight[0] + place[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vectors[3, 2] - vectors[3, 1], place[1] - place[0], rtol=1e-6, atol=1e-6)


# --- networks ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("space", [Vectors(3), MultiLabel(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "make",
    [lambda space: MLP((2,), space, width=8, depth=1), lambda space: UNet((1, 4, 4), space, width=8, groups=4)],
    ids=["mlp", "unet"],
)
def test_networks_look_at_what_is_shown_only(make, space):
    network = stirred(make(space)).eval()
    x_t, t, value = normal(4, *network.shape), torch.linspace(0.1, 0.9, 4).double(), VALUES[space]
    said = network(x_t, t, Condition(value, PRESENT))
    other = (1 - value) if isinstance(space, MultiLabel) else value + 1
    hidden = torch.where(PRESENT[:, None], value, other)
    assert torch.equal(network(x_t, t, Condition(hidden, PRESENT)), said)
    changed = network(x_t, t, Condition(other, PRESENT))
    assert ((changed - said).flatten(1).abs().amax(1) > 1e-6).tolist() == PRESENT.tolist()
    assert network.condition == space and network.num_classes is None


def test_predicts_says_what_its_network_does():
    network = MLP((2,), Vectors(3), width=8, depth=1)
    wrapped = Predicts(network, "v", Cosine())
    assert (wrapped.shape, wrapped.condition, wrapped.num_features) == ((2,), Vectors(3), 8)


def means_learned(network, value, x_0, asked, *, steps):
    """x̂_0 at t = 0.7 under `asked`, after `steps` steps of a denoising loss on rows whose x_0 is known from c."""
    objective = Objective(Process(Cosine()), network, DenoisingLoss(), drop=0.1)
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.arange(128)
        draws = Draws(0, step, rows)
        chosen = (draws.uniform("row", 1)[:, 0] * len(value)).long()
        loss = objective(x_0[chosen], Condition.of(value[chosen]), draws)["denoising"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    t = torch.full((len(asked),), 0.7, dtype=torch.float64)
    alpha_t, sigma_t = (v[:, None].float() for v in Cosine()(t))
    eps = torch.randn(len(asked), x_0.shape[1], generator=torch.Generator().manual_seed(3))
    x_t = sigma_t * eps  # around 0, so that x_t says nothing of the mean
    with torch.no_grad():
        return (x_t - sigma_t * network(x_t, t, Condition.of(asked))) / alpha_t


def test_an_mlp_learns_what_a_vector_means():
    """x_0 = f(v) is a point, so x̂_0 under v is f(v) wherever x_t lies; v's not seen in training are asked for."""
    torch.manual_seed(0)

    def f(v):
        return torch.stack([torch.sin(2 * v[:, 0]), v[:, 0] * v[:, 1]], dim=1)

    v = 2 * torch.rand(2000, 2) - 1
    asked = 1.8 * torch.rand(200, 2) - 0.9
    found = means_learned(MLP((2,), Vectors(2), width=64, depth=2), v, f(v), asked, steps=500)
    error = (found - f(asked)).square().mean().sqrt()
    assert error < 0.15, error  # the spread of f(v) is 0.53, so a network that ignores v is off by that


def test_an_mlp_learns_what_labels_mean_together():
    """x_0 = Σ_k y_k a_k: each of the 16 combinations has its own mean, none of the labels being zero among them."""
    torch.manual_seed(0)
    y = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    x_0 = y @ torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.5, 0.5], [0.7, 0.7]]) - 0.5
    found = means_learned(MLP((2,), MultiLabel(4), width=64, depth=2), y, x_0, y, steps=400)
    error = (found - x_0).abs().amax(1)
    assert error.max() < 0.35, error  # neighbours are 0.7 apart


@pytest.mark.parametrize("augment", [None, torch.tensor([[1.0], [2.0], [3.0], [4.0]])])
def test_beside_null_by_hand_and_the_same_object_to_a_solver(augment):
    c = Condition(torch.tensor([2, 0, 1, 3]), PRESENT, augment)
    with torch.inference_mode():
        first = c.beside_null()
        assert c.beside_null() is first
    for both in (first, c.beside_null()):
        assert both.value.tolist() == [2, 0, 1, 3, 2, 0, 1, 3]
        assert both.present.tolist() == [True, False, True, False, False, False, False, False]
        assert (both.augment is None) == (augment is None)
        assert both.augment is None or both.augment[:, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_a_gradient_reaches_conditions_that_a_solver_was_shown():
    value = torch.ones(4, 2, requires_grad=True)
    c = Condition(value, PRESENT)
    with torch.inference_mode():
        c.beside_null()
    for _ in range(2):  # each with a graph of its own
        c.beside_null().value.square().sum().backward()
    torch.testing.assert_close(value.grad, torch.full((4, 2), 8.0))

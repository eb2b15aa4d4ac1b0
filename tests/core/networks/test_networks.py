"""The score networks beyond what `tests/test_contracts.py` asks of each, and mistakes told in one line."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_core.networks import NETWORKS
from cbdm_core.networks.encoders import sinusoid
from cbdm_core.networks.layers import Attention, Downsample, ResidualBlock, Upsample
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.published import published_unet
from cbdm_core.networks.unet import UNet

K = 5


def _unet(*shape, **options):
    return UNet(shape, K, **{"width": 8, "groups": 4, "multipliers": (1, 2), "attention": (1,), **options})


MAKERS = {
    "mlp": lambda: MLP((3,), K, width=16, depth=2),
    "unet-1d": lambda: _unet(2, 12, heads=2),
    "unet-2d": lambda: _unet(1, 8, 4, blocks=2, augmentations=3),
    "unet-3d": lambda: _unet(2, 4, 2, 6, attention=(0,), time_steps=50),
    "unet-3-levels": lambda: _unet(3, 8, 8, multipliers=(1, 2, 1), attention=()),
}


def _stirred(network, seed=0):
    """The network in float64 and eval mode with every parameter random, so that no branch is close to silent."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for p in network.parameters():
            scale = 0.3 if p.ndim == 1 else 1.5 / p[0].numel() ** 0.5
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return network


def _batch(network, rows=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(rows, *network.shape, generator=generator, dtype=torch.float64)
    t = torch.rand(rows, generator=generator, dtype=torch.float64)
    augments = network.augment.augmentations if isinstance(network, UNet) else 0
    augment = torch.randn(rows, augments, generator=generator, dtype=torch.float64) if augments else None
    return x_t, t, Condition.of(torch.arange(rows) % K, augment)


@pytest.fixture(scope="module", params=MAKERS)
def network(request):
    return _stirred(MAKERS[request.param]())


@torch.no_grad()
def test_a_null_row_does_not_read_the_label_vectors(network):
    x_t, t, c = _batch(network)
    before = network(x_t, t, c.null())
    kept = network.label.vectors.weight.clone()
    network.label.vectors.weight.fill_(float("nan"))
    after = network(x_t, t, c.null())
    network.label.vectors.weight.copy_(kept)
    assert torch.equal(before, after)


@torch.no_grad()
def test_relabelling_the_classes_changes_nothing(network):
    x_t, t, c = _batch(network)
    before = network(x_t, t, c)
    order = torch.tensor([3, 0, 4, 1, 2])
    kept = network.label.vectors.weight.clone()
    network.label.vectors.weight[order] = kept
    relabelled = network(x_t, t, c.with_value(order[c.value]))
    network.label.vectors.weight.copy_(kept)
    assert torch.equal(relabelled, before)
    assert not torch.allclose(network(x_t, t, c.with_value(order[c.value])), before)


def test_the_gradient_is_that_of_finite_differences(network):
    x_t, t, c = _batch(network, rows=2)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()}

    def loss(step):
        moved = {name: p + step * direction[name] for name, p in parameters.items()}
        return torch.func.functional_call(network, moved, (x_t, t, c)).sin().sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(step), step)
    with torch.no_grad():
        difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert abs(slope - difference) <= 1e-5 * abs(slope) + 1e-6  # truncation ~ step², rounding ~ 1e-10


@torch.no_grad()
def test_unet_features_are_the_mean_of_the_middle():
    network = _stirred(_unet(1, 8, 4))
    seen = []
    network.middle[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x_t, t, c = _batch(network)
    features = network.with_features(x_t, t, c)[1]
    assert seen[0].shape == (4, 16, 4, 2)
    torch.testing.assert_close(features, seen[0].sum((2, 3)) / 8, rtol=1e-12, atol=1e-12)


def test_the_augmentation_matters_and_none_is_the_zero_vector():
    network = _stirred(MAKERS["unet-2d"]())
    x_t, t, c = _batch(network)
    network(x_t, t, c).square().sum().backward()
    assert (network.augment.project.weight.grad.abs() > 0).all()
    changed = network(x_t, t, replace(c, augment=c.augment + 1))
    assert ((changed - network(x_t, t, c)).flatten(1).abs().amax(1) > 1e-4).all()
    none = network(x_t, t, replace(c, augment=None))
    assert torch.equal(none, network(x_t, t, replace(c, augment=torch.zeros_like(c.augment))))


@pytest.mark.parametrize("make", [lambda: _unet(1, 4, 4, dropout=0.5), lambda: MLP((3,), K, dropout=0.5)])
def test_dropout_acts_in_training_only(make):
    network = _stirred(make())
    x_t, t, c = _batch(network)
    with torch.no_grad():
        assert torch.equal(network(x_t, t, c), network(x_t, t, c))
        network.train()
        torch.manual_seed(0)
        first, second = network(x_t, t, c), network(x_t, t, c)
        torch.manual_seed(0)
        assert torch.equal(network(x_t, t, c), first) and not torch.allclose(first, second)


def test_options_describe_the_network():
    """A network built again from its options, with these weights, is the same function."""
    options = {
        "width": 8,
        "multipliers": (2, 1),
        "attention": (0,),
        "blocks": 2,
        "dropout": 0.3,
        "groups": 2,
        "heads": 4,
    }
    network = _stirred(UNet((1, 4, 6), K, **options, augmentations=2, time_steps=7))
    again = UNet(network.shape, network.num_classes, **network.options).double().eval()
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*_batch(network)), network(*_batch(network)))
    assert [m.p for m in again.modules() if isinstance(m, nn.Dropout)] == [0.3] * 12


def test_a_fresh_unet_starts_near_zero():
    torch.manual_seed(0)
    network = _unet(3, 8, 8).double().eval()
    said = network(*_batch(network))
    assert 0 < said.abs().max() < 1e-3


@given(position=st.integers(0, 4000), half=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_sinusoid(position, half):
    angles = position * 10000.0 ** (-2 * np.arange(half) / (2 * half))
    row = sinusoid(torch.tensor([position]), 2 * half)[0]
    np.testing.assert_allclose(row[0::2], np.sin(angles), rtol=0, atol=1e-11)
    np.testing.assert_allclose(row[1::2], np.cos(angles), rtol=0, atol=1e-11)


def test_times_below_the_first_row_take_the_first_row():
    time = _unet(1, 4, 4, time_steps=10).time
    position = time.position(torch.tensor([0.0, 0.04, 0.1, 0.149, 0.151, 0.96, 1.0]))
    assert position.tolist() == [0, 0, 0, 0, 1, 9, 9]
    assert MLP((1,), 1).time.position(torch.tensor([0.0, 0.25, 1.0])).tolist() == [0, 250, 1000]


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_the_formula(heads):
    layer = _stirred(Attention(6, groups=2, heads=heads))
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    places = F.group_norm(x, 2, layer.norm.weight, layer.norm.bias, eps=1e-5).flatten(2)  # (B, C, N)
    q, k, v = (
        torch.einsum("oc,bcn->bon", part.weight, places) + part.bias[:, None]
        for part in (layer.query, layer.key, layer.value)
    )
    size = 6 // heads
    attended = []
    for head in range(heads):
        a, b, w = (part[:, head * size : (head + 1) * size] for part in (q, k, v))
        scores = torch.einsum("bcn,bcm->bnm", a, b) / size**0.5
        attended.append(torch.einsum("bnm,bcm->bcn", scores.softmax(-1), w))
    out = torch.einsum("oc,bcn->bon", layer.out.weight, torch.cat(attended, 1)) + layer.out.bias[:, None]
    torch.testing.assert_close(layer(x), x + out.reshape(x.shape), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("dims", [1, 2])
def test_fewer_dimensions_are_a_slice_of_more(dims):
    """Signals embedded in images (images in volumes) one place thick, the kernel's middle slice, give the same."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, *[6] * dims, generator=generator, dtype=torch.float64)
    e = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    options = {"groups": 2, "dropout": 0.0, "heads": 1}
    low = _stirred(ResidualBlock(dims, 4, 6, 7, **options))
    high = _stirred(ResidualBlock(dims + 1, 4, 6, 7, **options))
    _embed(low, high)
    torch.testing.assert_close(high(x[..., None], e)[..., 0], low(x, e), rtol=1e-10, atol=1e-10)
    low, high = _stirred(Downsample(dims, 4)), _stirred(Downsample(dims + 1, 4))
    _embed(low, high)
    torch.testing.assert_close(high(x[..., None], e)[..., 0], low(x, e), rtol=1e-10, atol=1e-10)
    low, high = _stirred(Upsample(dims, 4)), _stirred(Upsample(dims + 1, 4))
    _embed(low, high)
    torch.testing.assert_close(high(x[..., None], e)[..., 0], low(x, e), rtol=1e-10, atol=1e-10)


def _embed(low, high):
    """Copy parameters; a kernel of one dimension more is zero but for its middle slice."""
    for ours, theirs in zip(low.parameters(), high.parameters(), strict=True):
        if ours.ndim == theirs.ndim:
            theirs.copy_(ours)
        else:
            theirs.zero_()
            theirs[..., theirs.shape[-1] // 2] = ours


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_name_takes_shape_and_condition_then_keywords():
    for name in NETWORKS:
        first, second, *rest = inspect.signature(NETWORKS[name]).parameters.values()
        assert (first.name, second.name) == ("shape", "condition")
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in rest)


def test_published_sizes():
    """Counted by hand from the architecture: the parameters of the published CIFAR100 network, table excluded."""
    with torch.device("meta"):
        network = published_unet((3, 32, 32), 100)
    a, b, e = 128, 256, 512

    def conv(i, o, k=3):
        return i * o * k * k + o

    def block(i, o, attends=False):
        shortcut = 0 if i == o else conv(i, o, 1)
        attention = 2 * o + 4 * conv(o, o, 1) if attends else 0
        return 2 * i + conv(i, o) + (e + 1) * o + 2 * o + conv(o, o) + shortcut + attention

    down = 2 * block(a, a) + conv(a, a) + block(a, b, True) + block(b, b, True) + conv(b, b)
    down += 2 * block(b, b) + conv(b, b) + 2 * block(b, b)
    up = 3 * block(b + b, b) + conv(b, b) + 3 * block(b + b, b) + conv(b, b)
    up += 2 * block(b + b, b, True) + block(b + a, b, True) + conv(b, b)
    up += block(b + a, a) + 2 * block(a + a, a)
    ends = (a + 1) * e + (e + 1) * e + 100 * e + conv(3, a) + 2 * a + conv(a, 3)
    total = ends + down + block(b, b, True) + block(b, b) + up
    assert sum(p.numel() for p in network.parameters()) == total
    assert network.options["time_steps"] == 1000 and network.norm.num_groups == 32


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _unet(1, 7, 8), "got 7 in (1, 7, 8): use 6 or 8"),
        (
            lambda: _unet(1, 10, 8, multipliers=(1, 1, 1), attention=()),
            "divisible by 4, got 10 in (1, 10, 8): use 8 or 12",
        ),
        (lambda: _unet(1, 1, 8), "use 2, or"),
        (lambda: _unet(3), "use mlp for vectors"),
        (lambda: _unet(1, 2, 2, 2, 2), "1 to 3 spatial axes"),
        (lambda: _unet(0, 8, 8), "got 0"),
        (lambda: _unet(1, 8, 8, width=30), "width 30 is not divisible by groups 4: use 28 or 32"),
        (lambda: _unet(1, 8, 8, width=3, groups=1), "width must be even"),
        (lambda: _unet(1, 8, 8, attention=(0, 2)), "attention names level 2, and the levels are 0 to 1"),
        (lambda: _unet(1, 8, 8, attention=(-1,)), "attention names level -1"),
        (lambda: _unet(1, 8, 8, multipliers=()), "multipliers"),
        (lambda: _unet(1, 8, 8, multipliers=(1, 0)), "multipliers must be a whole number of 1 or more, got 0"),
        (lambda: _unet(1, 8, 8, blocks=0), "blocks must be a whole number of 1 or more, got 0"),
        (lambda: _unet(1, 8, 8, dropout=1.0), "dropout must be a probability in [0, 1), got 1.0"),
        (lambda: _unet(1, 8, 8, heads=3), "the 16 channels of level 1 do not split into 3 heads"),
        (lambda: _unet(1, 8, 8, augmentations=-1), "augmentations must be 0 or more, got -1"),
        (lambda: _unet(1, 8, 8, time_steps=0), "time_steps must be a whole number of 1 or more, got 0"),
        (lambda: UNet((1, 8, 8), 0), "num_classes must be a whole number of 1 or more, got 0"),
        (lambda: MLP((1, 8, 8), K), "use unet or dit for images and signals"),
        (lambda: MLP((2,), K, width=7), "width must be even"),
        (lambda: MLP((2,), K, depth=0), "depth must be"),
        (lambda: MLP((2,), K, depth=True), "depth must be"),
        (lambda: MLP((2,), K, dropout=-0.1), "got -0.1"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, words):
    with pytest.raises(CbdmError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, t, c: (x[:, :1], t, c), "x_t must be (B, 2, 4, 4)"),
        (lambda x, t, c: (x[:1], t, c), "1 rows of x_t need t (1,)"),
        (lambda x, t, c: (x, t[0], c), "got t ()"),
        (lambda x, t, c: (x, t, c[:2]), "labels (2,)"),
        (lambda x, t, c: (x, t, c.with_value(torch.tensor([0, 1, 2, 5]))), "label 5 is outside [0, 5)"),
        (lambda x, t, c: (x, t, c.with_value(torch.tensor([0, -1, 2, 3]))), "label -1 is outside [0, 5)"),
        (lambda x, t, c: (x, t, c.with_value(c.value.double())), "labels must be (B,) integers"),
        (lambda x, t, c: (x, t, c.with_value(F.one_hot(c.value, K))), "labels must be (B,) integers"),
        (lambda x, t, c: (x, t, replace(c, augment=torch.zeros(4, 9))), "build it with augmentations=9"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, words):
    network = _unet(2, 4, 4).double()
    with pytest.raises(CbdmError) as error:
        network(*change(*_batch(network)))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_augmentation_vectors_that_do_not_fit_are_refused():
    network = _unet(2, 4, 4, augmentations=9).double()
    x_t, t, c = _batch(network)
    with pytest.raises(CbdmError, match=r"must be \(4, 9\), got \(4, 8\)"):
        network(x_t, t, replace(c, augment=c.augment[:, :8]))
    network = MLP((2,), K).double()
    x_t, t, c = _batch(network)
    with pytest.raises(CbdmError, match="takes no augmentation"):
        network(x_t, t, replace(c, augment=torch.zeros(4, 9)))


def test_labels_of_narrow_integers_are_labels():
    network = _stirred(_unet(1, 4, 4))
    x_t, t, c = _batch(network)
    with torch.no_grad():
        assert torch.equal(network(x_t, t, c.with_value(c.value.to(torch.uint8))), network(x_t, t, c))


def test_a_unet_learns():
    """60 steps tell two constant images apart, from their labels alone, at full noise."""
    torch.manual_seed(0)
    network = UNet((1, 4, 4), 2, width=16, groups=4, multipliers=(1, 1), dropout=0.0)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    label = torch.arange(16) % 2
    x_t, t, c = torch.randn(16, 1, 4, 4), torch.ones(16), Condition.of(label)
    target = (2.0 * label - 1).reshape(-1, 1, 1, 1).expand_as(x_t)
    for _ in range(60):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(x_t, t, c), target)
        loss.backward()
        optimiser.step()
    assert loss < 0.05  # 1.0 where the label is ignored

"""Networks written elsewhere: what an adapter says is what the wrapped module says, and CBDM trains it."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from cbdm import ClassBalancing, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Classes, Condition, MultiLabel, Tokens, Vectors
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.adapters import Adapter, from_diffusers
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine

K = 3
LABELS, PRESENT = torch.tensor([0, 2, 1, 2]), torch.tensor([True, False, True, True])
SHAPE = (2, 4, 4)


class Plain(nn.Module):
    """A module that knows nothing of conditions, times in [0, 1] or nulls: (image, number, row) → image."""

    def __init__(self, rows=K + 1):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.row, self.time = nn.Embedding(rows, 6), nn.Linear(1, 6)
        self.trunk = nn.Sequential(nn.SiLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, image, number, row):
        h = self.stem(image) + (self.row(row) + self.time(number[:, None]))[..., None, None]
        return self.out(self.trunk(h))


def call_plain(module, x_t, t, c):
    return module(x_t, t.to(x_t.dtype), torch.where(c.present, c.value, K))


def plain(**options):
    torch.manual_seed(0)
    return Adapter(Plain().double(), call_plain, SHAPE, K, **options)


def a_unet(**options):
    torch.manual_seed(0)
    sizes = {
        "sample_size": 4,
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "num_class_embeds": K + 1,
    }
    return UNet2DModel(**{**sizes, **options}).double()


def a_dit(**options):
    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 2,
        "out_channels": 4,
        "num_layers": 2,
        "sample_size": 4,
        "patch_size": 2,
        "num_embeds_ada_norm": K,
        "norm_num_groups": 1,
    }
    return DiTTransformer2DModel(**{**sizes, **options}).double()


MAKERS = {"plain": plain, "unet": lambda: from_diffusers(a_unet(), time_steps=50), "dit": None}
MAKERS["dit"] = lambda: from_diffusers(a_dit(), K, time_steps=50)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_batch():
    t = torch.tensor([0.0, 0.3, 0.62, 1.0], dtype=torch.float64)
    return normal(4, *SHAPE), t, Condition(LABELS, PRESENT)


@pytest.fixture(params=MAKERS)
def network(request):
    return MAKERS[request.param]().eval()


# --- any module -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_says_what_the_module_says():
    network, (x_t, t, c) = plain(), a_batch()
    assert torch.equal(network(x_t, t, c), network.module(x_t, t, torch.tensor([0, K, 1, 2])))
    assert (network.shape, network.condition, network.num_classes) == (SHAPE, Classes(K), K)


@torch.no_grad()
def test_what_a_null_row_hides_never_reaches_the_call():
    seen = []

    def call(module, x_t, t, c):
        seen.append(c)
        return x_t

    x_t, t, c = a_batch()
    vector = normal(4, 3)
    vector[1] = float("nan")
    tokens = torch.tensor([[0, -1], [99, 99], [1, 0], [1, 1]])
    for space, value, expected in (
        (K, torch.tensor([0, -5, 1, 2]), [0, 0, 1, 2]),
        (Vectors(3), vector, vector.nan_to_num(0).tolist()),
        (Tokens(2, 2), tokens, [[0, -1], [0, 0], [1, 0], [1, 1]]),
        (MultiLabel(1), torch.tensor([[1], [7], [0], [1]]), [[1], [0], [0], [1]]),
    ):
        Adapter(nn.Identity(), call, SHAPE, space)(x_t, t, Condition(value, PRESENT))
        assert seen[-1].value.tolist() == expected and torch.equal(seen[-1].present, PRESENT)


@torch.no_grad()
def test_features_are_the_pooled_output_of_the_submodule():
    network, (x_t, t, c) = plain(features="trunk"), a_batch()
    seen = []
    network.module.trunk.register_forward_hook(lambda module, inputs, output: seen.append(output))
    eps_hat, features = network.with_features(x_t, t, c)
    assert torch.equal(eps_hat, network(x_t, t, c))
    torch.testing.assert_close(features, seen[0].sum((2, 3)) / 16, rtol=1e-12, atol=1e-12)
    assert len(seen) == 2 and len(network.module.trunk._forward_hooks) == 1  # ours was taken off


@torch.no_grad()
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (normal(4, 5), lambda o: o),
        (normal(4, 7, 5), lambda o: o.sum(1) / 7),
        (normal(4, 5, 2, 3), lambda o: o.sum((2, 3)) / 6),
        ((normal(4, 5, 2, 1, 3), None), lambda o: o[0].sum((2, 3, 4)) / 6),
    ],
    ids=["vector", "tokens", "image", "volume in a tuple"],
)
def test_what_is_averaged(output, expected):
    class Inner(nn.Module):
        def forward(self, x):
            if isinstance(output, tuple):
                return tuple(o if o is None else o[: len(x)] for o in output)
            return output[: len(x)]

    def call(module, x_t, t, c):
        module["inner"](x_t)
        return x_t

    network = Adapter(nn.ModuleDict({"inner": Inner()}), call, SHAPE, K, features="inner")
    features = network.with_features(*a_batch())[1]
    torch.testing.assert_close(features, expected(output), rtol=1e-12, atol=1e-12)
    assert network.num_features == 5


def test_asking_for_the_number_of_features_changes_nothing():
    network = plain(features="trunk")
    network.module.trunk.append(nn.BatchNorm2d(6).double())
    network.train()
    network.module.stem.eval()
    before = copy.deepcopy(network.state_dict())
    assert network.num_features == 6
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and network.module.trunk.training and not network.module.stem.training


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: plain(features="trnk"), "did you mean 'trunk'?"),
        (lambda: plain().with_features(*a_batch()), "name the submodule that gives them"),
        (lambda: Adapter(Plain(), call_plain, SHAPE, 0), "num_classes must be"),
        (lambda: Adapter(nn.Identity(), lambda m, x, t, c: x[:, :1], SHAPE, K)(*a_batch()), "got (4, 1, 4, 4)"),
        (lambda: Adapter(nn.Identity(), lambda m, x, t, c: (x,), SHAPE, K)(*a_batch()), "got tuple"),
        (
            lambda: Adapter(nn.Sequential(nn.Identity()), lambda m, x, t, c: x, SHAPE, K, features="0").with_features(
                *a_batch()
            ),
            "'0' was not called",
        ),
        (
            lambda: Adapter(
                nn.ModuleList([nn.Flatten(0)]), lambda m, x, t, c: (m[0](x), x)[1], SHAPE, K, features="0"
            ).with_features(*a_batch()),
            "returns (128,)",
        ),
        (lambda: plain()(a_batch()[0][:, :1], *a_batch()[1:]), "x_t must be"),
        (lambda: plain()(*a_batch()[:2], Condition.of([0, 1, 2, 3])), "label 3 is outside [0, 3)"),
    ],
)
def test_what_does_not_fit_is_refused(act, words):
    with pytest.raises(CbdmError) as error:
        act()
    assert words in str(error.value) and "\n" not in str(error.value)


# --- diffusers --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_says_what_the_model_of_diffusers_says(name):
    network, (x_t, t, c) = MAKERS[name]().eval(), a_batch()
    i, label = torch.tensor([0, 14, 30, 49]), torch.tensor([0, K, 1, 2])
    expected = network.module(x_t, i, class_labels=label).sample
    assert torch.equal(network(x_t, t, c), expected[:, :2])
    if name == "dit":
        assert expected.shape[1] == 4  # the learned variance
    assert (network.shape, network.num_classes) == (SHAPE, K)
    assert network.num_features == 8 and network.with_features(x_t, t, c)[1].shape == (4, 8)


@torch.no_grad()
def test_features_of_the_models_of_diffusers():
    x_t, t, c = a_batch()
    for name, layer, axes in (
        ("unet", lambda m: m.mid_block, (2, 3)),
        ("dit", lambda m: m.transformer_blocks[1], 1),
    ):
        network, seen = MAKERS[name]().eval(), []
        layer(network.module).register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        features = network.with_features(x_t, t, c)[1]
        torch.testing.assert_close(features, seen[0].mean(axes), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_each_row_says_its_own(network):
    x_t, t, c = a_batch()
    said = network(x_t, t, c)
    for row in range(4):
        alone = network(x_t[row : row + 1], t[row : row + 1], c[slice(row, row + 1)])
        torch.testing.assert_close(alone, said[row : row + 1], rtol=1e-9, atol=1e-9)
    shown = network(x_t, t, Condition.of(LABELS))
    assert ((shown - said).flatten(1).abs().amax(1) > 1e-6).tolist() == (~PRESENT).tolist()


def test_the_dit_drops_no_labels_of_its_own():
    network, (x_t, t, _) = MAKERS["dit"]().train(), a_batch()
    with torch.no_grad():
        x_t, t = x_t[:1].expand(200, -1, -1, -1), t[2:3].expand(200)
        said = network(x_t, t, Condition.of([1] * 200))
    torch.testing.assert_close(said, said[:1].expand_as(said), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: from_diffusers(a_unet(num_class_embeds=None)), "build it with num_class_embeds = K + 1"),
        (lambda: from_diffusers(a_unet(class_embed_type="timestep")), "build it with num_class_embeds = K + 1"),
        (lambda: from_diffusers(a_unet(), K + 1), "need 5 label rows, and the model has 4"),
        (lambda: from_diffusers(a_dit(), K + 1), "need 5 label rows, and the model has 4"),
        (lambda: from_diffusers(a_unet(sample_size=None)), "build it with sample_size"),
        (lambda: from_diffusers(a_unet(out_channels=3)), "turns 2 channels into 3"),
        (lambda: from_diffusers(a_unet(time_embedding_type="fourier")), "'positional'"),
        (
            lambda: from_diffusers(a_unet(time_embedding_type="learned", num_train_timesteps=9)),
            "give time_steps = 9",
        ),
        (lambda: from_diffusers(a_unet(), time_steps=0), "time_steps must be"),
        (lambda: from_diffusers(Plain()), "got Plain: use Adapter"),
        (
            lambda: from_diffusers(a_unet())(*a_batch()[:2], Condition(LABELS, PRESENT, torch.zeros(4, 2))),
            "no augmentation",
        ),
    ],
)
def test_a_model_of_diffusers_that_does_not_fit_is_refused(act, words):
    with pytest.raises(CbdmError) as error:
        act()
    assert words in str(error.value) and "\n" not in str(error.value)


# --- training ---------------------------------------------------------------------------------------------------------


def test_cbdm_trains_it(network):
    """Both terms reach every parameter, and descending them lowers their sum."""
    adjustment = ClassBalancing(DenoisingLoss(), Uniform([20, 5, 2]), tau=1.0)
    objective = Objective(Process(Cosine()), network.train(), adjustment, drop=0.3)
    draws = Draws(0, 0, torch.arange(16))
    x_0, c = normal(16, *SHAPE, seed=4), Condition.of(torch.arange(16) % K)

    def terms():
        return {name: term.mean() for name, term in objective(x_0, c, draws).items()}

    before = terms()
    assert set(before) == {"denoising", "balancing"}
    for name in before:
        objective.zero_grad(set_to_none=True)
        terms()[name].backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert 1e-6 < sum(float(g.abs().sum()) for g in gradients) < 1e6, name
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(10):
        optimiser.zero_grad()
        sum(terms().values()).backward()
        assert all(p.grad is not None for p in network.parameters())
        optimiser.step()
    assert sum(terms().values()) < 0.98 * sum(before.values())

"""The diffusion transformer: against its formulas, against diffusers, and what it must and must not look at."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition, MultiLabel, Tokens, Vectors
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.dit import CrossAttention, DiT, SelfAttention, patchify, positions, unpatchify
from cbdm_core.networks.encoders import sinusoid
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine

K = 5
TOKENS = Tokens(vocabulary=4, length=3)
SMALL = {"width": 12, "depth": 2, "heads": 2}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stirred(module, seed=0):
    """In float64 and eval mode, every parameter random: a fresh DiT is silent and would pass anything."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def a_batch(network, rows=4):
    values = {Vectors: normal(rows, 3, seed=7), MultiLabel: torch.randint(0, 2, (rows, 3)), Tokens: TOKEN_ROWS[:rows]}
    value = values.get(type(network.condition), torch.arange(rows) % K)
    return normal(rows, *network.shape, seed=1), torch.linspace(0.1, 0.9, rows).double(), Condition.of(value)


TOKEN_ROWS = torch.tensor([[2, 0, 1], [3, 3, -1], [0, 1, 2], [1, -1, -1]])


# --- patches and places -----------------------------------------------------------------------------------------------


@given(
    channels=st.integers(1, 3),
    grid=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    patch=st.integers(1, 3),
)
def test_patches_go_back_where_they_were(channels, grid, patch):
    shape = (channels, *(n * patch for n in grid))
    x = torch.arange(2 * math.prod(shape)).reshape(2, *shape)
    h = patchify(x, patch)
    assert h.shape == (2, math.prod(grid), channels * patch ** len(grid))
    assert torch.equal(unpatchify(h, shape, patch), x)


def test_a_patch_is_the_block_at_its_place():
    x = normal(2, 3, 4, 6)
    h = patchify(x, 2)
    for row in range(2):
        for column in range(3):
            block = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(h[:, 3 * row + column], block.permute(0, 2, 3, 1).flatten(1))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_positions_are_the_sinusoids_of_the_coordinates(grid):
    width = 20
    table, share = positions(grid, width), 2 * (width // (2 * len(grid)))
    assert table.shape == (math.prod(grid), width)
    for place, row in enumerate(table):
        expected, rest = [], place
        for size in reversed(grid):
            expected.insert(0, sinusoid(torch.tensor([rest % size]), share)[0])
            rest //= size
        torch.testing.assert_close(row[: share * len(grid)], torch.cat(expected), rtol=0, atol=1e-12)
        assert (row[share * len(grid) :] == 0).all()
    assert len(table.unique(dim=0)) == len(table)


# --- attention --------------------------------------------------------------------------------------------------------


def slow_attention(q, k, v, heads, seen=None):
    """One query at a time, from the formula; a key that is not seen is left out of the sum."""
    out, size = torch.zeros_like(q), q.shape[2] // heads
    for b in range(len(q)):
        keys = [j for j in range(k.shape[1]) if seen is None or seen[b, j]]
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(q.shape[1]):
                weights = torch.stack([q[b, i, part] @ k[b, j, part] / size**0.5 for j in keys]).exp()
                total = sum(w * v[b, j, part] for w, j in zip(weights, keys, strict=True))
                out[b, i, part] = total / weights.sum()
    return out


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_the_formula(heads):
    layer, h = stirred(SelfAttention(6, heads)), normal(2, 5, 6)
    q, k, v = layer.qkv(h).split(6, dim=2)
    expected = layer.out(slow_attention(q, k, v, heads))
    torch.testing.assert_close(layer(h), expected, rtol=1e-10, atol=1e-10)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(h[:, order]), expected[:, order], rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 3])
def test_cross_attention_is_the_formula_over_what_is_seen(heads):
    layer, h, sequence = stirred(CrossAttention(6, heads)), normal(2, 5, 6), normal(2, 4, 6, seed=1)
    seen = torch.tensor([[True, False, True, False], [False, False, False, True]])
    k, v = layer.key_value(sequence).split(6, dim=2)
    expected = layer.out(slow_attention(layer.query(h), k, v, heads, seen))
    torch.testing.assert_close(layer(h, sequence, seen), expected, rtol=1e-10, atol=1e-10)


# --- the whole network ------------------------------------------------------------------------------------------------


class OurSinusoid(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, timestep):
        return sinusoid(timestep, self.width)


def put(module, source):
    """The weights of one layer into another."""
    module.load_state_dict({"weight": source.weight, "bias": source.bias})


def put_block(block, mine, ours):
    """The weights of one of our blocks into one of diffusers', which embeds times and labels in each."""
    embed = block.norm1.emb
    width = ours.places.shape[1]
    embed.time_proj = OurSinusoid(width)
    embed.timestep_embedder.linear_1 = nn.Linear(width, width).double()
    put(embed.timestep_embedder.linear_1, ours.time.first)
    put(embed.timestep_embedder.linear_2, ours.time.second)
    null = torch.zeros(1, width, dtype=torch.float64)
    embed.class_embedder.embedding_table.weight.copy_(torch.cat([ours.label.vectors.weight, null]))
    put(block.norm1.linear, mine.modulate)
    for part, name in enumerate(("to_q", "to_k", "to_v")):
        layer = getattr(block.attn1, name)
        layer.weight.copy_(mine.attention.qkv.weight.chunk(3)[part])
        layer.bias.copy_(mine.attention.qkv.bias.chunk(3)[part])
    put(block.attn1.to_out[0], mine.attention.out)
    put(block.ff.net[0].proj, mine.first)
    put(block.ff.net[2], mine.second)


@torch.no_grad()
def test_equals_the_dit_of_diffusers():
    """With our weights, and our sinusoids in place of theirs."""
    width, heads = 12, 3
    ours = stirred(DiT((2, 6, 6), K, patch=2, width=width, depth=2, heads=heads, time_steps=50))
    theirs = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=2,
        num_layers=2,
        sample_size=6,
        patch_size=2,
        num_embeds_ada_norm=K,
        norm_eps=1e-6,
        norm_num_groups=1,
    )
    theirs = theirs.double().eval()

    for block, mine in zip(theirs.transformer_blocks, ours.blocks, strict=True):
        put_block(block, mine, ours)
    patches = rearrange(ours.inward.weight, "w (p q c) -> w c p q", p=2, q=2)
    theirs.pos_embed.proj.load_state_dict({"weight": patches, "bias": ours.inward.bias})
    theirs.pos_embed.pos_embed = ours.places[None]
    put(theirs.proj_out_1, ours.modulate)
    put(theirs.proj_out_2, ours.outward)
    i = torch.tensor([0, 17, 31, 49])
    x_t, present = normal(4, 2, 6, 6), torch.tensor([True, False, True, True])
    said = ours(x_t, (i + 1) / 50, Condition(torch.tensor([0, 3, 4, 2]), present))
    expected = theirs(x_t, i, class_labels=torch.tensor([0, K, 4, 2])).sample
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(said, expected, rtol=1e-9, atol=1e-9)


SHAPES = {
    "1-D": ((2, 6), K, {}),
    "2-D": ((1, 4, 6), K, {}),
    "3-D": ((2, 2, 4, 2), K, {"time_steps": 40}),
    "vectors": ((1, 4, 4), Vectors(3), {"patch": 1}),
    "multi-label": ((1, 6), MultiLabel(3), {"patch": 3}),
    "tokens": ((1, 4, 4), TOKENS, {}),
    "tokens 1-D": ((1, 6), TOKENS, {"mlp_ratio": 1.5}),
}


@pytest.fixture(params=SHAPES)
def network(request):
    shape, condition, options = SHAPES[request.param]
    return stirred(DiT(shape, condition, **{**SMALL, **options}))


@torch.no_grad()
def test_each_thing_that_is_said_matters_on_its_own_row_only(network):
    x_t, t, c = a_batch(network)
    said = network(x_t, t, c)
    present = torch.tensor([True, False, True, True])
    for changed in (
        network(x_t, t, Condition(c.value, present)),
        network(x_t, torch.where(present, t, t + 0.05), c),
        network(torch.where(present.reshape(-1, *[1] * (x_t.ndim - 1)), x_t, x_t + 0.1), t, c),
    ):
        moved = (changed - said).flatten(1).abs().amax(1)
        assert moved[1] > 1e-6 and (moved[present] < 1e-12).all()


@torch.no_grad()
def test_a_place_is_known_by_its_position(network):
    """Without positions the network would only permute with its patches."""
    x_t, t, c = a_batch(network)

    def rolled(x):
        return unpatchify(patchify(x, network.patch).roll(1, dims=1), network.shape, network.patch)

    assert (network(rolled(x_t), t, c) - rolled(network(x_t, t, c))).abs().max() > 1e-4
    network.places.zero_()
    torch.testing.assert_close(network(rolled(x_t), t, c), rolled(network(x_t, t, c)), rtol=1e-9, atol=1e-9)


def test_every_parameter_learns(network):
    x_t, t, c = a_batch(network)
    for present in (torch.zeros(4, dtype=torch.bool), torch.tensor([True, False, True, True])):
        network.zero_grad(set_to_none=True)
        network(x_t, t, Condition(c.value, present)).square().sum().backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    assert [name for name, g in gradients.items() if not g.abs().max() > 1e-12] == []


@pytest.mark.parametrize("kind", ["2-D", "tokens"])
def test_a_fresh_network_is_silent_and_its_blocks_are_the_identity(kind):
    """adaLN-Zero: gates and output start at zero, and the gates' first gradient does not."""
    shape, condition, _ = SHAPES[kind]
    torch.manual_seed(0)
    network = DiT(shape, condition, **SMALL).double()
    x_t, t, c = a_batch(network)
    assert (network(x_t, t, c) == 0).all()
    h, e = normal(4, 6, 12), normal(4, 12, seed=1)
    sequence, seen = normal(4, 3, 12, seed=2), torch.ones(4, 3, dtype=torch.bool)
    for block in network.blocks:
        assert torch.equal(block(h, e, sequence, seen), h)
    assert all((b.modulate.weight == 0).all() and (b.modulate.bias == 0).all() for b in network.blocks)
    nn.init.normal_(network.outward.weight)
    network(x_t, t, c).square().sum().backward()
    width, gates = 12, range(2, 9 if kind == "tokens" else 6, 3)
    for block in network.blocks:
        by_part = block.modulate.weight.grad.unflatten(0, (-1, width)).abs().amax((1, 2))
        assert [int(part) for part in by_part.nonzero()] == list(gates)


def test_features_are_the_mean_over_the_places_of_the_last_block(network):
    outputs = []
    network.blocks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x_t, t, c = a_batch(network)
    with torch.no_grad():
        eps_hat, features = network.with_features(x_t, t, c)
        assert torch.equal(eps_hat, network(x_t, t, c))
    places = outputs[0].shape[1]
    expected = sum(outputs[0][:, n] for n in range(places)) / places
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12)
    assert features.shape == (4, network.num_features)


@torch.no_grad()
def test_options_describe_the_network():
    options = {
        "patch": 1,
        "width": 8,
        "depth": 3,
        "heads": 4,
        "mlp_ratio": 2.5,
        "dropout": 0.3,
        "augmentations": 2,
        "time_steps": 7,
    }
    network = stirred(DiT((2, 4, 3), TOKENS, **options))
    again = DiT(network.shape, network.condition, **network.options).double().eval()
    again.load_state_dict(network.state_dict())
    batch = a_batch(network)
    assert torch.equal(again(*batch), network(*batch)) and network.options == options
    assert [m.p for m in again.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3
    again.train()
    torch.manual_seed(0)
    assert not torch.allclose(again(*batch), network(*batch))


# --- tokens -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_has_no_influence():
    """A longer network with the same weights, its sequences padded further, says the same."""
    short = stirred(DiT((1, 4, 4), TOKENS, **SMALL))
    long = DiT((1, 4, 4), Tokens(TOKENS.vocabulary, 6), **SMALL).double().eval()
    long.load_state_dict(short.state_dict())
    x_t, t, c = a_batch(short)
    padded = torch.cat([c.value, torch.full((4, 3), -1)], dim=1)
    said = short(x_t, t, c)
    torch.testing.assert_close(long(x_t, t, Condition.of(padded)), said, rtol=1e-10, atol=1e-10)
    # Tokens that are there do matter, and so does their order.
    for other in (c.value.clamp(min=0), c.value.flip(1)):
        assert ((short(x_t, t, Condition.of(other)) - said).flatten(1).abs().amax(1) > 1e-6)[[1, 3]].all()


@torch.no_grad()
def test_null_is_not_reached_by_the_tokens():
    network = stirred(DiT((1, 4, 4), TOKENS, **SMALL))
    x_t, t, c = a_batch(network)
    said = network(x_t, t, c.null())
    for value in (c.value.flip(0), torch.full_like(c.value, -1), torch.full_like(c.value, 99)):
        assert torch.equal(network(x_t, t, Condition.of(value).null()), said)
    empty = Condition.of(torch.full_like(c.value, -1))
    assert torch.equal(network(x_t, t, empty), said)  # an empty sequence says nothing
    network.label.vectors.weight.fill_(float("nan"))
    assert torch.equal(network(x_t, t, c.null()), said)
    network.label.null.add_(normal(12))
    assert (network(x_t, t, c.null()) - said).abs().max() > 1e-6


@pytest.mark.slow
def test_a_token_sequence_that_decides_the_mean_is_learned():
    """Four sequences of two words, told apart by their order too; the data are a point for each."""
    torch.manual_seed(0)
    sequences = torch.tensor([[0, 1], [1, 0], [0, 0], [1, -1]])
    means = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]])[:, None].repeat_interleave(2, dim=2)
    network = DiT((1, 4), Tokens(2, 2), width=32, depth=2, heads=2)
    objective = Objective(Process(Cosine()), network, DenoisingLoss(), drop=0.1)
    optimiser = torch.optim.Adam(network.parameters(), 4e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=600)
    rows = torch.arange(64)
    for step in range(600):
        loss = objective(means[rows % 4], Condition.of(sequences[rows % 4]), Draws(0, step, rows))["denoising"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    t = torch.full((256,), 0.8, dtype=torch.float64)
    alpha_t, sigma_t = (v[:, None, None].float() for v in Cosine()(t))
    # Noise around 0, so that x_t says nothing of the mean.
    x_t = sigma_t * torch.randn(256, 1, 4, generator=torch.Generator().manual_seed(3))
    asked = torch.arange(256) % 4
    with torch.no_grad():
        x_0 = (x_t - sigma_t * network(x_t, t, Condition.of(sequences[asked]))) / alpha_t
    error = (x_0 - means[asked]).square().reshape(64, 4, 4).mean((0, 2)).sqrt()
    assert error.max() < 0.4, error  # 1 or more where the sequence is ignored: means are 2 apart


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiT((3,), K), "use mlp for vectors"),
        (lambda: DiT((1, 2, 2, 2, 2), K), "1 to 3 spatial axes"),
        (lambda: DiT((1, 7, 8), K), "patches of side 2 do not tile 7 in (1, 7, 8)"),
        (lambda: DiT((0, 8, 8), K), "got 0"),
        (lambda: DiT((1, 8, 8), K, patch=0), "patch must be a whole number of 1 or more, got 0"),
        (lambda: DiT((1, 8, 8), K, depth=0), "depth must be"),
        (lambda: DiT((1, 8, 8), K, width=30), "the 30 channels do not split into 4 heads"),
        (lambda: DiT((1, 8, 8), K, width=9, heads=3), "width must be even"),
        (lambda: DiT((1, 8, 8, 8), K, width=4), "need a width of 6 or more, got 4"),
        (lambda: DiT((1, 8, 8), K, mlp_ratio=0), "mlp_ratio must be a number above 0, got 0"),
        (lambda: DiT((1, 8, 8), K, dropout=1.0), "got 1.0"),
        (lambda: DiT((1, 8, 8), 0), "num_classes must be a whole number of 1 or more, got 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, words):
    with pytest.raises(CbdmError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_batch_that_does_not_fit_is_refused():
    network = DiT((1, 4, 4), TOKENS, **SMALL).double()
    x_t, t, c = a_batch(network)
    with pytest.raises(CbdmError, match="token 4 is outside"):
        network(x_t, t, c.with_value(c.value + 2))
    with pytest.raises(CbdmError, match="build it with augmentations=2"):
        network(x_t, t, Condition.of(c.value, torch.zeros(4, 2)))
    with pytest.raises(CbdmError, match="x_t must be"):
        network(x_t[..., 1:], t, c)

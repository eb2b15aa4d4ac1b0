"""Our U-Net against golden numbers of the published program, in float64 with dropout 0.

Tolerances: outputs and losses 1e-9 absolute (outputs are of order 1), each gradient norm 1e-9 of the total norm.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cbdm_core.errors import CbdmError
from cbdm_core.networks.encoders import sinusoid
from cbdm_core.networks.published import load_published, published_names
from cbdm_core.networks.unet import UNet
from tests.golden_weights import TABLE, Golden, load_golden


@pytest.fixture(scope="module", params=["a", "b"])
def official(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def network(official) -> UNet:
    return official.network()


def _close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_x_t(official):
    alphas_bar = official["alphas_bar"][official["t"]].reshape(-1, 1, 1, 1)
    _close(alphas_bar.sqrt() * official["x0"] + (1 - alphas_bar).sqrt() * official["eps"], official["x_t"], 1e-12)


def test_sinusoid(official):
    rows = torch.arange(0, official.config["T"], max(1, official.config["T"] // 10))
    _close(sinusoid(rows, official.config["ch"]), official["temb_table"], 1e-12)


def test_every_time_finds_its_row(network):
    steps = network.options["time_steps"]
    index = torch.arange(steps)
    for dtype in (torch.float64, torch.float32):
        assert torch.equal(network.time.position(((index + 1) / steps).to(dtype)), index.to(dtype))


def test_outputs(official, network):
    label, target = official.condition(official["y"]), official.condition(official["y_target"])
    with torch.no_grad():
        _close(network(official["x_t"], official.t, label), official["h"])
        _close(network(official["x_t"], official.t, target), official["h_target"])
        _close(network(official["x_t"], official.t, label.null()), official["h_null"])


def test_null_row_beside_shown_rows(official, network):
    c = official.condition(official["y"])
    present = torch.arange(len(c)) % 2 == 0
    with torch.no_grad():
        mixed = network(official["x_t"], official.t, replace(c, present=present))
    _close(mixed, torch.where(present[:, None, None, None], official["h"], official["h_null"]))


def test_losses_and_gradients(official, network):
    tau, gamma, steps = (official.config[key] for key in ("tau", "gamma", "T"))
    network.zero_grad()
    h = network(official["x_t"], official.t, official.condition(official["y"]))
    other = network(official["x_t"], official.t, official.condition(official["y_target"]))
    # The published program computes this weight in float32; in float64 we miss the regulariser by 1.4e-8 of its value.
    weight = (tau * (official["t"].float() / steps)).double()
    pull = (h - other.detach()).square().mean((1, 2, 3)) + gamma * (h.detach() - other).square().mean((1, 2, 3))
    loss_ddpm, loss_reg = (h - official["eps"]).square().mean(), (weight * pull).mean()
    _close(loss_ddpm, official["loss_ddpm"])
    _close(loss_reg, official["loss_reg"])
    (loss_ddpm + loss_reg).backward()
    norms = {published_names(network)[name]: p.grad.norm() for name, p in network.named_parameters()}
    assert set(norms) == set(official.names) - {TABLE}
    total = float(official["grad_norm"])
    for name, theirs in zip(official.names, official["grad_norms"], strict=True):
        if name != TABLE:
            _close(norms[name], theirs, 1e-9 * total)


def test_sizes_are_read_off_the_weights(official, network):
    config = official.config
    assert network.num_classes == config["num_class"]
    assert network.options == {
        "width": config["ch"],
        "multipliers": tuple(config["ch_mult"]),
        "attention": tuple(config["attn"]),
        "blocks": config["num_res_blocks"],
        "dropout": 0.0,
        "groups": 32,
        "heads": 1,
        "augmentations": 9 if config["augm"] else 0,
        "time_steps": config["T"],
    }
    again = UNet(network.shape, network.num_classes, **network.options).double()
    again.load_state_dict(network.state_dict())  # the same architecture from the options alone


@pytest.fixture(scope="module")
def state_dict():
    return load_golden("a").state_dict()


def test_prefix_dtype_copy_and_generator(state_dict):
    before = torch.get_rng_state()
    single = load_published({f"module.{key}": value.float() for key, value in state_dict.items()}, spatial=(8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in single.parameters()} == {torch.float32} and not single.training
    assert single.options["dropout"] == 0.1
    double = load_published(state_dict, spatial=(8, 8))
    assert torch.equal(double.stem.weight, state_dict["head.weight"])
    with torch.no_grad():
        double.stem.weight.zero_()
    assert state_dict["head.weight"].abs().sum() > 0


def test_float32_table_of_a_thousand_steps(state_dict):
    """The rounding of a table that was computed in float32 is tolerated."""
    steps, width = 1000, 32
    frequency = torch.exp(-torch.arange(0, width, 2).float() / width * torch.log(torch.tensor(10000.0)))
    angle = torch.arange(steps).float()[:, None] * frequency
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    exact = sinusoid(torch.arange(steps), width)
    assert 1e-6 < (table - exact).abs().max() < 1e-4
    assert load_published({**state_dict, TABLE: table}, spatial=(8, 8)).options["time_steps"] == steps


def _without(*keys):
    return lambda s: {k: v for k, v in s.items() if k not in keys}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without("head.bias"), "'head.bias'"),
        (_without("head.weight"), "'head.weight' is missing"),
        (_without(TABLE), "timembedding.0.weight' is missing"),
        (_without("tail.2.bias"), "'tail.2.bias'"),
        (_without("downblocks.0.block1.2.weight"), "'downblocks.0.block1.2.weight'"),
        (_without("upblocks.3.block1.2.weight", "upblocks.4.shortcut.weight"), "2 keys"),
        (lambda s: {**s, "tail.3.bias": s["tail.2.bias"]}, "'tail.3.bias' (nearest: 'tail.2.bias')"),
        (lambda s: {**s, "tail.2.bias": s["tail.2.bias"][:2]}, "'tail.2.bias' must have shape (3,)"),
        (lambda s: {**s, "head.weight": s["head.weight"][0]}, "'head.weight' must have 4 axes"),
        (lambda s: {**s, TABLE: s[TABLE].flip(0)}, "another time embedding"),
        (lambda s: {**s, TABLE: s[TABLE] * float("nan")}, "another time embedding"),
        (lambda s: {**s, TABLE: s[TABLE][:0]}, "is empty, of shape (0, "),
        (lambda s: {"step": 3, **s}, "'step' holds int"),
        (lambda s: {**s, "head.weight": s["head.weight"].long()}, "'head.weight' holds torch.int64"),
        (lambda s: {**s, "downblocks.9.main.weight": s["head.weight"]}, "'downblocks.9.main.weight'"),
        (lambda s: {**s, "downblocks.3.main.weight": s["head.weight"]}, "'downblocks.4.block1.2.weight' is missing"),
        (
            lambda s: {**s, "downblocks.2.attn.proj.weight": s["downblocks.2.attn.proj.weight"][:, :, 0, 0]},
            "(64, 64, 1",
        ),
    ],
)
def test_damaged_state_dict_is_refused_in_one_line(state_dict, damage, words):
    with pytest.raises(CbdmError) as error:
        load_published(damage(state_dict), spatial=(8, 8))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_images_that_do_not_halve_are_refused(state_dict):
    with pytest.raises(CbdmError, match="use 8 or 10"):
        load_published(state_dict, spatial=(9, 8))


def test_names_of_wrappers_may_stand_before_each_weight_in_any_order(official, network):
    plain = official.state_dict()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        again = load_published({prefix + key: value for key, value in plain.items()}, spatial=network.shape[1:])
        assert all(torch.equal(again.state_dict()[name], value) for name, value in network.state_dict().items())


def test_the_projection_heads_of_coral_are_left_out(official, network):
    heads = {f"{name}_proj.{end}": torch.zeros(3) for name in ("mean", "logvar") for end in ("weight", "bias")}
    again = load_published({**official.state_dict(), **heads}, spatial=network.shape[1:])
    assert all(torch.equal(again.state_dict()[name], value) for name, value in network.state_dict().items())


def test_a_network_without_labels_says_the_same_with_its_one_class_and_without(official, network):
    """The layout of pytorch-ddpm is that of the null prediction of a network with labels."""
    bare = {key: value for key, value in official.state_dict().items() if key != "label_embedding.weight"}
    again = load_published(bare, spatial=network.shape[1:])
    assert again.num_classes == 1
    c = official.condition(torch.zeros_like(official["y"]))
    with torch.no_grad():
        _close(again(official["x_t"], official.t, c), official["h_null"])
        _close(again(official["x_t"], official.t, c.null()), official["h_null"])


def test_a_checkpoint_in_half_precision_is_read(official, network):
    """Its weights are the rounded ones, the sinusoid is ours; the outputs are off by that rounding alone."""
    half = load_published({k: v.half() for k, v in official.state_dict().items()}, spatial=network.shape[1:])
    assert half.out.weight.dtype == torch.float16
    rounded = load_published(
        {k: v.half().double() if k != TABLE else v for k, v in official.state_dict().items()},
        spatial=network.shape[1:],
    )
    with torch.no_grad():
        label = official.condition(official["y"])
        _close(half.double()(official["x_t"], official.t, label), rounded(official["x_t"], official.t, label))

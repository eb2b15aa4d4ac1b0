"""FID's Inception: its parameters are the published ones, its blocks do what the formulas say, its loader is strict."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.inception import _A, _B, _C, _D, _E, Inception, load_inception, state_of


def scaled(weights, seed=0):
    """Random weights of the same names and shapes under which signals neither die nor blow up."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for key, value in weights.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("running_var"):
            out[key] = 0.5 + torch.rand(value.shape, generator=g)
        elif value.ndim == 1:
            out[key] = 1.0 * key.endswith("bn.weight") + 0.2 * torch.randn(value.shape, generator=g)
        else:
            out[key] = torch.randn(value.shape, generator=g) * math.sqrt(2 / value[0].numel())
    return out


@pytest.fixture(scope="module")
def weights():
    with torch.device("meta"):
        shapes = Inception().state_dict()
    return scaled(shapes)


@pytest.fixture(scope="module")
def network(weights):
    return state_of(weights, "random weights")


# name: (in, out, height, width) of each convolution of one block, as the published file has them.
def a(n, pooled):
    return {
        "branch1x1": (n, 64, 1, 1),
        "branch5x5_1": (n, 48, 1, 1),
        "branch5x5_2": (48, 64, 5, 5),
        "branch3x3dbl_1": (n, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (n, pooled, 1, 1),
    }


def c(m):
    return {
        "branch1x1": (768, 192, 1, 1),
        "branch7x7_1": (768, m, 1, 1),
        "branch7x7_2": (m, m, 1, 7),
        "branch7x7_3": (m, 192, 7, 1),
        "branch7x7dbl_1": (768, m, 1, 1),
        "branch7x7dbl_2": (m, m, 7, 1),
        "branch7x7dbl_3": (m, m, 1, 7),
        "branch7x7dbl_4": (m, m, 7, 1),
        "branch7x7dbl_5": (m, 192, 1, 7),
        "branch_pool": (768, 192, 1, 1),
    }


def e(n):
    return {
        "branch1x1": (n, 320, 1, 1),
        "branch3x3_1": (n, 384, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (n, 448, 1, 1),
        "branch3x3dbl_2": (448, 384, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (n, 192, 1, 1),
    }


PUBLISHED = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
    "Mixed_5b": a(192, 32),
    "Mixed_5c": a(256, 64),
    "Mixed_5d": a(288, 64),
    "Mixed_6a": {
        "branch3x3": (288, 384, 3, 3),
        "branch3x3dbl_1": (288, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    },
    "Mixed_6b": c(128),
    "Mixed_6c": c(160),
    "Mixed_6d": c(160),
    "Mixed_6e": c(192),
    "Mixed_7a": {
        "branch3x3_1": (768, 192, 1, 1),
        "branch3x3_2": (192, 320, 3, 3),
        "branch7x7x3_1": (768, 192, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    },
    "Mixed_7b": e(1280),
    "Mixed_7c": e(2048),
}


def published_shapes():
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for block, convs in PUBLISHED.items():
        for name, (before, after, *kernel) in ({"": convs} if isinstance(convs, tuple) else convs).items():
            at = f"{block}.{name}" if name else block
            shapes[f"{at}.conv.weight"] = (after, before, *kernel)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{at}.bn.{part}"] = (after,)
    return shapes


def test_names_and_shapes_are_those_of_the_published_weights(network):
    found = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert found == published_shapes()
    assert len(found) == 472


def test_the_parameters_are_as_many_as_known(network):
    """Keras counts 21,768,352 without the top; its batch norms lack the scales, which are 17,216."""
    trunk = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("fc."))
    assert trunk == 21_768_352 + 17_216
    assert sum(p.numel() for p in network.parameters()) == trunk + 1008 * 2049


# The blocks again, from the weights alone: batch norm by its formula, pools pixel by pixel.


def conv(w, name, x, stride=1, padding=0):
    y = F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
    mean, var, scale, shift = (
        w[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((y - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)


def slow_pool(x, of):
    """`of` each pixel's 3 × 3 neighbours that are inside the image."""
    out = torch.empty_like(x)
    for i, j in itertools.product(range(x.shape[2]), range(x.shape[3])):
        out[:, :, i, j] = of(x[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].flatten(2))
    return out


def slow_half(x, of):
    """`of` each 3 × 3 that lies inside the image, every second row and column of them."""
    rows = [
        [of(x[:, :, i : i + 3, j : j + 3].flatten(2)) for j in range(0, x.shape[3] - 2, 2)]
        for i in range(0, x.shape[2] - 2, 2)
    ]
    return torch.stack([torch.stack(row, 2) for row in rows], 2)


def chain(w, x, *steps):
    for name, padding in steps:
        x = conv(w, name, x, padding=padding)
    return x


def slow_a(w, x, pool):
    return [
        chain(w, x, ("branch1x1", 0)),
        chain(w, x, ("branch5x5_1", 0), ("branch5x5_2", 2)),
        chain(w, x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1), ("branch3x3dbl_3", 1)),
        conv(w, "branch_pool", slow_pool(x, pool)),
    ]


def slow_b(w, x, pool):
    double = chain(w, x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1))
    return [
        conv(w, "branch3x3", x, stride=2),
        conv(w, "branch3x3dbl_3", double, stride=2),
        slow_half(x, pool),
    ]


def slow_c(w, x, pool):
    wide, high = (0, 3), (3, 0)
    double = (("2", high), ("3", wide), ("4", high), ("5", wide))
    return [
        chain(w, x, ("branch1x1", 0)),
        chain(w, x, ("branch7x7_1", 0), ("branch7x7_2", wide), ("branch7x7_3", high)),
        chain(w, x, ("branch7x7dbl_1", 0), *((f"branch7x7dbl_{n}", padding) for n, padding in double)),
        conv(w, "branch_pool", slow_pool(x, pool)),
    ]


def slow_d(w, x, pool):
    wide, high = (0, 3), (3, 0)
    seven = chain(w, x, ("branch7x7x3_1", 0), ("branch7x7x3_2", wide), ("branch7x7x3_3", high))
    return [
        conv(w, "branch3x3_2", chain(w, x, ("branch3x3_1", 0)), stride=2),
        conv(w, "branch7x7x3_4", seven, stride=2),
        slow_half(x, pool),
    ]


def slow_e(w, x, pool):
    three = conv(w, "branch3x3_1", x)
    double = chain(w, x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1))
    return [
        conv(w, "branch1x1", x),
        conv(w, "branch3x3_2a", three, padding=(0, 1)),
        conv(w, "branch3x3_2b", three, padding=(1, 0)),
        conv(w, "branch3x3dbl_3a", double, padding=(0, 1)),
        conv(w, "branch3x3dbl_3b", double, padding=(1, 0)),
        conv(w, "branch_pool", slow_pool(x, pool)),
    ]


def slow_stem(w, x, pool):
    """From 299 × 299 by way of 149, 147, 147, 73, 73 and 71 to 35 × 35."""
    x = conv(w, "Conv2d_1a_3x3", x, stride=2, padding=0)
    x = conv(w, "Conv2d_2a_3x3", x, stride=1, padding=0)
    x = slow_half(conv(w, "Conv2d_2b_3x3", x, stride=1, padding=1), pool)
    x = conv(w, "Conv2d_3b_1x1", x, stride=1, padding=0)
    x = slow_half(conv(w, "Conv2d_4a_3x3", x, stride=1, padding=0), pool)
    assert x.shape == (1, 192, 35, 35)
    return [x.flatten(2).mean(2)]


class Stem(Inception):
    """The network with blocks that do nothing: the stem, and the mean over what it gives."""

    def __init__(self):
        super().__init__()
        for name, _ in list(self.named_children()):
            if not name.startswith("Conv2d"):
                setattr(self, name, nn.Identity())


def mean(rows):
    return rows.mean(2)


def largest(rows):
    return rows.amax(2)


@pytest.mark.parametrize(
    ("make", "slow", "pool", "shape"),
    [
        (Stem, slow_stem, largest, (1, 3, 299, 299)),
        (lambda: _A(192, 32), slow_a, mean, (2, 192, 5, 6)),
        (lambda: _B(288), slow_b, largest, (2, 288, 6, 9)),
        (lambda: _C(768, 128), slow_c, mean, (2, 768, 5, 6)),
        (lambda: _D(768), slow_d, largest, (2, 768, 6, 9)),
        (lambda: _E(1280, maxima=False), slow_e, mean, (2, 1280, 5, 6)),
        (lambda: _E(2048, maxima=True), slow_e, largest, (2, 2048, 5, 6)),
    ],
    ids=["stem", "A", "B", "C", "D", "E_1", "E_2"],
)
def test_blocks_agree_with_their_formulas(make, slow, pool, shape):
    with torch.random.fork_rng():
        block = make().double().eval()
    weights = {key: value.double() for key, value in scaled(block.state_dict(), seed=1).items()}
    block.load_state_dict(weights, strict=False)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.cat(slow(weights, x, pool), 1), rtol=1e-10, atol=1e-10)


def test_the_whole_is_its_blocks_in_the_order_of_their_names(network):
    """From images already of 299 pixels, through modules by name, to the mean over the last 8 × 8."""
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(3)) * 2 - 1
    modules, z = dict(network.named_children()), x
    with torch.no_grad():
        for name in sorted(modules, key=lambda name: name.replace("Conv2d", "A")):
            if name != "fc":
                z = modules[name](z)
                z = F.max_pool2d(z, 3, 2) if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3") else z
        assert z.shape == (1, 2048, 8, 8)
        torch.testing.assert_close(network(x), z.flatten(2).mean(2), rtol=1e-5, atol=1e-6)


def test_maxima_are_pooled_in_the_last_block_only(network):
    """FIDInceptionE_1 is 7b, FIDInceptionE_2 is 7c."""
    assert (network.Mixed_7b.maxima, network.Mixed_7c.maxima) == (False, True)


def bilinear(x, size):
    """Half-pixel centres, edges repeated, no antialiasing: one output pixel mixes two rows and two columns."""

    def matrix(n):
        m = torch.zeros(size, n, dtype=torch.float64)
        for i in range(size):
            at = max((i + 0.5) * n / size - 0.5, 0.0)
            low = min(int(at), n - 1)
            m[i, low] += 1 - (at - low)
            m[i, min(low + 1, n - 1)] += at - low
        return m

    return matrix(x.shape[2]) @ x.double() @ matrix(x.shape[3]).T


@pytest.mark.parametrize("side", [8, 400])
def test_images_are_resized_by_the_convention(network, side):
    """Up and down; on the way down antialiasing would differ."""
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        # The resized image passes the network's own resize unchanged.
        torch.testing.assert_close(network(x), network(bilinear(x, 299).float()), rtol=1e-3, atol=1e-4)


def test_grey_is_three_equal_channels(network):
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    with torch.no_grad():
        grey = network(x)
        torch.testing.assert_close(grey, network(x.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-6)
    assert (grey[0] - grey[1]).norm() > 1e-3 * grey[0].norm()


@pytest.mark.parametrize("counters", [True, False])
def test_a_saved_table_is_read_key_for_key(tmp_path, network, weights, counters):
    kept = network.state_dict() if counters else weights
    torch.save(kept, tmp_path / "weights.pth")
    read, digits = load_inception(tmp_path / "weights.pth")
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in weights.items())
    assert len(digits) == 8
    assert not read.training


def test_reading_leaves_the_random_state_alone(weights):
    before = torch.get_rng_state()
    state_of(weights, "random weights")
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_keys_are_told_with_the_closest(weights):
    renamed = {key.replace("Mixed_7c.branch_pool.conv", "Mixed_7c.branchpool.conv"): v for key, v in weights.items()}
    with pytest.raises(CbdmError, match=r"1 keys .* missing and 1 .*'Mixed_7c\.branchpool\.conv\.weight'"):
        state_of(renamed, "w")
    with pytest.raises(
        CbdmError, match=r"0 keys .* and 1 .*'Mixed_7d\.branch_pool\.conv\.weight'; the closest allowed"
    ):
        state_of({**weights, "Mixed_7d.branch_pool.conv.weight": torch.zeros(1)}, "w")


def test_wrong_shapes_values_and_forms_are_told(weights):
    """torchvision's head of 1,000 classes, a NaN, and a list."""
    with pytest.raises(CbdmError, match=r"'fc\.weight' has shape \(1000, 2048\)"):
        state_of({**weights, "fc.weight": torch.zeros(1000, 2048)}, "w")
    with pytest.raises(CbdmError, match=r"'fc\.bias' holds NaN"):
        state_of({**weights, "fc.bias": torch.full((1008,), torch.nan)}, "w")
    with pytest.raises(CbdmError, match="no table of tensors"):
        state_of([1, 2], "w")


class Runs:
    """What a pickle that runs code looks like."""

    def __reduce__(self):
        return (print, ("ran",))


def test_no_code_is_run_and_bad_files_are_told_in_one_line(tmp_path, capsys):
    torch.save({"fc.bias": Runs()}, tmp_path / "evil.pth")
    (tmp_path / "noise.pth").write_bytes(b"not weights")
    for name in ("evil.pth", "noise.pth", "absent.pth"):
        with pytest.raises(CbdmError, match=name) as caught:
            load_inception(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "ran" not in capsys.readouterr().out

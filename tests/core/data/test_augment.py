"""Augmentation: what is told is what was done, and draws go by row."""

import math

import pytest
import torch

from cbdm_core.data.augment import AUGMENTATIONS, GEOMETRIC, Augment
from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError

EVERY = tuple(AUGMENTATIONS)


def draws(rows, step=0):
    return Draws(3, step, torch.arange(rows))


def images(rows=64, size=16, channels=3):
    return torch.rand(rows, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def ramp(size=33):
    """x and y of each pixel in [−1, 1] as two channels and a constant one, which stay linear under affine maps."""
    axis = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / (size / 2)
    return torch.stack([axis.expand(size, size), axis[:, None].expand(size, size), torch.ones(size, size)])


def test_the_lengths_are_those_published():
    assert Augment(0.12).size == 9 and Augment(0.12, EVERY).size == 15


@pytest.mark.parametrize("name", EVERY)
def test_a_part_changes_about_its_share_of_images_and_only_those_told(name):
    x = images(2000, 4)
    changed, told = Augment(0.3, [name])(x, draws(2000))
    touched, different = told.ne(0).any(1), (changed != x).flatten(1).any(1)
    assert torch.equal(touched, different) and told.shape == (2000, AUGMENTATIONS[name])
    share = {"flip_x": 0.5, "flip_y": 0.15, "luma_flip": 0.15}.get(name, 0.3)
    assert abs(float(touched.double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 2000)


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        ("scale", lambda w: [[2 ** (-0.2 * w[0]), 0], [0, 2 ** (-0.2 * w[0])]]),
        ("rotate", lambda w: [[w[0] + 1, -w[1]], [w[1], w[0] + 1]]),
        ("translate", lambda w: [[1, 0], [0, 1]]),
    ],
)
def test_where_a_pixel_is_read_is_what_is_told(name, gradient):
    """The channels hold the coordinates, so that their differences at the middle are the inverse map."""
    x = ramp().expand(8, -1, -1, -1)
    changed, told = Augment(1.0, [name])(x, draws(8))
    for image, w in zip(changed, told.tolist(), strict=True):
        middle, step = 16, 2 / 33
        dx = (image[:2, middle, middle + 1] - image[:2, middle, middle]) / step
        dy = (image[:2, middle + 1, middle] - image[:2, middle, middle]) / step
        torch.testing.assert_close(torch.stack([dx, dy], 1), torch.tensor(gradient(w), dtype=x.dtype))
        at = image[:2, middle, middle]
        expected = [-0.25 * w[0], -0.25 * w[1]] if name == "translate" else [0, 0]
        torch.testing.assert_close(at, torch.tensor(expected, dtype=x.dtype), atol=1e-9, rtol=1e-9)


def test_a_stretch_keeps_the_area():
    changed, told = Augment(1.0, ["stretch"])(ramp().expand(16, -1, -1, -1), draws(16))
    for image, w in zip(changed, told, strict=True):
        here = image[:2, 16, 16]
        jacobian = torch.stack([image[:2, 16, 17] - here, image[:2, 17, 16] - here], 1) * 33 / 2
        assert float(torch.det(jacobian)) == pytest.approx(1)
        factors = torch.linalg.svdvals(jacobian)
        assert float(factors[0]) == pytest.approx(2 ** (0.2 * float(w.norm())))


def test_colours_change_as_they_are_told():
    x = images().double()
    gray = x.mean(1, keepdim=True)
    expected = {
        "brightness": lambda w: x + 0.2 * w,
        "contrast": lambda w: x * 2 ** (0.5 * w),
        "luma_flip": lambda w: x - 2 * w * gray,
        "saturation": lambda w: gray + 2**w * (x - gray),
    }
    for name, formula in expected.items():
        changed, told = Augment(1.0, [name])(x, draws(64))
        torch.testing.assert_close(changed, formula(told.reshape(-1, 1, 1, 1)))
    turned, told = Augment(1.0, ["hue"])(x, draws(64))
    torch.testing.assert_close(turned.mean(1), x.mean(1))
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))
    across = x - gray
    cosine = ((turned - gray) * across).sum(1) / across.square().sum(1)
    torch.testing.assert_close(cosine, (told[:, 0] + 1)[:, None, None].expand_as(cosine))


def test_draws_go_by_row_of_the_global_batch():
    data = Dataset((images(40) * 127 + 128).to(torch.uint8), torch.zeros(40, dtype=torch.long), ("a",))
    batches = Batches(data, 24, seed=5, augment=Augment(0.5, EVERY))
    whole = batches.at(3)
    for world in (2, 3, 8):
        shares = [batches.at(3, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat([share.x_0 for share in shares]), whole.x_0)
        assert torch.equal(torch.cat([share.augment for share in shares]), whole.augment)
    assert not torch.equal(batches.at(4).augment, whole.augment)
    assert whole.to(torch.device("cpu")).augment is not None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Augment(1.5), "in [0, 1], got 1.5"),
        (lambda: Augment(0.1, ["rotat"]), "did you mean 'rotate'"),
        (lambda: Augment(0.1, []), "one or more"),
        (lambda: Augment(0.1, ["hue", "hue"]), "each once"),
        (lambda: Augment(0.1, ["hue"]).check((1, 8, 8)), "needs 3 channels"),
        (lambda: Augment(0.1).check((1, 8)), "(C, H, W)"),
        (
            lambda: Batches(
                Dataset(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), ("a",)), 1, seed=0, augment=Augment(0.1)
            ),
            "these data are floats",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(CbdmError) as error:
        make()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_geometric_parts_are_those_before_the_colours():
    assert EVERY[: len(GEOMETRIC)] == GEOMETRIC

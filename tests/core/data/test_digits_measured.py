"""Slant, thickness and attributes against images whose answer is known, and the regions made from them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from cbdm_core.conditions import MultiLabel, Vectors
from cbdm_core.data.digits_measured import ATTRIBUTES, attributes, digits_attributes, digits_pose, pose
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError


def bar(length, width, shear=0, bright=255, margin=3):
    """A bar of rows of `width` pixels, each row `shear` pixels to the left of the one above it."""
    across = width + abs(shear) * (length - 1) + 2 * margin
    image = torch.zeros(1, 1, length + 2 * margin, across, dtype=torch.uint8)
    start = margin + (shear * (length - 1) if shear > 0 else 0)
    for row in range(length):
        left = start - shear * row
        image[0, 0, margin + row, left : left + width] = bright
    return image


def drawn(*rows):
    """An image from text: # is ink, + ink of 0.6 and - of 0.4 of its brightness."""
    values = {"#": 200, "+": 120, "-": 80, ".": 0}
    return torch.tensor([[[[values[letter] for letter in row] for row in rows]]], dtype=torch.uint8)


@pytest.mark.parametrize("shear", [-3, -2, -1, 0, 1, 2, 3])
def test_the_slant_of_a_bar_is_its_shear(shear):
    """arctan of columns to the right for each row upwards, to 1e-12."""
    for length, width in ((9, 1), (20, 2), (31, 5)):
        assert float(pose(bar(length, width, shear))[0, 0]) == pytest.approx(math.atan(shear), abs=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_the_thickness_of_a_bar(width):
    """2wL/(2L + 2w − 2 + √2), the edge being counted pixel by pixel; for a long bar w, to 1 %."""
    for length in (5, 40, 600):
        edge = 2 * length + 2 * width - 2 + math.sqrt(2)
        assert float(pose(bar(length, width))[0, 1]) == pytest.approx(2 * width * length / edge, abs=1e-12)
    assert float(pose(bar(2000, width))[0, 1]) == pytest.approx(width, rel=0.01)


def test_pose_does_not_see_brightness_or_place():
    shape = drawn("..##...", ".#..#..", "..##...", "..#....", ".##....")
    dark = (shape // 2).to(torch.uint8)
    moved = torch.nn.functional.pad(shape, (5, 2, 1, 6))
    for other in (dark, moved):
        torch.testing.assert_close(pose(other), pose(shape), rtol=1e-12, atol=1e-12)


@given(st.integers(0, 1796))
def test_a_mirrored_digit_leans_the_other_way(row):
    image = digits().x[row : row + 1]
    assert float(pose(image.flip(-1))[0, 0]) == pytest.approx(-float(pose(image)[0, 0]), abs=1e-9)


def test_an_empty_image_has_no_pose_and_no_attribute():
    images = torch.cat([torch.zeros(1, 1, 8, 8, dtype=torch.uint8), digits().x[:9]])
    assert pose(images)[0].tolist() == [0, 0] and torch.equal(pose(images)[1:], pose(images[1:]))
    assert attributes(images)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "hole"),
    [
        (["#####", "#...#", "#...#", "#####"], 1),  # a ring, also at the border of the image
        ([".......", ".#####.", ".#...#.", ".#...#.", ".#####.", "......."], 1),
        (["#####", "#....", "#....", "#####"], 0),  # an open c
        (["#####", "#...#", "#....", "#####"], 0),  # open by one pixel
        (["#####", "#...#", "#...+", "#####"], 1),  # closed by 0.6 of the brightest ink
        (["#####", "#...#", "#...-", "#####"], 0),  # and not by 0.4 of it
        ([".#.", "#.#", ".#."], 1),  # ink that touches at corners encloses
        (["#####", "#.#.#", "#####"], 1),  # an eight
        (["#####", "#####"], 0),
        ([".....", "..#..", "....."], 0),
    ],
)
def test_a_hole_is_background_that_the_border_does_not_reach(rows, hole):
    assert attributes(drawn(*rows))[0, ATTRIBUTES.index("hole")] == hole


def test_digits_have_the_holes_that_are_drawn_in_them():
    """Most of 0, 6, 8, 9 and few of 1, 2, 3, 5, 7: at 8×8 pixels close strokes close some, faint ones open some."""
    data = digits()
    hole = attributes(data.x)[:, 0].double()
    share = [float(hole[data.y == label].mean()) for label in range(10)]
    assert min(share[label] for label in (0, 6, 8, 9)) > 0.7 and max(share[label] for label in (1, 2, 3, 5, 7)) < 0.2


def test_slanted_bold_and_wide_are_the_largest_fifth():
    images = torch.cat([torch.nn.functional.pad(b, (0, 60 - b.shape[-1], 0, 0)) for b in (
        bar(20, 1), bar(20, 2), bar(20, 3), bar(20, 4), bar(20, 9),
        bar(20, 1, 1), bar(20, 2, 1), bar(20, 1, -1), bar(20, 1, -2), bar(20, 2, 2),
    )])  # fmt: skip
    table = attributes(images)
    assert table[:, ATTRIBUTES.index("slanted")].nonzero()[:, 0].tolist() == [9]  # arctan 2; arctan 1 is twice there
    assert table[:, ATTRIBUTES.index("bold")].nonzero()[:, 0].tolist() == [3, 4]
    assert table[:, ATTRIBUTES.index("wide")].nonzero()[:, 0].tolist() == [8, 9]
    shares = attributes(digits().x)[:, 1:].double().mean(0)
    assert ((shares > 0.19) & (shares <= 0.2 + 1 / 1797)).all()


def test_poses_are_standardised_and_their_regions_are_thirds_by_density():
    """Against scipy's neighbour search: each region's 10th neighbours are no nearer than the denser region's."""
    data = digits_pose()
    assert data.space == Vectors(2) and data.counts().tolist() == [599, 599, 599]
    assert torch.equal(data.x, digits().x)
    measured = pose(data.x)
    told = data.condition.double()
    torch.testing.assert_close(told.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(told.std(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert np.corrcoef(told[:, 0], measured[:, 0])[0, 1] > 1 - 1e-9
    exact = ((measured - measured.mean(0)) / measured.std(0)).numpy()
    radius = cKDTree(exact).query(exact, k=11)[0][:, 10]
    regions = [radius[data.y.numpy() == region] for region in range(3)]
    assert regions[0].max() <= regions[1].min() + 1e-9 and regions[1].max() <= regions[2].min() + 1e-9
    assert not torch.equal(digits_pose(neighbours=1).y, data.y)


def test_attributes_make_regions_of_whole_combinations():
    """The combinations in order of their number, the one that starts in each third of the images goes there."""
    data = digits_attributes()
    assert data.space == MultiLabel(4) and torch.equal(data.condition, attributes(digits().x))
    rows = [tuple(row) for row in data.condition.tolist()]
    numbers = {row: rows.count(row) for row in set(rows)}
    regions = {row: {int(y) for y, other in zip(data.y, rows) if other == row} for row in numbers}
    assert all(len(found) == 1 for found in regions.values())
    before, expected = 0, []
    for row in sorted(numbers, key=lambda row: -numbers[row]):
        expected.append(3 * before // len(rows))
        before += numbers[row]
    assert [min(regions[row]) for row in sorted(numbers, key=lambda row: -numbers[row])] == expected
    assert set(expected) == {0, 1, 2} and data.class_names[0] == "high density"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: digits_pose(neighbours=0), "neighbours must be 1 … 1796, got 0"),
        (lambda: digits_pose(neighbours=1797), "neighbours must be 1 … 1796, got 1797"),
        (lambda: pose(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), r"uint8 \(N, 1, H, W\)"),
        (lambda: pose(torch.zeros(2, 1, 8, 8)), "float32"),
        (lambda: attributes(torch.zeros(8, 8, dtype=torch.uint8)), r"got torch.uint8 \(8, 8\)"),
    ],
)
def test_refused_in_one_line(make, said):
    with pytest.raises(CbdmError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)

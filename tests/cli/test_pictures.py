"""Samples are drawn as what they are: lines, maps and columns, where the numbers say."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from cbdm_cli import pictures, tiles

NAMES, COUNTS, Y = ("a", "b"), (5, 2), torch.tensor([0, 1, 0, 1, 0])


def drawn(path, x):
    pictures.samples(path, False, x, Y, NAMES, COUNTS)
    return np.asarray(Image.open(path)).astype(int)


def last_tile(picture, width, height):
    """That of the fifth sample: the commonest class is the first row, and it has three."""
    return picture[4 : 4 + height, picture.shape[1] - 4 - width : picture.shape[1] - 4]


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_a_signal_is_a_line_over_the_range_of_all(tmp_path, channels):
    """A ramp from the least to the most: the line goes from below at the left to above at the right."""
    x = torch.zeros(5, channels, 30)
    x[4, 0] = torch.linspace(-7, 3, 30)
    tile = last_tile(drawn(tmp_path / "x.png", x), 120, 48)
    blue = (tile[..., 2] - tile[..., 0]) > 40
    rows = [np.flatnonzero(blue[:, column]).mean() for column in (1, 60, 118)]
    ends = [48 * (3.5 - v) / 11 for v in (-7, -2, 3)]  # of −7.5 to 3.5
    assert rows == pytest.approx(ends, abs=2.5)


def test_captions_have_a_true_minus_and_the_font_has_their_letters(tmp_path, monkeypatch):
    """The font draws what it does not have as one box."""
    told, font = ["Ünïcode σ Ж"], tiles.lettering()
    monkeypatch.setattr(tiles, "tile_grid", lambda *args, caption="": told.append(caption or args[-1]))
    drawn_as = {(1, 2): "values from −3.3 to 3.3", (2, 1, 2): "black −6 to white 6,", (2, 3, 1, 2): "of 3 slices"}
    for shape, words in drawn_as.items():
        x = 3 * torch.tensor([-1.0, 1.0]).expand(2, *shape)
        (tiles.signal_grid if len(shape) == 2 else tiles.map_grid)(tmp_path / "x.png", x, torch.zeros(2), ["a"], [2])
        assert words in told[-1]
    box = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != box for letter in "".join(told) + "×" if letter != " ")


def test_a_map_is_channel_0_in_grey_about_the_mean(tmp_path):
    """By hand: level (z/4 + 1/2)·255 of z standard deviations, cut to 0 … 255; other channels are not heard."""
    x = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 10 + 100
    tile = last_tile(drawn(tmp_path / "x.png", x), 40, 40)
    z = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std(correction=0)
    level = ((z[4] / 4 + 0.5).clamp(0, 1) * 255).round().numpy()
    assert (abs(tile[2::5, 2::5, 0] - level) <= 1).all() and (tile[..., 0] == tile[..., 2]).all()
    assert {0, 255} <= set(((z / 4 + 0.5).clamp(0, 1) * 255).round().int().flatten().tolist())


def test_three_channels_are_three_colours_and_volumes_show_their_middle(tmp_path):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9, 0.1])[:, None, None]
    flat = drawn(tmp_path / "x.png", x)
    z = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), correction=0, keepdim=True)
    level = ((z[4] / 4 + 0.5).clamp(0, 1) * 255).round().movedim(0, -1).numpy()
    assert (abs(last_tile(flat, 40, 40)[2::5, 2::5] - level) <= 1).all()
    volume = torch.full((5, 3, 3, 8, 8), 1e6)
    volume[:, :, 1] = x
    assert np.array_equal(last_tile(drawn(tmp_path / "v.png", volume), 40, 40), last_tile(flat, 40, 40))


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_vectors_are_their_columns_against_one_another(tmp_path, monkeypatch, columns):
    figures, x = [], torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: (figures.append(figure), file.write_bytes(b"")))
    pictures.samples(tmp_path / "x.png", False, x, Y, NAMES, COUNTS)
    shown = [[np.asarray(c.get_offsets()) for c in axes.collections] for axes in figures[0].axes if axes.get_visible()]
    pairs = [(a, b) for b in range(1, min(columns, 4)) for a in range(b)]
    assert len(shown) == max(len(pairs), 1)
    for panel, (a, b) in zip(shown, pairs, strict=False):
        for label, points in enumerate(panel):  # the commonest class first
            np.testing.assert_array_equal(points, x[label == Y][:, [a, b]])


def test_what_does_not_vary_is_drawn_too(tmp_path):
    for shape in ((5, 1, 1), (5, 4, 8, 8), (5, 3, 1, 1)):
        assert drawn(tmp_path / "x.png", torch.full(shape, 3.0)).shape[0] > 60


def test_equal_curves_are_all_to_be_seen_and_so_is_a_single_record(tmp_path):
    """By the pixels: two groups of the same loss have both colours, over many records as over one."""
    for count in (1, 30):
        figures, values = [], {"head": 0.5, "medium": 0.5, "tail": 0.5}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda figure, *args, kept=figures, **options: kept.append(figure))
            patch.setattr(pictures, "replacing", nullcontext)
            records = [{"step": i, "terms": {"denoising": 0.5}, "groups": values} for i in range(1, count + 1)]
            pictures.loss_curve(tmp_path / "loss.svg", records)
        figures[0].axes[0].get_legend().remove()
        canvas = FigureCanvasAgg(figures[0])
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int).reshape(-1, 3)
        for colour in ("tab:blue", "tab:orange", "tab:green"):
            there = abs(pixels - 255 * np.array(to_rgb(colour))).max(1) < 12
            assert there.sum() >= 10, (count, colour)
        assert all(float(tick).is_integer() for tick in figures[0].axes[0].get_xticks())


def test_a_run_shorter_than_log_every_says_why_its_loss_is_empty(tmp_path):
    pictures.loss_curve(tmp_path / "loss.svg", [])
    record = {"step": 5, "terms": {"denoising": 1.0}, "groups": {"head": 1.0}}
    pictures.loss_curve(tmp_path / "some.svg", [record])
    said = [(tmp_path / name).read_text(encoding="utf-8") for name in ("loss.svg", "some.svg")]
    assert ["no step was recorded" in text for text in said] == [True, False]

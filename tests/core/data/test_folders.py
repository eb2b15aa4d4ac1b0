"""Class folders: names are classes, pixels come back as they were saved, and what is no image is named."""

import contextlib
import errno
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cbdm_core.data.folders import folder
from cbdm_core.errors import CbdmError, CbdmWarning

RNG = np.random.default_rng(0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def gray(h=4, w=6):
    return RNG.integers(0, 256, (h, w), dtype=np.uint8)


def colour(h=4, w=6):
    return RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path):
    b2, b10 = (save(tmp_path / "b" / name, gray()) for name in ("2.png", "10.png"))
    a, c = save(tmp_path / "a" / "z.bmp", gray()), save(tmp_path / "C" / "z.PNG", gray())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a" / ".DS_Store").write_text("x")
    data = folder(path=str(tmp_path))
    assert data.class_names == ("C", "a", "b") and data.y.tolist() == [0, 1, 2, 2]
    assert np.array_equal(data.x, np.stack([c, a, b10, b2])[:, None])


@pytest.mark.parametrize("name", ["i.png", "i.bmp", "i.tiff", "i.ppm", "i.webp"])
def test_colours_come_back_exactly(tmp_path, name):
    pixels = save(tmp_path / "a" / name, colour(), **({"lossless": True} if name == "i.webp" else {}))
    assert np.array_equal(folder(path=tmp_path).x[0], pixels.transpose(2, 0, 1))


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    save(tmp_path / "a" / "i.jpg", smooth, quality=95)
    data = folder(path=tmp_path)
    assert data.shape == (1, 16, 16)
    assert np.abs(data.x[0, 0].numpy().astype(int) - smooth).max() <= 4


def test_one_colour_file_makes_all_of_three_channels(tmp_path):
    one, two = save(tmp_path / "a" / "1.png", gray()), save(tmp_path / "b" / "2.png", colour())
    with pytest.warns(CbdmWarning, match="^1 of 2 images is grey and taken as RGB"):
        data = folder(path=tmp_path)
    assert np.array_equal(data.x[0], np.stack([one] * 3)) and np.array_equal(data.x[1], two.transpose(2, 0, 1))


def test_palettes_and_opaque_alpha_become_colours(tmp_path):
    pixels = np.repeat(np.repeat(RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8), 2, 0), 2, 1)
    place = tmp_path / "a"
    place.mkdir()
    Image.fromarray(pixels).quantize(6).save(place / "palette.png")
    Image.fromarray(pixels).convert("RGBA").save(place / "alpha.png")
    data = folder(path=tmp_path)
    assert np.array_equal(data.x[0], pixels.transpose(2, 0, 1)) and np.array_equal(data.x[1], data.x[0])


def test_black_and_white_is_gray(tmp_path):
    bits = gray() > 127
    save(tmp_path / "a" / "i.png", bits)
    assert np.array_equal(folder(path=tmp_path).x[0, 0], bits * np.uint8(255))


def test_photographs_are_turned_upright(tmp_path):
    """EXIF orientation 6: the stored rows are the columns of the picture, which is turned a quarter clockwise."""
    pixels = gray()
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a" / "i.png", exif=exif)
    assert np.array_equal(folder(path=tmp_path).x[0, 0], np.rot90(pixels, -1))


def test_images_that_a_table_does_not_name_are_counted(tmp_path):
    """Of the folders that it names files in: pictures of a run elsewhere, text and hidden files are none of them."""
    for name in ("a/1.png", "a/2.png", "a/3.PNG", "b/1.png", "b/2.jpg", "b/.3.png", "runs/samples.png", "0.png"):
        save(tmp_path / name, gray())
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "l.csv").write_text("file,class\n./a/1.png,x\nb/1.png,y\n")
    with pytest.warns(CbdmWarning) as told:
        data = folder(path=tmp_path, labels="l.csv")
    (line,) = {str(w.message) for w in told}
    assert line == (
        "not in l.csv and not read, of the images beside those that it names: 3 (a/2.png, a/3.PNG, b/2.jpg)"
    )
    assert len(data) == 2
    rows = ("a/1.png", "a/2.png", "a/3.PNG", "b/1.png", "b/2.jpg")
    (tmp_path / "l.csv").write_text("file,class\n" + "".join(f"{row},x\n" for row in rows))
    with warnings.catch_warnings(action="error"):
        assert len(folder(path=tmp_path, labels="l.csv")) == 5


def test_a_class_without_images_is_named_with_the_mend(tmp_path):
    save(tmp_path / "a" / "1.png", gray())
    save(tmp_path / "c" / "1.png", gray())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".keep").touch()
    with pytest.raises(
        CbdmError,
        match=r"class 'b' has no image: remove its folder .* or give allow_empty=true \(--set data\.options\.allow",
    ):
        folder(path=tmp_path)
    data = folder(path=tmp_path, allow_empty=True)
    assert data.class_names == ("a", "b", "c") and data.counts().tolist() == [1, 0, 1]


def test_mixed_sizes_are_named(tmp_path):
    save(tmp_path / "a" / "1.png", gray(4, 6))
    save(tmp_path / "b" / "2.png", gray(6, 4))
    with pytest.raises(
        CbdmError,
        match=r"a/1\.png is 6×4 and .*b/2\.png is 4×6: crop or resize .* give size=N \(--set data\.options\.size=N\)",
    ):
        folder(path=tmp_path)
    assert folder(path=tmp_path, size=4).shape == (1, 4, 4)


@pytest.mark.parametrize(("h", "w"), [(12, 20), (20, 12), (12, 12)])
def test_size_halves_the_shorter_side_and_cuts_out_the_middle(tmp_path, h, w):
    """A ramp stays a ramp under bicubic halving, away from its ends; the middle is that of the picture."""
    save(tmp_path / "a" / "1.png", np.add.outer(5 * np.arange(h), 5 * np.arange(w)).astype(np.uint8))
    at = [5 * ((n - 12) / 2 + 2 * np.arange(6) + 0.5) for n in (h, w)]
    data = folder(path=tmp_path, size=6).x[0, 0].double().numpy()
    np.testing.assert_allclose(data[1:-1, 1:-1], np.add.outer(*at)[1:-1, 1:-1], atol=1)


def test_size_is_antialiased(tmp_path):
    """Stripes of one pixel become grey, where picking pixels would leave black or white."""
    save(tmp_path / "a" / "1.png", np.tile(np.array([[0, 255]], np.uint8), (32, 16)))
    assert (folder(path=tmp_path, size=8).x[..., 1:-1].double() - 127.5).abs().max() < 4


def test_channels_are_as_asked_for(tmp_path):
    one, two = save(tmp_path / "a" / "1.png", gray()), save(tmp_path / "b" / "2.png", colour())
    luma = np.rint(two @ np.array([299, 587, 114]) / 1000)
    data = folder(path=tmp_path, channels=1)
    assert data.shape == (1, 4, 6) and np.array_equal(data.x[0, 0], one)
    assert np.abs(data.x[1, 0].numpy() - luma).max() <= 1
    (tmp_path / "b" / "2.png").unlink()
    assert np.array_equal(folder(path=tmp_path, channels=3, allow_empty=True).x[0], np.stack([one] * 3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "size must be a whole number of 1 or more, got 0"),
        ({"channels": 4}, "channels is 4: 1 makes images grey, 3 makes them RGB"),
        ({"labels": "l.csv", "allow_empty": True}, "allow_empty is for class folders"),
        ({"labels": "l.csv"}, r"l\.csv cannot be read: No such file"),
    ],
)
def test_options_are_checked(tmp_path, options, said):
    save(tmp_path / "a" / "1.png", gray())
    with pytest.raises(CbdmError, match=said):
        folder(path=tmp_path, **options)


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(colour(12, 12)).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("PNG")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_images_are_refused_by_name(tmp_path, kind):
    """Every length: only where no more than check sums and end marks are missing, the pixels may come, and whole."""
    whole = PNG if kind == "PNG" else encoded(kind)
    file = tmp_path / "a" / "cut"
    file.parent.mkdir()
    file.write_bytes(whole)
    pixels = folder(path=tmp_path).x
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        if length < len(whole) - 20:
            with pytest.raises(CbdmError, match="a/cut"):
                folder(path=tmp_path)
        else:
            with contextlib.suppress(CbdmError):
                assert np.array_equal(folder(path=tmp_path).x, pixels)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
def test_a_damaged_byte_raises_nothing_else(tmp_path, place, change):
    """Whatever Pillow makes of it: a data set of that one image, or the error that names the file."""
    (tmp_path / "a").mkdir(exist_ok=True)
    content = bytearray(PNG)
    content[place] ^= change
    (tmp_path / "a" / "bad.png").write_bytes(content)
    try:
        assert len(folder(path=tmp_path)) == 1
    except CbdmError as error:
        assert "a/bad.png" in str(error) and "\n" not in str(error)


def text(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("hello")


def transparent(path):
    save(path, np.dstack([colour(), np.full((4, 6), 254, np.uint8)]))


def frames(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(gray()).save(path, save_all=True, append_images=[Image.fromarray(gray())])


def postscript(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(gray()).save(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: text(d / "a" / "notes.txt"), r"a/notes\.txt is no image, or is damaged"),
        (lambda d: text(d / "a" / "i.png"), r"a/i\.png is no image, or is damaged"),
        (lambda d: text(d / "notes.txt"), r"notes\.txt lies beside the class folders"),
        (lambda d: save(d / "a" / "b" / "i.png", gray()), "a/b is a folder inside a class folder"),
        (lambda d: transparent(d / "a" / "i.png"), r"a/i\.png has transparent pixels"),
        (lambda d: save(d / "a" / "i.png", gray().astype(np.uint16)), r"a/i\.png has pixels deeper than 8 bits"),
        (lambda d: save(d / "a" / "i.tiff", gray().astype(np.float32)), r"deeper than 8 bits \(mode F\)"),
        (lambda d: frames(d / "a" / "i.gif"), r"a/i\.gif has 2 frames"),
        (lambda d: postscript(d / "a" / "i.eps"), r"a/i\.eps is no image"),
        (lambda d: None, "holds no class folder"),
    ],
)
def test_refused_in_one_line(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(CbdmError, match=said) as caught:
        folder(path=tmp_path)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_folder(tmp_path):
    with pytest.raises(CbdmError, match="is not a folder"):
        folder(path=tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(CbdmError, match=r"no class folder of .* has an image"):
        folder(path=tmp_path, allow_empty=True)


def test_a_folder_that_may_not_be_read_is_a_line(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()

    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(CbdmError, match=r"cannot be read \(Permission denied\): give yourself the right to"):
        folder(path=tmp_path)

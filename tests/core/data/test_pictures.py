"""Framing asks for memory before it decodes, whoever's the images are."""

import io
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbdm_core import memory
from cbdm_core.data.folders import folder
from cbdm_core.data.parquet import parquet
from cbdm_core.data.pictures import Framing
from cbdm_core.data.webdataset import webdataset
from cbdm_core.errors import CbdmError, CbdmWarning
from tests.core.data.cifar_files import tar


def encoded(channels=1):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, channels), np.uint8).squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


PNG = encoded()


def in_folders(place, images, **options):
    (place / "a").mkdir()
    for i, image in enumerate(images):
        (place / "a" / f"{i}.png").write_bytes(image)
    return folder(path=place, **options)


def in_parquet(place, images, **options):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    files.write_table(arrow.table({"image": images, "label": [0] * len(images)}), place / "a.parquet")
    return parquet(root=place, **options)


def in_tar(place, images, **options):
    parts = ((f"{i}.png", f"{i}.cls", image) for i, image in enumerate(images))
    tar(place / "a.tar", {name: file for png, cls, image in parts for name, file in ((png, image), (cls, b"0"))}, "w")
    return webdataset(root=place, **options)


@pytest.mark.parametrize("size", [10_000_000, 10**200], ids=["large", "no float"])
@pytest.mark.parametrize("read", [in_folders, in_parquet, in_tar])
def test_a_size_beyond_memory_is_refused_before_an_image_is_read(tmp_path, read, size):
    """Bytes that are no image would be refused by name as soon as they were looked at."""
    asked = rf"reading (3 images|1 image or more) of size={size:,} needs at least .* of memory"
    said = rf"{asked}, .* smaller size=N \(--set data\.options\.size=N\)"
    with pytest.raises(CbdmError, match=said):
        read(tmp_path, [b"no image"] * 3, size=size)


@pytest.mark.parametrize(
    ("read", "options", "channels", "said"),
    [
        (in_folders, {"size": 16}, 1, "reading 3 images of size=16 needs at least"),
        (in_parquet, {"size": 16}, 1, "reading 3 images of size=16 needs at least"),
        (in_folders, {}, 1, r"reading 3 images needs .* give a size=N"),  # known from the first
        (in_folders, {"size": 8}, 3, "reading 3 images of size=8 needs at least"),  # so are three channels
        (in_folders, {"size": 8, "channels": 3}, 1, "reading 3 images of size=8 needs at least"),
        (in_tar, {"size": 16}, 1, "reading 3 images or more of size=16 needs"),  # seen only as they come
    ],
)
def test_what_is_asked_for_is_every_image_twice(tmp_path, monkeypatch, read, options, channels, said):
    """By itself and in the array of all; less what is held: 4·256 bytes at the third of a stream."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 900)
    with pytest.raises(CbdmError, match=said):
        read(tmp_path, [encoded(channels)] * 3, **options)


@pytest.mark.parametrize("read", [in_folders, in_parquet, in_tar])
def test_grey_images_among_colours_are_counted_once(tmp_path, read):
    with pytest.warns(CbdmWarning) as told:
        data = read(tmp_path, [encoded(channels) for channels in (1, 3, 1, 1, 3)])
    assert data.shape == (3, 16, 16)
    assert [str(w.message) for w in told] == [
        "3 of 5 images are grey and taken as RGB: channels=1 makes all grey, channels=3 takes all as RGB "
        "(--set data.options.channels=3)"
    ]
    assert Path(told[0].filename).parent.name == "data" and Path(told[0].filename).name != "pictures.py"


@pytest.mark.parametrize(
    ("channels", "asked", "made"),
    [((1, 1), None, 1), ((3, 3), None, 3), ((1, 3), 1, 1), ((1, 3), 3, 3), ((1, 1), 3, 3)],
)
def test_channels_asked_for_or_alike_are_not_warned_of(recwarn, channels, asked, made):
    images = [(f"{i}", encoded(n)) for i, n in enumerate(channels)]
    assert Framing(None, asked).stack(images).shape == (2, made, 16, 16)
    assert not recwarn.list


def test_what_fits_is_read(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * 3 * 256)
    assert Framing(16).stack([("a", PNG)] * 3, 3).shape == (3, 1, 16, 16)

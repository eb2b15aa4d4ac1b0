"""WebDataset tars: members of one basename are one example, in the order of the tars, and nothing else passes."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cbdm_core.data.webdataset import webdataset
from cbdm_core.errors import CbdmError
from tests.core.data.cifar_files import tar

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


PNG = [encoded(pixels) for pixels in PIXELS]


def test_tars_in_their_order_with_any_kind_of_label(tmp_path):
    tar(tmp_path / "b-1.tar", {"x/3.png": PNG[2], "x/3.cls": b" 0\n", "x/4.json": b"2", "x/4.PNG": PNG[3]}, "w")
    first = {"README": b"", "1.webp": encoded(PIXELS[0], "WEBP"), "1.json": json.dumps({"label": 1}).encode()}
    tar(tmp_path / "b-0.tar", {**first, "2.txt": b"a dog", "2.seg.png": b"", "2.png": PNG[1], "2.cls": b"2"}, "w:gz")
    places = [str(tmp_path / "b-*.tar"), tmp_path, [tmp_path / "b-0.tar", str(tmp_path / "b-1.tar")]]
    for root in places:
        data = webdataset(root=root)
        assert np.array_equal(data.x, PIXELS.transpose(0, 3, 1, 2))
        assert data.y.tolist() == [1, 2, 0, 2] and data.class_names == ("0", "1", "2")


def test_names_are_sorted_into_classes_and_images_framed(tmp_path):
    files = {"1.png": PNG[0], "1.json": b'{"animal": "owl"}', "2.png": encoded(PIXELS[1, :2]), "2.cls": b"cat"}
    root = tar(tmp_path / "a.tar", files, "w")
    data = webdataset(root=root, label="animal", size=2, channels=1)
    assert data.shape == (1, 2, 2) and data.class_names == ("cat", "owl") and data.y.tolist() == [1, 0]


def test_lists_are_several_labels_or_a_vector(tmp_path):
    several = {"1.png": PNG[0], "1.json": b'{"seen": ["owl", "cat"]}', "2.png": PNG[1], "2.json": b'{"seen": []}'}
    data = webdataset(root=tar(tmp_path / "a.tar", several, "w"), label="seen")
    assert data.condition.tolist() == [[1, 1], [0, 0]]  # cat, owl
    vectors = {"1.png": PNG[0], "1.json": b"[0.5, -2]", "2.png": PNG[1], "2.json": b"[0, 1]"}
    assert webdataset(root=tar(tmp_path / "b.tar", vectors, "w")).condition.tolist() == [[0.5, -2.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"1.png": PNG[0]}, r"1 of .*a\.tar has no label"),
        ({"1.cls": b"0"}, r"1 of .*a\.tar has 0 images"),
        ({"1.png": PNG[0], "1.jpg": PNG[0], "1.cls": b"0"}, "has 2 images"),
        ({"1.png": PNG[0], "1.cls": b""}, "has no whole number, text or list of one kind as its label"),
        (
            {"1.png": PNG[0], "1.json": b"[1, null]"},
            "has no whole number, text or list of one kind as its label 'label'",
        ),
        ({"1.png": PNG[0], "1.json": b'{"class": 1}'}, "as its label 'label': give label=ENTRY"),
        ({"1.png": PNG[0], "1.json": b"true"}, "has no whole number"),
        ({"1.png": PNG[0], "1.json": b"[1e999]"}, "has no whole number"),
        ({"1.png": PNG[0], "1.json": b'["owl", 1]'}, "has no whole number"),
        (
            {"1.png": PNG[0], "1.json": b"[1]", "2.png": PNG[0], "2.cls": b"1"},
            "of 1 examples is a list, that of 1 is not",
        ),
        ({"1.png": PNG[0], "1.json": b"{"}, "has a label that cannot be read"),
        ({"1.png": PNG[0], "1.json": b"9" * 5000}, "has a label that cannot be read"),
        ({"1.png": PNG[0], "1.json": b"[" * 100_000}, "has a label that cannot be read"),
        ({"1.png": PNG[0], "1.cls": b"\xff"}, "has a label that cannot be read"),
        ({"1.png": PNG[0][:60], "1.cls": b"0"}, r"1 of .* \(png\) cannot be read as an image"),
        ({"1.png": PNG[0], "2.png": PNG[0], "1.cls": b"0"}, "has no label"),
        ({"1.png": PNG[0], "1.cls": b"0", "2.png": PNG[1], "2.cls": b"0", "1.json": b"0"}, "in two places"),
        ({"1.png": PNG[0], "1.PNG": PNG[0], "1.cls": b"0"}, r"two members 1\.png"),
        ({"1.png": PNG[0], "1.cls": b"0", "2.png": encoded(PIXELS[0, :2]), "2.cls": b"0"}, r"give size=N"),
        ({"../1.png": PNG[0], "../1.cls": b"0"}, r"names the file '\.\./1\.png'"),
        ({"/1.png": PNG[0], "/1.cls": b"0"}, r"names the file '/1\.png'"),
        ({"notes.txt": b"0"}, "holds no example"),
    ],
)
def test_refused_in_one_line(tmp_path, files, said):
    root = tar(tmp_path / "a.tar", files, "w")
    with pytest.raises(CbdmError, match=said) as caught:
        webdataset(root=root)
    assert "\n" not in str(caught.value)


def test_links_are_not_followed(tmp_path):
    (tmp_path / "1.png").write_bytes(PNG[0])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "1.png")
        archive.addfile(link)
    with pytest.raises(CbdmError, match="holds no example"):
        webdataset(root=tmp_path / "a.tar")


@pytest.mark.parametrize("cut", [0, 100, 512, 600, 900, 1500])
def test_a_truncated_tar_is_refused(tmp_path, cut):
    whole = tar(tmp_path / "a.tar", {"1.png": PNG[0], "1.cls": b"0"}, "w").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(CbdmError, match=r"a\.tar"):
        webdataset(root=tmp_path / "a.tar")


def test_places_without_a_tar(tmp_path):
    for root in (tmp_path, tmp_path / "*.tar", [tmp_path / "gone.tar"]):
        with pytest.raises(CbdmError, match=r"names no \.tar file"):
            webdataset(root=root)
    with pytest.raises(CbdmError, match="root is an empty list"):
        webdataset(root=())

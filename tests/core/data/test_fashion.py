"""Fashion-MNIST from idx files: the format as published, means of blocks of pixels, and one line for what is wrong."""

import gzip

import numpy as np
import pytest
import torch

from cbdm_core.data.fashion import CLASSES, fashion
from cbdm_core.data.idx import read_idx
from cbdm_core.data.mnist import mnist
from cbdm_core.errors import CbdmError
from tests.core.data.idx_files import fashion_files, idx


@pytest.fixture
def folder(tmp_path):
    """Files of the real format with 30 training and 20 test images."""
    return fashion_files(tmp_path / "files")


def test_both_parts_gzipped_or_plain(folder):
    train, test = (fashion(size=28, part=part, root=str(folder)) for part in ("train", "test"))
    assert len(train) == 30 and len(test) == 20 and train.class_names == CLASSES
    assert train.y.tolist() == [i % 10 for i in range(30)]
    again = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    assert test.x.flatten().tolist() == again.tolist()


@pytest.mark.parametrize(("size", "step"), [(14, 2), (7, 4)])
def test_smaller_pixels_are_the_means_of_blocks(folder, size, step):
    large, small = fashion(size=28, root=str(folder)).x.double(), fashion(size=size, root=str(folder)).x
    for row, column in ((0, 0), (size - 1, 2), (3, size - 1)):
        block = large[:, 0, row * step : (row + 1) * step, column * step : (column + 1) * step]
        assert torch.equal(small[:, 0, row, column], block.mean((1, 2)).round().to(torch.uint8))


def test_the_environment_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("CBDM_DATA", str(folder.parent))
    folder.rename(folder.parent / "fashion-mnist")
    assert len(fashion(part="test")) == 20


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda raw: raw[:-1], r"asks for 796"),
        (lambda raw: raw + b"0", r"797 bytes"),
        (lambda raw: b"\0\0\x0d" + raw[3:], r"no idx file of unsigned bytes: it begins with 00 00 0d 03"),
        (lambda raw: b"", r"begins with nothing"),
        (lambda raw: raw[:7], r"has 7 bytes"),
        (lambda raw: gzip.compress(raw)[:-9], r"cannot be read"),
        (lambda raw: b"\0\0\x08\x03" + b"\xff" * 12, r"asks for 79228162458924105385300197391"),
        (lambda raw: b"\0\0\x08\x41" + b"\0\0\0\x01" * 65 + b"0", r"1 to 4 axes"),
        (lambda raw: b"\0\0\x08\x03" + b"\0" * 4 + b"\xff" * 8, r"none of them empty"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, line):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(np.zeros((1, 26, 30), np.uint8))))  # 16 + 780 bytes
    with pytest.raises(CbdmError, match=line):
        read_idx(path)


def test_a_gzipped_file_of_more_than_any_set_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cbdm_core.data.idx._MOST_BYTES", 100)
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(np.zeros((1, 26, 30), np.uint8))))
    with pytest.raises(CbdmError, match="holds more than 100 bytes"):
        read_idx(tmp_path / "images.gz")


def test_mnist_reads_the_same_files_under_its_own_names(folder, monkeypatch):
    data = mnist(root=str(folder), part="test")
    assert data.x.equal(fashion(size=28, part="test", root=str(folder)).x) and data.class_names == tuple("0123456789")
    monkeypatch.delenv("CBDM_DATA", raising=False)
    with pytest.raises(CbdmError, match=r"mnist needs its files: --set data.options.root=FOLDER, or .*CBDM_DATA/mnist"):
        mnist()
    monkeypatch.setenv("CBDM_DATA", str(folder.parent))
    folder.rename(folder.parent / "mnist")
    assert mnist(part="test").content_hash() == data.content_hash()
    with pytest.raises(CbdmError, match=r"nowhere is not there"):
        mnist(root=str(folder / "nowhere"))


def test_what_is_asked_for_must_exist(folder, tmp_path):
    for size in (13, 14.0):
        with pytest.raises(CbdmError, match=rf"size {size}: .*28, 14 or 7"):
            fashion(size=size, root=str(folder))
    with pytest.raises(CbdmError, match=r"part of Fashion-MNIST 'tests'.*test"):
        fashion(part="tests", root=str(folder))
    with pytest.raises(CbdmError, match=r"no train-images-idx3-ubyte.gz: install .*dataset-fashion-mnist"):
        fashion(root=str(tmp_path / "nowhere"))


def test_images_and_labels_must_belong_together(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(29, np.uint8)))
    with pytest.raises(CbdmError, match=r"\(30, 28, 28\) and labels \(29,\)"):
        fashion(root=str(folder))

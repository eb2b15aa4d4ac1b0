"""CIFAR in its real formats: pixels and labels come back from each, and what is not the set is refused unread."""

import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbdm_core.data.cifar import CIFAR10, CIFAR100, cifar10, cifar100
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.plain_pickle import load_plain
from cbdm_core.errors import CbdmError
from tests.core.data.cifar_files import BATCHES, binary10, binary100, examples, python2, python3, tar

TEN, HUNDRED = examples(10, BATCHES), examples(100, ["train", "test"])
# Version → (reader, its examples, names of train, folder, ending, how a file is written).
VERSIONS = {
    "binary 10": (cifar10, TEN, BATCHES[:5], "cifar-10-batches-bin", ".bin", binary10),
    "python 10": (cifar10, TEN, BATCHES[:5], "cifar-10-batches-py", "", python2),
    "python 3": (cifar10, TEN, BATCHES[:5], "cifar-10-batches-py", "", python3),
    "protocol 4": (cifar10, TEN, BATCHES[:5], "cifar-10-batches-py", "", partial(python3, protocol=4)),
    "binary 100": (cifar100, HUNDRED, ["train"], "cifar-100-binary", ".bin", binary100),
    "python 100": (cifar100, HUNDRED, ["train"], "cifar-100-python", "", partial(python2, key="fine_labels")),
}


@pytest.mark.parametrize("place", ["archive", "folder of the archive", "files", "folder of the files"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_comes_back_from_every_place(tmp_path, version, place):
    read, parts, train, inner, ending, write = VERSIONS[version]
    files = {f"{inner}/{name}{ending}": write(*parts[name]) for name in reversed(parts)}
    files[f"{inner}/batches.meta"] = b"not looked into"
    root = tmp_path / "data"
    if "archive" in place:
        name = inner.replace("batches-bin", "binary").replace("batches-py", "python")
        archive = tar(root / f"{name}.tar.gz", files)
        root = archive if place == "archive" else root
    else:
        (root / inner).mkdir(parents=True)
        for name, content in files.items():
            (root / name).write_bytes(content)
        root = root / inner if place == "files" else root
    for part, names in (("train", train), ("test", [name for name in parts if name not in train])):
        data = read(root=str(root), part=part, verify=False)
        assert data.x.flatten().tolist() == np.concatenate([parts[name][0] for name in names]).flatten().tolist()
        assert data.y.tolist() == np.concatenate([parts[name][1] for name in names]).tolist()
        assert data.shape == (3, 32, 32) and data.num_classes == (10 if read is cifar10 else 100)


def test_names_are_the_published_ones():
    """Both lists are alphabetical as published, so that the place of a name is its label."""
    assert list(CIFAR10) == sorted(CIFAR10) and list(CIFAR100) == sorted(CIFAR100) and len(set(CIFAR100)) == 100
    assert (CIFAR10[3], CIFAR100[0], CIFAR100[47], CIFAR100[99]) == ("cat", "apple", "maple_tree", "worm")


def test_a_long_tail_is_cut_out_of_it_as_out_of_any_set(tmp_path):
    labels = np.repeat(np.arange(10), 10)
    content = binary10(np.zeros((100, 3072), np.uint8), labels)
    for name in BATCHES[:5]:
        (tmp_path / f"{name}.bin").write_bytes(content)
    tail, _, _ = make_long_tail(cifar10(root=tmp_path), imbalance=0.1)
    assert tail.counts().tolist() == [int(50 * 0.1 ** (c / 9)) for c in range(10)]


class Touch:
    """What unpickling it would do is leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile(trap):
    """Contents that name more than arrays, or say of an array what is not so."""
    array, labels = TEN["test_batch"]
    good = python2(array, labels)
    return [
        (pickle.dumps({"data": Touch(trap), "labels": [1]}, 2), r"names (io|_io|builtins|__builtin__)\.open"),
        (b"cos\nsystem\n(Vtouch " + str(trap).encode() + b"\ntR.", r"names os\.system, which could execute code"),
        (good.replace(b"cnumpy\ndtype\n", b"cnumpy\nmemmap\n"), r"names numpy\.memmap"),
        (pickle.dumps({"data": np.array([Touch(trap)], object), "labels": [1]}, 2), r"names (io|_io|__builtin__)"),
        (pickle.dumps({"data": array.astype(np.int16), "labels": labels.tolist()}, 2), "no bytes of its stated shape"),
        (good.replace(b"J\x00\x0c\x00\x00", b"J\x00\x0d\x00\x00"), "no bytes of its stated shape"),
        (pickle.dumps({"data": array[:, 1:], "labels": labels.tolist()}, 2), r"no array 'data' of shape \(N, 3,072\)"),
        (pickle.dumps({"data": array, "labels": ["1"] * 4}, 2), "no list 'labels' of labels"),
        (pickle.dumps({"data": array, "labels": [1] * 3}, 2), "4 images and 3 labels"),
        (pickle.dumps({"data": array, "labels": [1, 2, 3, 10]}, 2), "label 10 of row 3 is out of range"),
        (pickle.dumps([array]), "holds a list, not a dict|names"),
        (pickle.dumps(0, 2), "holds a int"),
        (b"c_codecs\nencode\nVx\nVrot13\n\x86R.", "bytes encoded as 'rot13'"),
        (b"cnumpy\nndarray\n}Vstate\nI1\nsb.", "is no pickle of arrays, or is damaged"),
        (b"hello", "is no pickle of arrays, or is damaged"),
    ]


@pytest.mark.parametrize("case", range(15))
def test_a_pickle_of_more_than_arrays_is_refused_and_not_executed(tmp_path, case):
    trap = tmp_path / "touched"
    content, said = hostile(trap)[case]
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(CbdmError, match=said) as caught:
        cifar10(root=tmp_path, part="test")
    assert not trap.exists() and "\n" not in str(caught.value)


SMALL = python2(np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([1, 2]))


@settings(max_examples=300)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_pickle_raises_nothing_else(place, change, cut):
    content = bytearray(SMALL)
    content[place] ^= change
    try:
        assert isinstance(load_plain(bytes(content[:place] if cut else content), "it"), dict) and not cut
    except CbdmError as error:
        assert "\n" not in str(error)


def test_arrays_by_columns_come_back_as_they_were(tmp_path):
    array = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(load_plain(pickle.dumps({"data": array}, 2), "it")["data"], array)


WHOLE = {f"cifar-10-batches-bin/{name}.bin": binary10(*TEN[name]) for name in BATCHES}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cifar-10-batches-bin/data_batch_3.bin": b"0" * 6000}, r"data_batch_3\.bin of cifar10 has 6,000 bytes, no"),
        ({"cifar-10-batches-bin/data_batch_3.bin": b""}, "has 0 bytes"),
        ({"cifar-10-batches-bin/data_batch_3.bin": b"\x0a" + b"0" * 3072}, "label 10 of row 8 is out of range"),
        ({"elsewhere/data_batch_3.bin": b"0"}, r"holds two files called data_batch_3\.bin"),
        ({"../data_batch_9.bin": b"0"}, r"names the file '\.\./data_batch_9\.bin'"),
        ({"/etc/passwd": b"0"}, "names the file '/etc/passwd'"),
    ],
)
def test_an_archive_that_is_not_the_set_is_refused(tmp_path, change, said):
    archive = tar(tmp_path / "mine.tar.gz", {**WHOLE, **change})
    with pytest.raises(CbdmError, match=said):
        cifar10(root=archive)


def test_a_file_larger_than_any_of_the_set_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cbdm_core.data.cifar._MOST_BYTES", 20_000)
    archive = tar(tmp_path / "mine.tar.gz", {**WHOLE, "huge": b"\0" * 20_001})
    with pytest.raises(CbdmError, match=r"huge of .* has 20,001 bytes, more than the 20,000"):
        cifar10(root=archive)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.floats(0, 0.9))
def test_a_truncated_archive_is_refused(tmp_path, share):
    whole = tar(tmp_path / "whole.tar.gz", {name: WHOLE[name] for name in list(WHOLE)[:2]}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CbdmError, match=r"cut\.tar\.gz"):
        cifar10(root=tmp_path / "cut.tar.gz")


@pytest.mark.parametrize("place", ["", "cifar-10-binary.tar.gz"])
def test_an_archive_of_a_published_name_has_the_published_sum(tmp_path, place):
    tar(tmp_path / "cifar-10-binary.tar.gz", WHOLE)
    with pytest.raises(CbdmError, match=r"MD5 sum [0-9a-f]{32}, the published one is c32a1d4ab.*verify=false"):
        cifar10(root=tmp_path / place)
    assert len(cifar10(root=tmp_path / place, verify=False)) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part": "tset"}, "unknown part of cifar10 'tset': did you mean 'test'"),
        ({"verify": 1}, "verify is 1, it must be true or false"),
        ({"root": "nowhere"}, "nowhere is not there"),
        ({}, "cifar10 needs its files: --set data.options.root=FOLDER"),
    ],
)
def test_options_are_checked(options, said, monkeypatch):
    monkeypatch.delenv("CBDM_DATA", raising=False)
    with pytest.raises(CbdmError, match=said):
        cifar10(**options)


def test_the_other_set_is_refused_by_what_it_lacks(tmp_path):
    archive = tar(tmp_path / "mine.tar", WHOLE, "w")
    assert len(cifar10(root=archive)) == 20
    with pytest.raises(CbdmError, match=r"does not hold cifar100: .*cifar-100-binary\.tar\.gz .* train\.bin or train"):
        cifar100(root=archive)

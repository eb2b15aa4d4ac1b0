"""Parquet files in the form of Hugging Face datasets: images, labels and the names that the schema carries."""

import io
import json
import sys
from datetime import date
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from cbdm_core.data.parquet import parquet
from cbdm_core.errors import CbdmError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PNG = [encoded(pixels) for pixels in PIXELS]
NAMED = {"image": {"_type": "Image"}, "label": {"names": ["owl", "cat", "eel"], "_type": "ClassLabel"}}


@pytest.fixture
def write(tmp_path):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")

    def write(columns, features=None, name="train-00000-of-00001.parquet"):
        table = arrow.table(columns)
        if features is not None:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        files.write_table(table, tmp_path / name)
        return tmp_path / name

    return write


def structs(images):
    return [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]


def test_the_schema_says_which_columns_and_which_names(write, tmp_path):
    features = {"photo": NAMED["image"], "kind": NAMED["label"], "id": {"dtype": "int64", "_type": "Value"}}
    write({"id": [7, 8], "photo": structs(PNG[3:]), "kind": [1, 1]}, features, "train-00001-of-00002.parquet")
    write({"id": [4, 5, 6], "photo": structs(PNG[:3]), "kind": [0, 2, 0]}, features, "train-00000-of-00002.parquet")
    write({"id": [1]}, name="test-00000-of-00001.parquet")
    data = parquet(root=tmp_path / "train-*.parquet")
    assert np.array_equal(data.x, PIXELS.transpose(0, 3, 1, 2))
    assert data.y.tolist() == [0, 2, 0, 1, 1] and data.class_names == ("owl", "cat", "eel")
    with pytest.raises(CbdmError, match=r"column of .*test-00000-of-00001\.parquet 'photo'.*id"):
        parquet(root=[tmp_path / "train-*.parquet", tmp_path / "test-00000-of-00001.parquet"])


def test_without_a_schema_the_usual_names_or_those_given(write):
    path = write({"img": PNG[:3], "label": ["b", "a", "b"], "coarse": [3, 0, 1], "other": structs(PNG[2:])})
    data = parquet(root=path)
    assert data.class_names == ("a", "b") and data.y.tolist() == [1, 0, 1]
    data = parquet(root=path, image="other", label="coarse", size=2, channels=1)
    assert data.y.tolist() == [3, 0, 1] and data.num_classes == 4 and data.shape == (1, 2, 2)


@pytest.mark.parametrize("form", [lambda said: [said], lambda said: {"feature": said, "_type": "List"}])
def test_lists_of_classes_have_the_names_of_the_schema(write, form):
    features = {"image": NAMED["image"], "kinds": form(NAMED["label"])}
    data = parquet(root=write({"image": structs(PNG[:3]), "kinds": [[2, 0], [], [0]]}, features))
    assert data.condition.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]  # owl, cat, eel, though no cat is there


def test_names_in_a_schema_that_are_no_text_are_as_text(write):
    for label, given in (("label", [1, 0]), ("labels", [[1], [0, 1]])):
        features = {"image": NAMED["image"], label: {"names": [1, None], "_type": "ClassLabel"}}
        data = parquet(root=write({"image": PNG[:2], label: given}, features))
        assert (data.condition_names or data.class_names) == ("1", "None")


def test_lists_are_several_labels_or_a_vector(write):
    data = parquet(root=write({"image": PNG[:2], "labels": [["owl", "cat"], ["cat"]]}))
    assert data.condition.tolist() == [[1, 1], [1, 0]]
    data = parquet(root=write({"image": PNG[:2], "label": ["a", "b"], "pose": [[0.5, 2], [1, 4]]}), label="pose")
    assert data.condition.tolist() == [[0.5, 2.0], [1.0, 4.0]] and data.condition.is_floating_point()


@pytest.mark.parametrize(
    ("columns", "features", "options", "said"),
    [
        ({"a": PNG[:1], "label": [0]}, None, {}, "has 0 columns that could be the image, of a, label: give image="),
        ({"image": PNG[:1], "img": PNG[:1], "label": [0]}, None, {}, "has 2 columns that could be the image"),
        ({"image": PNG[:1], "fine": [0]}, None, {}, "has 0 columns that could be the label"),
        ({"image": PNG[:1], "label": [0]}, None, {"label": "lable"}, "'lable': did you mean 'label'"),
        ({"image": PNG[:2], "label": [0, -1]}, NAMED, {}, "row 1 of .* has no label in 'label'"),
        ({"image": PNG[:2], "label": [0, None]}, NAMED, {}, "row 1 of .* has no label in 'label'"),
        ({"image": PNG[:2], "label": [0.5, 1.0]}, NAMED, {}, r"row 0 of .* has 0\.5 in 'label', of the type float: "),
        (
            {"image": PNG[:2], "label": [True, False]},
            None,
            {},
            "has True in 'label', of the type bool: labels are whole",
        ),
        ({"image": PNG[:2], "label": [date(2020, 1, 2)] * 2}, None, {}, r"has datetime\.date\(.* of the type date: "),
        ({"image": PNG[:2], "label": [[[1]], [[2]]]}, None, {}, r"has \[\[1\]\] in 'label', .* list: .*label=COLUMN"),
        ({"image": PNG[:2], "label": [0, 3]}, NAMED, {}, "label 3 of row 1 is out of range: 3 classes"),
        ({"image": structs([PNG[0], None]), "label": [0, 1]}, NAMED, {}, "row 1 of .* has no bytes of an image"),
        ({"image": ["a.png"], "label": [0]}, NAMED, {}, "row 0 of .* has no bytes of an image"),
        ({"image": [PNG[0], PNG[1][:50]], "label": [0, 1]}, NAMED, {}, "row 1 of .* cannot be read as an image"),
        ({"image": [PNG[0], encoded(PIXELS[0, :2])], "label": [0, 1]}, NAMED, {}, "give size=N"),
        ({"image": PNG[:0], "label": [0][:0]}, NAMED, {}, "no image"),
    ],
)
def test_refused_in_one_line(write, columns, features, options, said):
    with pytest.raises(CbdmError, match=said) as caught:
        parquet(root=write(columns, features), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("features", [None, NAMED])
@pytest.mark.parametrize("twice", ["label", "image"])
def test_two_columns_of_one_name_are_refused(tmp_path, features, twice):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    columns = {"image": arrow.array(PNG[:2]), "label": arrow.array([0, 1])}
    table = arrow.Table.from_arrays([*columns.values(), columns[twice]], [*columns, twice])
    told = {} if features is None else {"huggingface": json.dumps({"info": {"features": features}})}
    files.write_table(table.replace_schema_metadata(told), tmp_path / "a.parquet")
    with pytest.raises(CbdmError, match=rf"a\.parquet has several columns called '{twice}': rename all but one"):
        parquet(root=tmp_path)


def test_another_column_twice_does_no_harm(tmp_path):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    columns = [arrow.array(PNG[:2]), arrow.array([0, 1]), arrow.array([5, 6]), arrow.array([7, 8])]
    files.write_table(arrow.Table.from_arrays(columns, ["image", "label", "id", "id"]), tmp_path / "a.parquet")
    assert parquet(root=tmp_path).y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train-00000-of-00001", "test-00000-of-00001"), "test and train"),
        (("data_training_0", "data_val_0", "data_test_0"), "test and train and validation"),
        (("train-0", "train-1", "extra"), None),
        (("train-test-0", "train-test-1"), None),
        (("latest-0", "trainer-1"), None),
    ],
)
def test_splits_in_one_folder_are_not_mixed(write, tmp_path, names, splits):
    for label, name in enumerate(names):
        write({"image": PNG[:2], "label": [label, label]}, name=f"{name}.parquet")
    if splits is None:
        assert len(parquet(root=tmp_path)) == 2 * len(names)
        return
    with pytest.raises(CbdmError, match=f"holds the splits {splits}: name a file, or a subset by root='") as caught:
        parquet(root=tmp_path)
    first, every = str(caught.value).split("'")[1::2]
    assert parquet(root=first).y.unique().tolist() in [[i] for i in range(len(names))]
    assert len(parquet(root=every)) == 2 * len(names)


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": 1}', b'{"info": {"features": [1]}}'])
def test_a_schema_that_says_nothing_is_as_none(write, tmp_path, metadata):
    arrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    table = arrow.table({"image": PNG[:2], "label": [1, 0]}).replace_schema_metadata({"huggingface": metadata})
    files.write_table(table, tmp_path / "a.parquet")
    assert parquet(root=tmp_path).class_names == ("0", "1")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(write, share):
    path = write({"image": PNG, "label": [0, 1, 2, 0, 1]}, NAMED)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CbdmError, match=r"train-00000-of-00001\.parquet cannot be read as parquet"):
        parquet(root=path)


def test_damaged_pages_are_refused_or_without_effect(write):
    path = write({"image": PNG, "label": [0, 1, 2, 0, 1]}, NAMED)
    whole = path.read_bytes()
    for place in range(4, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert len(parquet(root=path)) == 5
        except CbdmError as error:
            assert "\n" not in str(error)


def test_without_pyarrow_the_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CbdmError, match=r"pyarrow, which is not installed: pip install 'cbdm\[hf\]'"):
        parquet(root=tmp_path)
    with pytest.raises(CbdmError, match=r"names no \.parquet file"):
        parquet(root=tmp_path / "gone.parquet")

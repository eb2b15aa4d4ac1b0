"""Arrays from a file: what they mean is decided by the stated rule, or refused; nothing is unpickled."""

import io
import pickletools
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbdm_core.data.labelling import from_attributes, from_vectors
from cbdm_core.data.npz import npz
from cbdm_core.data.regions import REGIONS
from cbdm_core.errors import CbdmError, CbdmWarning

Y = np.array([0, 2, 1, 0, 2])


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    def load(options=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return npz(path=tmp_path / "data.npz", **(options or {}))

    return load


def test_gray_images(load):
    x = pixels(5, 4, 6)
    data = load(images=x, labels=Y)
    assert data.x.numpy().tolist() == x[:, None].tolist() and data.y.tolist() == Y.tolist()
    assert data.class_names == ("0", "1", "2")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spatial", [(4, 6), (4, 5, 6)])
def test_channels_are_found_first_or_last(load, channels, spatial):
    first = pixels(5, channels, *spatial)
    last = np.moveaxis(first, 1, -1)
    assert np.array_equal(load(images=first, labels=Y).x, first)
    assert np.array_equal(load(images=last, labels=Y).x, first)


@pytest.mark.parametrize("shape", [(5, 3, 8, 3), (5, 1, 1, 1), (5, 8, 8, 8), (5, 4, 8, 8), (5, 8)])
def test_channels_that_could_be_either_are_asked_for(load, shape):
    with pytest.raises(CbdmError, match=r"do not say where their channels are .* give layout=first, last or none"):
        load(images=pixels(*shape), labels=Y)


def test_bytes_are_not_told_to_be_values(load):
    with pytest.raises(CbdmError) as caught:
        load(images=pixels(5, 4, 8, 8), labels=Y)
    assert "(--set data.options.layout=first)" in str(caught.value) and "kind=values" not in str(caught.value)


def test_layout_settles_it(load):
    x = pixels(5, 3, 8, 3)
    assert np.array_equal(load({"layout": "first"}, images=x, labels=Y).x, x)
    assert np.array_equal(load({"layout": "last"}, images=x, labels=Y).x, x.transpose(0, 3, 1, 2))
    assert np.array_equal(load({"layout": "none"}, images=x, labels=Y).x, x[:, None])
    assert load({"layout": "none"}, images=pixels(5, 9), labels=Y).shape == (1, 9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_in_the_unit_interval(load, dtype):
    x = pixels(5, 4, 6)
    x[0, 0, :2] = 0, 255
    assert np.array_equal(load(images=(x / 255).astype(dtype), labels=Y).x[:, 0], x)


def test_float_images_with_negative_values(load):
    x = pixels(5, 4, 6)
    x[0, 0, :2] = 0, 255
    assert np.array_equal(load(images=(x / 127.5 - 1).astype(np.float32), labels=Y).x[:, 0], x)


@pytest.mark.parametrize(("low", "high"), [(-0.2, 0.9), (-0.5, 1.5), (0.0, 255.0), (-1.5, 1.0)])
def test_float_images_in_another_range_need_it_said(load, low, high):
    x = np.linspace(low, high, 5 * 4 * 6).reshape(5, 4, 6)
    with pytest.raises(CbdmError, match=r"clearly in neither \[0, 1\] nor \[-1, 1\]: give value_range"):
        load(images=x, labels=Y)
    data = load({"value_range": (low, high)}, images=x, labels=Y)
    assert data.x.flatten().tolist() == [round(255 * i / 119) for i in range(120)]


def test_vectors_stay_what_they_are(load):
    x = np.random.default_rng(0).normal(size=(5, 7)) * 100
    data = load(images=x, labels=Y)
    assert not data.is_images and np.array_equal(data.x, x.astype(np.float32))
    z = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(data.model_input(), z, atol=1e-5)
    assert np.array_equal(load({"standardise": False}, images=x, labels=Y).model_input(), x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (5, 1, 9), (5, 4, 3, 3), (5, 2, 2, 3, 4)])
def test_values_of_any_shape_are_kept(load, shape, dtype):
    x = np.random.default_rng(0).normal(3, 40, size=shape).astype(dtype)
    data, plain = (load({"kind": "values", "standardise": s}, images=x, labels=Y) for s in (None, False))
    axes = (0, *range(2, x.ndim))
    z = (x - x.mean(axes, float, keepdims=True)) / x.std(axes, float, keepdims=True)
    for found, shown in ((data, z), (plain, x)):
        assert not found.is_images and np.array_equal(found.x, x.astype(np.float32))
        np.testing.assert_allclose(found.model_input(), shown.astype(np.float32), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(data.own_units(data.model_input()), x.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_values_may_have_their_channels_elsewhere(load):
    x = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    last = load({"kind": "values", "layout": "last"}, images=x, labels=Y)
    assert np.array_equal(last.x, x.transpose(0, 2, 1))
    none = load({"kind": "values", "layout": "none"}, images=x[..., 0], labels=Y)
    assert np.array_equal(none.x, x[:, None, :, 0])


def test_floats_with_a_range_or_called_so_are_images(load):
    x = pixels(5, 1, 6)
    for options in ({"kind": "images"}, {"value_range": (0, 1)}, {"layout": "first"}):
        assert load(options, images=x / 255, labels=Y).is_images


def test_the_arrays_found_without_names(load):
    """images and labels before x and y before train_images and train_labels."""
    one, two, three = (pixels(5, 2, 2, seed=s) for s in range(3))
    published = {"train_images": three, "train_labels": Y, "test_images": one, "test_labels": Y}
    assert np.array_equal(load(**published).x[:, 0], three)
    assert np.array_equal(load(x=two, y=Y, **published).x[:, 0], two)
    assert np.array_equal(load(images=one, labels=Y, x=two, y=Y, **published).x[:, 0], one)


def test_a_split_by_name_with_labels_in_a_column(load):
    """The form of MedMNIST: labels (N, 1) uint8."""
    column = Y[:, None].astype(np.uint8)
    arrays = {"train_images": pixels(5, 2, 2), "train_labels": column, "val_images": pixels(2, 2, 2, seed=4)}
    data = load({"split": "val"}, val_labels=column[:2], **arrays)
    assert np.array_equal(data.x[:, 0], arrays["val_images"]) and data.y.tolist() == [0, 2]


def test_names_keep_classes_without_examples(load):
    data = load(images=pixels(5, 2, 2), labels=Y, class_names=np.array(["cat", "dog", "eel", "fox"]))
    assert data.class_names == ("cat", "dog", "eel", "fox") and data.counts().tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("options", "arrays", "unused"),
    [
        ({}, {"images": pixels(5, 2, 2), "labels": Y}, None),
        ({}, {"images": pixels(5, 2, 2), "labels": Y, "class_names": np.array(["a", "b", "c"])}, None),
        ({"split": "val"}, {"val_images": pixels(5, 2, 2), "val_labels": Y, "test_images": Y, "test_labels": Y}, None),
        ({}, {"images": pixels(5, 2, 2), "labels": Y, "angles": Y, "turns": Y}, "angles, turns"),
        ({}, {"images": pixels(5, 2, 2), "labels": Y, "conditions": Y}, None),
        ({"split": "val"}, {"val_images": pixels(5, 2, 2), "val_labels": Y, "names": Y}, "names"),
    ],
)
def test_an_array_that_is_not_used_warns_once(load, options, arrays, unused):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(options, **arrays)
    said = [str(warning.message) for warning in caught]
    assert len(said) == (unused is not None)
    assert unused is None or f"not used: {unused}; used: " in said[0]


VECTORS = np.array([[0.0, 1.0], [0.5, -3.0], [1.0, 0.0], [2.0, 2.0], [9.0, 9.0]])


@pytest.mark.parametrize("names", [("images", "labels", "conditions"), ("x", "y", "conditions")])
def test_vectors_are_told_and_labels_stay_the_classes(load, names):
    data = load({}, **dict(zip(names, (pixels(5, 2, 2), Y, VECTORS), strict=True)))
    assert data.condition.dtype == torch.float32 and data.condition.tolist() == VECTORS.tolist()
    assert data.y.tolist() == Y.tolist() and data.class_names == ("0", "1", "2")
    split = {f"val_{name}": array for name, array in zip(names, (pixels(5, 2, 2), Y, VECTORS), strict=True)}
    images, labels, _ = names
    other = load({"split": "val", "images": images, "labels": labels}, **split, train_conditions=VECTORS[:2])
    assert torch.equal(other.condition, data.condition)


@pytest.mark.parametrize(
    ("conditions", "dtype", "rows"),
    [
        (np.array([[0, 1], [1, 1], [0, 1], [0, 0], [0, 1]]), torch.int64, [[0, 1], [1, 1], [0, 1], [0, 0], [0, 1]]),
        (np.array([True, False, True, True, True]), torch.int64, [[1], [0], [1], [1], [1]]),
        (np.array([0, 1, 2, 1, 0]), torch.float32, [[0.0], [1.0], [2.0], [1.0], [0.0]]),
        (np.array([0.0, 1.0, 0.0, 1.0, 0.0]), torch.float32, [[0.0], [1.0], [0.0], [1.0], [0.0]]),
    ],
    ids=["attributes", "truth", "numbers", "floats"],
)
def test_conditions_need_no_labels(load, conditions, dtype, rows):
    """The labels are then the regions that a CSV of the same columns has."""
    data = load(images=pixels(5, 2, 2), conditions=conditions)
    told = (from_attributes if dtype == torch.int64 else from_vectors)(np.array(rows))
    assert data.condition.dtype == dtype and data.condition.tolist() == rows
    assert torch.equal(data.y, told.labels) and data.class_names == told.class_names


def test_a_damaged_header_is_not_quoted_whole(tmp_path):
    """numpy says all of it, which may be thousands of characters."""
    header = b"['" + b"q" * 5_000 + b"']"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        file.writestr("labels.npy", b"")
    with pytest.raises(CbdmError, match=r"array 'images' of .* is damaged") as refused:
        npz(path=tmp_path / "d.npz")
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


def test_an_array_names_the_numbers_of_the_conditions(load):
    names = {"condition_names": np.array([f"c{i}" for i in range(VECTORS.shape[1])])}
    for labels in ({}, {"labels": Y}):
        data = load(images=pixels(5, 2, 2), conditions=VECTORS, **labels, **names)
        assert data.condition_names == tuple(names["condition_names"].tolist())
    with pytest.warns(CbdmWarning, match="not used: condition_names"):
        assert load(images=pixels(5, 2, 2), labels=Y, **names).condition_names is None
    with pytest.raises(CbdmError, match=r"condition_names are int64 of shape"):
        load(images=pixels(5, 2, 2), conditions=VECTORS, condition_names=np.arange(VECTORS.shape[1]))


def test_conditions_of_another_name(load):
    data = load({"conditions": "angles"}, images=pixels(5, 2, 2), labels=Y, angles=VECTORS)
    assert data.condition.tolist() == VECTORS.tolist()


@pytest.mark.parametrize(
    ("options", "conditions", "said"),
    [
        ({}, VECTORS[:4], r"4 conditions for examples of shape \(5, 2, 2\): save a row for each"),
        ({}, np.where(VECTORS > 8, np.nan, VECTORS), "1 of 5 conditions hold NaN .*, the first in row 4: remove"),
        ({}, 1e60 * VECTORS, r"5 of 5 conditions hold NaN or numbers that float32 does not"),
        ({}, np.array(list("abcde")), r"conditions are <U1 of shape \(5,\): save numbers"),
        ({}, VECTORS[:, :, None], r"of shape \(5, 2, 1\): save numbers"),
        ({}, VECTORS[:, :0], r"of shape \(5, 0\): save numbers"),
        ({"conditions": "angle"}, VECTORS, "has no array 'angle'"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_conditions_that_cannot_be_told(load, options, conditions, said, labelled):
    if options and not labelled:
        said = "has no array 'labels'"
    with pytest.raises(CbdmError, match=said):
        load(options, images=pixels(5, 2, 2), conditions=conditions, **({"labels": Y} if labelled else {}))


def test_labels_that_are_named_must_be_there_also_beside_conditions(load):
    with pytest.raises(CbdmError, match="has no array 'kinds'"):
        load({"labels": "kinds"}, images=pixels(5, 2, 2), conditions=VECTORS)


def test_names_of_classes_that_no_label_names_are_not_used_and_warned_of(load):
    with pytest.warns(CbdmWarning, match="not used: class_names; used: images, conditions"):
        data = load(images=pixels(5, 2, 2), conditions=VECTORS, class_names=np.array(["a", "b"]))
    assert data.class_names == REGIONS


def test_conditions_of_a_single_number_are_refused(load):
    with pytest.raises(CbdmError, match=r"5 conditions for examples of shape \(\)"):
        load(images=np.uint8(3), conditions=VECTORS)


def test_a_missing_array_is_named_with_those_that_are_there(load):
    with pytest.raises(CbdmError, match=r"has no array 'labels':.* it holds images, angles; examples and labels are"):
        load({}, images=pixels(5, 2, 2), angles=Y)
    with pytest.raises(CbdmError, match=r"no array 'val_labels':.* an array without its val_ of split= \(--set"):
        load({"split": "val"}, val_images=pixels(5, 2, 2), labels=Y)


class Touch:
    """What unpickling it would do is leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("role", ["images", "labels", "class_names"])
def test_pickles_are_refused_and_not_executed(load, tmp_path, role):
    trap = tmp_path / "touched"
    arrays = {"images": pixels(5, 2, 2), "labels": Y, role: np.array([Touch(trap)] * 5, dtype=object)}
    with pytest.raises(CbdmError, match=f"array '{role}' of .* holds pickled objects, .* so it was not loaded"):
        load(**arrays)
    assert not trap.exists()
    stored = zipfile.ZipFile(tmp_path / "data.npz").read(f"{role}.npy")
    calls = {op.name for op, _, _ in pickletools.genops(stored[stored.index(b"\x80") :])}
    assert "REDUCE" in calls  # the file does hold a call; the test would be empty without


def test_a_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.save(tmp_path / "objects.npy", np.array([Touch(tmp_path / "touched")], dtype=object))
    raw = (tmp_path / "objects.npy").read_bytes()
    path.write_bytes(raw[raw.index(b"\x80", 6) :])
    with pytest.raises(CbdmError, match="is no npz file, or is damaged"):
        npz(path=path)
    assert not (tmp_path / "touched").exists()


def whole_file():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=pixels(5, 4, 6), labels=Y, class_names=np.array(["a", "b", "c"]))
    return buffer.getvalue()


WHOLE = whole_file()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, len(WHOLE) - 1))
def test_truncated_files_are_refused(tmp_path, length):
    path = tmp_path / "cut.npz"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(CbdmError, match=r"cut\.npz"):
        npz(path=path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_refused_or_without_effect(tmp_path, place, change):
    path = tmp_path / "bad.npz"
    content = bytearray(WHOLE)
    content[place] ^= change
    path.write_bytes(content)
    try:
        data = npz(path=path)
    except CbdmError as error:
        assert "\n" not in str(error)
    else:
        assert np.array_equal(data.x[:, 0], pixels(5, 4, 6)) and torch.equal(data.y, torch.from_numpy(Y))


IMAGES = pixels(5, 2, 2)


@pytest.mark.parametrize(
    ("options", "arrays", "said"),
    [
        ({"images": "pics"}, {"pic": IMAGES, "labels": Y}, "'pics': did you mean 'pic'"),
        ({}, {"images": IMAGES, "label": Y}, "'labels': did you mean 'label'"),
        ({"split": "test"}, {"images": IMAGES, "labels": Y}, "'test_images'"),
        ({"layout": "lats"}, {"images": IMAGES, "labels": Y}, "unknown layout 'lats': did you mean 'last'"),
        ({}, {"images": IMAGES, "labels": Y / 2}, "labels are float64, they must be whole numbers"),
        ({}, {"images": IMAGES, "labels": np.eye(5, dtype=int)}, r"labels have shape \(5, 5\)"),
        ({}, {"images": IMAGES, "labels": Y[:4]}, "5 examples need 5 labels"),
        ({}, {"images": IMAGES, "labels": Y - 1}, "label -1 of row 0 is out of range"),
        ({}, {"images": IMAGES, "labels": Y + 70_000}, "label 70002 makes 70003 classes"),
        ({}, {"images": IMAGES, "labels": Y, "class_names": np.array(["a", "b"])}, "label 2 of row 1 is out of range"),
        ({}, {"images": IMAGES, "labels": Y, "class_names": np.arange(3)}, "class_names are int64"),
        ({}, {"images": IMAGES[:0], "labels": Y[:0]}, "the data set is empty"),
        ({}, {"images": IMAGES.astype(int), "labels": Y}, "examples are int64: save images as uint8"),
        ({}, {"images": IMAGES[:, 0, 0], "labels": Y}, "do not say where their channels are"),
        ({"layout": "last"}, {"images": IMAGES[:, 0], "labels": Y}, "no axes left beside channels last"),
        ({"value_range": (0, 1)}, {"images": IMAGES, "labels": Y}, "value_range is for float images"),
        ({"value_range": (0, 1)}, {"images": np.eye(5), "labels": Y}, "value_range is for images, and .* are vectors"),
        ({"value_range": (0, 0.5)}, {"images": IMAGES / 255, "labels": Y}, r"beyond value_range \[0, 0.5\]"),
        ({"kind": "value"}, {"images": IMAGES, "labels": Y}, "unknown kind 'value': did you mean 'values'"),
        ({"kind": "values"}, {"images": IMAGES, "labels": Y}, "kind=values is for floats, and these are uint8"),
        ({"kind": "values", "value_range": (0, 1)}, {"images": IMAGES / 255, "labels": Y}, "value_range is for images"),
        ({"kind": "values"}, {"images": Y / 2, "labels": Y}, r"values of shape \(5,\): save one row for each"),
        ({"kind": "values"}, {"images": np.where(IMAGES < 128, np.nan, 0), "labels": Y}, "are NaN or infinite"),
        ({"kind": "values"}, {"images": np.full((5, 1, 2), 1e300), "labels": Y}, "10 values in 5 examples are NaN or"),
        ({"standardise": True}, {"images": IMAGES / 255, "labels": Y}, "standardise is for values, and these are im"),
        ({}, {"images": IMAGES[:, None] - 300.0, "labels": Y}, "clearly in neither"),
        ({}, {"images": IMAGES[:, :1] / 255, "labels": Y}, "may be signals or images of height 1"),
        ({"kind": "images"}, {"images": np.eye(5), "labels": Y}, "do not say where their channels are"),
        ({"value_range": (1, 0)}, {"images": IMAGES / 255, "labels": Y}, r"must be \(low, high\) with low < high"),
        ({}, {"images": np.where(np.eye(5), np.nan, 0), "labels": Y}, "5 values in 5 examples are NaN .* row 0"),
        ({}, {"images": np.where(IMAGES[3, 1, 1] == IMAGES, np.inf, 0), "labels": Y}, "NaN or infinite, .* row 3"),
    ],
)
def test_refused_in_one_line(load, options, arrays, said):
    with pytest.raises(CbdmError, match=said) as caught:
        load(options, **arrays)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(CbdmError, match="is not a file: give the path of an npz file"):
        npz(path=tmp_path / "nowhere.npz")
    with pytest.raises(CbdmError, match="is not a file"):
        npz(path=tmp_path)
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(CbdmError, match="holds one array without a name"):
        npz(path=tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("images.npy", "hello")
        file.writestr("labels.npy", "hello")
    with pytest.raises(CbdmError, match=r"member 'images' of .* is no array"):
        npz(path=tmp_path / "text.npz")

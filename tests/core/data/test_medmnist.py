"""MedMNIST's npz files: each kind of its sets, its parts with one list of classes, and one line for what is wrong."""

import numpy as np
import pytest

from cbdm_core.conditions import MultiLabel
from cbdm_core.data.medmnist import medmnist
from cbdm_core.errors import CbdmError

SIZES = {"train": 6, "val": 3, "test": 4}


def arrays(shape=(4, 4), columns=1, most=3):
    random = np.random.default_rng(0)
    found = {}
    for part, n in SIZES.items():
        found[f"{part}_images"] = random.integers(0, 256, (n, *shape), dtype=np.uint8)
        found[f"{part}_labels"] = random.integers(0, most, (n, columns), dtype=np.uint8)
    return found


@pytest.mark.parametrize("part", SIZES)
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (4, 4, 4)])
def test_images_and_labels_of_each_part(tmp_path, part, shape):
    made = arrays(shape)
    made["test_labels"][0] = 7  # a class that only one part has is a class of all
    np.savez(tmp_path / "some.npz", **made)
    data = medmnist(root=tmp_path, part=part)
    x = made[f"{part}_images"]
    assert np.array_equal(data.x, np.moveaxis(x, -1, 1) if shape[-1] == 3 else x[:, None])
    assert data.y.tolist() == made[f"{part}_labels"][:, 0].tolist() and data.class_names == tuple("01234567")


@pytest.mark.parametrize("part", SIZES)
def test_several_labels_are_attributes_and_classes_are_regions(tmp_path, part):
    """Of 13 rows 7 are (0, 0, 0), 3 are (1, 0, 0) and 3 others differ: cut where 13/3 and 26/3 rows are reached."""
    made = arrays(columns=3)
    rows = [[0, 0, 0]] * 7 + [[1, 0, 0]] * 3 + [[0, 1, 0], [0, 1, 1], [1, 1, 1]]
    order = np.random.default_rng(1).permutation(13)
    labels = dict(zip(SIZES, np.split(np.array(rows, dtype=np.uint8)[order], [6, 9])))
    regions = dict(zip(SIZES, np.split(np.array([0] * 7 + [1] * 3 + [2] * 3)[order], [6, 9])))
    np.savez(tmp_path / "chest.npz", **made | {f"{p}_labels": y for p, y in labels.items()})
    data = medmnist(root=tmp_path / "chest.npz", part=part)
    assert data.space == MultiLabel(3) and data.condition.tolist() == labels[part].tolist()
    assert data.y.tolist() == regions[part].tolist()


def test_a_folder_of_several_asks_for_the_name(tmp_path):
    for name in ("path", "blood"):
        np.savez(tmp_path / f"{name}.npz", **arrays(most={"path": 3, "blood": 1}[name]))
    assert medmnist(root=tmp_path, name="blood").num_classes == 1
    with pytest.raises(CbdmError, match=r"holds 2 npz files \(blood, path\): give name"):
        medmnist(root=tmp_path)
    with pytest.raises(CbdmError, match="'blod': did you mean 'blood'"):
        medmnist(root=tmp_path, name="blod")
    with pytest.raises(CbdmError, match="is a file, and name = 'path'"):
        medmnist(root=tmp_path / "path.npz", name="path")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"val_labels": None}, "'val_labels': did you mean"),
        ({"test_labels": np.zeros((4, 1))}, r"has labels float64 \(4, 1\)"),
        ({"test_labels": np.zeros(4, int)}, r"has labels int64 \(4,\)"),
        ({"test_labels": np.full((4, 1), -1)}, "has the label -1"),
        ({"train_images": np.zeros((6, 4, 4))}, r"has images float64 \(6, 4, 4\)"),
        ({"train_images": np.zeros((5, 4, 4), np.uint8)}, "5 examples need 5 labels"),
        ({f"{p}_labels": np.full((n, 2), 2) for p, n in SIZES.items()}, "one of them 2: they must be 0 or 1"),
    ],
)
def test_refused_in_one_line(tmp_path, change, said):
    made = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    np.savez(tmp_path / "some.npz", **made)
    with pytest.raises(CbdmError, match=said):
        medmnist(root=tmp_path)
    with pytest.raises(CbdmError, match="'tests': did you mean 'test'"):
        medmnist(root=tmp_path, part="tests")

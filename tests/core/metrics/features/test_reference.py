"""Kept reference features: taken once, never those of other data or another convention, never damaged ones."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.classifier import cached_classifier
from cbdm_core.metrics.features.named import Mapped
from cbdm_core.metrics.features.reference import reference_features

COUNT = 40


class Counting:
    """A map that counts the rows it was given."""

    def __init__(self, factor=1.0):
        self.factor, self.rows = factor, 0

    def __call__(self, x):
        self.rows += len(x)
        return (self.factor * x.flatten(1).double()).sin().mul(7).float()

    def named(self, convention="sine"):
        return Mapped(self, (1, 4, 4), convention, "")


def images(seed=0):
    x = torch.randint(0, 256, (COUNT, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Dataset(x, torch.arange(COUNT) % 2, ("a", "b"))


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_a_hit_gives_the_same_numbers_for_sixteen_rows_of_work(tmp_path):
    first, again, data = Counting(), Counting(), images()
    features, log_probs = reference_features(data, first.named(), cache_dir=tmp_path)
    kept = reference_features(data, again.named(), cache_dir=tmp_path)
    assert (first.rows, again.rows) == (COUNT, 16)
    assert torch.equal(kept[0], features)
    assert torch.equal(features, first(data.model_input()).double())
    assert kept[0].dtype == kept[1].dtype == torch.float64
    assert kept[1].shape == log_probs.shape == (COUNT, 0)
    assert only_file(tmp_path).name.startswith("reference-")


def test_features_and_probabilities_of_a_classifier_come_back_exactly(tmp_path):
    """Its log-softmax is computed in float64, which float32 would round."""
    data = images()
    classifier = cached_classifier(data, cache_dir=tmp_path)
    direct = classifier(data.model_input())
    for _ in range(2):
        found = reference_features(data, classifier, cache_dir=tmp_path / "r")
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, direct))


def test_files_are_named_as_ever(tmp_path):
    """Spelled out, so that features kept by earlier versions of the code are found."""
    reference_features(images(), Counting().named(), cache_dir=tmp_path)
    facts = {"version": 1, "data_hash": images().content_hash(), "features": "sine", "pixels": "uint8 / 127.5 - 1"}
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    assert only_file(tmp_path).name == f"reference-{digest}.safetensors"
    with safe_open(only_file(tmp_path), "pt") as file:
        header = json.loads(file.metadata()["cbdm"])
    assert header.pop("facts") == json.dumps(facts)
    assert header.keys() == {"checksum"}


def test_other_data_or_another_convention_is_a_miss(tmp_path):
    reference_features(images(), Counting().named(), cache_dir=tmp_path)
    for data, convention in ((images(seed=1), "sine"), (images(), "sine, other resize")):
        counting = Counting()
        found, _ = reference_features(data, counting.named(convention), cache_dir=tmp_path)
        assert counting.rows == COUNT
        assert torch.equal(found, Counting()(data.model_input()).double())
    relabelled = Dataset(images().x, 1 - images().y, ("a", "b"))
    counting = Counting()
    reference_features(relabelled, counting.named(), cache_dir=tmp_path)
    assert counting.rows == COUNT
    assert len(list(tmp_path.iterdir())) == 4


def test_an_extractor_that_changed_under_its_name_is_asked_anew(tmp_path):
    data = images()
    reference_features(data, Counting().named(), cache_dir=tmp_path)
    for rows in (16 + COUNT, 16):  # replaced once, then a hit
        changed = Counting(factor=1.5)
        found, _ = reference_features(data, changed.named(), cache_dir=tmp_path)
        assert changed.rows == rows
        assert torch.equal(found, Counting(factor=1.5)(data.model_input()).double())


def rewrite(path, change):
    """The file with its tensors and header as `change` leaves them."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["cbdm"])
    parts = load_file(path)
    change(header, parts)
    save_file(parts, path, {"cbdm": json.dumps(header)})


def flip(header, parts):
    parts["features"][20, 3] += 1e-3


def other_data(header, parts):
    header["facts"] = header["facts"].replace(images().content_hash(), images(seed=1).content_hash())


def noted(header, parts):
    header["more"] = 1


def fewer(header, parts):
    del parts["log_probs"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:5]),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"features": torch.zeros(COUNT, 16)}, path),
        lambda path: rewrite(path, flip),
        lambda path: rewrite(path, other_data),
        lambda path: rewrite(path, noted),
        lambda path: rewrite(path, fewer),
    ],
    ids=[
        "truncated",
        "header cut",
        "empty",
        "foreign",
        "one value",
        "other data's hash",
        "a note too many",
        "a part gone",
    ],
)
def test_a_damaged_file_is_refused_by_name_and_deleting_it_mends(tmp_path, damage):
    data = images()
    features, _ = reference_features(data, Counting().named(), cache_dir=tmp_path)
    path = only_file(tmp_path)
    damage(path)
    with pytest.raises(CbdmError, match=r"damaged: delete the file") as caught:
        reference_features(data, Counting().named(), cache_dir=tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.unlink()
    assert torch.equal(reference_features(data, Counting().named(), cache_dir=tmp_path)[0], features)


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    found, _ = reference_features(images(), Counting().named(), cache_dir=tmp_path / "file" / "cache")
    assert torch.equal(found, Counting()(images().model_input()).double())


def test_the_folder_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CBDM_CACHE", str(tmp_path / "named"))
    reference_features(images(), Counting().named())
    assert only_file(tmp_path / "named").suffix == ".safetensors"


def test_vectors_are_kept_as_well(tmp_path):
    data = Dataset(torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0)), images().y, ("a", "b"))
    counting = Counting()
    for _ in range(2):
        found, _ = reference_features(data, Mapped(counting, (3,), "sine", ""), cache_dir=tmp_path)
        assert torch.equal(found, Counting()(data.x).double())
    assert counting.rows == COUNT + 16

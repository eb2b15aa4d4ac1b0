"""The classifier: how good it is, that it repeats itself, disturbs nothing, and survives any cache."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import cache as kept
from cbdm_core.metrics.features import classifier as features
from cbdm_core.metrics.features.classifier import (
    cached_classifier,
    network_outputs,
    stratified_split,
    train_classifier,
    train_network,
)


def blobs(shape, *, vectors=False, per_class=12, seed=0):
    """Two classes that differ by brightness in one half."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 100, (2 * per_class, *shape), generator=g)
    y = torch.arange(2 * per_class) % 2
    x[y == 1] += 120
    return Dataset(x.float() if vectors else x.to(torch.uint8), y, ("dark", "bright"))


@pytest.fixture
def small():
    return blobs((6,), vectors=True)


@pytest.fixture
def count_trainings(monkeypatch):
    """How many classifiers were trained, by seed; shortly, as what is judged is where they are kept."""
    monkeypatch.setattr(features, "_STEPS", (60, 60))
    seeds = []

    def counted(dataset, *, seed=0):
        seeds.append(seed)
        return train_classifier(dataset, seed=seed)

    monkeypatch.setattr(features, "train_classifier", counted)
    return seeds


def test_digits_are_told_apart(classifier):
    assert classifier.held_out_accuracy >= 0.97


def test_the_held_out_accuracy_is_of_rows_never_trained_on(digits, classifier):
    """Measured again on the split of seed 0; labels shuffled in advance leave it at chance."""
    generator = torch.Generator().manual_seed(0)
    _, held = stratified_split(digits.y, 0.2, generator)
    right = classifier.predict(digits.model_input(held)) == digits.y[held]
    assert classifier.held_out_accuracy == pytest.approx(float(right.double().mean()), abs=1e-12)
    noise = Dataset(digits.x[:400], digits.y[torch.randperm(1797, generator=generator)][:400], digits.class_names)
    assert train_classifier(noise).held_out_accuracy < 0.3


def test_features_and_probabilities(digits, classifier):
    x = digits.model_input(slice(0, 700))
    z, log_p = classifier(x)
    assert z.dtype == log_p.dtype == torch.float64
    assert 32 <= z.shape[1] <= 64
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(700, dtype=torch.float64))
    assert torch.equal(classifier.features(x), z)
    assert torch.equal(classifier.predict(x), log_p.argmax(1))
    torch.testing.assert_close(classifier.features(x[5:9]), z[5:9], rtol=1e-4, atol=1e-5)  # rows stand alone
    assert classifier.convention == f"classifier/{digits.content_hash()[:8]}"
    assert not z.requires_grad


def test_an_empty_batch_and_a_wrong_shape(classifier):
    z, log_p = classifier(torch.zeros(0, 1, 8, 8))
    assert z.shape == (0, classifier.features(torch.zeros(1, 1, 8, 8)).shape[1])
    assert log_p.shape == (0, 10)
    with pytest.raises(CbdmError, match=r"shape \(1, 8, 8\), got \(3, 8, 8\)"):
        classifier(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 20), (3, 18, 17), (1, 3, 2, 3), (1, 1, 1)])
def test_every_kind_of_image(shape):
    assert train_classifier(blobs(shape)).held_out_accuracy == 1.0


def test_vectors_of_any_scale():
    """Coordinates are standardised first: a spread of 1e5 in one and a constant in another do no harm."""
    data = blobs((3,), vectors=True)
    x = data.x.clone()
    x[:, 0] *= 1e5
    x[:, 1] = 7
    assert train_classifier(Dataset(x, data.y, data.class_names)).held_out_accuracy == 1.0


def test_the_same_seed_gives_the_same_weights_and_disturbs_nothing(small):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    with torch.no_grad():  # as a caller might
        one = train_classifier(small, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(999)
    two, other = train_classifier(small, seed=4), train_classifier(small, seed=5)
    weights, again = one.network.state_dict(), two.network.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not torch.equal(one.features(small.x), other.features(small.x))


def test_a_network_is_a_function_of_the_generator_s_state_which_stays(small):
    """Initial weights too: what the global generator is at does not matter, and is not changed."""
    generator = torch.Generator().manual_seed(5)
    torch.randn(7, generator=generator)  # midway, as after a split
    state, networks = generator.get_state(), []
    for caller in (123, 999):
        torch.manual_seed(caller)
        before = torch.get_rng_state()
        networks.append(train_network(small.x, small.y, 2, generator))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(generator.get_state(), state)
    one, two, other = (
        network_outputs(network, small.x)[0]
        for network in (*networks, train_network(small.x, small.y, 2, torch.Generator().manual_seed(5)))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_split_is_stratified():
    y = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    kept, held = stratified_split(y, 0.2, torch.Generator().manual_seed(0))
    assert torch.bincount(y[held], minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(63))
    assert held[:10].tolist() != list(range(10))


def test_nothing_to_hold_out_is_refused():
    data = Dataset(torch.zeros(2, 3), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(CbdmError, match="every class has 1 example"):
        train_classifier(data)


def test_too_many_axes_are_refused():
    with pytest.raises(CbdmError, match="1 to 3 spatial axes"):
        train_classifier(blobs((1, 2, 2, 2, 2)))


def test_the_cache_gives_back_the_same_classifier(small, tmp_path, count_trainings):
    first = cached_classifier(small, cache_dir=tmp_path)
    before = torch.get_rng_state()
    second = cached_classifier(small, cache_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert count_trainings == [0]
    assert torch.equal(first.features(small.x), second.features(small.x))
    assert (second.held_out_accuracy, second.convention) == (first.held_out_accuracy, first.convention)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_files_are_named_and_filled_as_ever(small, tmp_path):
    """Spelled out, so that classifiers kept by earlier versions of the code are found and taken for whole."""
    classifier = cached_classifier(small, cache_dir=tmp_path, seed=3)
    facts = {"version": 1, "data_hash": small.content_hash(), "seed": 3, "shape": [6], "num_classes": 2}
    text = json.dumps(facts)
    path = tmp_path / f"classifier-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    assert list(tmp_path.iterdir()) == [path]
    weights = classifier.network.state_dict()
    content = b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["cbdm"]) == {
            "facts": text,
            "checksum": hashlib.sha256(content).hexdigest(),
            "held_out_accuracy": classifier.held_out_accuracy,
        }
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)


def test_other_data_seeds_and_versions_are_other_classifiers(small, tmp_path, count_trainings, monkeypatch):
    cached_classifier(small, cache_dir=tmp_path)
    cached_classifier(small, cache_dir=tmp_path, seed=1)
    cached_classifier(blobs((6,), vectors=True, seed=9), cache_dir=tmp_path)
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    cached_classifier(small, cache_dir=tmp_path)
    assert count_trainings == [0, 1, 0, 0]
    assert len(list(tmp_path.iterdir())) == 4


def rewritten(path, change_header=None, change_weights=None):
    """The file with its header or its weights changed, and well-formed still."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["cbdm"])
    weights = load_file(path)
    if change_header:
        change_header(header)
    if change_weights:
        change_weights(weights)
    save_file(weights, path, {"cbdm": json.dumps(header)})


def damage_by_rewriting_a_weight(path):
    rewritten(path, change_weights=lambda w: w["head.bias"].add_(1))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "header cut": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "last byte flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "weight changed": damage_by_rewriting_a_weight,
    "weight missing": lambda path: rewritten(path, change_weights=lambda w: w.pop("head.bias")),
    "accuracy missing": lambda path: rewritten(path, change_header=lambda h: h.pop("held_out_accuracy")),
    "accuracy no number": lambda path: rewritten(path, change_header=lambda h: h.update(held_out_accuracy=None)),
    "other facts": lambda path: rewritten(path, change_header=lambda h: h.update(facts="{}")),
    "a note too many": lambda path: rewritten(path, change_header=lambda h: h.update(more=1)),
    "no metadata": lambda path: save_file({"x": torch.zeros(1)}, path),
    "metadata no object": lambda path: save_file({"x": torch.zeros(1)}, path, {"cbdm": "[]"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_trained_anew_and_replaced(small, tmp_path, count_trainings, damage):
    first = cached_classifier(small, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    mended = cached_classifier(small, cache_dir=tmp_path)
    assert count_trainings == [0, 0]
    assert torch.equal(mended.features(small.x), first.features(small.x))
    cached_classifier(small, cache_dir=tmp_path)
    assert count_trainings == [0, 0]  # the file is whole again
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_file_s_place_is_done_without(small, tmp_path, count_trainings):
    cached_classifier(small, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    assert cached_classifier(small, cache_dir=tmp_path).held_out_accuracy == 1.0
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written is left


def test_a_cache_that_cannot_be_written_is_done_without(small, tmp_path, count_trainings):
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        assert cached_classifier(small, cache_dir=tmp_path / "file" / "cache").held_out_accuracy == 1.0
    assert count_trainings == [0, 0]


def test_a_full_disk_is_done_without(small, tmp_path, count_trainings, monkeypatch):
    def full(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "save_file", full)
    assert cached_classifier(small, cache_dir=tmp_path).held_out_accuracy == 1.0
    assert list(tmp_path.iterdir()) == []


def test_where_the_cache_is(small, tmp_path, monkeypatch, count_trainings):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("CBDM_CACHE", str(tmp_path / "named"))
    for expected in ("named", "xdg/cbdm", "home/.cache/cbdm"):
        cached_classifier(small)
        assert len(list((tmp_path / expected).iterdir())) == 1
        monkeypatch.delenv("CBDM_CACHE" if expected == "named" else "XDG_CACHE_HOME", raising=False)
    assert len(count_trainings) == 3


def test_a_column_of_one_value_is_not_magnified():
    """Shown as it is, less its value; the others by their mean and standard deviation."""
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    layer = features._Standardise(2)
    layer.fit(x)
    torch.testing.assert_close(layer(torch.tensor([[4.0, 7.01]])), torch.tensor([[2.0, 0.01]]), rtol=1e-4, atol=0)

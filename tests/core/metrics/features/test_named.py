"""Extractors by name: each gives what its name says, none claims to know classes it does not, errors are one line."""

import sys

import pytest
import torch
from torch import nn

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features import inception
from cbdm_core.metrics.features import named as sources
from cbdm_core.metrics.features.inception import Inception
from cbdm_core.metrics.features.named import Mapped, check_features, feature_extractor


def images(channels=1, side=6, count=10):
    x = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    return Dataset(x.to(torch.uint8), torch.arange(count) % 2, ("a", "b"))


@pytest.fixture
def data():
    return images()


class Moments(nn.Module):
    """Mean and mean square of each image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)
        return torch.stack([rows.mean(1), rows.square().mean(1)], 1)


class Picky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ torch.ones(7, 2)


def save_program(module, path):
    torch.jit.script(module).save(str(path))
    return f"torchscript:{path}"


# Modules that can't be imported.
BROKEN = {
    "syntax": "def features(x) return x\n",
    "raising": "raise RuntimeError('weights of 2 layers\\nare not there')\n",
    "ending": "import sys\nsys.exit('usage: me FILE')\n",
    "asking": "def __getattr__(name): raise KeyError(name)\n",
}


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's own, importable by name."""
    text = (
        "import torch\nfrom torch import nn\n"
        "def features(x): return torch.stack([x.amax((1, 2, 3)), x.amin((1, 2, 3))], 1)\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.drop = nn.Dropout(0.5)\n"
        "    def forward(self, x): return self.drop(x.flatten(1))\n"
        "net = Net()\n"
        "class box: inner = staticmethod(features)\n"
        "number = 3\n"
        "def maps(x): return x\n"
        "def nothing(x): return None\n"
        "def fewer(x): return x.flatten(1)[1:]\n"
        "def infinite(x): return x.flatten(1) / 0\n"
        "def narrow(x): return x.flatten(1) @ torch.ones(7, 2)\n"
        "def lookup(x): return {}['layer']\n"
        "def silent(x): raise OSError\n"
    )
    (tmp_path / "own_features_of_test.py").write_text(text)
    for name, line in BROKEN.items():
        (tmp_path / f"own_{name}_of_test.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_features_of_test"
    sys.modules.pop("own_features_of_test", None)


def test_pixels_are_the_model_input(data):
    features, log_probs = feature_extractor("pixels", data)(data.model_input())
    assert torch.equal(features, data.x.flatten(1).float().div(127.5).sub(1).double())
    assert log_probs.shape == (10, 0)


def test_classifier_is_the_kept_one_and_alone_knows_classes(data, tmp_path):
    found = feature_extractor("classifier", data, cache_dir=tmp_path)
    _, log_probs = found(data.model_input())
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.convention == f"classifier/{data.content_hash()[:8]}"
    assert len(list(tmp_path.iterdir())) == 1


def test_torchscript_runs_the_program(data, tmp_path):
    found = feature_extractor(save_program(Moments(), tmp_path / "moments.pt"), data)
    x = data.model_input()
    torch.testing.assert_close(found(x)[0], Moments()(x).double(), rtol=1e-6, atol=1e-7)
    assert found.convention.startswith("torchscript/moments/")
    assert "code" in found.note


def test_another_program_has_another_convention(data, tmp_path):
    """The same name in two folders: the digits tell them apart, and follow the content, not the path."""
    names = []
    for folder, module in (("one", Moments()), ("two", Picky())):
        (tmp_path / folder).mkdir()
        names.append(feature_extractor(save_program(module, tmp_path / folder / "net.pt"), data).convention)
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "net.pt").write_bytes((tmp_path / "one" / "net.pt").read_bytes())
    names.append(feature_extractor(f"torchscript:{tmp_path / 'three' / 'net.pt'}", data).convention)
    assert names[0] == names[2] != names[1]


def test_a_function_and_a_module_of_ones_own(data, own_module):
    x = data.model_input()
    flat = x.flatten(1).double()
    extremes = torch.stack([flat.amax(1), flat.amin(1)], 1)
    assert torch.equal(feature_extractor(f"{own_module}:features", data)(x)[0], extremes)
    assert torch.equal(feature_extractor(f"{own_module}:box.inner", data)(x)[0], extremes)
    assert torch.equal(feature_extractor(f"{own_module}:net", data)(x)[0], flat)  # its dropout is off


def test_an_edited_module_has_another_convention(data, own_module, tmp_path):
    before = feature_extractor(f"{own_module}:features", data).convention
    file = tmp_path / f"{own_module}.py"
    file.write_text(file.read_text() + "# edited\n")
    assert feature_extractor(f"{own_module}:features", data).convention != before


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Random weights in the published layout, small enough not to overflow."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Inception().state_dict().items()}
    g = torch.Generator().manual_seed(0)
    table = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue
        fixed = torch.ones if key.endswith(("running_var", "bn.weight")) else torch.zeros
        scale = (2 / shape[1:].numel()) ** 0.5
        table[key] = torch.randn(shape, generator=g) * scale if len(shape) > 1 else fixed(shape)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(table, path)
    return path


def test_inception_does_not_depend_on_the_batch_and_takes_grey_as_colour(weights_file):
    grey = images(count=3)
    found = feature_extractor(f"inception:{weights_file}", grey)
    x = grey.model_input()
    features, log_probs = found(x)
    assert (features.shape, features.dtype, log_probs.shape) == ((3, 2048), torch.float64, (3, 0))
    assert isinstance(found, Mapped)
    single = Mapped(found.map, found.shape, found.convention, found.note, rows=1)(x)[0]
    torch.testing.assert_close(single, features, rtol=1e-4, atol=1e-5)
    colour = Dataset(grey.x.repeat(1, 3, 1, 1), grey.y, grey.class_names)
    in_colour = feature_extractor(f"inception:{weights_file}", colour)(colour.model_input())[0]
    torch.testing.assert_close(in_colour, features, rtol=1e-4, atol=1e-5)


def test_inception_names_all_that_the_figures_depend_on(weights_file, data, monkeypatch):
    digits = inception.load_inception(weights_file)[1]
    found = feature_extractor(f"inception:{weights_file}", data)
    for part in ("inception/random", digits, "[-1, 1]", "bilinear to 299 without antialiasing"):
        assert part in found.convention
    assert "not the published 6726825d" in found.note
    monkeypatch.setattr(sources, "PUBLISHED", digits)
    published = feature_extractor(f"inception:{weights_file}", data)
    assert published.note == "FID's published weights, resized as pytorch-fid does"
    assert "pt_inception-2015-12-05" in published.convention


@pytest.mark.parametrize("rows", [1, 3, 10, 100])
def test_chunks_change_nothing_and_none_is_larger_than_asked(data, rows):
    sizes = []

    def halves(x):
        sizes.append(len(x))
        return x.flatten(1) / 2

    x = data.model_input()
    assert torch.equal(Mapped(halves, data.shape, "halves", "", rows=rows)(x)[0], x.flatten(1).double() / 2)
    assert max(sizes) <= rows
    assert sum(sizes) == 10


def test_no_rows_have_features_of_the_same_width(data):
    features, log_probs = feature_extractor("pixels", data)(data.model_input()[:0])
    assert (features.shape, log_probs.shape) == ((0, 36), (0, 0))


def test_nothing_is_recorded_for_gradients(data):
    assert not feature_extractor("pixels", data)(data.model_input().requires_grad_())[0].requires_grad


# What can be told from the text alone.
UNRESOLVED = [
    ("clasifier", "did you mean 'classifier'"),
    ("inception", "inception:PATH"),
    ("torchscript:", "torchscript:PATH"),
    ("pixels:", "did you mean 'pixels'"),
    ("", "allowed: classifier"),
    ("inception:/nowhere/w.pth", "No such file"),
    ("torchscript:/nowhere/w.pt", "No such file"),
    ("inception:/", "Is a directory"),
    ("torchscript:/", "Is a directory"),
    ("inception:~no_such_user_here/w.pth", r"weights ~no_such_user_here/w\.pth cannot be read: .*home directory; give"),
    ("torchscript:~no_such_user_here/w.pt", r"file ~no_such_user_here/w\.pt cannot be read: .*home directory; give"),
    ("inception:a\0b", r"'a\\x00b' cannot be read: embedded null"),
    ("torchscript:a\0b", r"'a\\x00b' cannot be read: embedded null"),
    ("torchscript:a\nb", r"'a\\nb' cannot be read: No such file"),
    ("inceptoin:/nowhere/w.pth", "did you mean inception:PATH"),
    ("no_such_module_here:features", "No module named .*; install the module"),
    ("math:sinn", "no attribute 'sinn'; mend the module or the name"),
    (".relative:x", "cannot be imported"),
    (":x", "cannot be imported: ValueError: Empty module name"),
    ("own_syntax_of_test:features", r"SyntaxError: .*own_syntax_of_test\.py, line 1\); mend"),
    ("own_raising_of_test:features", "RuntimeError: are not there; mend"),
    ("own_ending_of_test:features", "SystemExit: usage: me FILE"),
    ("own_asking_of_test:features", "KeyError: 'features'"),
    ("OWN:Net", "a class"),
    ("OWN:number", "of type int"),
]

# What shows when the map is called.
FAILING = [
    ("OWN:maps", r"\(10, 1, 6, 6\): they must be a tensor of \(10, D\)"),
    ("OWN:nothing", "of type NoneType"),
    ("OWN:fewer", r"shape \(9, 36\)"),
    ("OWN:infinite", "NaN or infinite"),
    (
        "OWN:narrow",
        r"narrow/\w{8}.* fail on examples of shape \(1, 6, 6\): RuntimeError: .*cannot be mult.*; their map must",
    ),
    ("OWN:lookup", "KeyError: 'layer'; their map must"),
    ("OWN:silent", "fail on examples of .*: OSError; their map must"),
]


@pytest.mark.parametrize(("text", "told"), UNRESOLVED + FAILING)
def test_mistakes_are_told_in_one_line(data, own_module, text, told):
    with pytest.raises(CbdmError, match=told) as caught:
        feature_extractor(text.replace("OWN", own_module), data)(data.model_input())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("text", "told"), UNRESOLVED)
def test_the_check_refuses_what_cannot_be_found_in_the_same_words(data, own_module, text, told):
    text = text.replace("OWN", own_module)
    with pytest.raises(CbdmError, match=told) as early:
        check_features(text, data)
    with pytest.raises(CbdmError) as late:
        feature_extractor(text, data)
    assert str(early.value) == str(late.value)


def test_the_check_passes_what_is_there_without_a_network(data, own_module, tmp_path, monkeypatch):
    """The files hold no weights: it is only asked whether they open."""
    (tmp_path / "noise").write_bytes(b"noise")
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("classifier", " pixels ", "inception:~/noise", f"torchscript:{tmp_path}/noise"):
        check_features(text, data)
    for name, _ in FAILING:
        check_features(name.replace("OWN", own_module), data)


def test_an_error_of_ones_own_passes_as_it_is(data):
    def refuses(x):
        raise CbdmError("no cats: give dogs")

    with pytest.raises(CbdmError, match=r"^no cats: give dogs$"):
        Mapped(refuses, data.shape, "dogs", "")(data.model_input())


def test_files_that_are_no_program_and_programs_that_fail(data, tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"noise")
    torch.save({"a": torch.ones(1)}, tmp_path / "table.pt")
    for name in ("noise.pt", "table.pt"):
        with pytest.raises(CbdmError, match="no TorchScript program") as caught:
            feature_extractor(f"torchscript:{tmp_path / name}", data)
        assert "\n" not in str(caught.value)
    found = feature_extractor(save_program(Picky(), tmp_path / "picky.pt"), data)
    with pytest.raises(
        CbdmError, match=r"torchscript/picky/\w{8}.* fail on examples of shape \(1, 6, 6\): .*cannot be mult"
    ) as caught:
        found(data.model_input())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [2, 4])
def test_inception_refuses_other_than_one_or_three_channels(weights_file, channels):
    with pytest.raises(CbdmError, match=rf"1 or 3 channels, the examples have shape \({channels}, 6, 6\)"):
        feature_extractor(f"inception:{weights_file}", images(channels))


def test_inception_refuses_vectors_and_samples_of_another_shape_are_told(weights_file, data):
    vectors = Dataset(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(CbdmError, match=r"1 or 3 channels, the examples have shape \(3,\)"):
        feature_extractor(f"inception:{weights_file}", vectors)
    with pytest.raises(CbdmError, match=r"shape \(1, 6, 6\), got \(1, 8, 8\)"):
        feature_extractor("pixels", data)(torch.zeros(2, 1, 8, 8))

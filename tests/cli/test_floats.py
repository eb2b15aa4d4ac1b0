"""Signals, latents and tables, from a file of floats to samples in its own units."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from cbdm import DDIM, ClassifierFreeGuidance, generate, load_run
from cbdm_cli.config import validated
from cbdm_cli.overlay import load_config
from cbdm_cli.run_data import load_data
from tests.cli.tiny import TINY

Y = np.repeat(np.arange(3), 12)
SOURCE = ["--set", "data.source=npz", "--set", "data.options={path='x.npz', kind='values'}"]
UNET = TINY
MLP = ["--set", "network.name=mlp", "--set", "network.options.width=8", *TINY[6:]]
DIT = ["--set", "network.name=dit", "--set", "network.options={width=8, depth=1, heads=2, patch=2}", *TINY[6:]]
SHAPES = {"signals": (1, 16), "latents": (4, 4, 4), "patches": (2, 16), "table": (5,)}
NETWORK = {"signals": UNET, "latents": UNET, "patches": DIT, "table": MLP}
JUDGED = ["--set", "evaluation.features=pixels", "--set", "data.profile=step", "--set", "data.imbalance=0.5"]


def values_of(kind):
    """Each channel or column of other units; the last column of the table has one value."""
    random, shape = np.random.default_rng(0), SHAPES[kind]
    against = (len(shape) > 1) * (1,) * (len(shape) - 1)
    size = 10.0 ** np.arange(shape[0]).reshape(-1, *against)
    x = 50 + size * (random.normal(size=(len(Y), *shape)) + Y.reshape(-1, *[1] * len(shape)))
    if kind == "table":
        x[:, -1] = 7
    return x.astype(np.float32)


def config_of(path):
    return tomllib.loads(Path(path, "config.toml").read_text())


def drawn_by_hand(loaded, y, steps, seed):
    """Samples of the network without guidance, in its own range."""
    plain, sampler = ClassifierFreeGuidance(loaded.network, 0.0).eval(), DDIM(loaded.schedule)
    return torch.cat(list(generate(plain, sampler, y, loaded.shape, steps=steps, seed=seed)))


@pytest.fixture(params=list(SHAPES))
def trained(request, run):
    """The values of a kind, with a run `r` of 3 steps on them, in `x.npz`."""
    x = values_of(request.param)
    np.savez("x.npz", images=x, labels=Y)
    code, _, err = run("train", "--steps", 3, *SOURCE, *NETWORK[request.param], *JUDGED, "--out", "r")
    assert code == 0, err
    return x


def test_trained_sampled_judged_and_gone_on_with(trained, run, refused):
    x = trained
    facts = config_of("r")["facts"]
    axes = (0, *range(2, x.ndim))
    scale = np.where(x.std(axes, float) > 0, x.std(axes, float), 1)
    np.testing.assert_allclose(facts["units"]["mean"], x.mean(axes, float), atol=2e-6 * scale.max())
    np.testing.assert_allclose(facts["units"]["scale"], scale, rtol=2e-6)

    # The same noise by hand, and back by the formula.
    assert (
        run("sample", "r", "--n", 24, "--format", "npz", "--out", "s.npz", "--omega", "0", "--sampler", "ddim")[0] == 0
    )
    loaded, against = load_run("r"), (1, -1, *[1] * (x.ndim - 2))
    z = drawn_by_hand(loaded, torch.arange(24) % 3, 2, 0).double().numpy()
    mean, factor = (np.reshape(facts["units"][name], against) for name in ("mean", "scale"))
    drawn, expected = np.load("s.npz"), mean + factor * z
    assert drawn["images"].dtype == np.float32 and not loaded.is_images
    np.testing.assert_allclose(drawn["images"], expected, rtol=1e-4, atol=1e-4 * scale.max())

    # Judged as a file they are what they are judged as by the run.
    assert run("evaluate", "s.npz", "--data", "r")[0] == 0
    assert run("evaluate", "r", "--omega", "0", "--sampler", "ddim")[0] == 0
    ours = json.loads(Path("r/evaluation-omega-0-pixels-ddim-2-n8.json").read_text())
    theirs = json.loads(Path("s.evaluation-pixels.json").read_text())
    for score in ("fid", "kid", "precision", "recall", "density"):
        assert theirs["overall"][score] == pytest.approx(ours["overall"][score], rel=1e-3, abs=1e-6)
    assert "the model's input, flattened" in ours["note"] and "8-bit" not in ours["features"]

    assert run("train", "--resume", "r", "--steps", 4)[0] == 0
    np.savez("s2.npz", images=x[:, :1] if x.ndim == 2 else x[..., :1], labels=Y)
    assert "the data are float" in refused("evaluate", "s2.npz", "--data", "r")
    assert "floats of shape" in refused("sample", "r", "--format", "folder") and run("sample", "r", "--n", 3)[0] == 0


def test_what_the_data_become_later_does_not_change_the_units_of_a_run(run):
    """Nor does a run on vectors from before there were units: it goes on with vectors as they are."""
    x = values_of("table")
    np.savez("x.npz", images=x, labels=Y)
    settings = ["data.source=npz", "data.options.path=x.npz", "network.name=mlp", "data.profile=none"]
    code, _, err = run(
        "train", "--steps", 3, *(a for s in settings for a in ("--set", s)), *MLP, *JUDGED[:2], "--out", "r"
    )
    assert code == 0, err
    config = config_of("r")
    own = config["facts"].pop("units")
    raw, _, _ = load_data(validated(config))
    assert raw.units is None and torch.equal(raw.model_input(), torch.from_numpy(x))
    assert load_data(validated(load_config("mixture-lt", None, settings)))[0].units.to_dict() == own

    config["facts"]["data_hash"] = raw.content_hash()
    Path("r/config.toml").write_text(tomli_w.dumps(config))
    assert load_run("r").units is None
    assert run("train", "--resume", "r", "--steps", 4)[0] == 0
    assert "units" not in config_of("r")["facts"]


def test_a_pipeline_of_diffusers_draws_in_own_units(run):
    from cbdm_core.pipeline import CbdmPipeline

    np.savez("x.npz", images=values_of("signals"), labels=Y)
    assert run("train", "--steps", 3, *SOURCE, *UNET, *JUDGED, "--out", "r")[0] == 0
    for form in ("diffusers", "run"):
        assert run("export", "r", form, "--to", form)[0] == 0
        assert "x = mean + scale" in Path(f"{form}/README.md").read_text()
    pipeline, loaded, y = CbdmPipeline.from_pretrained("diffusers"), load_run("run"), torch.arange(4) % 3
    pipeline.set_progress_bar_config(disable=True)
    here = loaded.own_units(drawn_by_hand(loaded, y, 20, 5))
    there = pipeline(y, num_inference_steps=20, omega=0.0, seed=5).images
    assert float((here - there).abs().max()) < 1e-4 * float(here.abs().max())


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("latents", [], "or kind=values (--set data.options.kind=values) for values"),
        ("table", [], "use mlp for vectors"),
        ("table", ["data.options.kind=values"], "use mlp for vectors"),
        ("signals", ["data.options.kind=values", "network.name=mlp"], "use unet or dit for images and signals"),
        ("signals", ["data.options.kind=values", "data.flip=true"], "set flip=false (--set data.flip=false)"),
        ("signals", ["data.options.kind=values", "data.augment=0.1"], "set augment=0 (--set data.augment=0)"),
    ],
)
def test_refused_before_any_work(refused, tmp_path, kind, settings, said):
    np.savez(tmp_path / "x.npz", images=values_of(kind), labels=Y)
    asked = ["data.source=npz", "data.options.path=x.npz", *settings]
    options = [] if "network.name=mlp" in settings else TINY
    assert said in refused("train", "--steps", 3, *options, *(a for s in asked for a in ("--set", s)), "--out", "r")


@pytest.mark.parametrize(
    ("x", "wrong"),
    [
        (values_of("signals"), []),
        (values_of("latents"), []),
        (np.abs(np.sin(values_of("latents"))), []),
        (values_of("signals"), ["kind=images", "standardise=true", "layout=none"]),
    ],
)
def test_a_hint_can_be_pasted(run, refused, x, wrong):
    """The `--set` that the message names is what the next command is given, and it reads floats of all these shapes."""
    np.savez("x.npz", images=x, labels=Y)
    said = refused("data", "x.npz", *(word for text in wrong for word in ("--set", f"data.options.{text}")))
    (hint,) = re.findall(r"\((--set data\.options\.kind=values)\)", said)
    code, out, err = run("data", "x.npz", *hint.split())
    assert code == 0 and f"36 floats of {'×'.join(map(str, x.shape[1:]))}" in out, err


def test_units_that_are_none_are_refused(refused, run):
    np.savez("x.npz", images=values_of("signals"), labels=Y)
    assert run("train", "--steps", 3, *SOURCE, *UNET, *JUDGED, "--out", "r")[0] == 0
    config = config_of("r")
    for units, said in (
        ({"mean": [0.0], "scale": [0.0]}, "above 0"),
        ({"mean": [0.0] * 2, "scale": [1.0] * 2}, "channels"),
    ):
        config["facts"]["units"] = units
        Path("r/config.toml").write_text(tomli_w.dumps(config))
        assert said in refused("sample", "r")
